//! `create_sandbox`, `list_sandboxes` and `delete_sandbox`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use emberd_api::{
    CreateSandbox, CreatedSandbox, EntrySpec, ErrorCode, LANGUAGE_PACK_DEFAULT, ListSandboxes,
    PolicySpec, Sandbox,
};
use emberd_client::{Client, ClientError};
use rmcp::model::{CallToolResult, ContentBlock};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::oneshot;

use crate::call::Call;
use crate::failure::Failure;
use crate::text::one_line;

/// Time to live of a sandbox whose creation names none, in seconds.
const TTL_S: u64 = 3_600;

/// Longest time to live, in seconds (30 days): what a daemon may allow at most.
const TTL_S_MAX: u64 = 30 * 24 * 3_600;

/// Most sandboxes of one list.
const LIST_MAX: usize = 100;

/// Arguments of `create_sandbox`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    pack: Option<String>,
    image: Option<String>,
    ttl_s: Option<u64>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    network: Option<String>,
}

/// Arguments of `list_sandboxes`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct List {}

/// Arguments of `delete_sandbox`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delete {
    sandbox: String,
}

/// A sandbox that was created.
#[derive(Debug)]
pub struct Created {
    /// Its id.
    pub id: String,
    /// When it ends at the latest.
    pub expires_at: String,
}

/// Creates a sandbox.
pub async fn create(call: &mut Call<'_>, wanted: Create) -> Result<CallToolResult, Failure> {
    let network = wanted.network.clone();
    let Created { id, expires_at } = created(call, wanted).await?;
    let network = network.as_deref().map(|network| one_line(network, 200));
    let network = network.filter(|network| !network.is_empty()).unwrap_or_else(|| "off".to_owned());
    let text = format!("sandbox {id} is ready; it is deleted at {expires_at}; network: {network}");
    let mut result = CallToolResult::success(vec![ContentBlock::text(text)]);
    result.structured_content = Some(json!({"sandbox": id, "expires_at": expires_at}));
    Ok(result)
}

/// Creates a sandbox, which is deleted again if nobody waits for it any more.
pub async fn created(call: &Call<'_>, wanted: Create) -> Result<Created, Failure> {
    let Create { pack, image, ttl_s, env, network } = wanted;
    if pack.is_some() && image.is_some() {
        return Err(Failure::invalid("`image` stands in place of `pack`: name one of them"));
    }
    let ttl_s = ttl_s.unwrap_or(TTL_S);
    if !(1..=TTL_S_MAX).contains(&ttl_s) {
        return Err(Failure::invalid(format!("`ttl_s` is 1 to {TTL_S_MAX}")));
    }
    let ttl = Duration::from_secs(ttl_s);
    let life = &call.server.life;
    let told = u64::try_from(life.told(ttl).as_millis()).unwrap_or(u64::MAX);
    // An operator's own image is a pack for the daemon.
    let pack = pack.or(image).or_else(|| call.server.pack.clone());
    let wanted = CreateSandbox {
        language_pack: Some(pack.unwrap_or_else(|| LANGUAGE_PACK_DEFAULT.to_owned())),
        egress: Some(policy(network.as_deref().unwrap_or_default())),
        timeout_ms: Some(Some(told)),
        env,
        ..CreateSandbox::default()
    };
    let CreatedSandbox { id } = claimed(call.daemon.client.clone(), wanted).await?;
    life.created(&id, ttl);
    let expires_at = humantime::format_rfc3339_seconds(SystemTime::now() + ttl).to_string();
    Ok(Created { id, expires_at })
}

