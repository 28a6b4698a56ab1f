use std::fs::File;
use std::io::{self, BufRead, BufWriter, Read, StdinLock, Write};

use llem_protocol::{MAX_LINE_BYTES, Message, Request};

use crate::error::DriverError;

/// The line to the agent: requests in, messages out.
pub struct Channel<R = StdinLock<'static>> {
    input: R,
    output: BufWriter<File>,
}

impl Channel {
    /// Takes stdin and stdout. From then on descriptor 1 is stderr, so that no library can write into the protocol.
    pub fn over_stdio(input: StdinLock<'static>) -> io::Result<Self> {
        let output = rustix::io::fcntl_dupfd_cloexec(io::stdout(), 3)?;
        rustix::stdio::dup2_stdout(io::stderr())?;
        Ok(Self::new(input, File::from(output)))
    }
}

impl<R: BufRead> Channel<R> {
    /// A channel over any reader and file.
    pub fn new(input: R, output: File) -> Self {
        Self { input, output: BufWriter::new(output) }
    }

    /// The next request; `None` when the agent has closed its end.
    pub fn receive(&mut self) -> Result<Option<Request>, DriverError> {
        let mut line = Vec::new();
        self.input.by_ref().take(MAX_LINE_BYTES as u64 + 1).read_until(b'\n', &mut line)?;
        if line.is_empty() {
            return Ok(None);
        }
        if line.len() > MAX_LINE_BYTES {
            return Err(DriverError::Protocol(format!("a request is longer than {MAX_LINE_BYTES} bytes")));
        }
        serde_json::from_slice(&line)
            .map(Some)
            .map_err(|error| DriverError::Protocol(format!("a request is not one of the protocol: {error}")))
    }

    /// Sends one message.
    pub fn send(&mut self, message: &Message) -> io::Result<()> {
        self.queue(message)?;
        self.output.flush()
    }

    /// Sends one message with the next ones.
    pub(crate) fn queue(&mut self, message: &Message) -> io::Result<()> {
        serde_json::to_writer(&mut self.output, message)?;
        self.output.write_all(b"\n")
    }
}
