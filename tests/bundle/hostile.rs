//! Bundles that llem did not make, and those of another llem.

use std::path::{Path, PathBuf};
use std::process::Command;

use fs_err::File;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use super::{bundled, connected, said};
use crate::support::Bench;

/// Changes a header.
type Tamper = fn(&mut Header);

/// A bundle in memory, to be changed and put together again so that all hashes are right.
struct Forged {
    manifest: Value,
    contents: Vec<(String, Vec<u8>)>,
    /// Whether the manifest lists files as the test wants it.
    has_own_list: bool,
    /// Header of a member, changed after it was made.
    tamper: Option<(String, Tamper)>,
}

impl Forged {
    /// Of the small members of a real one.
    fn of(bundle: &Path) -> Self {
        let mut archive = tar::Archive::new(File::open(bundle).unwrap());
        let mut contents = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            if name != "bin/llem" {
                std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
            }
            contents.push((name, content));
        }
        let manifest = serde_json::from_slice(&contents.remove(0).1).unwrap();
        contents.remove(0);
        contents.retain(|(name, _)| name != "bin/llem");
        Self { manifest, contents, has_own_list: false, tamper: None }
    }

    /// Writes it as llem would, whatever is in it.
    fn write(mut self, path: &Path) {
        let entry = |(name, content): &(String, Vec<u8>)| {
            let executable = name.starts_with("bin/") || (name.starts_with("candle/") && !name.contains("etc"));
            let mut file = json!({"name": name, "size_bytes": content.len(), "sha256": hex(content)});
            if executable {
                file["executable"] = json!(true);
            }
            file
        };
        if !self.has_own_list {
            self.manifest["files"] = self.contents.iter().map(entry).collect();
        }
        let manifest = serde_json::to_vec(&self.manifest).unwrap();
        let checksum = format!("{}  llem-bundle.json\n", hex(&manifest)).into_bytes();
        let all = [("llem-bundle.json".to_owned(), manifest), ("llem-bundle.sha256".to_owned(), checksum)];
        let mut bytes = Vec::new();
        for (name, content) in all.into_iter().chain(self.contents) {
            let listed =
                self.manifest["files"].as_array().into_iter().flatten().find(|file| file["name"] == json!(name));
            let executable = listed.is_some_and(|file| file["executable"] == json!(true));
            let mut header = Header::new_gnu();
            header.set_mode(if executable { 0o755 } else { 0o644 });
            header.set_uid(0);
            header.set_gid(0);
            header.set_mtime(0);
            header.set_size(content.len() as u64);
            header.set_entry_type(EntryType::Regular);
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            if let Some((member, tamper)) = &self.tamper
                && *member == name
            {
                tamper(&mut header);
            }
            header.set_cksum();
            bytes.extend_from_slice(header.as_bytes());
            bytes.extend_from_slice(&content);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.extend([0; 1024]);
        fs_err::write(path, bytes).unwrap();
    }
}

fn hex(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))
}

/// A bench, and how bundles of its study are forged.
struct Forge {
    bench: Bench,
    original: PathBuf,
}

impl Forge {
    fn new(name: &str) -> Self {
        let mut bench = connected(name);
        let original = bundled(&bench, &["--runner", "process"]);
        bench.variables.insert("XDG_CACHE_HOME", bench.path("cache").display().to_string());
        Self { bench, original }
    }

    /// Tries to run what became of it; the exit code and what llem said.
    fn run(&self, change: impl FnOnce(&mut Forged)) -> (Option<i32>, String) {
        let mut forged = Forged::of(&self.original);
        change(&mut forged);
        let path = self.bench.path("forged.llem.tar");
        forged.write(&path);
        let output = self.bench.command(&["run", &path.display().to_string()]).output().unwrap();
        let text = said(&output).split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(!text.contains("panicked"), "{text}");
        (output.status.code(), text)
    }

