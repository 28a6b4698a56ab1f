//! A bundle is made whole or not at all.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use fs_err::File;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{bundle, bundled, connected, model, said};
use crate::support::{Bench, eventually, fault_library};

/// Bytes that take a while.
const LARGE: u64 = 1 << 30;

/// A study whose model has a large file.
fn large(name: &str) -> Bench {
    let bench = connected(name);
    File::create(model(&bench).join("extra.bin")).unwrap().set_len(LARGE).unwrap();
    bench
}

/// `llem bundle` under way, and the directory of what is not finished.
fn begin(bench: &Bench, target: &Path) -> (Child, PathBuf) {
    fs_err::write(bench.path("study.yaml"), bench.study.to_string()).unwrap();
    let (file, shown) = (bench.path("study.yaml").display().to_string(), target.display().to_string());
    let mut command = bench.command(&["bundle", &file, "--runner", "process", "-o", &shown]);
    let name = target.file_name().unwrap().to_string_lossy();
    let part = target.with_file_name(format!(".{name}.llem-part"));
    let archive = part.join("bundle.tar");
    // One that was killed before may have left its own.
    let made = || fs_err::metadata(&archive).ok().filter(|found| found.len() > 0)?.created().ok();
    let before = made();
    let child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    eventually("the bundle begins", || made().filter(|made| Some(made) != before.as_ref()));
    (child, part)
}

fn end(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().unwrap();
    (output.status.code(), said(&output))
}

#[test]
fn signals_and_kills_leave_nothing_under_the_name() {
    let bench = large("bundle-killed");
    let target = bench.path("study.llem.tar");
    let (child, part) = begin(&bench, &target);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(end(child).0, Some(130));
    assert!(!target.exists() && !part.exists());
    let (child, part) = begin(&bench, &target);
    kill_process(Pid::from_child(&child), Signal::KILL).unwrap();
    assert_eq!(end(child).0, None);
    assert!(!target.exists() && part.exists());
    // Who comes next clears that away; meanwhile nobody else works there.
    let (child, part) = begin(&bench, &target);
    let (_, second) = bundle(&bench, &["--runner", "process"]);
    assert!(
        second.status.code() == Some(1) && said(&second).contains("another `llem bundle` is writing"),
        "{second:?}"
    );
    let (code, text) = end(child);
    assert_eq!(code, Some(0), "{text}");
    assert!(target.exists() && !part.exists());
}

/// `--force -o /dev/null` as root would leave a machine without it.
#[test]
fn nothing_but_files_is_replaced() {
    let bench = connected("bundle-no-file");
    let target = bench.path("study.llem.tar");
    assert!(Command::new("mkfifo").arg(&target).status().unwrap().success());
    for arguments in [&["--runner", "process"][..], &["--runner", "process", "--force"]] {
        let (_, output) = bundle(&bench, arguments);
        assert!(output.status.code() == Some(1) && said(&output).contains("is no file"), "{}", said(&output));
        assert!(fs_err::symlink_metadata(&target).unwrap().file_type().is_fifo());
    }
    fs_err::remove_file(&target).unwrap();
    fs_err::create_dir(&target).unwrap();
    let (_, output) = bundle(&bench, &["--runner", "process", "--force"]);
    assert!(output.status.code() == Some(1) && said(&output).contains("is no file"), "{}", said(&output));
}

/// Lustre without `-o flock`, and some others. Whoever took that for somebody else's lock would wait for ever.
#[test]
fn a_file_system_without_locks_is_told_at_once() {
    let bench = connected("bundle-no-locks");
    fs_err::write(bench.path("study.yaml"), bench.study.to_string()).unwrap();
    let file = bundled(&bench, &["--runner", "process"]);
    let without = |arguments: &[&str]| {
        let mut command = bench.command(arguments);
        command.env("LD_PRELOAD", fault_library()).env("LLEM_FAULT_NOLOCK", "1");
        let output = command.env("XDG_CACHE_HOME", bench.path("cache")).output().unwrap();
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(text.contains("cannot be locked") && text.contains("-o flock"), "{text}");
    };
    let (study, other) = (bench.path("study.yaml").display().to_string(), bench.path("other.llem.tar"));
    without(&["bundle", &study, "--runner", "process", "-o", &other.display().to_string()]);
    without(&["run", &file.display().to_string()]);
    assert!(!other.exists() && !bench.output.exists());
}

/// A file system of its own.
struct Volume(PathBuf);

