//! Makes SIF files: from an image of a container engine, from an archive of one, or by a definition file. A file appears whole, with what it
//! was made from recorded in it, or not at all.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err::File;
use serde::Deserialize;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::error::ApptainerError;
use super::program::{self, Apptainer, complaint};
use super::sif::{self, SOURCE_NAME, SourceRecord};
use crate::files::hash_into;
use crate::part_directory::PartDirectory;
use crate::runner::ImageSource;
use crate::runner::docker::{Engine, EngineError};

/// How long the conversion of an image of tens of gigabytes may take.
const BUILD_LIMIT: Duration = Duration::from_secs(4 * 3600);

/// Name of a SIF file while it is made.
const PART: &str = "image.sif";

/// Largest list of an archive's content that is read, in bytes.
const MAX_MANIFEST_BYTES: u64 = 16 << 20;

/// Where an image comes from.
#[derive(Clone, Debug)]
pub enum ExportSource {
    /// An image of a container engine.
    Engine(Box<Engine>, String),
    /// What `docker save` or a tool of the OCI format wrote.
    Archive(PathBuf),
    /// A definition file of Apptainer, with values for its variables, `NAME=VALUE`.
    Definition(PathBuf, Vec<String>),
}

/// What is to be made.
#[derive(Clone, Debug)]
pub struct ExportSpec {
    /// From what.
    pub source: ExportSource,
    /// The file.
    pub sif: PathBuf,
    /// Whether a file of that name is replaced.
    pub force: bool,
}

/// A SIF file that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// SHA-256 of the file, hexadecimal.
    pub sha256: String,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// What is recorded in it.
    pub source: ImageSource,
}

