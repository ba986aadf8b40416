//! Progress reports of a build.

/// Receives the progress of a build. Called often, from the building thread; calls should return
/// at once.
pub trait Progress {
    /// A new stage starts, such as `downloading linux-image-cloud-amd64`.
    fn stage(&mut self, stage: &str);

    /// So many bytes of the stage are done, of a total if it is known.
    fn bytes(&mut self, _done: u64, _total: Option<u64>) {}

    /// A tool of the stage printed a line.
    fn line(&mut self, _line: &str) {}
}

/// Ignores all progress.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn stage(&mut self, _stage: &str) {}
}
