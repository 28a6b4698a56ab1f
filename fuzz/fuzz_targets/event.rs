//! Any bytes as a line of the agent: an event that can be passed on and read again, or none; never a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use llem_protocol::decode_event;

fuzz_target!(|line: &[u8]| {
    if let Some(event) = decode_event(line) {
        let again = serde_json::to_vec(&event).expect("an event is JSON");
        assert_eq!(decode_event(&again).map(|read| read.seq), Some(event.seq));
    }
});
