//! From the files of a study to statements about it.

pub mod compare;
mod load;

pub use load::{LoadError, StudyFiles, read_run, read_study};