impl Volume {
    fn mount(path: &Path, options: &str) -> bool {
        let options = format!("{options},mode=0755");
        Command::new("mount").args(["-t", "tmpfs", "-o", &options, "llem-test"]).arg(path).status().unwrap().success()
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_seen_before_and_a_disk_that_fills_up_leaves_nothing() {
    if !rustix::process::getuid().is_root() {
        return;
    }
    let bench = large("bundle-full");
    let place = bench.path("small");
    fs_err::create_dir(&place).unwrap();
    assert!(Volume::mount(&place, "size=100m"));
    let volume = Volume(place.clone());
    fs_err::write(bench.path("study.yaml"), bench.study.to_string()).unwrap();
    let (file, target) = (bench.path("study.yaml").display().to_string(), place.join("x.llem.tar"));
    let shown = target.display().to_string();
    let output = bench.command(&["bundle", &file, "--runner", "process", "-o", &shown]).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(
        said(&output).contains("the bundle needs 1.") && said(&output).contains("GB are free"),
        "{}",
        said(&output)
    );
    assert_eq!(fs_err::read_dir(&place).unwrap().count(), 0);
    drop(volume);
    assert!(Volume::mount(&place, "size=1600m"));
    let _volume = Volume(place.clone());
    let (child, _) = begin(&bench, &target);
    // Somebody else takes the rest.
    assert!(Volume::mount(&place, "remount,size=900m"), "it is written faster than a disk can be filled");
    let (code, text) = end(child);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("x.llem.tar could not be written") && text.contains("No space left"), "{text}");
    assert_eq!(fs_err::read_dir(&place).unwrap().count(), 0, "nothing is left");
}

#[test]
fn what_is_there_is_kept_unless_told_otherwise_and_any_tar_reads_a_bundle() {
    let bench = connected("bundle-twice");
    let target = bundled(&bench, &["--runner", "process"]);
    let first = fs_err::read(&target).unwrap();
    let (_, output) = bundle(&bench, &["--runner", "process"]);
    assert!(output.status.code() == Some(1) && said(&output).contains("`--force` replaces it"), "{}", said(&output));
    bundled(&bench, &["--runner", "process", "--force"]);
    assert!(fs_err::read(&target).unwrap() == first, "the same study makes the same bundle");
    let place = bench.path("extracted");
    fs_err::create_dir(&place).unwrap();
    assert!(Command::new("tar").arg("-xf").arg(&target).arg("-C").arg(&place).status().unwrap().success());
    let checked =
        Command::new("sha256sum").args(["--check", "llem-bundle.sha256"]).current_dir(&place).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
    let manifest: Value = serde_json::from_slice(&fs_err::read(place.join("llem-bundle.json")).unwrap()).unwrap();
    for file in manifest["files"].as_array().unwrap() {
        let path = place.join(file["name"].as_str().unwrap());
        assert_eq!(fs_err::metadata(&path).unwrap().len(), file["size_bytes"].as_u64().unwrap(), "{}", path.display());
    }
    let llem = Command::new(place.join("bin/llem")).arg("--version").output().unwrap();
    assert!(llem.status.success(), "{llem:?}");
    let listed =
        bench.command(&["bundle", "--list", &target.display().to_string(), "--format", "json"]).output().unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    assert_eq!((&listed["manifest"], &listed["verified"]), (&manifest, &json!(false)));
}

#[test]
fn what_could_not_be_run_is_not_bundled() {
    let refused = |bench: &Bench, arguments: &[&str], code: i32, parts: &[&str]| {
        let (target, output) = bundle(bench, arguments);
        let text = said(&output).split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(output.status.code(), Some(code), "{text}");
        for part in parts {
            assert!(text.contains(part), "no `{part}` in {text}");
        }
        assert!(!target.exists() && !target.with_file_name(".study.llem.tar.llem-part").exists(), "{text}");
    };
    let mut bench = connected("bundle-refused");
    refused(&bench, &["--runner", "process", "--set", "candle.image=a/b:c"], 2, &["runs no image"]);
    refused(&bench, &["--runner", "process", "--images", "sif"], 2, &["leave out"]);
    refused(&bench, &["--runner", "process", "--set", "workload.output_tokens=100000"], 2, &["the model holds"]);
    refused(&bench, &["--runner", "process", "--set", "model=./none"], 2, &["no such model directory"]);
    refused(&bench, &["--runner", "docker", "--set", "candle.image=llem-test/none:1"], 1, &["llem image pull"]);
    bench.study["candle"]["image"] = json!(format!("a/b@sha256:{}", "0".repeat(64)));
    bench.docker_host = Some("unix:///nowhere.sock".to_owned());
    refused(&bench, &["--runner", "docker"], 1, &["no container engine answers"]);
}
