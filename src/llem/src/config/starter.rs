//! The file that `llem config init` writes.

/// A commented study file that runs on any machine; a test proves that it validates.
pub const fn starter() -> &'static str {
    include_str!("starter.yaml")
}