/// Why no SIF file was made.
#[derive(Debug, Error)]
pub enum ExportError {
    /// Apptainer.
    #[error(transparent)]
    Apptainer(#[from] ApptainerError),
    /// The container engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The engine does not have it.
    #[error("the engine at {address} has no image `{reference}`; `llem image pull {reference}` fetches it")]
    NoImage {
        /// The image.
        reference: String,
        /// The engine.
        address: String,
    },
    /// The target is there.
    #[error("{} is there already; `--force` replaces it", .0.display())]
    Exists(PathBuf),
    /// Another export has the same target.
    #[error("another `llem image export` is writing {}", .0.display())]
    Busy(PathBuf),
    /// No archive of an image.
    #[error("{}: {problem}; an archive is what `docker save` writes, or an OCI archive, not compressed", path.display())]
    NoArchive {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Apptainer refused.
    #[error("apptainer could not make {}: {said}", sif.display())]
    Build {
        /// The file.
        sif: PathBuf,
        /// What it said.
        said: String,
    },
    /// A file of this machine; names it.
    #[error("{0}")]
    Files(#[from] io::Error),
}

/// Makes a SIF file. `progress` hears what is being done; `stop` ends it, and nothing is left.
///
/// # Errors
///
/// There is no Apptainer, no such image, no space, or the target is there.
pub async fn export(
    spec: &ExportSpec,
    progress: impl Fn(&str),
    stop: &CancellationToken,
) -> Result<Exported, ExportError> {
    program::version(stop).await?;
    refuse_present(spec)?;
    let workshop = Workshop::open(&spec.sif)?;
    let (from, source) = workshop.fetch(&spec.source, &progress, stop).await?;
    progress(&format!("apptainer makes {}", spec.sif.display()));
    let part = workshop.build(from, &source, stop).await?;
    let recorded = sif::read(&part)?.source;
    if recorded.as_ref() != Some(&source) {
        return Err(workshop.refused("the source is not recorded in it"));
    }
    let (size_bytes, sha256) = hash_into(&mut File::open(&part)?, &mut io::sink())?;
    fs_err::set_permissions(&part, std::fs::Permissions::from_mode(0o755))?;
    File::open(&part)?.sync_all()?;
    refuse_present(spec)?;
    workshop.part.publish(PART)?;
    Ok(Exported { sha256, size_bytes, source })
}

fn refuse_present(spec: &ExportSpec) -> Result<(), ExportError> {
    let is_there = spec.sif.symlink_metadata().is_ok();
    if spec.sif.is_dir() || (is_there && !spec.force) {
        return Err(ExportError::Exists(spec.sif.clone()));
    }
    Ok(())
}

/// Where a SIF file is made.
struct Workshop {
    part: PartDirectory,
}

impl Workshop {
    fn open(sif: &Path) -> Result<Self, ExportError> {
        let part = PartDirectory::open(sif)?;
        Ok(Self { part: part.ok_or_else(|| ExportError::Busy(sif.to_owned()))? })
    }

    fn refused(&self, said: impl Into<String>) -> ExportError {
        ExportError::Build { sif: self.part.target().to_owned(), said: said.into() }
    }

    /// What `apptainer build` is given, and what the image is by the engine's account.
    async fn fetch(
        &self,
        source: &ExportSource,
        progress: &impl Fn(&str),
        stop: &CancellationToken,
    ) -> Result<(Vec<OsString>, ImageSource), ExportError> {
        match source {
            ExportSource::Engine(engine, reference) => {
                let image = engine.image_facts(reference).await?.ok_or_else(|| ExportError::NoImage {
                    reference: reference.clone(),
                    address: engine.address().to_owned(),
                })?;
                progress(&format!("the engine saves {reference} ({:.1} GB)", image.size_bytes as f64 / 1e9));
                let archive = self.part.path("image.tar");
                tokio::select! {
                    saved = engine.save(reference, &archive) => saved?,
                    () = stop.cancelled() => return Err(ApptainerError::Stopped.into()),
                }
                let Archive { transport, id, .. } = Archive::read(&archive)?;
                if id != image.id {
                    progress(&format!("the archive's image is {id}, the engine calls it {}", image.id));
                }
                let source = ImageSource { reference: reference.clone(), id: image.id, digests: image.digests };
                Ok((vec![from(transport, &archive)], source))
            }
            ExportSource::Archive(path) => {
                let path = fs_err::canonicalize(path)?;
                let Archive { transport, id, tag } = Archive::read(&path)?;
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let source = ImageSource { reference: tag.unwrap_or(name), id, digests: Vec::new() };
                Ok((vec![from(transport, &path)], source))
            }
            ExportSource::Definition(path, variables) => {
                let path = fs_err::canonicalize(path)?;
                let (_, sha256) = hash_into(&mut File::open(&path)?, &mut io::sink())?;
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let reference = [&[name.into_owned()], variables.as_slice()].concat().join(" ");
                let source = ImageSource { reference, id: format!("sha256:{sha256}"), digests: Vec::new() };
                let variables = variables.iter().flat_map(|pair| ["--build-arg".into(), pair.into()]);
                Ok((variables.chain([path.into_os_string()]).collect(), source))
            }
        }
    }

    /// Builds, and records the source in what was built.
    async fn build(
        &self,
        from: Vec<OsString>,
        source: &ImageSource,
        stop: &CancellationToken,
    ) -> Result<PathBuf, ExportError> {
        let part = self.part.path(PART);
        let mut arguments: Vec<OsString> = ["build", "--disable-cache"].map(Into::into).into();
        // Variables come before the target, the source after it.
        let (origin, variables) =
            from.split_last().map_or((OsString::new(), &[][..]), |(last, rest)| (last.clone(), rest));
        arguments.extend(variables.iter().cloned());
        arguments.extend([part.clone().into(), origin]);
        self.tool(&arguments, BUILD_LIMIT, stop).await?;
        let record = self.part.path(SOURCE_NAME);
        fs_err::write(&record, serde_json::to_vec(&SourceRecord::new(source.clone())).map_err(io::Error::other)?)?;
        let mut arguments: Vec<OsString> =
            ["sif", "add", "--datatype", "6", "--filename", SOURCE_NAME].map(Into::into).into();
        arguments.extend([part.clone().into(), record.into()]);
        self.tool(&arguments, BUILD_LIMIT, stop).await?;
        Ok(part)
    }

    async fn tool(&self, arguments: &[OsString], limit: Duration, stop: &CancellationToken) -> Result<(), ExportError> {
        let arguments: Vec<_> = arguments.iter().map(OsString::as_os_str).collect();
        let output = Apptainer::tool(&arguments, self.part.directory(), limit, stop).await?;
        if output.succeeded { Ok(()) } else { Err(self.refused(complaint(&output.stderr))) }
    }
}

fn from(transport: &str, archive: &Path) -> OsString {
    let mut text = OsString::from(format!("{transport}:"));
    text.push(archive);
    text
}

/// What an archive says of its image.
#[derive(Debug, PartialEq, Eq)]
struct Archive {
    /// How Apptainer calls its format.
    transport: &'static str,
    /// Content id of the image: the digest of its config, as engines give it; of an OCI archive, that of its manifest.
    id: String,
    tag: Option<String>,
}

/// An entry of `manifest.json`, as `docker save` writes it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
}

/// `index.json` of the OCI format.
#[derive(Deserialize)]
struct OciIndex {
    manifests: Vec<OciManifest>,
}

#[derive(Deserialize)]
struct OciManifest {
    digest: String,
}

impl Archive {
    fn read(path: &Path) -> Result<Self, ExportError> {
        let no_archive = |problem: String| ExportError::NoArchive { path: path.to_owned(), problem };
        let mut index = None;
        let mut archive = tar::Archive::new(File::open(path)?);
        let damaged = |error: io::Error| no_archive(format!("it is no tar archive, or damaged: {error}"));
        for entry in archive.entries().map_err(damaged)? {
            let entry = entry.map_err(damaged)?;
            let name = entry.path().map_err(damaged)?.to_string_lossy().trim_start_matches("./").to_owned();
            if !matches!(name.as_str(), "manifest.json" | "index.json") {
                continue;
            }
            let mut text = Vec::new();
            entry.take(MAX_MANIFEST_BYTES).read_to_end(&mut text).map_err(damaged)?;
            if name == "manifest.json" {
                return Self::of_docker(&text).map_err(no_archive);
            }
            index = Some(text);
        }
        let Some(index) = index else { return Err(no_archive("no image is in it".to_owned())) };
        Self::of_oci(&index).map_err(no_archive)
    }

    fn of_docker(text: &[u8]) -> Result<Self, String> {
        let manifests: Vec<DockerManifest> =
            serde_json::from_slice(text).map_err(|error| format!("manifest.json: {error}"))?;
        let [manifest] = manifests.as_slice() else { return Err(format!("it holds {} images", manifests.len())) };
        // `HASH.json`, or `blobs/sha256/HASH` in newer engines.
        let name = manifest.config.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
        let tag = manifest.repo_tags.as_ref().and_then(|tags| tags.first()).cloned();
        Ok(Self { transport: "docker-archive", id: format!("sha256:{name}"), tag })
    }

    fn of_oci(text: &[u8]) -> Result<Self, String> {
        let index: OciIndex = serde_json::from_slice(text).map_err(|error| format!("index.json: {error}"))?;
        let [manifest] = index.manifests.as_slice() else {
            return Err(format!("it holds {} images", index.manifests.len()));
        };
        Ok(Self { transport: "oci-archive", id: manifest.digest.clone(), tag: None })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Archive, ExportError, Workshop};

    fn archive(files: &[(&str, &str)]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut builder = tar::Builder::new(file.as_file());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, name, content.as_bytes()).unwrap();
        }
        builder.into_inner().unwrap();
        file
    }

