//! A byte that is not what it was is found, wherever it is.

use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Output;

use fs_err::{File, OpenOptions};

use super::{AirGapped, bundled, connected, said};
use crate::support::Bench;

/// A member of an archive by its place.
struct Member {
    name: String,
    header: u64,
    content: u64,
    size: u64,
}

fn members(bundle: &Path) -> Vec<Member> {
    let mut archive = tar::Archive::new(File::open(bundle).unwrap());
    let entries = archive.entries().unwrap();
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            Member {
                name: entry.path().unwrap().display().to_string(),
                header: entry.raw_header_position(),
                content: entry.raw_file_position(),
                size: entry.size(),
            }
        })
        .collect()
}

fn verify(bench: &Bench, bundle: &Path) -> Output {
    bench.command(&["bundle", "--verify", &bundle.display().to_string()]).output().unwrap()
}

/// Changes one byte, looks, and puts it back.
#[track_caller]
fn flipped(bench: &Bench, bundle: &Path, at: u64, named: &str) {
    let file = OpenOptions::new().read(true).write(true).open(bundle).unwrap();
    let mut byte = [0];
    file.file().read_exact_at(&mut byte, at).unwrap();
    file.file().write_all_at(&[byte[0] ^ 0x10], at).unwrap();
    let output = verify(bench, bundle);
    file.file().write_all_at(&byte, at).unwrap();
    assert_eq!(output.status.code(), Some(1), "byte {at}, {named}: {}", said(&output));
    assert!(said(&output).contains(named) && said(&output).contains("is damaged"), "{at} {named}: {}", said(&output));
    assert!(output.stdout.is_empty(), "{output:?}");
}

#[test]
fn a_flipped_byte_is_refused_wherever_it_is() {
    let bench = connected("bundle-flips");
    let bundle = bundled(&bench, &["--runner", "process"]);
    let list = members(&bundle);
    let end = list.last().map(|last| (last.content + last.size).next_multiple_of(512)).unwrap();
    assert_eq!(fs_err::metadata(&bundle).unwrap().len(), end + 1024);
    for (number, member) in list.iter().enumerate() {
        // Name, mode, owner, size, time, checksum, kind, link, magic, owner's name, device, nothing.
        let fields = [0, 100, 108, 124, 136, 148, 156, 157, 257, 265, 329, 500];
        let chosen = if number == 2 { &fields[..] } else { &fields[number % fields.len()..][..1] };
        for field in chosen {
            flipped(&bench, &bundle, member.header + field, &member.name);
        }
        for within in [0, member.size / 2, member.size - 1] {
            flipped(&bench, &bundle, member.content + within, &member.name);
        }
        let padding = (member.content + member.size).next_multiple_of(512) - 1;
        if padding >= member.content + member.size {
            flipped(&bench, &bundle, padding, &format!("the padding behind {}", member.name));
        }
    }
    for at in [end, end + 512, end + 1023] {
        flipped(&bench, &bundle, at, "the end of the archive");
    }
    let whole = verify(&bench, &bundle);
    assert_eq!(whole.status.code(), Some(0), "every byte is back: {}", said(&whole));
}

#[test]
fn what_is_cut_off_or_added_is_refused() {
    let bench = connected("bundle-cut");
    let bundle = bundled(&bench, &["--runner", "process"]);
    let list = members(&bundle);
    let cut = bench.path("cut.llem.tar");
    let length = fs_err::metadata(&bundle).unwrap().len();
    let agent = list.iter().find(|member| member.name == "bin/llem-agent").unwrap();
    let lengths = [
        (0, "llem-bundle.json"),
        (100, "llem-bundle.json"),
        (list[0].content + 1, "llem-bundle.json"),
        (list[1].header, "llem-bundle.sha256"),
        (agent.content + agent.size / 2, "bin/llem-agent"),
        (length - 1024, "the end of the archive"),
        (length - 1, "the end of the archive"),
    ];
    fs_err::copy(&bundle, &cut).unwrap();
    for (length, named) in lengths.into_iter().rev() {
        OpenOptions::new().write(true).open(&cut).unwrap().set_len(length).unwrap();
        let output = verify(&bench, &cut);
        assert_eq!(output.status.code(), Some(1), "{length}: {}", said(&output));
        assert!(said(&output).contains(named) && said(&output).contains("ends there"), "{length}: {}", said(&output));
    }
    fs_err::OpenOptions::new().append(true).open(&bundle).unwrap().file().write_all_at(b"x", length).unwrap();
    let output = verify(&bench, &bundle);
    assert!(output.status.code() == Some(1) && said(&output).contains("more bytes follow"), "{}", said(&output));
}

/// Which file it is: numbers of files that are gone are given anew.
fn file_identity(there: &AirGapped, name: &str) -> (u64, i64, i64) {
    let found = fs_err::metadata(there.unpacked().join(name)).unwrap();
    (found.ino(), found.ctime(), found.ctime_nsec())
}

#[test]
fn a_bundle_is_unpacked_once_and_never_believed() {
    let bench = connected("bundle-again");
    let Some(there) = AirGapped::with("bundle-again-there", &bundled(&bench, &["--runner", "process"])) else { return };
    there.run(&["--dry-run"]).exits(0);
    let weights = "weights/0-model/model.safetensors";
    let first = file_identity(&there, weights);
    // Old enough for its hash to be noted.
    std::thread::sleep(std::time::Duration::from_millis(2_300));
    for _ in 0..2 {
        there.run(&["--dry-run"]).exits(0);
        assert_eq!(file_identity(&there, weights), first, "it was unpacked already");
    }
    // Damage in the cache is mended.
    let file = there.unpacked().join(weights);
    let good = fs_err::read(&file).unwrap();
    fs_err::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    fs_err::write(&file, bad).unwrap();
    there.run(&["--dry-run"]).exits(0);
    assert_eq!(fs_err::read(there.unpacked().join(weights)).unwrap(), good);
    fs_err::remove_file(there.unpacked().join("candle/etc/passwd")).unwrap();
    there.run(&["--dry-run"]).exits(0);
    assert!(there.unpacked().join("candle/etc/passwd").is_file());
    // What somebody put there would be taken for part of the model.
    let more = there.unpacked().join("weights/0-model/more.bin");
    fs_err::write(&more, "x").unwrap();
    there.run(&["--dry-run"]).exits(0);
    assert!(!more.exists());
    // The bundle itself is looked at again when it changed, although all of it is in the cache.
    let agent = members(&there.bundle).into_iter().find(|member| member.name == "bin/llem-agent").unwrap();
    let file = OpenOptions::new().write(true).open(&there.bundle).unwrap();
    file.file().write_all_at(b"!", agent.content + 1000).unwrap();
    there.run(&[]).exits(1).says(&["bin/llem-agent", "is damaged"]);
    assert!(!there.bench.output.exists(), "nothing was started");
}

#[test]
fn a_damaged_bundle_leaves_nothing_in_the_cache() {
    let bench = connected("bundle-half");
    let Some(there) = AirGapped::with("bundle-half-there", &bundled(&bench, &["--runner", "process"])) else { return };
    let last = members(&there.bundle).pop().unwrap();
    let file = OpenOptions::new().write(true).open(&there.bundle).unwrap();
    file.file().write_all_at(b"!", last.content + last.size - 1).unwrap();
    there.run(&[]).exits(1).says(&[&last.name, "is damaged", "nothing of it was used"]);
    let left = fs_err::read_dir(there.bench.path("cache/llem/bundles-v1")).unwrap().count();
    assert_eq!((left, there.bench.output.exists()), (0, false));
}
