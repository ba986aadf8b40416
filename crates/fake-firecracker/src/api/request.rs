//! Parses method, path and body into a call, as firecracker's `api_server/parsed_request.rs`
//! does: the body is checked before the VM's state.

use hyper::Method;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::resources::{
    ActionBody, ActionType, BootSource, CreateSnapshot, Drive, DriveUpdate, Entropy, LoadSnapshot,
    Logger, MachineConfig, MachineConfigUpdate, Metrics, Serial, VmState, VmUpdate, Vsock,
};
use crate::version::Version;

/// A parsed request.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    GetInstance,
    GetVersion,
    GetConfig,
    GetMachineConfig,
    PutLogger(Logger),
    PutMetrics(Metrics),
    PutSerial(Serial),
    PutBootSource(BootSource),
    PutMachineConfig(MachineConfig),
    PatchMachineConfig(MachineConfigUpdate),
    PutDrive(Drive),
    PatchDrive(DriveUpdate),
    PutVsock(Vsock),
    PutEntropy(Entropy),
    Start,
    FlushMetrics,
    SendCtrlAltDel,
    UnplugDrive,
    PatchVm(VmState),
    CreateSnapshot(CreateSnapshot),
    LoadSnapshot(Box<LoadSnapshot>),
    /// A call that Firecracker has and the double does not.
    NotImitated(String),
}

impl Call {
    /// Returns whether the answer has a `Deprecation` header. reference §1.3.
    pub fn is_deprecated(&self) -> bool {
        match self {
            Self::LoadSnapshot(load) => load.mem_file_path.is_some() || load.enable_diff_snapshots,
            Self::PutVsock(vsock) => vsock.vsock_id.is_some(),
            Self::PutMachineConfig(config) => config.cpu_template.is_some(),
            _ => false,
        }
    }
}

/// Why a request is refused before it reaches the VM.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The resource's name is missing.
    #[error("The ID cannot be empty.")]
    EmptyId,
    /// The resource's name has invalid characters.
    #[error("API Resource IDs can only contain alphanumeric characters and underscores.")]
    InvalidId,
    /// There is no such route.
    #[error("Invalid request method and/or path: {1} {0}.")]
    InvalidPathMethod(String, Method),
    /// The body is not the JSON this route takes.
    #[error("An error occurred when deserializing the json body of a request: {0}.")]
    Json(String),
    /// Any other rule.
    #[error("{0}")]
    Other(&'static str),
}

/// Parses a request.
///
/// # Errors
/// [`RequestError`]; each is answered with status 400.
pub fn parse(
    method: &Method,
    path: &str,
    body: &[u8],
    version: &Version,
) -> Result<Call, RequestError> {
    let mut words = path.trim_start_matches('/').split_terminator('/');
    let (first, second) = (words.next().unwrap_or_default(), words.next());
    let unknown = || Err(RequestError::InvalidPathMethod(first.to_owned(), method.clone()));
    match (method.as_str(), body.is_empty()) {
        ("GET", false) => return Err(RequestError::Other("GET request cannot have a body.")),
        ("PUT", true) => return Err(RequestError::Other("Empty PUT request.")),
        ("PATCH", true) if first != "balloon" => {
            return Err(RequestError::Other("Empty PATCH request."));
        }
        ("DELETE", false) => return Err(RequestError::Other("Empty Delete request.")),
        _ => {}
    }
    if !is_known(first, version) {
        return unknown();
    }
    let json = Json { body, version };
    match (method.as_str(), first, second) {
        ("GET", "", _) => Ok(Call::GetInstance),
        ("GET", "version", _) => Ok(Call::GetVersion),
        ("GET", "vm", Some("config")) => Ok(Call::GetConfig),
        ("GET", "machine-config", _) => Ok(Call::GetMachineConfig),
        ("PUT", "logger", _) => json.parse("logger").map(Call::PutLogger),
        ("PUT", "metrics", _) => json.parse("metrics").map(Call::PutMetrics),
        ("PUT", "serial", _) => json.parse("serial").map(Call::PutSerial),
        ("PUT", "boot-source", _) => json.parse("boot-source").map(Call::PutBootSource),
        ("PUT", "machine-config", _) => json.parse("machine-config").map(Call::PutMachineConfig),
        ("PATCH", "machine-config", _) => json.machine_config_update(),
        ("PUT", "drives", id) => json.put_drive(id),
        ("PATCH", "drives", id) => json.patch_drive(id),
        ("DELETE", "drives", id) => checked_id(id).map(|_| Call::UnplugDrive),
        ("PUT", "vsock", _) => json.parse("vsock").map(Call::PutVsock),
        ("PUT", "entropy", _) => json.parse("entropy").map(Call::PutEntropy),
        ("PUT", "actions", _) => json.parse("actions").map(action),
        ("PATCH", "vm", _) => json.parse("vm").map(|update: VmUpdate| Call::PatchVm(update.state)),
        ("PUT", "snapshot", Some("create")) => {
            json.parse("snapshot/create").map(Call::CreateSnapshot)
        }
        ("PUT", "snapshot", Some("load")) => json.load_snapshot(),
        ("PUT", "snapshot", None) => Err(RequestError::Other("Missing snapshot operation type.")),
        ("PUT", "snapshot", Some(other)) => {
            Err(RequestError::InvalidPathMethod(format!("/snapshot/{other}"), method.clone()))
        }
        _ if NOT_IMITATED.contains(&first) => Ok(Call::NotImitated(format!("{method} /{first}"))),
        _ => unknown(),
    }
}

