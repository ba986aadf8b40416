//! The parts of 64-bit ELF needed to check kernels, modules and the agent. Field offsets are
//! those of elf(5). The input is untrusted, so every offset is checked.

use std::ops::Range;

const MACHINE_X86_64: u16 = 62;
const SECTION_HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const PROGRAM_INTERPRETER: u32 = 3;

/// A little-endian 64-bit x86 ELF file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Elf<'a>(&'a [u8]);

impl<'a> Elf<'a> {
    /// Parses `bytes`; `None` if they are not such a file.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let elf = Self(bytes);
        let class_64_little_endian = bytes.starts_with(b"\x7fELF\x02\x01");
        (class_64_little_endian && elf.u16(18)? == MACHINE_X86_64).then_some(elf)
    }

    /// Returns whether the file is statically linked, which is so if it has no interpreter.
    pub fn is_static(self) -> bool {
        let count = usize::from(self.u16(56).unwrap_or(0));
        (0..count).all(|index| {
            self.at(32, index, PROGRAM_HEADER_BYTES).and_then(|at| self.u32(at))
                != Some(PROGRAM_INTERPRETER)
        })
    }

    /// Returns the content of the first section called `name`.
    pub fn section(self, name: &str) -> Option<&'a [u8]> {
        let count = usize::from(self.u16(60)?);
        let names = self.section_content(usize::from(self.u16(62)?))?;
        (0..count).find_map(|index| {
            let header = self.at(40, index, SECTION_HEADER_BYTES)?;
            let own_name = names.get(usize::try_from(self.u32(header)?).ok()?..)?;
            let (own_name, _) = own_name.split_at(own_name.iter().position(|byte| *byte == 0)?);
            if own_name == name.as_bytes() { self.section_content(index) } else { None }
        })
    }

    fn section_content(self, index: usize) -> Option<&'a [u8]> {
        let header = self.at(40, index, SECTION_HEADER_BYTES)?;
        let start = self.offset(header + 24)?;
        self.0.get(start..start.checked_add(self.offset(header + 32)?)?)
    }

    /// Returns the position of entry `index` of the table whose offset is stored at `table`.
    fn at(self, table: usize, index: usize, entry_bytes: usize) -> Option<usize> {
        let start = self.offset(table)?.checked_add(index.checked_mul(entry_bytes)?)?;
        self.0.get(start..start.checked_add(entry_bytes)?).map(|_| start)
    }

    fn offset(self, at: usize) -> Option<usize> {
        usize::try_from(u64::from_le_bytes(self.array(at..at + 8)?)).ok()
    }

    fn u32(self, at: usize) -> Option<u32> {
        Some(u32::from_le_bytes(self.array(at..at + 4)?))
    }

    fn u16(self, at: usize) -> Option<u16> {
        Some(u16::from_le_bytes(self.array(at..at + 2)?))
    }

    fn array<const N: usize>(self, range: Range<usize>) -> Option<[u8; N]> {
        self.0.get(range)?.try_into().ok()
    }
}

/// Minimal ELF files for tests: a header, then one section besides the names.
#[cfg(test)]
pub(crate) mod synthetic {
    use super::{MACHINE_X86_64, SECTION_HEADER_BYTES};

    pub(crate) fn with_section(name: &str, content: &[u8]) -> Vec<u8> {
        let names = format!("\0{name}\0");
        let content_at = 64 + names.len();
        let headers_at = content_at + content.len();
        let mut elf = vec![0; 64];
        elf[..6].copy_from_slice(b"\x7fELF\x02\x01");
        elf[18..20].copy_from_slice(&MACHINE_X86_64.to_le_bytes());
        elf[40..48].copy_from_slice(&(headers_at as u64).to_le_bytes());
        elf[60..62].copy_from_slice(&2_u16.to_le_bytes());
        elf.extend(names.as_bytes());
        elf.extend(content);
        for (name_at, at, bytes) in [(0_u32, 64, names.len()), (1, content_at, content.len())] {
            let mut header = [0; SECTION_HEADER_BYTES];
            header[..4].copy_from_slice(&name_at.to_le_bytes());
            header[24..32].copy_from_slice(&(at as u64).to_le_bytes());
            header[32..40].copy_from_slice(&(bytes as u64).to_le_bytes());
            elf.extend(header);
        }
        elf
    }

    /// Returns a kernel module that depends on `depends`, comma-separated.
    pub(crate) fn module(depends: &str) -> Vec<u8> {
        with_section(".modinfo", format!("license=GPL\0depends={depends}\0name=x\0").as_bytes())
    }

    /// Returns a kernel with `banner` in it.
    pub(crate) fn kernel(banner: &str) -> Vec<u8> {
        with_section(".rodata", banner.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_found_by_name() {
        let bytes = synthetic::with_section(".modinfo", b"depends=virtio");
        let elf = Elf::parse(&bytes).unwrap();
        assert_eq!(elf.section(".modinfo"), Some(&b"depends=virtio"[..]));
        assert_eq!(elf.section(".mod"), None);
        assert!(elf.is_static());
    }

    #[test]
    fn an_interpreter_means_dynamic() {
        let mut bytes = synthetic::with_section(".text", b"");
        let at = bytes.len();
        bytes[32..40].copy_from_slice(&(at as u64).to_le_bytes());
        bytes[56..58].copy_from_slice(&1_u16.to_le_bytes());
        bytes.extend([3, 0, 0, 0]);
        bytes.resize(at + PROGRAM_HEADER_BYTES, 0);
        assert!(!Elf::parse(&bytes).unwrap().is_static());
    }

    #[test]
    fn no_cut_and_no_flipped_byte_panics() {
        let whole = synthetic::module("virtio");
        for cut in 0..whole.len() {
            assert_eq!(Elf::parse(&whole[..cut]).and_then(|elf| elf.section(".modinfo")), None);
        }
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 0xff;
            let _section =
                Elf::parse(&flipped).map(|elf| (elf.section(".modinfo"), elf.is_static()));
        }
    }
}
