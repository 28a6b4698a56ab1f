//! From the files of a study to statements about it.

mod load;

pub use load::{LoadError, StudyFiles, read_run};
