//! The parts of this host a snapshot depends on.

use std::fs;
use std::path::Path;

use super::FindError;

const CPUINFO: &str = "/proc/cpuinfo";

/// The host as a template's key names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) cpu: String,
    pub(super) kernel: String,
}

impl Host {
    pub(super) fn read() -> Result<Self, FindError> {
        let cpuinfo = fs::read_to_string(CPUINFO);
        let cpuinfo = cpuinfo
            .map_err(|source| FindError::Host { path: Path::new(CPUINFO).into(), source })?;
        let uname = rustix::system::uname();
        let [release, build] =
            [uname.release(), uname.version()].map(|text| text.to_string_lossy());
        Ok(Self { cpu: processor(&cpuinfo), kernel: format!("{release} {build}") })
    }
}

/// What decides the state a processor saves: its model, and its microcode, which may take
/// features away.
fn processor(cpuinfo: &str) -> String {
    let first = cpuinfo.split("\n\n").next().unwrap_or_default();
    let field = |wanted: &str| {
        let mut fields = first.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(name, _)| name.trim() == wanted).map_or("?", |(_, value)| value.trim())
    };
    let names = ["vendor_id", "cpu family", "model", "stepping", "microcode"];
    names.map(field).join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_processor_is_named_by_what_its_state_depends_on() {
        let cpuinfo = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 85\n\
            model name\t: Xeon: 2.5GHz\nstepping\t: 7\nmicrocode\t: 0x5003\ncpu MHz\t\t: 2500.1\n\n\
            processor\t: 1\nvendor_id\t: Other\n";
        assert_eq!(processor(cpuinfo), "GenuineIntel 6 85 7 0x5003");
        assert_eq!(processor(""), "? ? ? ? ?");
    }

    #[test]
    fn this_host_is_read_the_same_twice() {
        assert_eq!(Host::read().unwrap(), Host::read().unwrap());
    }
}
