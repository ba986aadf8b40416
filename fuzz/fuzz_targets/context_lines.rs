//! Lines of a hostile interpreter: what is passed on is JSON that every reader can read, is no
//! more than was received, and means what the line meant.
#![no_main]

use bytes::Bytes;
use emberd_api::RunEvent;
use emberd_proto::{ContextEvent, LineError, json};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|input: &[u8]| {
    if input.contains(&b'\n') {
        return;
    }
    let mut line = input.to_vec();
    json::tame(&mut line);
    assert_eq!(line.len(), input.len());
    let again = line.clone();
    json::tame(&mut line);
    assert_eq!(line, again);
    let line = Bytes::from(line);
    let data = match ContextEvent::parse(&line) {
        Ok(ContextEvent::Display { data } | ContextEvent::Result { data }) => data,
        Ok(ContextEvent::Error { name, value, traceback }) => {
            assert!(name.len() + value.len() + traceback.len() <= line.len());
            return;
        }
        Ok(_) | Err(LineError::NoEvent | LineError::Excess) => return,
    };
    let text = data.json().clone();
    assert!(text.len() <= line.len());
    assert!(!text.contains(&b'\r') && !text.contains(&b'\n'));
    let event = RunEvent::Display { data: data.clone() };
    let told = serde_json::to_string(&event).unwrap();
    assert_eq!(serde_json::from_str::<RunEvent>(&told).unwrap(), event);
    // A reader that makes a tree of it finds the same. Numbers beyond any float it refuses.
    if let Ok(tree) = serde_json::from_slice::<Value>(&text) {
        for kind in data.kinds() {
            assert_eq!(data.get::<Value>(&kind).as_ref(), tree.get(&kind), "{kind}");
        }
    }
});
