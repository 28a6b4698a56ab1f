use std::fmt;

use crate::config::Backend;
use crate::runner::docker::{Engine, EngineError};

/// Images that a study needs and the container engine does not have: nothing of it is started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingImages {
    /// Where the engine answers.
    address: String,
    /// With the backend that each is for.
    images: Vec<(Backend, String)>,
}

impl MissingImages {
    /// Those of `wanted` that the engine does not have, if any.
    ///
    /// # Errors
    ///
    /// The engine does not answer.
    pub async fn of(engine: &Engine, wanted: Vec<(Backend, String)>) -> Result<Option<Self>, EngineError> {
        let mut images = Vec::new();
        for (backend, reference) in wanted {
            if engine.image(&reference).await?.is_none() {
                images.push((backend, reference));
            }
        }
        Ok((!images.is_empty()).then(|| Self { address: engine.address().to_owned(), images }))
    }
}

impl std::error::Error for MissingImages {}

impl fmt::Display for MissingImages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the container engine at {} has not all images of the study:", self.address)?;
        for (backend, image) in &self.images {
            write!(f, "\n  {image} (backend {backend}): `llem image pull {image}` fetches it from its registry")?;
        }
        f.write_str("\nimages without a registry are built: llem's source has a Dockerfile for each backend, `images/BACKEND/Dockerfile`")
    }
}