/// Creates a sandbox. Dropping the future ends the creation, or deletes the sandbox if that is
/// made already.
async fn claimed(client: Client, wanted: CreateSandbox) -> Result<CreatedSandbox, Failure> {
    let (mut claim, claimed) = oneshot::channel();
    tokio::spawn(async move {
        let created = tokio::select! {
            biased;
            created = client.create_once(&wanted, None) => created,
            () = claim.closed() => return,
        };
        if let Err(Ok(unclaimed)) = claim.send(created)
            && let Err(error) = client.delete(&unclaimed.answer.id).await
        {
            tracing::warn!(%error, "a sandbox that nobody waits for was not deleted");
        }
    });
    let created: Result<_, ClientError> =
        claimed.await.map_err(|_| Failure::new(ErrorCode::Internal, "the creation was lost"))?;
    Ok(created?.answer)
}

/// The policy that `network` means: `off`, or profiles and entries. What has none of the characters
/// of a host with a dot, a port, a range or a wildcard is a profile.
fn policy(network: &str) -> PolicySpec {
    let words = network.split([',', ' ', '\n']).map(str::trim);
    let words = words.filter(|word| !word.is_empty() && *word != "off");
    let (allow, profiles): (Vec<_>, Vec<_>) =
        words.partition(|word| word.contains(['.', ':', '*', '/']));
    PolicySpec {
        profiles: profiles.into_iter().map(str::to_owned).collect(),
        allow: allow.into_iter().map(EntrySpec::from).collect(),
        ..PolicySpec::default()
    }
}

/// Lists the sandboxes.
pub async fn list(call: &mut Call<'_>, List {}: List) -> Result<CallToolResult, Failure> {
    let page = ListSandboxes { limit: Some(LIST_MAX), ..ListSandboxes::default() };
    let listed = call.daemon.client.list_with(&page).await?;
    let rows = listed.sandboxes.iter().map(|sandbox| {
        let state = state(sandbox);
        let end = expiry(sandbox).map(|end| format!(", until {end}")).unwrap_or_default();
        format!("{} {} {state}{end}", sandbox.id, sandbox.language_pack)
    });
    let mut lines: Vec<_> = rows.collect();
    if lines.is_empty() {
        lines.push("there are no sandboxes; create_sandbox makes one".to_owned());
    }
    if listed.next.is_some() {
        lines.push(format!("only the first {LIST_MAX} are listed"));
    }
    let values = listed.sandboxes.iter().map(|sandbox| {
        json!({
            "sandbox": sandbox.id,
            "pack": sandbox.language_pack,
            "state": state(sandbox),
            "expires_at": expiry(sandbox),
        })
    });
    let values: Vec<_> = values.collect();
    let mut result = CallToolResult::success(vec![ContentBlock::text(lines.join("\n"))]);
    result.structured_content = Some(json!({"sandboxes": values, "cut": listed.next.is_some()}));
    Ok(result)
}

fn state(sandbox: &Sandbox) -> String {
    let state = serde_json::to_value(sandbox.state).ok();
    state.and_then(|state| state.as_str().map(str::to_owned)).unwrap_or_default()
}

fn expiry(sandbox: &Sandbox) -> Option<String> {
    let end = SystemTime::UNIX_EPOCH + Duration::from_millis(sandbox.expires_at_ms?);
    Some(humantime::format_rfc3339_seconds(end).to_string())
}

/// Deletes a sandbox.
pub async fn delete(call: &mut Call<'_>, wanted: Delete) -> Result<CallToolResult, Failure> {
    let id = wanted.sandbox;
    call.daemon.client.delete(&id).await?;
    call.server.life.deleted(&id);
    let text = format!("sandbox {} is deleted", one_line(&id, 64));
    Ok(CallToolResult::success(vec![ContentBlock::text(text)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_profiles_and_entries() {
        assert_eq!(policy("off"), PolicySpec::default());
        assert_eq!(policy(""), PolicySpec::default());
        let both = policy("pip, api.example.com:443,*");
        assert_eq!(both.profiles, ["pip"]);
        assert_eq!(both.allow, ["api.example.com:443", "*"].map(EntrySpec::from));
        assert_eq!(policy("10.0.0.0/8 [2001:db8::1]").allow.len(), 2);
    }
}
