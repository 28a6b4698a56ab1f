//! The `llem` command line: parses, prints, and sets exit codes. Everything else is in the library.

mod cli;

use std::process::ExitCode;

use clap::Parser;

use cli::{Arguments, Printer};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let printer = Printer::new(arguments.output());
    arguments.init_log();
    match cli::dispatch(arguments, printer) {
        Ok(exit) => exit.into(),
        Err(error) => {
            printer.error(&error);
            error.exit.into()
        }
    }
}
