//! Formats the results: a table for people, a document for programs, ratios to an earlier run.

mod breakdown;
mod comparison;
mod document;
mod table;
mod text;

pub use breakdown::breakdown;
pub use comparison::comparison;
pub use document::Document;
pub use table::{Row, host_line, table};
pub use text::warning;
