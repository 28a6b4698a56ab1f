use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::geometry::Geometry;

use super::manifest::Manifest;
use super::spec::{SpecProblem, SyntheticSpec};
use super::{BUCKET, text, tokenizer, weights};

/// The weights, and every other file of a model but the manifest.
pub(super) const FILES: [&str; 5] =
    ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

/// Why a synthetic model could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SyntheticError {
    /// The specification cannot be.
    #[error("the synthetic model cannot be: {}", list(problems))]
    Spec {
        /// What is wrong, at least one entry.
        problems: Vec<SpecProblem>,
    },
    /// The cache could not be read or written.
    #[error("the synthetic model could not be written below {}; check space and permissions", cache_root.display())]
    Write {
        /// The cache.
        cache_root: PathBuf,
        /// The system's reason, with the file.
        source: io::Error,
    },
}

/// A synthetic model on disk.
#[derive(Clone, Debug)]
pub struct SyntheticModel {
    /// The model directory.
    pub dir: PathBuf,
    /// [`SyntheticSpec::id`].
    pub id: String,
    /// The numbers of the model.
    pub geometry: Geometry,
    /// Number of parameters.
    pub parameters: u64,
    /// Whether the directory was made by this call; `false` when it was there.
    pub built: bool,
}

/// Prefix of directories that are being built.
const TEMPORARY: &str = ".tmp-";

/// A directory that has been in the making for longer belongs to nobody.
const ABANDONED_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Makes the model of a specification in the cache, or finds it there. Any number of processes may do so at once.
/// An existing directory is checked by its manifest and file lengths, and made anew when damaged.
pub fn ensure(spec: &SyntheticSpec, cache_root: &Path) -> Result<SyntheticModel, SyntheticError> {
    let problems = spec.problems();
    if !problems.is_empty() {
        return Err(SyntheticError::Spec { problems });
    }
    let bucket = cache_root.join(BUCKET);
    let dir = bucket.join(spec.id());
    let built = !Manifest::is_whole(&dir, spec);
    if built {
        build(spec, &bucket, &dir)
            .map_err(|source| SyntheticError::Write { cache_root: cache_root.to_owned(), source })?;
    }
    let geometry = spec.geometry();
    Ok(SyntheticModel { dir, id: spec.id(), parameters: geometry.parameters(), geometry, built })
}

/// The directory of a specification's model, when it is whole in the cache. Nothing is made.
pub fn find(spec: &SyntheticSpec, cache_root: &Path) -> Option<PathBuf> {
    let dir = cache_root.join(BUCKET).join(spec.id());
    Manifest::is_whole(&dir, spec).then_some(dir)
}

fn build(spec: &SyntheticSpec, bucket: &Path, dir: &Path) -> io::Result<()> {
    fs_err::create_dir_all(bucket)?;
    remove_abandoned(bucket);
    let temporary = tempfile::Builder::new().prefix(TEMPORARY).tempdir_in(bucket)?;
    write_files(spec, temporary.path())?;
    fs_err::set_permissions(temporary.path(), std::fs::Permissions::from_mode(0o755))?;
    publish(spec, temporary, bucket, dir)
}

/// Removes what builders left that were killed. Nobody builds for longer than [`ABANDONED_AFTER`].
fn remove_abandoned(bucket: &Path) {
    let Ok(entries) = fs_err::read_dir(bucket) else { return };
    let is_old = |entry: &fs_err::DirEntry| {
        let modified = entry.metadata().and_then(|metadata| metadata.modified()).ok();
        modified.and_then(|time| time.elapsed().ok()).is_some_and(|age| age > ABANDONED_AFTER)
    };
    let temporary = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(TEMPORARY));
    for entry in temporary.filter(is_old) {
        // Another builder may be faster; what cannot be removed only takes space.
        let _ = fs_err::remove_dir_all(entry.path());
    }
}

fn write_files(spec: &SyntheticSpec, dir: &Path) -> io::Result<()> {
    let geometry = spec.geometry();
    let mut manifest = Manifest::new(spec);
    let texts = [
        ("config.json", text::config_json(&geometry)),
        ("generation_config.json", text::generation_config_json()),
        ("tokenizer.json", tokenizer::tokenizer_json(spec.vocab)),
        ("tokenizer_config.json", tokenizer::tokenizer_config_json(spec.max_positions)),
    ];
    for (name, content) in texts {
        manifest.write_file(dir, name, |out| write_canonical(out, &content))?;
    }
    manifest.write_file(dir, "model.safetensors", |out| weights::write_safetensors(&geometry, spec.seed, out))?;
    manifest.write(dir)
}

/// Sorted keys, so that the bytes do not depend on how the JSON library orders a map.
fn write_canonical(out: &mut impl Write, content: &Value) -> io::Result<()> {
    serde_json_canonicalizer::to_writer(content, out)?;
    out.write_all(b"\n")
}

/// Gives the finished directory its name. Another builder may have been faster; its result is then kept.
fn publish(spec: &SyntheticSpec, finished: TempDir, bucket: &Path, dir: &Path) -> io::Result<()> {
    let finished = finished.keep();
    if fs_err::rename(&finished, dir).is_ok() {
        return Ok(());
    }
    let outcome = if Manifest::is_whole(dir, spec) { Ok(()) } else { replace_damaged(spec, &finished, bucket, dir) };
    if finished.exists() {
        fs_err::remove_dir_all(&finished)?;
    }
    outcome
}

fn replace_damaged(spec: &SyntheticSpec, finished: &Path, bucket: &Path, dir: &Path) -> io::Result<()> {
    let trash = tempfile::Builder::new().prefix(".tmp-damaged-").tempdir_in(bucket)?;
    // Fails when another builder took it away first.
    let _ = fs_err::rename(dir, trash.path().join("model"));
    match fs_err::rename(finished, dir) {
        Err(error) if !Manifest::is_whole(dir, spec) => Err(error),
        _ => Ok(()),
    }
}

fn list(problems: &[SpecProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn what_a_killed_builder_left_goes_after_a_day() {
        let bucket = tempfile::tempdir().unwrap();
        let old = SystemTime::now() - ABANDONED_AFTER - Duration::from_secs(60);
        for (name, time) in [(".tmp-old", old), (".tmp-new", SystemTime::now()), ("0123abcd", old)] {
            let dir = bucket.path().join(name);
            fs_err::create_dir(&dir).unwrap();
            fs_err::write(dir.join("model.safetensors"), "x").unwrap();
            fs_err::File::open(&dir).unwrap().file().set_modified(time).unwrap();
        }
        remove_abandoned(bucket.path());
        let mut left: Vec<_> =
            fs_err::read_dir(bucket.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, [".tmp-new", "0123abcd"]);
    }
}
