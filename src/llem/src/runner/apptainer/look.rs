//! Looks at images without starting them, beside the event loop.

use std::path::Path;

use super::error::ApptainerError;
use super::image::Image;
use super::sif;
use crate::runner::docker::ImageFacts;

/// Reads and hashes an image beside the event loop.
pub(super) async fn identify(reference: &str, path: &Path, cache_root: &Path) -> Result<Image, ApptainerError> {
    let (name, path, cache_root) = (reference.to_owned(), path.to_owned(), cache_root.to_owned());
    let work = move || {
        let path = fs_err::canonicalize(&path).map_err(|source| ApptainerError::Missing { path, source })?;
        Image::identify(&name, path, &cache_root)
    };
    aside("image", work).await?
}

/// Does what takes long on a thread that nobody waits for when llem is stopped.
pub(super) async fn aside<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApptainerError> {
    let (sender, done) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name(name.to_owned());
    thread.spawn(move || drop(sender.send(work()))).map_err(ApptainerError::files("a thread of llem"))?;
    done.await.map_err(|error| ApptainerError::files("a thread of llem")(std::io::Error::other(error)))
}

/// Whether an image begins as one for this machine, without reading it to its end: for a look at the machine.
///
/// # Errors
///
/// It is not there, or no image for this machine.
pub fn glance(path: &Path) -> Result<(), ApptainerError> {
    let found = fs_err::metadata(path);
    let found = found.map_err(|source| ApptainerError::Missing { path: path.to_owned(), source })?;
    if found.is_dir() { Ok(()) } else { sif::read(path).map(drop) }
}

/// What an image is, without starting it: for plans.
///
/// # Errors
///
/// It is not there, or no image for this machine.
pub async fn look(reference: &str, path: &Path, cache_root: &Path) -> Result<ImageFacts, ApptainerError> {
    Ok(identify(reference, path, cache_root).await?.facts())
}