    #[test]
    fn archives_of_both_formats_tell_what_they_hold() {
        let docker = r#"[{"Config": "blobs/sha256/ab12", "RepoTags": ["r:t"], "Layers": []}]"#;
        let oci = r#"{"schemaVersion": 2, "manifests": [{"digest": "sha256:cd34", "size": 1}]}"#;
        // Newer engines write both.
        let both = archive(&[("index.json", oci), ("manifest.json", docker)]);
        let expected = Archive { transport: "docker-archive", id: "sha256:ab12".into(), tag: Some("r:t".into()) };
        assert_eq!(Archive::read(both.path()).unwrap(), expected);
        let oci = archive(&[("oci-layout", "{}"), ("./index.json", oci)]);
        let expected = Archive { transport: "oci-archive", id: "sha256:cd34".into(), tag: None };
        assert_eq!(Archive::read(oci.path()).unwrap(), expected);
    }

    #[test]
    fn what_is_no_archive_of_one_image_is_refused() {
        let error = |path: &Path| Archive::read(path).unwrap_err().to_string();
        assert!(error(archive(&[("a", "b")]).path()).contains("no image is in it"));
        let two = r#"[{"Config": "a.json"}, {"Config": "b.json"}]"#;
        assert!(error(archive(&[("manifest.json", two)]).path()).contains("it holds 2 images"));
        let garbage = tempfile::NamedTempFile::new().unwrap();
        fs_err::write(garbage.path(), [7; 2000]).unwrap();
        assert!(error(garbage.path()).contains("no tar archive, or damaged"));
    }

    #[test]
    fn one_target_has_one_workshop_and_what_a_dead_one_left_goes() {
        let place = tempfile::tempdir().unwrap();
        let target = place.path().join("x.sif");
        let left = place.path().join(".x.sif.llem-part");
        fs_err::create_dir(&left).unwrap();
        fs_err::write(left.join("image.tar"), "half").unwrap();
        let first = Workshop::open(&target).unwrap();
        assert!(!left.join("image.tar").exists());
        assert!(matches!(Workshop::open(&target), Err(ExportError::Busy(_))));
        drop(first);
        assert_eq!(fs_err::read_dir(place.path()).unwrap().count(), 0);
    }
}
