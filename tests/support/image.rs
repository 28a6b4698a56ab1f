//! Images that misbehave, made of this machine's own files: no registry is needed.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::docker;

/// The stand-in for the driver: misbehaves as `$FAULT` says, else is the real one.
const STAND_IN: &str = include_str!("driver.sh");

/// Programs that the stand-in uses.
const TOOLS: [&str; 9] = ["sh", "chmod", "head", "ln", "mkdir", "mkfifo", "sed", "sleep", "touch"];

/// Reference of an image whose driver is the stand-in, made when the engine does not have it.
pub(crate) fn fault_image() -> &'static str {
    static IMAGE: OnceLock<String> = OnceLock::new();
    IMAGE.get_or_init(|| {
        let mut archive = Archive::default();
        let candle = Path::new(env!("CARGO_BIN_EXE_llem")).with_file_name("llem-candle");
        archive.add("/usr/local/bin/real-candle", &fs_err::read(&candle).unwrap());
        archive.add("/usr/local/bin/llem-candle", STAND_IN.as_bytes());
        archive.add_libraries(&candle);
        archive.add_libraries(&candle.with_file_name("llem-agent"));
        for tool in TOOLS {
            let path = PathBuf::from("/bin").join(tool);
            let path = if path.exists() { path } else { PathBuf::from("/usr/bin").join(tool) };
            archive.add(&format!("/bin/{tool}"), &fs_err::read(&path).unwrap());
            archive.add_libraries(&path);
        }
        archive.import("faults")
    })
}

/// Reference of an image in which nothing can start.
pub(crate) fn bare_image() -> String {
    let mut archive = Archive::default();
    archive.add("/README", b"no C library here\n");
    archive.import("bare")
}

/// The files of an image.
#[derive(Default)]
struct Archive {
    builder: Option<Builder<Vec<u8>>>,
    present: BTreeSet<String>,
}

impl Archive {
    fn add(&mut self, path: &str, content: &[u8]) {
        if !self.present.insert(path.to_owned()) {
            return;
        }
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::Regular);
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        let builder = self.builder.get_or_insert_with(|| Builder::new(Vec::new()));
        builder.append_data(&mut header, path.trim_start_matches('/'), content).unwrap();
    }

    /// Adds the program interpreter and the libraries that a binary loads on this machine.
    fn add_libraries(&mut self, binary: &Path) {
        let listing = Command::new("ldd").arg(binary).output().unwrap();
        let text = String::from_utf8(listing.stdout).unwrap();
        for path in text.split_whitespace().filter(|word| word.starts_with('/')) {
            self.add(path, &fs_err::read(path).unwrap());
        }
    }

    /// Makes the image, tagged with the hash of its files, unless the engine has it.
    fn import(self, name: &str) -> String {
        let bytes = self.builder.unwrap().into_inner().unwrap();
        let tag: String = hex::encode(Sha256::digest(&bytes)).chars().take(16).collect();
        let reference = format!("llem-test/{name}:{tag}");
        if docker(&["image", "inspect", &reference]).status.success() {
            return reference;
        }
        let mut command = Command::new("docker");
        command.env_remove("DOCKER_HOST").args(["import", "-c", "ENV PATH=/usr/local/bin:/bin", "-", &reference]);
        let mut import = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        import.stdin.take().unwrap().write_all(&bytes).unwrap();
        assert!(import.wait().unwrap().success(), "docker import {reference}");
        reference
    }
}
