//! Any text as a study file: problems or a study, never a panic, and always the same answer.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use llem::config::{Profile, StudyConfig};

fuzz_target!(|text: &str| {
    let resolve = || StudyConfig::from_text(Path::new("study.yaml"), text, &[], Profile::Standard);
    match (resolve(), resolve()) {
        (Ok(first), Ok(second)) => assert_eq!(first, second),
        (Err(first), Err(second)) => {
            assert!(!first.problems.is_empty(), "refused without a reason");
            assert_eq!(first.to_string(), second.to_string());
        }
        _ => panic!("two answers to one text"),
    }
});
