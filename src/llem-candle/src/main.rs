//! `llem-candle`: started by `llem-agent`, which speaks the driver protocol with it over stdin and stdout.

use std::io;
use std::process::ExitCode;

use llem_candle::Channel;

fn main() -> ExitCode {
    let stdin = io::stdin().lock();
    let Ok(mut channel) = Channel::over_stdio(stdin) else { return ExitCode::FAILURE };
    match llem_candle::run(&mut channel) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to be told when this fails too.
            let _ = channel.send(&error.to_message());
            ExitCode::FAILURE
        }
    }
}
