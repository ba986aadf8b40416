//! Text on a terminal: styles, which the stream drops where it is none, and columns.

use clap::builder::styling::{AnsiColor, Style};

/// A bold line.
pub fn heading(text: &str) -> String {
    styled(text, Style::new().bold())
}

/// Something kept.
pub fn good(text: &str) -> String {
    styled(text, AnsiColor::Green.on_default())
}

/// Something to be looked at.
pub fn warning(text: &str) -> String {
    styled(text, AnsiColor::Yellow.on_default())
}

fn styled(text: &str, style: Style) -> String {
    format!("{style}{text}{style:#}")
}

/// A column's side that lines up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows under a heading, each column as wide as its widest cell. The last column may hold
/// styled text; it is not padded.
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

/// `text` without styles.
#[cfg(test)]
pub fn plain(text: &str) -> String {
    anstream::adapter::strip_str(text).to_string()
}
