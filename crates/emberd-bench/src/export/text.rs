//! Text for a terminal: styles, which are dropped if it is not one, and columns.

use clap::builder::styling::{AnsiColor, Style};

/// Formats a bold line.
pub fn heading(text: &str) -> String {
    styled(text, Style::new().bold())
}

/// Formats a met target.
pub fn good(text: &str) -> String {
    styled(text, AnsiColor::Green.on_default())
}

/// Formats a missed target or a warning.
pub fn warning(text: &str) -> String {
    styled(text, AnsiColor::Yellow.on_default())
}

fn styled(text: &str, style: Style) -> String {
    format!("{style}{text}{style:#}")
}

/// Alignment of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Left, for words.
    Left,
    /// Right, for numbers.
    Right,
}

/// Formats rows under a heading, with each column as wide as its widest cell. The last column is
/// not padded and may have styled text.
pub fn columns<const N: usize>(titles: [(&str, Align); N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([titles[column].0.chars().count()]).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |cells: [&str; N]| {
        let padded = cells.iter().zip(widths).zip(titles).enumerate().map(
            |(column, ((cell, width), (_, align)))| match align {
                Align::Right => format!("{cell:>width$}"),
                Align::Left if column + 1 == N => (*cell).to_owned(),
                Align::Left => format!("{cell:<width$}"),
            },
        );
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let mut text = heading(&line(titles.map(|(title, _)| title)));
    for row in rows {
        text.push('\n');
        text.push_str(&line(row.each_ref().map(String::as_str)));
    }
    text.push('\n');
    text
}

/// Returns `text` without styles.
#[cfg(test)]
pub fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}
