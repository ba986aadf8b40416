//! Sizes of memory as people write them: `512`, `512MiB`, `2GiB`, `1TiB`.

/// Parses a whole number and a unit into MiB; a number alone is in MiB. `M`, `G` and `T` are
/// short for `MiB`, `GiB` and `TiB`.
///
/// # Errors
/// A phrase that says what is expected.
pub fn parse_mib(text: &str) -> Result<u64, String> {
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let mib_per_unit = match unit.trim_start() {
        "" | "M" | "MiB" => Some(1),
        "G" | "GiB" => Some(1 << 10),
        "T" | "TiB" => Some(1 << 20),
        _ => None,
    };
    let number = number.parse::<u64>().ok();
    number
        .zip(mib_per_unit)
        .and_then(|(number, mib)| number.checked_mul(mib))
        .ok_or_else(|| "a size in MiB, such as 512, 512MiB or 2GiB".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_read_and_anything_else_is_refused() {
        let cases = [
            ("512", Some(512)),
            ("512MiB", Some(512)),
            ("512 MiB", Some(512)),
            ("2G", Some(2048)),
            ("1TiB", Some(1 << 20)),
            ("", None),
            ("GiB", None),
            ("-5", None),
            ("1.5GiB", None),
            ("2GB", None),
            ("18446744073709551615T", None),
        ];
        for (text, mib) in cases {
            assert_eq!(parse_mib(text).ok(), mib, "{text:?}");
        }
    }
}
