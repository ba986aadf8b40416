//! Hostile bytes against the reader of archives: never a panic, never more data than a file or
//! its map has, and always an end. Checksums are mended first, or little would be read.
#![no_main]

use emberd_tar::{Kind, Reader};
use libfuzzer_sys::fuzz_target;

// A slice, not a `Vec`: that would be made of every second byte, and no archive be one.
fuzz_target!(|bytes: &[u8]| {
    let mut archive = bytes.to_vec();
    for block in archive.chunks_exact_mut(512) {
        block[148..156].fill(b' ');
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    }
    let mut reader = Reader::new(&archive[..]);
    while let Ok(Some(entry)) = reader.next() {
        assert!(entry.mode <= 0o7777 && entry.modified.nanos < 1_000_000_000);
        let mut most = if entry.kind == Kind::File { entry.size } else { archive.len() as u64 };
        if let Some(map) = &entry.segments {
            most = map.iter().map(|segment| segment.length).sum();
            assert!(map.iter().all(|segment| segment.offset + segment.length <= entry.size));
        }
        let mut piece = [0; 700];
        let mut had = 0;
        while let Ok(count @ 1..) = reader.data(&mut piece) {
            had += count as u64;
        }
        assert!(had <= most);
    }
});
