//! `--config-file`: the whole configuration as one JSON object, then the start.
//! reference §1.2.

use serde::Deserialize;

use crate::api::request::Call;
use crate::machine::Machine;
use crate::resources::{BootSource, Drive, Entropy, Logger, MachineConfig, Metrics, Vsock};

/// The keys of the file are the paths of the API; others are ignored, as in Firecracker.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct ConfigFile {
    boot_source: BootSource,
    drives: Vec<Drive>,
    logger: Option<Logger>,
    metrics: Option<Metrics>,
    machine_config: Option<MachineConfig>,
    vsock: Option<Vsock>,
    entropy: Option<Entropy>,
}

/// Configures and starts the VM.
///
/// # Errors
/// Firecracker's message before it ends.
pub fn apply(text: &[u8], machine: &mut Machine) -> Result<(), String> {
    let file: ConfigFile = serde_json::from_slice(text)
        .map_err(|error| format!("Configuration for VMM from one single json failed: {error}"))?;
    let optional = [
        file.logger.map(Call::PutLogger),
        file.metrics.map(Call::PutMetrics),
        file.machine_config.map(Call::PutMachineConfig),
        file.vsock.map(Call::PutVsock),
        file.entropy.map(Call::PutEntropy),
    ];
    let drives = file.drives.into_iter().map(Call::PutDrive);
    let calls = [Call::PutBootSource(file.boot_source)].into_iter();
    let calls = calls.chain(optional.into_iter().flatten()).chain(drives).chain([Call::Start]);
    for call in calls {
        machine.handle(call).map_err(|refusal| refusal.message)?;
    }
    Ok(())
}
