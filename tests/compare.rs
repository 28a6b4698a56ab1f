//! `llem compare` and the published schemas: through the built program, on studies whose truth is known, and on files that somebody damaged.

#![expect(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

#[path = "compare/alarms.rs"]
mod alarms;
#[path = "compare/ci_example.rs"]
mod ci_example;
#[path = "compare/hostile.rs"]
mod hostile;
#[path = "compare/program.rs"]
mod program;
#[path = "compare/schemas.rs"]
mod schemas;
#[path = "compare/studies.rs"]
mod studies;