/// Routes of Firecracker that emberd does not use. They are refused with an error instead of
/// accepted without effect.
const NOT_IMITATED: [&str; 6] =
    ["balloon", "cpu-config", "hotplug", "mmds", "network-interfaces", "pmem"];

/// Routes, and the version that added them. reference §1.2.
fn is_known(route: &str, version: &Version) -> bool {
    !["serial", "pmem", "hotplug"].contains(&route) || version.since(1, 14)
}

/// A field, or one of its values, that a version added.
struct Newer {
    route: &'static str,
    field: &'static str,
    value: Option<&'static str>,
    since: (u32, u32),
}

/// reference §1.2, §1.3.
const NEWER: [Newer; 7] = [
    newer("machine-config", "huge_pages", Some("Transparent"), (1, 17)),
    newer("serial", "rate_limiter", None, (1, 16)),
    newer("snapshot/create", "sync_snapshot_files", None, (1, 18)),
    newer("snapshot/load", "clock_realtime", None, (1, 16)),
    newer("snapshot/load", "huge_pages", None, (1, 17)),
    newer("snapshot/load", "network_overrides", None, (1, 12)),
    newer("snapshot/load", "vsock_override", None, (1, 16)),
];

const fn newer(
    route: &'static str,
    field: &'static str,
    value: Option<&'static str>,
    since: (u32, u32),
) -> Newer {
    Newer { route, field, value, since }
}

fn action(body: ActionBody) -> Call {
    match body.action_type {
        ActionType::InstanceStart => Call::Start,
        ActionType::FlushMetrics => Call::FlushMetrics,
        ActionType::SendCtrlAltDel => Call::SendCtrlAltDel,
    }
}

struct Json<'a> {
    body: &'a [u8],
    version: &'a Version,
}

impl Json<'_> {
    fn parse<T: DeserializeOwned>(&self, route: &str) -> Result<T, RequestError> {
        if let Ok(Value::Object(fields)) = serde_json::from_slice(self.body) {
            let is_newer = |newer: &&Newer| {
                let given = fields.get(newer.field);
                newer.route == route
                    && given.is_some_and(|given| newer.value.is_none_or(|value| given == value))
                    && !self.version.since(newer.since.0, newer.since.1)
            };
            if let Some(newer) = NEWER.iter().find(is_newer) {
                let unknown = match newer.value {
                    Some(value) => format!("unknown variant `{value}`"),
                    None => format!("unknown field `{}`", newer.field),
                };
                return Err(RequestError::Json(unknown));
            }
        }
        serde_json::from_slice(self.body).map_err(|error| RequestError::Json(error.to_string()))
    }

    fn machine_config_update(&self) -> Result<Call, RequestError> {
        let update: MachineConfigUpdate = self.parse("machine-config")?;
        if update.is_empty() {
            return Err(RequestError::Other("Empty PATCH request."));
        }
        Ok(Call::PatchMachineConfig(update))
    }

    fn put_drive(&self, id: Option<&str>) -> Result<Call, RequestError> {
        let id = checked_id(id)?;
        let drive: Drive = self.parse("drives")?;
        same_id(id, &drive.drive_id)?;
        Ok(Call::PutDrive(drive))
    }

    fn patch_drive(&self, id: Option<&str>) -> Result<Call, RequestError> {
        let id = checked_id(id)?;
        let update: DriveUpdate = self.parse("drives")?;
        same_id(id, &update.drive_id)?;
        Ok(Call::PatchDrive(update))
    }

    fn load_snapshot(&self) -> Result<Call, RequestError> {
        let load: LoadSnapshot = self.parse("snapshot/load")?;
        let wrong = match (&load.mem_backend, &load.mem_file_path) {
            (Some(_), Some(_)) => {
                "too many fields: either `mem_backend` or `mem_file_path` \
                                   exclusively is required"
            }
            (None, None) => "missing field: either `mem_backend` or `mem_file_path` is required",
            _ => return Ok(Call::LoadSnapshot(Box::new(load))),
        };
        Err(RequestError::Json(wrong.to_owned()))
    }
}