    #[track_caller]
    fn refused(&self, parts: &[&str], change: impl FnOnce(&mut Forged)) {
        let (code, text) = self.run(change);
        assert_eq!(code, Some(1), "{text}");
        for part in parts {
            assert!(text.contains(part), "no `{part}` in {text}");
        }
        assert!(!self.bench.output.exists(), "nothing was started: {text}");
        let cache = fs_err::read_dir(self.bench.path("cache/llem/bundles-v1"));
        assert_eq!(cache.map_or(0, Iterator::count), 0, "nothing was unpacked: {text}");
    }
}

/// Adds a file to a bundle.
fn with(name: &'static str) -> impl FnOnce(&mut Forged) {
    move |forged| forged.contents.push((name.to_owned(), b"x".to_vec()))
}

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let forge = Forge::new("bundle-names");
    assert_eq!(forge.run(|_| {}).0, Some(0), "the forger can make good ones");
    fs_err::remove_dir_all(forge.bench.path("cache/llem/bundles-v1")).unwrap();
    fs_err::remove_dir_all(&forge.bench.output).unwrap();
    for name in ["/tmp/llem-was-here", "../../was-here", "a/../../was-here", "weights/./x", "a//b", "was\u{1b}here"] {
        forge.refused(&["is no bundle that llem made"], with(name));
    }
    assert!(!Path::new("/tmp/llem-was-here").exists());
    forge.refused(&["study.lock.json: it is there twice"], with("study.lock.json"));
    forge.refused(&["study.lock.json is a file"], with("study.lock.json/x"));
    forge.refused(&["llem-bundle.json: it is there twice"], with("llem-bundle.json"));
    forge.refused(&["nowhere", "not in the list of files"], |f| f.manifest["study"]["file"] = json!("nowhere"));
    forge.refused(&["../x", "no name"], |f| f.manifest["weights"][0]["files"][0]["name"] = json!("../x"));
    forge.refused(&["unknown field"], |f| f.manifest["surprise"] = json!(1));
    forge.refused(&["/etc", "no name for a part"], |f| {
        f.manifest["weights"][0]["files"] = json!([]);
        f.manifest["weights"][0]["directory"] = json!("/etc");
    });
    for name in ["study.lock.json", "workloads/list.json", "bin/llem-agent", "bin/llem-candle"] {
        forge.refused(&[name, "not in the list of files"], |f| f.contents.retain(|(kept, _)| kept != name));
    }
}

#[test]
fn members_that_are_no_files_are_refused() {
    let forge = Forge::new("bundle-kinds");
    let kinds: [Tamper; 7] = [
        |header| header.set_entry_type(EntryType::Symlink),
        |header| header.set_entry_type(EntryType::Link),
        |header| header.set_entry_type(EntryType::Char),
        |header| header.set_entry_type(EntryType::Fifo),
        |header| header.set_entry_type(EntryType::Directory),
        |header| header.set_mode(0o4755),
        |header| header.as_gnu_mut().unwrap().linkname[..11].copy_from_slice(b"/etc/passwd"),
    ];
    for tamper in kinds {
        forge.refused(&["the header of study.lock.json", "is damaged"], |forged| {
            forged.tamper = Some(("study.lock.json".to_owned(), tamper));
        });
    }
    forge.refused(&["the header of study.lock.json"], |forged| {
        forged.tamper = Some(("study.lock.json".to_owned(), |header| header.set_size(1 << 60)));
    });
    forge.refused(&["llem-bundle.json", "larger than any manifest"], |forged| {
        forged.tamper = Some(("llem-bundle.json".to_owned(), |header| header.set_size(1 << 50)));
    });
    // Members in another order than the list.
    forge.refused(&["the header of study/study.yaml"], |forged| {
        let entry = |(name, content): &(String, Vec<u8>)| json!({"name": name, "size_bytes": content.len(), "sha256": hex(content)});
        forged.manifest["files"] = forged.contents.iter().map(entry).collect();
        forged.has_own_list = true;
        forged.contents.swap(0, 1);
    });
}

