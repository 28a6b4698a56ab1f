//! What is in a bundle: its first member, `llem-bundle.json`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{AGENT, CANDLE, LOCK, WORKLOADS};
use crate::config::{Backend, NodeRunner, Profile, RunnerKind};

/// Name of the manifest in the archive.
pub(super) const MANIFEST: &str = "llem-bundle.json";

/// Name of the member behind it: its SHA-256, in the form that `sha256sum --check` reads.
pub(super) const CHECKSUM: &str = "llem-bundle.sha256";

/// Version of the manifest and of how the archive is laid out.
pub const BUNDLE_FORMAT: u32 = 1;

/// The largest manifest that is read, in bytes.
pub(super) const MAX_MANIFEST_BYTES: u64 = 256 << 20;

/// The largest file of a bundle, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 44;

/// The longest name of a file, in bytes, and of a part of it.
const MAX_NAME: (usize, usize) = (4000, 255);

/// Who made a bundle: what is read first of a manifest, whatever its format.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct MadeBy {
    pub(super) format: u32,
    pub(super) llem_version: String,
}

/// Everything about a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// [`BUNDLE_FORMAT`].
    pub format: u32,
    /// Version of the llem that made it, and that must run it.
    pub llem_version: String,
    /// Its commit; null when it was not built from a clone.
    pub llem_commit: Option<String>,
    /// What its programs are for, e.g. `x86_64`.
    pub architecture: String,
    /// The study.
    pub study: PackedStudy,
    /// Where each backend runs.
    pub runners: BTreeMap<Backend, RunnerKind>,
    /// What the nodes of a cluster start, where the runner is `slurm`.
    pub node_runner: Option<NodeRunner>,
    /// Images of experiments that name none.
    pub default_images: BTreeMap<Backend, String>,
    /// Images of engines.
    pub images: Vec<PackedImage>,
    /// Models, adapters and draft models. Synthetic ones are made where they are needed.
    pub weights: Vec<PackedWeights>,
    /// Files of data sets, by what the study calls them.
    pub datasets: BTreeMap<String, String>,
    /// All files behind the manifest and its checksum, in their order.
    pub files: Vec<PackedFile>,
}

/// The study of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackedStudy {
    /// Its name.
    pub name: String,
    /// Its file.
    pub file: String,
    /// The set of defaults that it was resolved with.
    pub profile: Profile,
    /// The `--set` arguments.
    pub overrides: Vec<String>,
    /// How many experiments it has.
    pub experiments: usize,
}

/// An image of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackedImage {
    /// What the study or the user config called it.
    pub reference: String,
    /// Its form.
    pub form: ImageForm,
    /// Content id (`sha256:…`): in the container engine, or of the SIF file.
    pub id: String,
    /// The file.
    pub file: String,
}

/// The form in which images are in a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ImageForm {
    /// What `docker save` writes, for container engines.
    Archive,
    /// A SIF file, for Apptainer.
    Sif,
}

