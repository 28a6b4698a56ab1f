use std::io::{ErrorKind, IsTerminal, Write};

use indicatif::ProgressDrawTarget;
use owo_colors::OwoColorize;

use super::Failure;

/// How loud llem is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    /// Errors and results.
    Quiet,
    /// What a user follows.
    Normal,
    /// Every event.
    Verbose,
}

/// Owns stdout and stderr: results go to stdout, all else to stderr. Colours only where the stream shows them and `NO_COLOR` is unset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Printer {
    output: Output,
}

#[expect(clippy::unused_self, reason = "whoever prints must hold the printer")]
impl Printer {
    pub(crate) fn new(output: Output) -> Self {
        Self { output }
    }

    /// A result. A reader that has gone away has what it wanted; anything else that keeps it from being written is a failure.
    pub(crate) fn result(self, text: &str) -> Result<(), Failure> {
        let mut stdout = anstream::stdout();
        match writeln!(stdout, "{}", text.trim_end_matches('\n')).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(Failure::failed(format!("the result could not be written to stdout: {error}")))
            }
            _ => Ok(()),
        }
    }

    /// A line that a user follows.
    pub(crate) fn line(self, text: &str) {
        if self.output != Output::Quiet {
            Self::stderr(text);
        }
    }

    /// A line of detail.
    pub(crate) fn detail(self, text: &str) {
        if self.output == Output::Verbose {
            Self::stderr(&text.dimmed().to_string());
        }
    }

    /// A line that a user must not miss.
    pub(crate) fn notice(self, text: &str) {
        if self.output != Output::Quiet {
            Self::stderr(&format!("{} {text}", "note:".yellow().bold()));
        }
    }

    /// Something that failed while the rest goes on; always printed.
    pub(crate) fn error_line(self, text: &str) {
        Self::stderr(&text.red().to_string());
    }

    /// An error; always printed.
    pub(crate) fn error(self, failure: &Failure) {
        Self::stderr(&format!("{} {}", "error:".red().bold(), failure.message.trim_end_matches('\n')));
    }

    /// Whether every event is printed.
    pub(crate) fn is_verbose(self) -> bool {
        self.output == Output::Verbose
    }

    /// Where bars are drawn: a terminal at normal loudness, else nowhere.
    pub(crate) fn bars(self) -> Option<ProgressDrawTarget> {
        let live = self.output == Output::Normal && std::io::stderr().is_terminal();
        live.then(|| ProgressDrawTarget::stderr_with_hz(10))
    }

    /// Columns of stdout; 80 when it is not a terminal.
    pub(crate) fn width() -> usize {
        let columns = std::env::var("COLUMNS").ok().and_then(|text| text.parse::<usize>().ok());
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| usize::from(size.ws_col));
        size.or(columns).filter(|columns| *columns >= 40).unwrap_or(80)
    }

    fn stderr(text: &str) {
        let _ = writeln!(anstream::stderr(), "{text}");
    }
}

/// Text that somebody else wrote, harmless to a terminal.
pub(crate) fn without_controls(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}