#[test]
fn files_that_are_no_bundles_are_refused_with_what_to_do() {
    let forge = Forge::new("bundle-none");
    let path = forge.bench.path("none.llem.tar");
    let run = |path: &Path| {
        let output = forge.bench.command(&["run", &path.display().to_string()]).output().unwrap();
        (output.status.code(), said(&output))
    };
    let (code, text) = run(&path);
    assert!(code == Some(2) && text.contains("is no bundle") && text.contains("llem bundle FILE"), "{text}");
    fs_err::write(&path, vec![b'x'; 5000]).unwrap();
    let (code, text) = run(&path);
    assert!(code == Some(1) && text.contains("the header of llem-bundle.json"), "{text}");
    let status =
        Command::new("tar").arg("-cf").arg(&path).arg("-C").arg(forge.bench.path("")).arg("study.yaml").status();
    assert!(status.unwrap().success());
    let (code, text) = run(&path);
    assert!(code == Some(1) && text.contains("the header of llem-bundle.json"), "{text}");
    let (code, text) = run(&forge.bench.path(""));
    assert!(code == Some(2), "{text}");
}

#[test]
fn another_llem_says_so() {
    let forge = Forge::new("bundle-other-llem");
    forge.refused(&["was made by llem 9.9.9", "tar -xf"], |forged| forged.manifest["llem_version"] = json!("9.9.9"));
    forge.refused(&["commit 0123", "figures of one study come from one llem"], |f| {
        f.manifest["llem_commit"] = json!("0123");
    });
    forge.refused(&["bundles of format 7"], |forged| forged.manifest["format"] = json!(7));
    forge.refused(&["holds programs for s390x"], |forged| forged.manifest["architecture"] = json!("s390x"));
    // A lock file that is not kept is refused by its own words.
    let (code, text) = forge.run(|forged| {
        let lock = forged.contents.iter_mut().find(|(name, _)| name == "study.lock.json").unwrap();
        let mut value: Value = serde_json::from_slice(&lock.1).unwrap();
        value["llem"]["agent_sha256"] = json!("0");
        lock.1 = serde_json::to_vec(&value).unwrap();
    });
    assert!(code == Some(1) && text.contains("llem-agent sha256") && text.contains("nothing was started"), "{text}");
}

/// What `llem bundle --list` prints of a forged bundle on a terminal, and its exit code.
fn listed_on_a_terminal(forge: &Forge, change: impl FnOnce(&mut Forged)) -> (Option<i32>, String) {
    let mut forged = Forged::of(&forge.original);
    change(&mut forged);
    let path = forge.bench.path("listed.llem.tar");
    forged.write(&path);
    let command = format!("{} bundle --list {}", forge.bench.program.display(), path.display());
    let output = Command::new("script").args(["-qec", &command, "/dev/null"]).output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

#[test]
fn a_forged_bundle_can_be_listed_without_harm() {
    let forge = Forge::new("bundle-terminal");
    let title = "\u{1b}]0;mine\u{7}";
    let changes: [fn(&mut Value, &str); 5] = [
        |manifest, title| manifest["study"]["name"] = json!(title),
        |manifest, title| manifest["study"]["overrides"] = json!([title]),
        |manifest, title| manifest["weights"][0]["reference"] = json!(title),
        |manifest, title| manifest["llem_commit"] = json!(title),
        |manifest, title| {
            manifest["format"] = json!(9);
            manifest["llem_version"] = json!(title);
        },
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let (_, text) = listed_on_a_terminal(&forge, |forged| change(&mut forged.manifest, title));
        assert!(!text.contains(title) && text.contains("mine"), "{number}: {text:?}");
    }
    // More bytes than can be counted.
    let (code, text) = listed_on_a_terminal(&forge, |forged| {
        let file = |number| json!({"name": format!("{number}"), "size_bytes": 1_u64 << 44, "sha256": "0".repeat(64)});
        let weights = &mut forged.manifest["weights"][0];
        weights["directory"] = json!(null);
        weights["files"] = (0..1 << 20).map(file).collect();
    });
    assert!(code == Some(0) && text.contains("hashes only"), "{code:?} {text:.500}");
}
