use std::path::PathBuf;

use crate::result::{RunRow, StudyStatus};

/// What happens in a study, in order. Bars, logs and library callers consume the same stream.
#[derive(Clone, Debug)]
pub enum StudyEvent {
    /// Something is being made ready before the first run.
    Preparing {
        /// What, e.g. `image llem/candle:0123…`.
        what: String,
    },
    /// The user should read this, whatever the verbosity.
    Notice {
        /// One sentence.
        text: String,
    },
    /// Something that explains what llem does here; for those who ask for details.
    Detail {
        /// One sentence.
        text: String,
    },
    /// Everything is ready.
    Started {
        /// The study's directory.
        directory: PathBuf,
        /// Number of experiments.
        experiments: usize,
        /// Number of runs.
        runs: usize,
        /// Runs that were measured before, by a controller that the study goes on from.
        completed: usize,
        /// Runners in use, e.g. `docker`.
        runner: String,
    },
    /// A run begins.
    RunStarted {
        /// Number of the run, from 1.
        number: usize,
        /// The run.
        run_id: String,
        /// What distinguishes its experiment.
        label: String,
        /// Its cycle, from 1.
        cycle: u32,
    },
    /// The agent said something.
    Agent {
        /// What.
        event: llem_protocol::Event,
    },
    /// A run ended and its files are on disk.
    RunFinished {
        /// Number of the run, from 1.
        number: usize,
        /// The run with its figures.
        row: Box<RunRow>,
        /// Where its files are.
        directory: PathBuf,
        /// How long it took, in seconds.
        wall_s: f64,
    },
    /// How many jobs of the study the batch system has.
    Jobs {
        /// Without a node yet.
        waiting: usize,
        /// On a node.
        running: usize,
    },
    /// The machine rests.
    Gap {
        /// For how long.
        seconds: f64,
    },
    /// The study ended and its files are on disk.
    Finished {
        /// How.
        status: StudyStatus,
    },
}
