//! A copy of `llem` with a script in the agent's place, for whole studies without an engine.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use llem_protocol::PROTOCOL_VERSION;

/// Puts `llem` into a directory, with `agent` beside it as its agent, and a file `protocol` with the version that the agent has to say.
pub(crate) fn place_llem(directory: &Path, agent: &str) {
    let path = |name: &str| directory.join(name);
    let program = env!("CARGO_BIN_EXE_llem");
    // Another file system takes no link.
    fs_err::hard_link(program, path("llem")).or_else(|_| fs_err::copy(program, path("llem")).map(drop)).unwrap();
    for (name, content) in [("llem-agent", agent), ("llem-candle", "")] {
        fs_err::write(path(name), content).unwrap();
        fs_err::set_permissions(path(name), PermissionsExt::from_mode(0o755)).unwrap();
    }
    fs_err::write(path("protocol"), PROTOCOL_VERSION.to_string()).unwrap();
}
