//! A driver under way, spoken to as the agent does.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};

use llem_protocol::{FailureClass, Message, Request, RequestRecord, Stretch, WorkloadLine};
use serde_json::Value;

/// Requests with the given prompt and output lengths; the tokens differ from request to request.
pub(crate) fn workload(lengths: &[(usize, u32)]) -> Vec<WorkloadLine> {
    (0_u32..)
        .zip(lengths)
        .map(|(index, (prompt, output_tokens))| WorkloadLine {
            index: u64::from(index),
            prompt_ids: (0..*prompt as u32).map(|position| (7 + 131 * index + 29 * position) % 512).collect(),
            output_tokens: *output_tokens,
        })
        .collect()
}

/// A running driver. Its stdin closed, it ends.
pub(crate) struct Driver {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    hello: Option<Message>,
}

/// The answer to a pass.
#[derive(Clone, Copy)]
pub(crate) struct Pass {
    pub(crate) start_ns: u64,
    pub(crate) end_ns: u64,
    pub(crate) prompt_tokens: u64,
    pub(crate) output_tokens: u64,
}

impl Driver {
    /// Started, and its engine imported.
    pub(crate) fn start(command: Command, backend: &str) -> Self {
        let mut driver = Self::spawn(command);
        let hello = driver.receive();
        assert!(matches!(&hello, Message::Hello { engine, .. } if engine == backend), "{hello:?}");
        driver.hello = Some(hello);
        driver
    }

    /// Started.
    pub(crate) fn spawn(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { stdin: child.stdin.take(), child, stdout, hello: None }
    }

    /// What it said of its engine.
    pub(crate) fn hello(&self) -> &Message {
        self.hello.as_ref().unwrap()
    }

    pub(crate) fn send(&mut self, request: &Request) {
        let line = serde_json::to_string(request).unwrap();
        writeln!(self.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    pub(crate) fn receive(&mut self) -> Message {
        serde_json::from_value(self.line()).unwrap()
    }

    /// Loads and gives the answer.
    #[track_caller]
    pub(crate) fn loads(&mut self, request: &Request) -> Message {
        serde_json::from_value(self.loads_as_sent(request)).unwrap()
    }

    /// As [`Driver::loads`], with what the message's type has no place for.
    #[track_caller]
    pub(crate) fn loads_as_sent(&mut self, request: &Request) -> Value {
        self.send(request);
        let answer = self.line();
        assert!(matches!(serde_json::from_value(answer.clone()), Ok(Message::Loaded { .. })), "{answer}");
        answer
    }

    /// Loads and gives the settings in effect with the stretches in which something was compiled.
    pub(crate) fn compiles(&mut self, request: &Request) -> (Value, Vec<Stretch>) {
        match self.loads(request) {
            Message::Loaded { settings, compile, .. } => (Value::Object(settings), compile.unwrap_or_default()),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn pass(&mut self, pass: u32, record: bool, prefill_only: bool) -> Pass {
        self.send(&Request::Pass { pass, record, prefill_only });
        match self.receive() {
            Message::PassDone { pass: done, start_ns, end_ns, prompt_tokens, output_tokens } => {
                assert_eq!(done, pass);
                Pass { start_ns, end_ns, prompt_tokens, output_tokens }
            }
            other => panic!("{other:?}"),
        }
    }

    /// The kept records and the peak of memory.
    pub(crate) fn records(&mut self) -> (Vec<RequestRecord>, Option<u64>) {
        self.send(&Request::Records);
        let mut kept = Vec::new();
        loop {
            match self.receive() {
                Message::Record { record } => kept.push(record),
                Message::RecordsDone { records, peak_memory_bytes } => {
                    assert_eq!(records, kept.len() as u64);
                    return (kept, peak_memory_bytes);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// The error that the driver ends with: class, kind, and text with causes.
    pub(crate) fn error(mut self) -> (Option<FailureClass>, String, String) {
        match self.receive() {
            Message::Error { class, kind, text, causes } => {
                assert_eq!(self.close().code(), Some(1));
                (class, kind, [vec![text], causes].concat().join(": "))
            }
            other => panic!("{other:?}"),
        }
    }

    /// Closes stdin and waits.
    pub(crate) fn close(mut self) -> ExitStatus {
        drop(self.stdin.take());
        self.child.wait().unwrap()
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
