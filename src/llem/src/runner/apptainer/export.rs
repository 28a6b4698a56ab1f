//! Makes SIF files: from an image of a container engine, from an archive of one, or by a definition file. A file appears whole, with what it
//! was made from recorded in it, or not at all.

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err::File;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

use super::archive::Archive;
use super::error::ApptainerError;
use super::look::aside;
use super::program::{self, Apptainer, complaint};
use super::sif::{self, SOURCE_NAME, SourceRecord};
use crate::files::hash_into;
use crate::part_directory::PartDirectory;
use crate::printable::printable;
use crate::runner::ImageSource;
use crate::runner::docker::{Engine, EngineError};

/// How long the conversion of an image of tens of gigabytes may take.
const BUILD_LIMIT: Duration = Duration::from_secs(4 * 3600);

/// Name of a SIF file while it is made.
const PART: &str = "image.sif";

/// Name of the archive that it is made of.
const ARCHIVE: &str = "image.tar";

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
    /// The target is the name of a directory.
    #[error("{} is a directory; name the file to make", .0.display())]
    IsDirectory(PathBuf),
    /// Another export has the same target.
    #[error("another `llem image export` is writing {}", .0.display())]
    Busy(PathBuf),
    /// No archive of an image, or a damaged one.
    #[error("{}: {problem}; an archive is what `docker save` writes, or an OCI archive: make or copy it anew", path.display())]
    NoArchive {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// No definition file.
    #[error("{} is no plain file, and so no definition file of Apptainer", .0.display())]
    NoDefinition(PathBuf),
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
    let recipe = workshop.fetch(&spec.source, &progress, stop).await?;
    progress(&format!("apptainer makes {}", spec.sif.display()));
    let part = workshop.build(&recipe, stop).await?;
    let source = recipe.source;
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
    let is_named_as_directory =
        spec.sif.as_os_str().as_encoded_bytes().ends_with(b"/") || spec.sif.file_name().is_none();
    if spec.sif.is_dir() || is_named_as_directory {
        return Err(ExportError::IsDirectory(spec.sif.clone()));
    }
    if spec.sif.symlink_metadata().is_ok() && !spec.force {
        return Err(ExportError::Exists(spec.sif.clone()));
    }
    Ok(())
}

/// What `apptainer build` is to do.
struct Recipe {
    /// Values of variables, and what is built from, as its last argument.
    arguments: Vec<OsString>,
    /// Where relative names begin.
    place: PathBuf,
    /// What the image is.
    source: ImageSource,
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

    async fn fetch(
        &self,
        source: &ExportSource,
        progress: &impl Fn(&str),
        stop: &CancellationToken,
    ) -> Result<Recipe, ExportError> {
        match source {
            ExportSource::Engine(engine, reference) => {
                let image = engine.image_facts(reference).await?.ok_or_else(|| ExportError::NoImage {
                    reference: reference.clone(),
                    address: engine.address().to_owned(),
                })?;
                progress(&format!("the engine saves {reference} ({:.1} GB)", image.size_bytes as f64 / 1e9));
                let archive = self.part.path(ARCHIVE);
                tokio::select! {
                    saved = engine.save(reference, &archive) => saved?,
                    () = stop.cancelled() => return Err(ApptainerError::Stopped.into()),
                }
                let Archive { transport, id, .. } = compared(&archive, progress, stop).await?;
                if id != image.id {
                    progress(&format!("the archive's image is {id}, the engine calls it {}", image.id));
                }
                let source = ImageSource { reference: reference.clone(), id: image.id, digests: image.digests };
                Ok(self.recipe_of(transport, source))
            }
            ExportSource::Archive(path) => {
                let path = fs_err::canonicalize(path)?;
                let Archive { transport, id, tag } = compared(&path, progress, stop).await?;
                let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let source = ImageSource { reference: tag.unwrap_or(name), id, digests: Vec::new() };
                fs_err::os::unix::fs::symlink(&path, self.part.path(ARCHIVE))?;
                Ok(self.recipe_of(transport, source))
            }
            ExportSource::Definition(path, variables) => {
                let path = fs_err::canonicalize(path)?;
                if !path.is_file() {
                    return Err(ExportError::NoDefinition(path));
                }
                let (_, sha256) = hash_into(&mut File::open(&path)?, &mut io::sink())?;
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                let reference = [&[name.into_owned()], variables.as_slice()].concat().join(" ");
                let source = ImageSource { reference, id: format!("sha256:{sha256}"), digests: Vec::new() };
                let variables = variables.iter().flat_map(|pair| ["--build-arg".into(), pair.into()]);
                // What a definition file names may be relative to where the user is.
                let (arguments, place) = (variables.chain([path.into_os_string()]).collect(), PathBuf::from("."));
                Ok(Recipe { arguments, place, source })
            }
        }
    }

    /// Apptainer reads what follows a colon in a path as the name of an image: it gets a name without any directory.
    fn recipe_of(&self, transport: &str, source: ImageSource) -> Recipe {
        let (arguments, place) = (vec![format!("{transport}:{ARCHIVE}").into()], self.part.directory().to_owned());
        Recipe { arguments, place, source }
    }

    /// Builds, and records the source in what was built.
    async fn build(&self, recipe: &Recipe, stop: &CancellationToken) -> Result<PathBuf, ExportError> {
        let part = self.part.path(PART);
        let mut arguments: Vec<OsString> = ["build", "--disable-cache"].map(Into::into).into();
        // Variables come before the target, the source after it.
        let (origin, variables) =
            recipe.arguments.split_last().map_or((OsString::new(), &[][..]), |(last, rest)| (last.clone(), rest));
        arguments.extend(variables.iter().cloned());
        arguments.extend([part.clone().into(), origin]);
        self.tool(&arguments, &recipe.place, stop).await?;
        let record = self.part.path(SOURCE_NAME);
        let text = serde_json::to_vec(&SourceRecord::new(recipe.source.clone())).map_err(io::Error::other)?;
        fs_err::write(&record, text)?;
        let mut arguments: Vec<OsString> =
            ["sif", "add", "--datatype", "6", "--filename", SOURCE_NAME].map(Into::into).into();
        arguments.extend([part.clone().into(), record.into()]);
        self.tool(&arguments, &recipe.place, stop).await?;
        Ok(part)
    }

    async fn tool(&self, arguments: &[OsString], place: &Path, stop: &CancellationToken) -> Result<(), ExportError> {
        let arguments: Vec<_> = arguments.iter().map(OsString::as_os_str).collect();
        let output = Apptainer::tool(&arguments, place, self.part.directory(), BUILD_LIMIT, stop).await?;
        if output.succeeded { Ok(()) } else { Err(self.refused(complaint(&output.stderr))) }
    }
}

/// Reads an archive to its end, beside the event loop: it may have tens of gigabytes.
async fn compared(path: &Path, progress: &impl Fn(&str), stop: &CancellationToken) -> Result<Archive, ExportError> {
    progress("comparing the archive with its digests");
    let archive = path.to_owned();
    tokio::select! {
        read = aside("archive", move || Archive::read(&archive)) => {
            read?.map_err(|problem| ExportError::NoArchive { path: path.to_owned(), problem: printable(&problem) })
        }
        () = stop.cancelled() => Err(ApptainerError::Stopped.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::{ExportError, Workshop};

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