/// Weights that a study names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackedWeights {
    /// As the study names them.
    pub reference: String,
    /// As results name them: a hub id or a directory.
    pub source: String,
    /// Commit of a hub repository.
    pub commit: Option<String>,
    /// Their directory in the bundle; null where only their hashes are in it.
    pub directory: Option<String>,
    /// The files, with names inside the directory.
    pub files: Vec<PackedFile>,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PackedFile {
    /// Its name in the archive.
    pub name: String,
    /// Its size.
    pub size_bytes: u64,
    /// SHA-256 of its content, hexadecimal.
    pub sha256: String,
    /// Whether it is a program.
    #[serde(default, skip_serializing_if = "is_false")]
    pub executable: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_false(value: &bool) -> bool {
    !*value
}

impl PackedFile {
    /// A file whose size and hash are not known yet, at their longest.
    pub(super) fn unknown(name: String) -> Self {
        Self { name, size_bytes: MAX_FILE_BYTES, sha256: "0".repeat(64), executable: true }
    }
}

impl Manifest {
    /// What is wrong with it, whoever wrote it: names that lead out of a directory, names that collide, files that it names and lacks.
    pub(super) fn problem(&self) -> Option<String> {
        let mut names: BTreeSet<&str> = [MANIFEST, CHECKSUM].into();
        for file in &self.files {
            if let Some(problem) = file_problem(file) {
                return Some(format!("{:?}: {problem}", file.name));
            }
            if !names.insert(&file.name) {
                return Some(format!("{}: it is there twice", file.name));
            }
        }
        for name in &names {
            let mut above = name.rmatch_indices('/').map(|(at, _)| name.get(..at).unwrap_or_default());
            if let Some(file) = above.find(|above| names.contains(above)) {
                return Some(format!("{name}: {file} is a file"));
            }
        }
        // The two are not in the list, and nothing else can be taken from them.
        names.retain(|name| ![MANIFEST, CHECKSUM].contains(name));
        self.text_problem().or_else(|| self.weights_problem(&names)).or_else(|| {
            let images = self.images.iter().map(|image| &image.file);
            let named = images.chain(self.datasets.values()).chain([&self.study.file]).map(String::as_str);
            let mut wanted = [LOCK, WORKLOADS, AGENT, CANDLE].into_iter().chain(named);
            wanted.find(|name| !names.contains(name)).map(|name| format!("{name:?}: it is not in the list of files"))
        })
    }

    /// Texts that no llem writes, and that could do something to a terminal.
    fn text_problem(&self) -> Option<String> {
        let images = self.images.iter().flat_map(|image| [&image.reference, &image.id]);
        let own = [&self.llem_version, &self.architecture, &self.study.name].into_iter().chain(&self.llem_commit);
        let mut all = own.chain(self.default_images.values()).chain(images);
        all.find(|text| text.chars().any(char::is_control)).map(|text| format!("{text:?}: control characters"))
    }

    fn weights_problem(&self, names: &BTreeSet<&str>) -> Option<String> {
        for weights in &self.weights {
            let directory = weights.directory.iter().find(|directory| !is_clean(directory));
            let commit = weights.commit.iter().find(|commit| !is_clean(commit) || commit.contains('/'));
            if let Some(place) = directory.or(commit) {
                return Some(format!("{place:?} of {}: no name for a part of a bundle", weights.reference));
            }
            for file in &weights.files {
                if let Some(problem) = file_problem(file) {
                    return Some(format!("{:?} of {}: {problem}", file.name, weights.reference));
                }
                let Some(directory) = &weights.directory else { continue };
                let name = format!("{directory}/{}", file.name);
                if !names.contains(name.as_str()) {
                    return Some(format!("{name:?}: it is not in the list of files"));
                }
            }
        }
        None
    }

    /// Whether the files of weights are in it.
    pub(super) fn has_weights(&self) -> bool {
        self.weights.iter().any(|weights| weights.directory.is_some())
    }

    /// Bytes of all files.
    pub fn content_bytes(&self) -> u64 {
        self.files.iter().fold(0, |sum, file| sum.saturating_add(file.size_bytes))
    }
}

fn file_problem(file: &PackedFile) -> Option<&'static str> {
    let is_hash = file.sha256.len() == 64 && file.sha256.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match () {
        () if !is_clean(&file.name) => Some("no name for a file of a bundle"),
        () if file.size_bytes > MAX_FILE_BYTES => Some("larger than any file can be"),
        () if !is_hash => Some("its SHA-256 is none"),
        () => None,
    }
}

