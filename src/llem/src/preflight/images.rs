//! Images, each looked at once.
//!
//! ```text
//! <cache>/images/
//!   <id>.json             what the probe of the image with this content id found, and with what it was probed
//!   <id>-<hash>.json      the same with another Python than the usual one, or with what a user config adds
//! ```
//!
//! An entry counts only while image, script, agent, Python and what the user config adds to containers are the same; what the engine
//! itself tells of an image (digests, labels, size) is always asked anew. No id covers what is in added directories: where there are any,
//! every study looks again.

use std::io::Read;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::config::{Backend, UserConfig};
use crate::files::write_atomic;
use crate::runner::ApptainerRunner;
use crate::runner::apptainer::Image;
use crate::runner::docker::{
    BindMount, Engine, EngineError, ImageError, ImageFacts, PROBE_SCRIPT, ProbeSpec, probe, sha256_of,
};

/// Version of an entry.
const SCHEMA_VERSION: u32 = 1;

/// The largest entry that is read, in bytes.
const MAX_ENTRY_BYTES: u64 = 4 * 1024 * 1024;

/// Looks at images, and keeps what it saw.
#[derive(Clone, Debug)]
pub struct Images {
    directory: PathBuf,
    agent: PathBuf,
    agent_sha256: String,
    user: UserConfig,
}

/// What a probe depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Key {
    image_id: String,
    interpreters: Vec<String>,
    script_sha256: String,
    agent_sha256: String,
    /// Of the directories and variables that the machine's owner adds: variables may be nobody else's business.
    additions_sha256: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct Entry {
    schema_version: u32,
    key: Key,
    /// UTC, RFC 3339.
    probed: String,
    facts: ImageFacts,
}

/// An image as far as it is known without a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KnownImage {
    /// The engine does not have it.
    Missing,
    /// It was never looked into.
    Unprobed(ImageFacts),
    /// It was.
    Probed(ImageFacts),
}

impl Images {
    /// Images as they look to an agent on this machine.
    ///
    /// # Errors
    ///
    /// The agent cannot be read.
    pub fn new(user: &UserConfig, agent: &Path) -> std::io::Result<Self> {
        let agent_sha256 = sha256_of(&fs_err::read(agent)?);
        let directory = user.cache_root().join("images");
        Ok(Self { directory, agent: agent.to_owned(), agent_sha256, user: user.clone() })
    }

    /// What is in an image; `None` when the engine does not have it. Starts a container only for an image that it has not seen yet, or
    /// with `refresh`.
    ///
    /// # Errors
    ///
    /// The engine cannot start anything, or `stop` was given.
    pub async fn probe(
        &self,
        engine: &Engine,
        reference: &str,
        backend: Option<Backend>,
        refresh: bool,
        stop: &CancellationToken,
    ) -> Result<Option<ImageFacts>, ImageError> {
        let image = match self.known(engine, reference, backend).await? {
            KnownImage::Missing => return Ok(None),
            KnownImage::Probed(facts) if !refresh && self.user.mounts.is_empty() => return Ok(Some(facts)),
            KnownImage::Probed(image) | KnownImage::Unprobed(image) => ImageFacts::default().with_identity_of(image),
        };
        let key = self.key(&image, backend);
        let spec = ProbeSpec {
            reference: &image.id,
            interpreters: &key.interpreters,
            agent: &self.agent,
            mounts: &BindMount::all_of(&self.user),
            env: &self.user.env,
        };
        let facts = probe(engine, image.clone(), &spec, stop).await?;
        self.note(key, &facts);
        Ok(Some(facts))
    }

    /// As [`Self::probe`] for an image of Apptainer.
    ///
    /// # Errors
    ///
    /// `stop` was given.
    pub async fn probe_file(
        &self,
        apptainer: &ApptainerRunner,
        image: &Image,
        backend: Option<Backend>,
        refresh: bool,
        stop: &CancellationToken,
    ) -> Result<ImageFacts, ImageError> {
        match self.known_file(image.facts(), backend) {
            KnownImage::Probed(facts) if !refresh && self.user.mounts.is_empty() => Ok(facts),
            _ => {
                let key = self.key(&image.facts(), backend);
                let facts = apptainer.probe(image, &key.interpreters, stop).await?;
                self.note(key, &facts);
                Ok(facts)
            }
        }
    }

    /// Keeps what was found, but not what may be another time's accident.
    fn note(&self, key: Key, facts: &ImageFacts) {
        if facts.problem.is_none() && facts.agent.problem.is_none() {
            let kept = self.keep(key, facts);
            debug!(id = facts.id, ?kept, "image was probed");
        }
    }

    /// What is known of an image without starting anything.
    pub async fn known(
        &self,
        engine: &Engine,
        reference: &str,
        backend: Option<Backend>,
    ) -> Result<KnownImage, EngineError> {
        let image = engine.image_facts(reference).await?;
        Ok(image.map_or(KnownImage::Missing, |image| self.known_file(image, backend)))
    }

    /// The same of an image that is there.
    pub fn known_file(&self, image: ImageFacts, backend: Option<Backend>) -> KnownImage {
        match self.find(&self.key(&image, backend)) {
            Some(facts) => KnownImage::Probed(facts.with_identity_of(image)),
            None => KnownImage::Unprobed(image),
        }
    }