/// reference §1.1: resource names.
fn checked_id(id: Option<&str>) -> Result<&str, RequestError> {
    let id = id.filter(|id| !id.is_empty()).ok_or(RequestError::EmptyId)?;
    if id.chars().all(|letter| letter == '_' || letter.is_alphanumeric()) {
        Ok(id)
    } else {
        Err(RequestError::InvalidId)
    }
}

fn same_id(in_path: &str, in_body: &str) -> Result<(), RequestError> {
    if in_path == in_body {
        return Ok(());
    }
    Err(RequestError::Other("The id from the path does not match the id from the body!"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(version: &str, request: &str, body: &str) -> Result<Call, RequestError> {
        let (method, path) = request.split_once(' ').unwrap();
        parse(&method.parse().unwrap(), path, body.as_bytes(), &version.parse().unwrap())
    }

    fn check_refused(version: &str, request: &str, body: &str, message: &str) {
        let error = parsed(version, request, body).unwrap_err().to_string();
        assert!(error.contains(message), "{request} {body}: {error}");
    }

    #[test]
    fn requests_that_break_a_rule_are_refused() {
        let check = |request, body, message| check_refused("1.16.2", request, body, message);
        check("GET /", "{}", "GET request cannot have a body.");
        check("PUT /vsock", "", "Empty PUT request.");
        check("PATCH /vm", "", "Empty PATCH request.");
        check("PATCH /machine-config", "{}", "Empty PATCH request.");
        check("GET /nothing", "", "Invalid request method and/or path: GET nothing.");
        check("GET /actions", "", "Invalid request method and/or path: GET actions.");
        check("PUT /drives", "{}", "The ID cannot be empty.");
        check("PUT /drives/a-b", "{}", "alphanumeric characters and underscores");
        let drive = r#"{"drive_id":"a","is_root_device":false}"#;
        check("PUT /drives/b", drive, "does not match");
        check("PUT /snapshot", "{}", "Missing snapshot operation type.");
        check("PUT /snapshot/x", "{}", "path: PUT /snapshot/x.");
        check("PUT /snapshot/load", r#"{"snapshot_path":"s"}"#, "missing field: either");
        check("PUT /boot-source", r#"{"kernel_image_path":"k","x":1}"#, "unknown field `x`");
        check("PUT /boot-source", "{", "deserializing the json body");
    }

    #[test]
    fn newer_fields_and_routes_depend_on_the_version() {
        let backend = r#""mem_backend":{"backend_type":"File","backend_path":"m"}"#;
        let load = |field: &str| format!(r#"{{"snapshot_path":"s",{backend},{field}}}"#);
        let cases = [
            (
                "PUT /snapshot/load",
                load(r#""vsock_override":{"uds_path":"v"}"#),
                "1.15.1",
                "1.16.0",
            ),
            ("PUT /snapshot/load", load(r#""clock_realtime":true"#), "1.15.1", "1.16.2"),
            ("PUT /snapshot/load", load(r#""huge_pages":"Snapshot""#), "1.16.2", "1.17.0-dev"),
            ("PUT /serial", r#"{"serial_out_path":"s"}"#.into(), "1.13.1", "1.14.4"),
            (
                "PUT /serial",
                r#"{"rate_limiter":{"size":1,"refill_time":1}}"#.into(),
                "1.15.1",
                "1.16.2",
            ),
            (
                "PUT /machine-config",
                r#"{"vcpu_count":1,"mem_size_mib":64,"huge_pages":"Transparent"}"#.into(),
                "1.16.2",
                "1.17.0",
            ),
        ];
        for (request, body, before, since) in cases {
            assert!(parsed(before, request, &body).is_err(), "{request} {body}");
            parsed(since, request, &body).unwrap();
        }
    }

    #[test]
    fn deprecated_fields_are_told() {
        let deprecated = r#"{"snapshot_path":"s","mem_file_path":"m"}"#;
        assert!(parsed("1.16.2", "PUT /snapshot/load", deprecated).unwrap().is_deprecated());
    }
}
