//! Archives that lie.

use std::io;

use emberd_tar::{Entry, Kind, Reader, TarError, Writer};

use super::replacing::{archive, entry};

/// Reads all of an archive; how many entries it has.
fn read(archive: &[u8]) -> Result<usize, TarError> {
    let mut reader = Reader::new(archive);
    let mut count = 0;
    while reader.next()?.is_some() {
        count += 1;
        let mut piece = [0; 1000];
        while reader.data(&mut piece)? > 0 {}
    }
    Ok(count)
}

/// One header with `type_flag` and `data` behind it, whatever size it tells.
fn block(type_flag: u8, size: u64, data: &[u8]) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    writer.append(&entry("name", Kind::Directory), io::empty()).unwrap();
    let mut bytes = writer.finish().unwrap();
    bytes.truncate(512);
    bytes[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    bytes[156] = type_flag;
    bytes[148..156].fill(b' ');
    let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    bytes[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

/// An extended header with these lines.
fn pax(lines: &str) -> Vec<u8> {
    block(b'x', lines.len() as u64, lines.as_bytes())
}

/// Lines of `key=value`, with their lengths, which have two digits.
fn lines(words: &[&str]) -> String {
    let line = |word: &&str| [&(word.len() + 4).to_string(), " ", word, "\n"].concat();
    words.iter().map(line).collect()
}

#[test]
fn ends_of_all_kinds() {
    let whole = archive(&[("a", Kind::File), ("b", Kind::File)]);
    assert_eq!(whole.len(), 2048 + 1024);
    // No end, half an end, an end with something behind it, and another archive behind it.
    for (bytes, count) in [
        (&whole[..2048], 2),
        (&whole[..2560], 2),
        (&[&whole[..], b"garbage"].concat(), 2),
        (&[&whole[..], &whole[..]].concat(), 2),
        (&whole[..1024], 1),
        (&[][..], 0),
        (&[0; 512][..], 0),
    ] {
        assert_eq!(read(bytes).unwrap(), count);
    }
    for cut in (1..2048).filter(|cut| cut % 1024 != 0) {
        assert!(matches!(read(&whole[..cut]), Err(TarError::Truncated)), "{cut}");
    }
}

#[test]
fn checksums() {
    let mut bytes = archive(&[("a\u{ff}", Kind::File)]);
    let signed: i64 = bytes[..512]
        .iter()
        .enumerate()
        .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { i64::from(byte.cast_signed()) })
        .sum();
    bytes[148..156].copy_from_slice(format!("{signed:06o}\0 ").as_bytes());
    assert_eq!(read(&bytes).unwrap(), 1);
    bytes[0] = b'x';
    assert!(matches!(read(&bytes), Err(TarError::Invalid(_))));
    assert!(matches!(read(&[b'x'; 4096]), Err(TarError::Invalid(_))));
}

#[test]
fn extended_headers_that_lie() {
    let file = block(b'0', 0, b"");
    for lines in ["99 path=a\n", "7 path=a\n", "path=a\n", "0 a=b\n"] {
        let bytes = [pax(lines), file.clone()].concat();
        assert!(matches!(read(&bytes), Err(TarError::Invalid(_))), "{lines}");
    }
    for words in [
        &["size=-1"][..],
        &["mtime=now"],
        &["size=99999999999999999999"],
        &["GNU.sparse.major=1"],
        &["GNU.sparse.major=1", "GNU.sparse.realsize=5"],
        &["GNU.sparse.major=9", "GNU.sparse.minor=0"],
        &["GNU.sparse.offset=10", "GNU.sparse.size=10"],
        &["GNU.sparse.numbytes=10"],
        &["GNU.sparse.map=0,5", "GNU.sparse.size=10"],
        &["GNU.sparse.map=0,0"],
        &["GNU.sparse.map=0,x", "GNU.sparse.size=10"],
    ] {
        let bytes = [pax(&lines(words)), file.clone()].concat();
        assert!(matches!(read(&bytes), Err(TarError::Invalid(_))), "{words:?}");
    }
    for type_flag in [b'x', b'g', b'L', b'K'] {
        let huge = block(type_flag, 0o77_777_777_777, b"");
        assert!(matches!(read(&huge), Err(TarError::Invalid(_))), "{type_flag}");
        let short = block(type_flag, 600, b"short");
        assert!(read(&short).is_err(), "{type_flag}");
    }
    // In front of nothing.
    let name = lines(&["path=nothing"]);
    assert!(matches!(read(&pax(&name)), Err(TarError::Truncated)));
    assert_eq!(read(&block(b'g', name.len() as u64, name.as_bytes())).unwrap(), 0);
    // What is not known is ignored, and so are owners that are none.
    let known = lines(&["SCHILY.xattr.user.a=x", "LIBARCHIVE.creationtime=?", "uid=nobody"]);
    assert_eq!(read(&[pax(&known), file].concat()).unwrap(), 1);
}

#[test]
fn words_that_overrule_each_other() {
    let bytes = [
        block(b'g', 14, lines(&["mtime=1.25"]).as_bytes()),
        pax(&lines(&["path=second", "path=first"])),
        block(b'0', 0, b""),
        pax(&lines(&["mtime=-0.5"])),
        block(b'0', 0, b""),
        block(b'L', 5, b"long\0"),
        block(b'0', 0, b""),
    ]
    .concat();
    let mut reader = Reader::new(&bytes[..]);
    let mut told = Vec::new();
    while let Some(Entry { name, modified, .. }) = reader.next().unwrap() {
        let name = String::from_utf8(name).unwrap();
        told.push((name, modified.seconds, modified.nanos));
    }
    let expect = [("first", 1, 250_000_000), ("name", -1, 500_000_000), ("long", 1, 250_000_000)];
    let expect = expect.map(|(name, seconds, nanos)| (name.to_owned(), seconds, nanos));
    assert_eq!(told, expect);
}

#[test]
fn links_and_directories_have_no_data() {
    for type_flag in [b'1', b'2', b'5', b'6'] {
        let bytes = [block(type_flag, 700, b""), archive(&[("a", Kind::File)])].concat();
        assert_eq!(read(&bytes).unwrap(), 2, "{type_flag}");
    }
}

#[test]
fn sizes_over_8_gib_are_told() {
    let size = 9 << 30;
    let told = |archive: &[u8]| Reader::new(archive).next().unwrap().unwrap().size;
    // By a pax header alone, where the header has nothing.
    let extended = [pax(&lines(&["size=9663676416"])), block(b'0', 0, b"")].concat();
    // In base 256 alone.
    let mut based = block(b'0', 0, b"");
    based[124..136].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 2, 0x40, 0, 0, 0]);
    based[148..156].fill(b' ');
    let sum: u32 = based.iter().map(|byte| u32::from(*byte)).sum();
    based[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    for archive in [extended, based] {
        assert_eq!(told(&archive), size);
        assert!(matches!(read(&archive), Err(TarError::Truncated)));
    }
}
