//! Microseconds and bytes for people, in whole-number arithmetic.

/// A unit numbers are told in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    /// What stands behind the number.
    pub name: &'static str,
    divisor: u64,
    decimals: usize,
}

const MICROSECONDS: Unit = Unit { name: "µs", divisor: 1, decimals: 0 };
const MILLISECONDS: Unit = Unit { name: "ms", divisor: 1000, decimals: 2 };
const SECONDS: Unit = Unit { name: "s", divisor: 1_000_000, decimals: 2 };
const KIBIBYTES: Unit = Unit { name: "KiB", divisor: 1 << 10, decimals: 0 };
const MEBIBYTES: Unit = Unit { name: "MiB", divisor: 1 << 20, decimals: 2 };

impl Unit {
    /// The unit a row around `value` is told in: microseconds, or bytes if `is_bytes`.
    pub fn fitting(value: u64, is_bytes: bool) -> Self {
        match (is_bytes, value) {
            (true, ..MIB) => KIBIBYTES,
            (true, _) => MEBIBYTES,
            (false, ..1000) => MICROSECONDS,
            (false, ..1_000_000) => MILLISECONDS,
            (false, _) => SECONDS,
        }
    }

    /// `value` in this unit, without its name.
    pub fn number(self, value: u64) -> String {
        fixed(value, self.divisor, self.decimals)
    }
}

const MIB: u64 = 1 << 20;

/// `value` with the unit that fits it, without decimals where they are zero.
pub fn amount(value: u64, is_bytes: bool) -> String {
    let unit = Unit::fitting(value, is_bytes);
    let number = unit.number(value);
    let whole = number.strip_suffix(".00").unwrap_or(&number);
    format!("{whole} {}", unit.name)
}

/// `value` over `divisor` with so many decimals, rounded half up.
pub fn fixed(value: u64, divisor: u64, decimals: usize) -> String {
    let scale = (0..decimals).fold(1, |scale: u128, _| scale * 10);
    let divisor = u128::from(divisor);
    let scaled = (u128::from(value) * scale + divisor / 2) / divisor;
    if decimals == 0 {
        return scaled.to_string();
    }
    format!("{}.{:0decimals$}", scaled / scale, scaled % scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_the_unit_that_fits() {
        for (value, text) in [
            (0, "0 µs"),
            (999, "999 µs"),
            (1000, "1 ms"),
            (12_345, "12.35 ms"),
            (999_999, "1000 ms"),
            (5_600_000, "5.60 s"),
        ] {
            assert_eq!(amount(value, false), text);
        }
        assert_eq!(amount(1536, true), "2 KiB");
        assert_eq!(amount(5 << 20, true), "5 MiB");
        assert_eq!(fixed(70, 100, 1), "0.7");
    }
}
