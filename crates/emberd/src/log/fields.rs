//! Formats the fields of a line of text: `name=value`, an error with its causes, each cut at a
//! limit.

use std::error::Error;
use std::fmt::{self, Write as _};

use emberd_proto::chain;
use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

use super::line::Sanitizer;

/// Longest value of a field, and longest message, in bytes (1 KiB).
pub const FIELD_BYTES_MAX: usize = 1 << 10;

/// Formats fields; see the module.
#[derive(Debug, Clone, Copy)]
pub struct Fields;

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut printing = Printing { writer, is_first: true, printed: Ok(()) };
        fields.record(&mut printing);
        printing.printed
    }
}

struct Printing<'writer> {
    writer: Writer<'writer>,
    is_first: bool,
    printed: fmt::Result,
}

impl Printing<'_> {
    fn print(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        if self.printed.is_ok() {
            self.printed = self.field(field.name(), value);
        }
    }

    fn field(&mut self, name: &str, value: fmt::Arguments<'_>) -> fmt::Result {
        if !std::mem::take(&mut self.is_first) {
            self.writer.write_char(' ')?;
        }
        if name != "message" {
            write!(self.writer, "{}=", name.trim_start_matches("r#"))?;
        }
        let mut sanitizer = Sanitizer::new(&mut self.writer, FIELD_BYTES_MAX);
        let written = sanitizer.write_fmt(value);
        sanitizer.finish(written)
    }
}

impl Visit for Printing<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.print(field, format_args!("{value:?}"));
    }

    fn record_error(&mut self, field: &Field, error: &(dyn Error + 'static)) {
        self.print(field, format_args!("{}", chain(error)));
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::super::written::Written;
    use super::*;

    #[test]
    fn fields_are_sanitized_and_errors_come_with_their_causes() {
        let written = Written::default();
        let log = tracing_subscriber::fmt().with_writer(written.maker()).with_ansi(false);
        let log = log.without_time().with_target(false).fmt_fields(Fields).finish();
        tracing::subscriber::with_default(log, || {
            let error = Failed(io::Error::other("the cause\nof it"));
            let text = "quoted \"text\"\n";
            let filler = "x".repeat(60_000);
            tracing::info!(path = %filler, text, number = 7, "answered\u{1b}[2J");
            tracing::warn!(error = &error as &dyn Error, "not done");
        });
        let text = written.text();
        let lines: Vec<_> = text.lines().collect();
        let path = format!("path={}… ", "x".repeat(FIELD_BYTES_MAX));
        let expect =
            r" INFO answered\u{1b}[2J ".to_owned() + &path + r#"text="quoted \"text\"\n" number=7"#;
        assert_eq!(lines[0], expect);
        assert_eq!(lines[1], r" WARN not done error=it failed: the cause\nof it");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("it failed")]
    struct Failed(#[source] io::Error);
}