/// Whether a name stays below the directory that it is put into, and is one and the same for everybody.
pub(super) fn is_clean(name: &str) -> bool {
    let (longest, longest_part) = MAX_NAME;
    name.len() <= longest
        && !name.chars().any(|c| c.is_control() || c == '\\')
        && name.split('/').all(|part| !matches!(part, "" | "." | "..") && part.len() <= longest_part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str) -> PackedFile {
        PackedFile { name: name.to_owned(), size_bytes: 1, sha256: "0".repeat(64), executable: false }
    }

    /// What every bundle has.
    const OWN: [&str; 5] = ["study/s.yaml", LOCK, WORKLOADS, AGENT, CANDLE];

    fn manifest(names: &[&str]) -> Manifest {
        Manifest {
            format: BUNDLE_FORMAT,
            llem_version: "1".to_owned(),
            llem_commit: None,
            architecture: "x86_64".to_owned(),
            study: PackedStudy {
                name: "s".to_owned(),
                file: "study/s.yaml".to_owned(),
                profile: Profile::Standard,
                overrides: Vec::new(),
                experiments: 1,
            },
            runners: BTreeMap::new(),
            node_runner: None,
            default_images: BTreeMap::new(),
            images: Vec::new(),
            weights: Vec::new(),
            datasets: BTreeMap::new(),
            files: names.iter().chain(&OWN).map(|name| file(name)).collect(),
        }
    }

    #[test]
    fn names_that_lead_elsewhere_or_collide_are_refused() {
        assert_eq!(manifest(&["a/b", "a/c", "ö"]).problem(), None);
        let strange = ["/etc/passwd", "../x", "a/../b", "a//b", "a/", "", ".", "a\nb", "a\\b", "a\0"];
        for name in strange {
            assert!(manifest(&[name]).problem().is_some(), "{name:?}");
        }
        let long = "n".repeat(256);
        assert!(manifest(&[&long]).problem().is_some());
        for (names, word) in [(["a", "a"], "twice"), (["a/b/c", "a/b"], "is a file"), (["x", "study/s.yaml"], "twice")]
        {
            let problem = manifest(&names).problem().unwrap();
            assert!(problem.contains(word), "{problem}");
        }
        assert!(manifest(&[CHECKSUM]).problem().unwrap().contains("twice"));
    }

    #[test]
    fn texts_and_places_that_no_llem_writes_are_refused() {
        let image = |reference: &str| PackedImage {
            reference: reference.to_owned(),
            form: ImageForm::Sif,
            id: String::new(),
            file: "a".to_owned(),
        };
        let weights = |directory: Option<&str>, commit: Option<&str>| PackedWeights {
            reference: "./m".to_owned(),
            source: "/m".to_owned(),
            commit: commit.map(str::to_owned),
            directory: directory.map(str::to_owned),
            files: Vec::new(),
        };
        let changed = |change: &dyn Fn(&mut Manifest)| {
            let mut changed = manifest(&["a"]);
            change(&mut changed);
            changed.problem()
        };
        assert_eq!(changed(&|m| m.images.push(image("a/b:c"))), None);
        assert_eq!(changed(&|m| m.weights.push(weights(Some("weights/0-m"), Some("0123")))), None);
        let changes: [&dyn Fn(&mut Manifest); 7] = [
            &|m| m.images.push(image("a\u{1b}[31m")),
            &|m| m.study.name = "s\u{7}".to_owned(),
            &|m| m.llem_commit = Some("\u{9b}".to_owned()),
            &|m| m.weights.push(weights(Some("../../m"), None)),
            &|m| m.weights.push(weights(Some("/m"), None)),
            &|m| m.weights.push(weights(None, Some("../0123"))),
            &|m| m.weights.push(weights(None, Some("a/b"))),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            assert!(changed(change).is_some(), "{number}");
        }
    }

    #[test]
    fn what_is_named_must_be_there() {
        let mut wrong = manifest(&[]);
        wrong.study.file = "study/t.yaml".to_owned();
        assert!(wrong.problem().unwrap().contains("study/t.yaml"));
        let mut wrong = manifest(&[]);
        let directory = Some("weights/0".to_owned());
        let (reference, source) = ("./m".to_owned(), "/m".to_owned());
        wrong.weights.push(PackedWeights { reference, source, commit: None, directory, files: vec![file("x")] });
        assert!(wrong.problem().unwrap().contains("weights/0/x"));
        for (number, name) in OWN.iter().enumerate() {
            let mut wrong = manifest(&[]);
            wrong.files.remove(number);
            assert!(wrong.problem().unwrap().contains(name), "{name}");
        }
        let mut wrong = manifest(&[]);
        wrong.study.file = MANIFEST.to_owned();
        assert!(wrong.problem().unwrap().contains(MANIFEST), "it is not unpacked");
        let mut wrong = manifest(&["a"]);
        wrong.files[0].size_bytes = u64::MAX;
        assert!(wrong.problem().unwrap().contains("larger"));
        wrong.files[0] = PackedFile { sha256: "x".to_owned(), ..file("a") };
        assert!(wrong.problem().is_some());
    }
}
