use std::path::PathBuf;

use thiserror::Error;

/// What the cache cannot go on from. A cache that cannot be used is none of these: then one builds privately.
#[derive(Debug, Error)]
pub enum CacheError {
    /// A file operation; the message names the path.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// What was built cannot be an engine.
    #[error("{path}: {problem}")]
    Content {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// An entry was thrown away, made anew, and is bad again.
    #[error(
        "entry {key} is damaged again after it was built anew ({problem}); the disk or the engine is at fault: \
         set `engine_cache_dir` to another disk, or look at what the engine said when it built"
    )]
    DamagedAgain {
        /// The key.
        key: String,
        /// What was found this time.
        problem: String,
    },
    /// The caller did not want to wait any longer.
    #[error("waiting for another builder was interrupted")]
    Interrupted,
    /// No entry of that name.
    #[error("no entry's key starts with `{prefix}`; `llem cache ls` lists them")]
    Unknown {
        /// What was asked for.
        prefix: String,
    },
    /// Several entries of that name.
    #[error("`{prefix}` is the beginning of several keys: {}", keys.join(", "))]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// The first digits of each.
        keys: Vec<String>,
    },
}
