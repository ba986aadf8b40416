//! What did not fit into answers: texts and images, kept for a while.

use std::collections::VecDeque;

use parking_lot::Mutex;

use crate::answer::Image;

/// Most bytes of all outputs that are kept (64 MiB); beyond that the oldest go.
const BYTES_MAX: usize = 64 << 20;

/// Something of a run that did not fit into its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Text.
    Text(String),
    /// An image.
    Image(Image),
}

impl Output {
    fn bytes(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Image(image) => image.base64.len(),
        }
    }
}

/// Outputs of runs, by sandbox, run and number.
#[derive(Debug, Default)]
pub struct Outputs(Mutex<VecDeque<(String, Output)>>);

impl Outputs {
    /// Keeps an output, and returns its URI. An output that is larger than the room for all is not
    /// kept.
    pub fn keep(&self, sandbox: &str, run: &str, number: usize, output: Output) -> String {
        let uri = format!("emberd://sandboxes/{sandbox}/outputs/{run}/{number}");
        let mut kept = self.0.lock();
        kept.push_back((uri.clone(), output));
        let mut bytes: usize = kept.iter().map(|(_, output)| output.bytes()).sum();
        while bytes > BYTES_MAX {
            let Some((_, oldest)) = kept.pop_front() else { break };
            bytes -= oldest.bytes();
        }
        uri
    }

    /// The output at `uri`, if it is still kept.
    pub fn get(&self, uri: &str) -> Option<Output> {
        let kept = self.0.lock();
        kept.iter().find(|(known, _)| known == uri).map(|(_, output)| output.clone())
    }
}

/// A name for a run that no other run has.
pub fn run_name() -> String {
    format!("{:016x}", getrandom::u64().expect("the kernel has random bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_outputs_go_first() {
        let outputs = Outputs::default();
        let large = || Output::Text("x".repeat(BYTES_MAX / 2));
        let first = outputs.keep("sb_1", "a", 0, large());
        let second = outputs.keep("sb_1", "b", 0, large());
        assert!(outputs.get(&first).is_some() && outputs.get(&second).is_some());
        let third = outputs.keep("sb_1", "c", 1, Output::Text("small".into()));
        assert!(outputs.get(&first).is_none() && outputs.get(&second).is_some());
        assert_eq!(third, "emberd://sandboxes/sb_1/outputs/c/1");
        assert_eq!(outputs.get(&third), Some(Output::Text("small".into())));
        assert_ne!(run_name(), run_name());
    }
}
