//! `python`: an exec through the Python package, in turns with the same exec over a raw socket, and
//! the import of the package. Its own program measures, over the test double.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::measure::error::MeasureError;
use crate::measure::rig::Rig;

/// The pack whose programs do nothing, fastest.
const PACK: &str = "shell";

pub fn run(rig: &mut Rig) -> Result<(), MeasureError> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../clients/python");
    let program = package.join("bench/exec.py");
    if !program.exists() {
        return Err(MeasureError::NotHere("the source tree with the Python package is not here"));
    }
    let output = Command::new("python3")
        .arg(program)
        .args(["--json", "--pack", PACK, "--execs", &rig.iterations.to_string()])
        .env("PYTHONPATH", package.join("src"))
        .env("EMBERD_ADDR", rig.address.to_string())
        .env_remove("EMBERD_URL")
        .stderr(Stdio::inherit())
        .output()?;
    let unexpected = |seen: String| MeasureError::Unexpected {
        what: "clients/python/bench/exec.py".to_owned(),
        expected: "times".to_owned(),
        seen,
    };
    if !output.status.success() {
        return Err(unexpected(output.status.to_string()));
    }
    let series: BTreeMap<String, Vec<u64>> =
        serde_json::from_slice(&output.stdout).map_err(io::Error::other)?;
    for (name, times) in series {
        for time in times {
            rig.record.sample(&name, time);
        }
    }
    Ok(())
}
