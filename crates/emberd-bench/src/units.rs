//! Formats numbers with whole-number arithmetic: times, bytes, rates, counts.

use crate::statistics::{BYTES_SUFFIX, COUNT_SUFFIX, RATE_SUFFIX};

/// The quantity of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantity {
    /// Microseconds; less is better, as for everything except rates and counts.
    Time,
    /// Bytes.
    Bytes,
    /// Bytes per second.
    Rate,
    /// A number of things.
    Count,
}

impl Quantity {
    /// Returns the quantity of the series of this name.
    pub fn of(series: &str) -> Self {
        match series {
            _ if series.ends_with(BYTES_SUFFIX) => Self::Bytes,
            _ if series.ends_with(RATE_SUFFIX) => Self::Rate,
            _ if series.ends_with(COUNT_SUFFIX) => Self::Count,
            _ => Self::Time,
        }
    }

    /// Returns whether more is better.
    pub fn is_better_if_more(self) -> bool {
        matches!(self, Self::Rate | Self::Count)
    }
}

/// A unit of display.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unit {
    /// Text after the number.
    pub name: &'static str,
    divisor: u64,
    decimals: usize,
}

const MICROSECONDS: Unit = Unit { name: "µs", divisor: 1, decimals: 0 };
const MILLISECONDS: Unit = Unit { name: "ms", divisor: 1000, decimals: 2 };
const SECONDS: Unit = Unit { name: "s", divisor: 1_000_000, decimals: 2 };
const KIBIBYTES: Unit = Unit { name: "KiB", divisor: 1 << 10, decimals: 0 };
const MEBIBYTES: Unit = Unit { name: "MiB", divisor: 1 << 20, decimals: 2 };
const KIBIBYTES_A_SECOND: Unit = Unit { name: "KiB/s", divisor: 1 << 10, decimals: 0 };
const MEBIBYTES_A_SECOND: Unit = Unit { name: "MiB/s", divisor: 1 << 20, decimals: 1 };
const PIECES: Unit = Unit { name: "", divisor: 1, decimals: 0 };

impl Unit {
    /// Returns the unit for a row of values around `value`.
    pub fn fitting(value: u64, quantity: Quantity) -> Self {
        match (quantity, value) {
            (Quantity::Time, ..1000) => MICROSECONDS,
            (Quantity::Time, ..1_000_000) => MILLISECONDS,
            (Quantity::Time, _) => SECONDS,
            (Quantity::Bytes, ..MIB) => KIBIBYTES,
            (Quantity::Bytes, _) => MEBIBYTES,
            (Quantity::Rate, ..MIB) => KIBIBYTES_A_SECOND,
            (Quantity::Rate, _) => MEBIBYTES_A_SECOND,
            (Quantity::Count, _) => PIECES,
        }
    }

    /// Formats `value` in this unit, without the unit's name.
    pub fn number(self, value: u64) -> String {
        fixed(value, self.divisor, self.decimals)
    }
}

const MIB: u64 = 1 << 20;

/// Formats `value` in a suitable unit, without decimals if they are zero.
pub fn amount(value: u64, quantity: Quantity) -> String {
    let unit = Unit::fitting(value, quantity);
    let number = unit.number(value);
    let zeros = format!(".{}", "0".repeat(unit.decimals));
    let whole = number.strip_suffix(&zeros).unwrap_or(&number);
    format!("{whole} {}", unit.name).trim_end().to_owned()
}

/// Formats `value` over `divisor` with the given number of decimals, rounded half up.
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
    fn the_end_of_a_name_says_what_is_measured() {
        for (series, quantity) in [
            ("create_python", Quantity::Time),
            ("idle_pss_bytes", Quantity::Bytes),
            ("push_128m_python_bytes_per_s", Quantity::Rate),
            ("held_python_count", Quantity::Count),
        ] {
            assert_eq!(Quantity::of(series), quantity, "{series}");
        }
    }

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
            assert_eq!(amount(value, Quantity::Time), text);
        }
        assert_eq!(amount(1536, Quantity::Bytes), "2 KiB");
        assert_eq!(amount(5 << 20, Quantity::Bytes), "5 MiB");
        assert_eq!(amount(100 << 20, Quantity::Rate), "100 MiB/s");
        assert_eq!(amount(3 << 19, Quantity::Rate), "1.5 MiB/s");
        assert_eq!(amount(200, Quantity::Count), "200");
        assert_eq!(fixed(70, 100, 1), "0.7");
    }
}
