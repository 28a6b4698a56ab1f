//! Containers that another machine makes, which sees the same files: images are looked at here, where there need be no Apptainer, and
//! handed over with what was found.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use futures_util::future::{BoxFuture, ready};
use llem_protocol::{FailureClass, Phase};
use serde::{Deserialize, Serialize};

use super::error::ApptainerError;
use super::image::{Image, Stamp};
use super::look::identify;
use crate::runner::docker::CandleImage;
use crate::runner::{
    EventSink, HostFiles, ImageSource, Places, RunOutcome, RunSpec, Runner, Stop, inside, runner_failure,
};

/// An image as the machine that looked at it hands it to the one that makes containers of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedImage {
    reference: String,
    path: PathBuf,
    id: String,
    source: Option<ImageSource>,
    architecture: String,
    size_bytes: u64,
    /// Whether it is the embedded backend's, which is named by its content.
    is_embedded: bool,
    stamp: Stamp,
    /// When the file or anything that the file system says of it was last changed: seconds and nanoseconds.
    changed: (i64, i64),
}

/// The images of a study whose containers are made on other machines.
#[derive(Debug)]
pub struct ApptainerElsewhere {
    cache_root: PathBuf,
    images: Mutex<BTreeMap<String, HandedImage>>,
}

impl HandedImage {
    fn of(image: &Image, is_embedded: bool) -> Result<Self, ApptainerError> {
        Ok(Self {
            reference: image.reference.clone(),
            path: image.path.clone(),
            id: image.id.clone(),
            source: image.source.clone(),
            architecture: image.architecture.clone(),
            size_bytes: image.size_bytes,
            is_embedded,
            stamp: image.stamp,
            changed: changed(&image.path)?,
        })
    }

    /// What the study calls it.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// Whether it is the embedded backend's.
    pub fn is_embedded(&self) -> bool {
        self.is_embedded
    }

    /// The image as this machine sees it. A SIF file of the same size, times and inode is the one that was hashed; any other, and every
    /// sandbox directory, is read to its end. `cache_root` keeps what was read.
    ///
    /// # Errors
    ///
    /// It is not there, or another one.
    pub async fn take(&self, cache_root: &Path) -> Result<Image, ApptainerError> {
        let stamp = Stamp::of(&self.path)?;
        let is_same = self.path.is_file() && stamp == self.stamp && changed(&self.path)? == self.changed;
        if is_same || (self.is_embedded && self.path.is_dir()) {
            return Ok(Image {
                reference: self.reference.clone(),
                path: self.path.clone(),
                root: self.path.clone(),
                id: self.id.clone(),
                source: self.source.clone(),
                architecture: self.architecture.clone(),
                size_bytes: self.size_bytes,
                stamp,
            });
        }
        let found = identify(&self.reference, &self.path, cache_root).await?;
        if found.id != self.id {
            let (path, expected) = (self.path.clone(), self.id.clone());
            return Err(ApptainerError::Another { path, expected, found: found.id });
        }
        Ok(found)
    }
}

fn changed(path: &Path) -> Result<(i64, i64), ApptainerError> {
    let found = fs_err::metadata(path);
    let found = found.map_err(|source| ApptainerError::Missing { path: path.to_owned(), source })?;
    Ok((found.ctime(), found.ctime_nsec()))
}

impl ApptainerElsewhere {
    /// Lays the embedded backend's image into the cache, where the other machines will find it.
    ///
    /// # Errors
    ///
    /// The cache cannot be written.
    pub fn new(embedded: &CandleImage, cache_root: PathBuf) -> Result<Self, ApptainerError> {
        let image = Image::embedded(embedded, &cache_root)?;
        let images = Mutex::new([(image.reference.clone(), HandedImage::of(&image, true)?)].into());
        Ok(Self { cache_root, images })
    }

    /// Looks at the image at `path`, which the study calls `reference`.
    ///
    /// # Errors
    ///
    /// It is not there, or no image for machines like this one.
    pub async fn open(&self, reference: &str, path: &Path) -> Result<Image, ApptainerError> {
        let image = identify(reference, path, &self.cache_root).await?;
        let handed = HandedImage::of(&image, false)?;
        self.images.lock().unwrap_or_else(PoisonError::into_inner).insert(reference.to_owned(), handed);
        Ok(image)
    }

    /// All images that were looked at, with the embedded backend's.
    pub fn images(&self) -> Vec<HandedImage> {
        self.images.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

impl Runner for ApptainerElsewhere {
    fn kind(&self) -> &'static str {
        "apptainer"
    }

    fn has_images(&self) -> bool {
        true
    }

    /// Whether there are RAPL zones is known where the container is made.
    fn places(&self, files: &HostFiles) -> Places {
        inside::places(files, false)
    }

    fn run<'a>(&'a self, _: &'a RunSpec, _: &'a EventSink, _: &'a Stop) -> BoxFuture<'a, RunOutcome> {
        let text = "containers of this study are made on other machines";
        let failure = Some(runner_failure(FailureClass::ContainerRefused, Phase::Start, text));
        Box::pin(ready(RunOutcome { failure, ..RunOutcome::default() }))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{ApptainerError, HandedImage, Image};

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
    }

    /// A file that begins as a SIF file does, of no objects.
    fn sif(content: u8) -> Vec<u8> {
        let mut bytes = vec![0; 4096];
        bytes[32..42].copy_from_slice(b"SIF_MAGIC\0");
        bytes[4095] = content;
        bytes
    }

    fn handed(path: &Path, cache: &Path) -> HandedImage {
        let image = Image::identify("x.sif", path.to_owned(), cache).unwrap();
        let handed = HandedImage::of(&image, false).unwrap();
        serde_json::from_slice(&serde_json::to_vec(&handed).unwrap()).unwrap()
    }

    #[test]
    fn the_very_file_is_taken_and_any_other_is_refused() {
        let (cache, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (path, copy) = (place.path().join("x.sif"), place.path().join("copy.sif"));
        fs_err::write(&path, sif(1)).unwrap();
        let handed = handed(&path, cache.path());
        let taken = block_on(handed.take(cache.path())).unwrap();
        assert_eq!((taken.reference.as_str(), &taken.id), ("x.sif", &handed.id));
        assert!(taken.is_unchanged());
        // The same content in another file is read, and is the same image.
        fs_err::copy(&path, &copy).unwrap();
        fs_err::rename(&copy, &path).unwrap();
        assert_eq!(block_on(handed.take(cache.path())).unwrap().id, handed.id);
        // Size and time of modification alone do not make it the same.
        let modified = fs_err::metadata(&path).unwrap().modified().unwrap();
        fs_err::write(&path, sif(2)).unwrap();
        fs_err::OpenOptions::new().write(true).open(&path).unwrap().file().set_modified(modified).unwrap();
        assert!(matches!(block_on(handed.take(cache.path())), Err(ApptainerError::Another { .. })));
        fs_err::remove_file(&path).unwrap();
        assert!(matches!(block_on(handed.take(cache.path())), Err(ApptainerError::Missing { .. })));
    }

    #[test]
    fn a_directory_is_read_whole() {
        let (cache, place) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = place.path().join("root");
        fs_err::create_dir_all(root.join("bin")).unwrap();
        fs_err::write(root.join("bin/sh"), "x").unwrap();
        let handed = handed(&root, cache.path());
        assert_eq!(block_on(handed.take(cache.path())).unwrap().id, handed.id);
        fs_err::write(root.join("bin/sh"), "y").unwrap();
        assert!(matches!(block_on(handed.take(cache.path())), Err(ApptainerError::Another { .. })));
    }
}
