//! The tools at work: each call is a request of the API, or a few.

use rmcp::model::{CallToolResult, JsonObject};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::call::Call;
use crate::failure::Failure;
use crate::tools::Kind;

mod code;
mod command;
mod edit;
mod files;
mod lines;
mod process;
mod sandboxes;
mod url;

/// The answer of the tool `kind`.
pub async fn answer(
    kind: Kind,
    arguments: JsonObject,
    call: &mut Call<'_>,
) -> Result<CallToolResult, Failure> {
    match kind {
        Kind::CreateSandbox => sandboxes::create(call, read(kind, arguments)?).await,
        Kind::ListSandboxes => sandboxes::list(call, read(kind, arguments)?).await,
        Kind::DeleteSandbox => sandboxes::delete(call, read(kind, arguments)?).await,
        Kind::RunCode => code::run(call, read(kind, arguments)?).await,
        Kind::RunCommand => command::run(call, read(kind, arguments)?).await,
        Kind::ReadProcess => process::read(call, read(kind, arguments)?).await,
        Kind::WriteProcess => process::write(call, read(kind, arguments)?).await,
        Kind::ReadFile => files::read(call, read(kind, arguments)?).await,
        Kind::WriteFile => files::write(call, read(kind, arguments)?).await,
        Kind::EditFile => edit::edit(call, read(kind, arguments)?).await,
        Kind::ListFiles => files::list(call, read(kind, arguments)?).await,
        Kind::GetUrl => url::get(call, read(kind, arguments)?).await,
    }
}

/// Reads the arguments of a call. Unknown ones are refused: a misspelt one would be lost.
fn read<T: DeserializeOwned>(kind: Kind, arguments: JsonObject) -> Result<T, Failure> {
    serde_json::from_value(Value::Object(arguments)).map_err(|error| {
        let names = kind.argument_names().join(", ");
        let hint = match names.as_str() {
            "" => format!("{} takes no arguments", kind.name()),
            names => format!("the arguments of {} are {names}", kind.name()),
        };
        Failure::invalid(format!("invalid arguments: {error}")).hint(hint)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_those_of_the_list_and_no_others() {
        let empty = |kind| read::<Value>(kind, JsonObject::new()).is_ok();
        assert!(Kind::ALL.into_iter().all(empty));
        let arguments = |json: Value| json.as_object().cloned().unwrap();
        let error = read::<files::ListFiles>(
            Kind::ListFiles,
            arguments(serde_json::json!({"path": "/", "dept": 1})),
        );
        let error = error.err().unwrap();
        assert!(error.error.contains("unknown field `dept`"), "{error}");
        let hint = error.hint.unwrap();
        assert!(hint.contains("sandbox") && hint.contains("depth"), "{hint}");
    }
}
