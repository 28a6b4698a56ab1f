//! `llem image export` with the real Apptainer and the real engine.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use crate::support::{apptainer_answers, docker_text, engine_answers, fault_image};

fn export(arguments: &[&str], sif: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llem"));
    command.args(["image", "export"]).args(arguments).arg("--sif").arg(sif).env_remove("DOCKER_HOST").output().unwrap()
}

#[track_caller]
fn succeeds(output: &Output, sif: &Path) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), sif.display().to_string());
}

#[track_caller]
fn fails(output: &Output, exit: i32, part: &str) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(exit) && said.contains(part), "{:?} {said}", output.status);
}

/// The source as `llem image probe` tells it.
fn source(sif: &Path) -> Value {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llem"));
    let output = command.args(["image", "probe", "--format", "json"]).arg(sif).output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    answer["source"].clone()
}

/// A tag that no other process moves; gone when this is.
struct OwnTag(String);

impl OwnTag {
    fn of(image: &str, name: &str) -> Self {
        let tag = format!("llem-test/export:{name}-{}", std::process::id());
        docker_text(&["tag", image, &tag]);
        Self(tag)
    }
}

impl Drop for OwnTag {
    fn drop(&mut self) {
        docker_text(&["rmi", &self.0]);
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs_err::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn engine_archive_and_definition_become_sif_files_that_know_their_source() {
    if !apptainer_answers() || !engine_answers() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let file = |name: &str| place.path().join(name);
    let (by_engine, by_archive, by_definition) = (file("e.sif"), file("a.sif"), file("d.sif"));
    // Another test's process may give the usual tag to an image that it has just made.
    let own = OwnTag::of(fault_image(), "all");
    succeeds(&export(&[&own.0], &by_engine), &by_engine);
    let id = docker_text(&["image", "inspect", "--format", "{{.Id}}", &own.0]).trim().to_owned();
    assert_eq!(
        (&source(&by_engine)["id"], &source(&by_engine)["reference"]),
        (&Value::from(id.as_str()), &Value::from(own.0.as_str()))
    );

    let archive = file("image.tar").display().to_string();
    docker_text(&["save", "--output", &archive, &own.0]);
    succeeds(&export(&[&archive], &by_archive), &by_archive);
    assert_eq!(source(&by_archive)["id"], id, "an archive names its image as its engine does");

    let definition = file("x.def");
    fs_err::write(&definition, "Bootstrap: localimage\nFrom: {{ BASE }}\n").unwrap();
    let definition = definition.display().to_string();
    let base = format!("BASE={}", by_engine.display());
    succeeds(&export(&[&definition, "--build-arg", &base], &by_definition), &by_definition);
    assert_eq!(source(&by_definition)["reference"], format!("x.def {base}"));
    assert_eq!(names(place.path()), ["a.sif", "d.sif", "e.sif", "image.tar", "x.def"], "nothing else is left");
}

/// The definition file that llem brings has no commands: any root can build it, whoever owns the image's files.
#[test]
fn the_definition_of_upstream_images_makes_a_sif_file_of_an_archive() {
    if !apptainer_answers() || !engine_answers() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (archive, sif) = (place.path().join("image.tar").display().to_string(), place.path().join("u.sif"));
    let own = OwnTag::of(fault_image(), "upstream");
    docker_text(&["save", "--output", &archive, &own.0]);
    let definition = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../images/upstream.def").display().to_string();
    let base = format!("BASE={archive}");
    let arguments = [&definition, "--build-arg", "BOOTSTRAP=docker-archive", "--build-arg", &base];
    succeeds(&export(&arguments, &sif), &sif);
    assert_eq!(source(&sif)["reference"], format!("upstream.def BOOTSTRAP=docker-archive {base}"));
    assert_eq!(names(place.path()), ["image.tar", "u.sif"], "nothing else is left");
}

/// Apptainer itself would make an image of it, which would be said to be the undamaged one.
#[test]
fn a_damaged_archive_is_refused_with_the_name_of_the_layer() {
    if !apptainer_answers() || !engine_answers() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let (archive, sif) = (place.path().join("image.tar"), place.path().join("x.sif"));
    let own = OwnTag::of(fault_image(), "damaged");
    docker_text(&["save", "--output", &archive.display().to_string(), &own.0]);
    let mut content = fs_err::read(&archive).unwrap();
    // Far behind the descriptions and far before the end: in the only layer.
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs_err::write(&archive, content).unwrap();
    fails(&export(&[&archive.display().to_string()], &sif), 1, "it is damaged: the SHA-256 of ");
    assert_eq!(names(place.path()), ["image.tar"]);
}

/// Apptainer reads what follows a colon as the name of an image.
#[test]
fn paths_may_hold_colons_commas_and_spaces() {
    if !apptainer_answers() || !engine_answers() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("10:30, ü");
    fs_err::create_dir(&directory).unwrap();
    let own = OwnTag::of(fault_image(), "colon");
    let (archive, by_engine, by_archive) =
        (directory.join("a:1.tar"), directory.join("e:1.sif"), directory.join("a:1.sif"));
    succeeds(&export(&[&own.0], &by_engine), &by_engine);
    docker_text(&["save", "--output", &archive.display().to_string(), &own.0]);
    succeeds(&export(&[&archive.display().to_string()], &by_archive), &by_archive);
    assert_eq!(source(&by_archive), source(&by_engine));
}

#[test]
fn what_cannot_be_made_leaves_nothing_and_what_is_there_stays() {
    if !apptainer_answers() || !engine_answers() {
        return;
    }
    let place = tempfile::tempdir().unwrap();
    let sif = place.path().join("x.sif");
    fails(&export(&["llem-tests/no-such-image:1"], &sif), 1, "has no image `llem-tests/no-such-image:1`");
    fails(&export(&["Not An Image"], &sif), 2, "is not an image reference");
    let archive = place.path().join("a.tar");
    fs_err::write(&archive, "no archive").unwrap();
    fails(&export(&[&archive.display().to_string()], &sif), 1, "no tar archive, or damaged");
    fails(&export(&[&archive.display().to_string(), "--force"], place.path()), 1, "is a directory; name the file");
    let packed = place.path().join("a.tar.gz");
    fs_err::write(&packed, b"\x1f\x8b\x08\x00").unwrap();
    fails(&export(&[&packed.display().to_string()], &sif), 1, "it is compressed: unpack it first");
    fs_err::remove_file(&packed).unwrap();
    let definition = place.path().join("x.def");
    fs_err::write(&definition, "Bootstrap: localimage\nFrom: /no/such.sif\n").unwrap();
    fails(&export(&[&definition.display().to_string()], &sif), 1, "apptainer could not make");
    assert_eq!(names(place.path()), ["a.tar", "x.def"]);
    fs_err::write(&sif, "mine").unwrap();
    fails(&export(&[fault_image()], &sif), 1, "`--force` replaces it");
    assert_eq!(fs_err::read_to_string(&sif).unwrap(), "mine");
    succeeds(&export(&[fault_image(), "--force"], &sif), &sif);
    assert_eq!(names(place.path()), ["a.tar", "x.def", "x.sif"]);
}
