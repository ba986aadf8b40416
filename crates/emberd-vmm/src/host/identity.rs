//! Properties of this host that a snapshot depends on.

use std::{fs, io};

/// File that [`Identity::read`] reads.
pub(crate) const CPUINFO: &str = "/proc/cpuinfo";

/// The host as a template's key names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) cpu: String,
    pub(crate) kernel: String,
}

impl Identity {
    /// Reads [`CPUINFO`] and asks the kernel.
    pub(crate) fn read() -> io::Result<Self> {
        let cpuinfo = fs::read_to_string(CPUINFO)?;
        let uname = rustix::system::uname();
        let [release, build] =
            [uname.release(), uname.version()].map(|text| text.to_string_lossy());
        Ok(Self { cpu: processor(&cpuinfo), kernel: format!("{release} {build}") })
    }
}

/// Returns the parts of a processor that decide its saved state: its model, and its microcode,
/// which may remove features. The name includes the clock rate, which guests can read.
fn processor(cpuinfo: &str) -> String {
    let first = cpuinfo.split("\n\n").next().unwrap_or_default();
    let field = |wanted: &str| {
        let mut fields = first.lines().filter_map(|line| line.split_once(':'));
        fields.find(|(name, _)| name.trim() == wanted).map_or("?", |(_, value)| value.trim())
    };
    let names = ["vendor_id", "cpu family", "model", "model name", "stepping", "microcode"];
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
        assert_eq!(processor(cpuinfo), "GenuineIntel 6 85 Xeon: 2.5GHz 7 0x5003");
        assert_eq!(processor(""), "? ? ? ? ? ?");
    }

    #[test]
    fn this_host_is_read_the_same_twice() {
        assert_eq!(Identity::read().unwrap(), Identity::read().unwrap());
    }
}
