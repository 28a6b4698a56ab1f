//! Bundles: a study with everything that it needs in one file, for machines without a network.
//!
//! ```text
//! study.llem.tar
//!   llem-bundle.json             the manifest: names, sizes and SHA-256 of all files, and what they are for
//!   llem-bundle.sha256           of the manifest
//!   study/FILE.yaml              the study, and `--set` and profile in the manifest
//!   study.lock.json              what it must be run with
//!   workloads/{list.json,SHA256.jsonl}
//!   datasets/…                   files of data sets, for whoever looks: the requests are tokenised
//!   bin/{llem,llem-agent,llem-candle}
//!   candle/…                     the files of the embedded backend's image
//!   weights/hub/…                hub models, in the layout of the hub's cache
//!   weights/0-NAME/…             models of directories
//!   images/0-NAME.{tar,sif}      images of engines
//!
//! CACHE/bundles-v1/SHA256/       unpacked: without `bin/llem` and archives of images; named by the manifest's hash
//! ```
//!
//! Every byte of the archive follows from the manifest ([`tape`]), and the manifest has its hash beside it: what was changed on the way is
//! found, with its place. That is no signature: whoever makes a bundle can put anything into it, and it holds programs. Its hash, compared
//! by another way, says that it is the bundle that was made.

mod archive;
mod error;
mod gather;
mod images;
mod manifest;
mod meter;
mod open;
mod pack;
mod tape;
mod unpack;
mod watch;
mod weights;
mod workloads;

pub use archive::{BundleContent, inspect_bundle, is_bundle, verify_bundle};
pub use error::BundleError;
pub use manifest::{BUNDLE_FORMAT, ImageForm, Manifest, PackedFile, PackedImage, PackedStudy, PackedWeights};
pub use open::{BundledStudy, Overrides, bundle_of, open_bundle};
pub use pack::{BundleOptions, MadeBundle, ModelFiles, make_bundle};

pub(super) use workloads::PackedWorkloads;

use super::StudyEvent;

/// What happens while a bundle is made or opened.
#[derive(Clone, Debug)]
pub enum BundleEvent {
    /// The same as before the first run of a study.
    Study(StudyEvent),
    /// Something that the user follows.
    Note(String),
    /// How far the work on a large file is.
    Progress {
        /// What is being done.
        doing: &'static str,
        /// Bytes that are done.
        done_bytes: u64,
        /// About how many there are.
        total_bytes: u64,
    },
}

/// The agent in a bundle.
const AGENT: &str = "bin/llem-agent";

/// The embedded backend's driver.
const CANDLE: &str = "bin/llem-candle";

/// llem itself.
const CONTROLLER: &str = "bin/llem";

/// The root of the embedded backend's image.
const CANDLE_ROOT: &str = "candle";

/// The lock file.
const LOCK: &str = "study.lock.json";

/// The list of workloads.
const WORKLOADS: &str = "workloads/list.json";

/// A cache in the hub's layout.
const HUB: &str = "weights/hub";

/// A name without what could mean something to a file system or a shell.
fn plain(name: &str) -> String {
    let keep = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    name.chars().map(keep).take(80).collect()
}