    fn key(&self, image: &ImageFacts, backend: Option<Backend>) -> Key {
        Key {
            image_id: image.id.clone(),
            interpreters: self.user.interpreters(backend),
            script_sha256: sha256_of(PROBE_SCRIPT.as_bytes()),
            agent_sha256: self.agent_sha256.clone(),
            additions_sha256: additions_sha256(&self.user),
        }
    }

    /// The entry of exactly this key. Whatever else is in the file is as good as none.
    fn find(&self, key: &Key) -> Option<ImageFacts> {
        let mut bytes = Vec::new();
        let file = fs_err::File::open(self.path(key)).ok()?;
        file.take(MAX_ENTRY_BYTES + 1).read_to_end(&mut bytes).ok()?;
        let entry: Entry = serde_json::from_slice(&bytes).ok().filter(|_| bytes.len() as u64 <= MAX_ENTRY_BYTES)?;
        let fits = entry.schema_version == SCHEMA_VERSION && entry.key == *key && entry.facts.id == key.image_id;
        fits.then_some(entry.facts)
    }

    /// Writes an entry whole or not at all. A cache that cannot be written costs a second at the next study, no more.
    fn keep(&self, key: Key, facts: &ImageFacts) -> std::io::Result<()> {
        let path = self.path(&key);
        let (probed, facts) = (Timestamp::now().to_string(), facts.clone());
        let entry = Entry { schema_version: SCHEMA_VERSION, key, probed, facts };
        fs_err::create_dir_all(&self.directory)?;
        write_atomic(&path, &serde_json::to_vec_pretty(&entry)?)
    }

    fn path(&self, key: &Key) -> PathBuf {
        let digits = key.image_id.strip_prefix("sha256:").unwrap_or_default();
        let is_id = digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        // An id of another form is no name of a file.
        let name = if is_id { digits.to_owned() } else { sha256_of(key.image_id.as_bytes()) };
        let is_usual = key.interpreters == self.user.interpreters(None)
            && key.additions_sha256 == additions_sha256(&UserConfig::default());
        let with = sha256_of(format!("{}\n{}", key.additions_sha256, key.interpreters.join("\n")).as_bytes());
        let suffix = if is_usual { String::new() } else { format!("-{}", &with[..8]) };
        self.directory.join(format!("{name}{suffix}.json"))
    }
}

/// Of what a user config adds to every container.
fn additions_sha256(user: &UserConfig) -> String {
    sha256_of(json!([user.mounts, user.env]).to_string().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::{Entry, Images, Key, SCHEMA_VERSION};
    use crate::config::{Backend, UserConfig};
    use crate::runner::docker::ImageFacts;

    fn images(cache: &tempfile::TempDir) -> Images {
        let user = UserConfig {
            cache_dir: Some(cache.path().to_owned()),
            python: [(Backend::Pytorch, "/opt/python".to_owned())].into(),
            ..UserConfig::default()
        };
        let agent = cache.path().join("agent");
        fs_err::write(&agent, b"agent").unwrap();
        Images::new(&user, &agent).unwrap()
    }

    fn facts() -> ImageFacts {
        let mut facts = ImageFacts { id: format!("sha256:{}", "a".repeat(64)), ..ImageFacts::default() };
        facts.versions.torch = Some("2.13.0".to_owned());
        facts
    }

    #[test]
    fn what_was_seen_is_known_again() {
        let cache = tempfile::tempdir().unwrap();
        let images = images(&cache);
        let key = images.key(&facts(), None);
        assert_eq!(images.find(&key), None);
        images.keep(key.clone(), &facts()).unwrap();
        assert_eq!(images.find(&key), Some(facts()));
        assert!(cache.path().join(format!("images/{}.json", "a".repeat(64))).is_file());
        // Another Python sees other packages, another agent may not start.
        assert_eq!(images.find(&images.key(&facts(), Some(Backend::Pytorch))), None);
        assert_eq!(images.find(&Key { agent_sha256: "0".to_owned(), ..key }), None);
    }

    #[test]
    fn a_file_that_is_not_as_it_should_be_is_as_good_as_none() {
        let cache = tempfile::tempdir().unwrap();
        let images = images(&cache);
        let key = images.key(&facts(), None);
        images.keep(key.clone(), &facts()).unwrap();
        let path = images.path(&key);
        let whole = fs_err::read(&path).unwrap();
        let changed = |change: &dyn Fn(&mut Entry)| {
            let mut entry: Entry = serde_json::from_slice(&whole).unwrap();
            change(&mut entry);
            serde_json::to_vec(&entry).unwrap()
        };
        let broken = [
            b"".to_vec(),
            whole[..whole.len() / 2].to_vec(),
            [&whole[..], &vec![b' '; 5 << 20]].concat(),
            changed(&|entry| entry.schema_version = SCHEMA_VERSION + 1),
            changed(&|entry| entry.facts.id = "sha256:other".to_owned()),
            changed(&|entry| entry.key.script_sha256 = "older".to_owned()),
        ];
        for content in broken {
            fs_err::write(&path, content).unwrap();
            assert_eq!(images.find(&key), None);
        }
        fs_err::write(&path, whole).unwrap();
        assert_eq!(images.find(&key), Some(facts()));
    }

    #[test]
    fn an_id_cannot_lead_out_of_the_directory() {
        let cache = tempfile::tempdir().unwrap();
        let images = images(&cache);
        let strange = ImageFacts { id: "../../etc/passwd".to_owned(), ..ImageFacts::default() };
        let path = images.path(&images.key(&strange, None));
        assert_eq!(path.parent(), Some(cache.path().join("images").as_path()));
    }
}
