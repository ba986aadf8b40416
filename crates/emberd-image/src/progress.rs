//! How a build tells what it is doing.

/// Watches a build. Calls come from the building thread, often; each should return at once.
pub trait Progress {
    /// A new stage begins, such as `downloading linux-image-cloud-amd64`.
    fn stage(&mut self, stage: &str);

    /// This many bytes of the stage are done, of a total where it is known.
    fn bytes(&mut self, _done: u64, _total: Option<u64>) {}

    /// A tool the stage runs printed a line.
    fn line(&mut self, _line: &str) {}
}

/// Ignores all progress.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn stage(&mut self, _stage: &str) {}
}
