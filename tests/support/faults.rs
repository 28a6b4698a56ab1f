//! A library that breaks calls of the C library, to be loaded before it: see `tests/cache/faults.c`.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

/// The library, built once for this process.
pub(crate) fn fault_library() -> &'static Path {
    static LIBRARY: OnceLock<std::path::PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/cache/faults.c");
        let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{}.so", std::process::id()));
        let status = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&made).arg(&source).status();
        assert!(status.unwrap().success(), "cc could not build {}", source.display());
        made
    })
}
