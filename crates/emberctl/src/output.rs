//! What is printed: aligned tables for people, or one JSON document.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::builder::styling::{AnsiColor, Style};
use serde::Serialize;

/// The kind of output.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// One JSON document on standard output instead of text.
    pub json: bool,
}

impl Output {
    /// Prints `value` as JSON, or else the text made by `text`.
    ///
    /// # Errors
    /// Standard output is closed or full.
    pub fn print(self, value: &impl Serialize, text: impl FnOnce() -> String) -> io::Result<()> {
        if self.json {
            let document = serde_json::to_string_pretty(value)?;
            writeln!(io::stdout(), "{document}")
        } else {
            write!(anstream::stdout(), "{}", text())
        }
    }
}

/// The time at which a table is printed: its ages are all as of then.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Duration);

impl Clock {
    /// The time of the host.
    pub fn now() -> Self {
        Self(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    /// The time `ms` milliseconds after the Unix epoch.
    #[cfg(test)]
    pub fn at_ms(ms: u64) -> Self {
        Self(Duration::from_millis(ms))
    }

    /// The time in milliseconds since the Unix epoch.
    pub fn as_ms(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }

    /// Age, in one unit, of what happened `at_ms` milliseconds after the Unix epoch.
    pub fn age(self, at_ms: u64) -> String {
        in_one_unit(self.0.saturating_sub(Duration::from_millis(at_ms)))
    }

    /// Time left, in one unit, until `at_ms` milliseconds after the Unix epoch.
    pub fn until(self, at_ms: u64) -> String {
        in_one_unit(Duration::from_millis(at_ms).saturating_sub(self.0))
    }
}

fn in_one_unit(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..86_400 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", seconds / 86_400),
    }
}

/// Text from a daemon or guest, safe to show on a terminal: control characters other than
/// line breaks and tabs become U+FFFD, so that no console log moves the cursor.
pub fn printable(text: &str) -> String {
    let keep = |c: char| !c.is_control() || c == '\n' || c == '\t';
    text.chars().map(|c| if keep(c) { c } else { char::REPLACEMENT_CHARACTER }).collect()
}

/// A bold `text`. A stream that is not a terminal drops the style.
pub fn bold(text: &str) -> String {
    styled(text, Style::new().bold())
}

/// A coloured `text`. A stream that is not a terminal drops the colour.
pub fn coloured(text: &str, colour: AnsiColor) -> String {
    styled(text, colour.on_default().bold())
}

fn styled(text: &str, style: Style) -> String {
    format!("{style}{text}{style:#}")
}

/// Rows under a heading, each column as wide as its widest cell. Cells are made printable.
pub fn table<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let cells: Vec<[String; N]> = rows
        .iter()
        .map(|row| row.each_ref().map(|cell| printable(cell).replace('\n', " ")))
        .collect();
    let width = |column: usize| {
        let cells = cells.iter().map(|row| row[column].chars().count());
        cells.chain([heading[column].len()]).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: [&str; N]| {
        let padded = cells.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}  "));
        padded.collect::<String>().trim_end().to_owned()
    };
    let mut text = format!("{}\n", bold(&line(heading)));
    for row in &cells {
        text.push_str(&line(row.each_ref().map(String::as_str)));
        text.push('\n');
    }
    text
}

/// Facts one a line, their names in one column.
pub fn facts(facts: &[(&str, String)]) -> String {
    let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    facts.iter().fold(String::new(), |mut text, (name, value)| {
        writeln!(text, "{name:<width$}  {}", printable(value)).expect("strings take everything");
        text
    })
}

/// A number of bytes for people: `999 B`, `1.4 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1 << 10 {
        return format!("{count} B");
    }
    let power = (count.ilog2() / 10).min(4);
    // Tenths in whole numbers: exact for every count.
    let tenths = u128::from(count) * 10 / (1 << (10 * power));
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[power as usize - 1])
}

/// A duration for people, to the microsecond: `1.234 ms`.
pub fn milliseconds(us: u64) -> String {
    format!("{}.{:03} ms", us / 1000, us % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_escape_sequences_are_defused() {
        let rows = [["a".into(), "x\x1b[2Jy\nz".into()], ["long".into(), String::new()]];
        let plain = anstream::adapter::strip_str(&table(["ID", "STATE"], &rows)).to_string();
        assert_eq!(plain, "ID    STATE\na     x\u{fffd}[2Jy z\nlong\n");
    }

    #[test]
    fn ages_use_one_unit() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (60, "1m"), (7200, "2h"), (172_800, "2d")] {
            assert_eq!(Clock::at_ms(7 + 1000 * seconds).age(7), text);
        }
        assert_eq!(Clock::at_ms(7).age(8), "0s");
    }

    #[test]
    fn bytes_are_for_people() {
        let cases = [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1_500_000, "1.4 MiB")];
        for (count, text) in cases {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(bytes(u64::MAX), "16777215.9 TiB");
    }
}
