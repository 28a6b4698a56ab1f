//! Writes a bundle, in one pass: everything is read once, hashed on its way, and the manifest gets its place back at the end.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use fs_err::File;
use futures_util::StreamExt;
use sha2::{Digest, Sha256};

use super::super::{Programs, StudyError};
use super::archive::checksum_text;
use super::gather::{Gathered, Item, Source, gather};
use super::manifest::{CHECKSUM, MANIFEST};
use super::meter::{Meter, in_thread};
use super::tape::{OpenMember, Writer, member_bytes};
use super::watch::Watch;
use super::{BundleError, BundleEvent, ImageForm, Manifest, PackedFile};
use crate::config::{RunnerKind, StudyConfig, UserConfig};
use crate::host::free_bytes;
use crate::hub::Token;
use crate::part_directory::PartDirectory;
use crate::runner::Stop;
use crate::runner::docker::Engine;

/// Bytes that are copied at a time.
const CHUNK: usize = 1 << 20;

/// Name of the archive while it is made.
const PART: &str = "bundle.tar";

/// What becomes of models in a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelFiles {
    /// Their files are in it.
    Included,
    /// Their hashes are: the files must be on the other machine.
    Manifest,
}

/// What bundle is to be made.
#[derive(Clone, Debug)]
pub struct BundleOptions {
    /// The file.
    pub target: PathBuf,
    /// Whether a file of that name is replaced.
    pub force: bool,
    /// The form of images, and with it the runner; absent: as the runner wants them.
    pub images: Option<ImageForm>,
    /// What becomes of models.
    pub models: ModelFiles,
    /// Runner for all backends, whatever the user config says.
    pub runner: Option<RunnerKind>,
    /// The machine's settings.
    pub user: UserConfig,
    /// llem's programs; absent: beside the running one.
    pub programs: Option<Programs>,
    /// Stops the work.
    pub stop: Stop,
}

/// A bundle that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MadeBundle {
    /// SHA-256 of its manifest, which determines every byte.
    pub sha256: String,
    /// Its size.
    pub size_bytes: u64,
    /// What is in it.
    pub manifest: Manifest,
}

/// Makes a bundle: it is there whole, or nothing of it.
///
/// # Errors
///
/// Something that the study needs cannot be had or packed, or there is no room.
pub async fn make_bundle(
    study: &StudyConfig,
    options: &BundleOptions,
    notify: &impl Fn(BundleEvent),
) -> Result<MadeBundle, BundleError> {
    refuse_present(options)?;
    let part = PartDirectory::open(&options.target).map_err(BundleError::Files)?;
    let part = part.ok_or_else(|| BundleError::Busy(options.target.clone()))?;
    let workshop = |name: &str| part.path(name);
    let gathered = tokio::select! {
        gathered = Box::pin(gather(study, options, &workshop, notify)) => gathered?,
        // What runs programs hears of the stop itself, and ends them first.
        () = late(options) => return Err(BundleError::Stopped),
    };
    let total_bytes = total_bytes(&gathered).map_err(BundleError::Files)?;
    refuse_full_disk(total_bytes, &part)?;
    let (files, megabytes) = (gathered.items.len(), total_bytes as f64 / 1e6);
    notify(BundleEvent::Note(format!("{files} files, about {megabytes:.1} MB")));
    let unwritten = |error: BundleError| match error {
        BundleError::Files(source) => BundleError::Unwritten { path: options.target.clone(), source },
        other => other,
    };
    let (sha256, manifest) = write(gathered, total_bytes, &part, options, notify).await.map_err(unwritten)?;
    let size_bytes = fs_err::metadata(part.path(PART)).map_err(BundleError::Files)?.len();
    refuse_present(options)?;
    part.publish(PART).map_err(BundleError::Files).map_err(unwritten)?;
    Ok(MadeBundle { sha256, size_bytes, manifest })
}

/// Ends some time after the stop: long enough for Apptainer to end, too short to be waited for.
async fn late(options: &BundleOptions) {
    options.stop.soft.cancelled().await;
    tokio::select! {
        () = tokio::time::sleep(std::time::Duration::from_secs(5)) => {}
        () = options.stop.hard.cancelled() => {}
    }
}

fn refuse_present(options: &BundleOptions) -> Result<(), BundleError> {
    let Ok(found) = options.target.symlink_metadata() else { return Ok(()) };
    match found.is_file() || (found.is_symlink() && !options.target.is_dir()) {
        false => Err(BundleError::NoFile(options.target.clone())),
        true if !options.force => Err(BundleError::Exists(options.target.clone())),
        true => Ok(()),
    }
}

/// Size of the archive, as far as it is known.
fn total_bytes(gathered: &Gathered) -> io::Result<u64> {
    let manifest = serde_json::to_vec_pretty(&gathered.manifest)?.len() as u64;
    let members = gathered.items.iter().map(|item| member_bytes(&item.name, item.size_bytes));
    Ok(manifest + members.sum::<io::Result<u64>>()?)
}

fn refuse_full_disk(needed: u64, part: &PartDirectory) -> Result<(), BundleError> {
    match free_bytes(part.target()) {
        Some((free, directory)) if free < needed => Err(BundleError::NoSpace {
            what: "the bundle",
            other_place: "`--output`",
            needed_gb: needed as f64 / 1e9,
            free_gb: free as f64 / 1e9,
            directory,
        }),
        _ => Ok(()),
    }
}

/// Writes all members behind the place of the manifest, then the manifest.
async fn write(
    gathered: Gathered,
    total_bytes: u64,
    part: &PartDirectory,
    options: &BundleOptions,
    notify: &impl Fn(BundleEvent),
) -> Result<(String, Manifest), BundleError> {
    let Gathered { mut manifest, items, engine, token } = gathered;
    let place = serde_json::to_vec_pretty(&manifest).map_err(|error| BundleError::Files(error.into()))?.len() + 1;
    let meter = Meter::new(&options.stop.soft);
    let mut writer = Writer::new(File::create(part.path(PART)).map_err(BundleError::Files)?);
    let begin = |writer: &mut Writer| {
        writer.member(MANIFEST, &vec![b' '; place])?;
        writer.member(CHECKSUM, checksum_text(&"0".repeat(64)).as_bytes()).map(drop)
    };
    begin(&mut writer).map_err(BundleError::Files)?;
    let mut files = Vec::with_capacity(items.len());
    // Images come piece by piece from the event loop, files are copied beside it.
    for run in runs(items) {
        match run {
            Run::Image(item, reference) => {
                let watch = Watch::new(token.clone());
                let file =
                    image(&mut writer, &item, &reference, engine.as_ref(), watch, &meter, total_bytes, notify).await?;
                files.push(file);
            }
            Run::Copies(items) => {
                let token = token.clone();
                let (back, copied) = in_thread("packing", total_bytes, &meter, notify, move |meter| {
                    let copied = items
                        .iter()
                        .map(|item| copy(&mut writer, item, token.clone(), meter))
                        .collect::<Result<Vec<_>, _>>()?;
                    Ok((writer, copied))
                })
                .await?;
                writer = back;
                files.extend(copied);
            }
        }
    }
    complete(&mut manifest, files);
    in_thread("packing", total_bytes, &meter, notify, move |_| {
        let mut text = serde_json::to_vec_pretty(&manifest).map_err(|error| BundleError::Files(error.into()))?;
        if text.len() >= place {
            return Err(StudyError::Task("the manifest is larger than its place".to_owned()).into());
        }
        text.resize(place - 1, b' ');
        text.push(b'\n');
        let sha256 = hex::encode(Sha256::digest(&text));
        let finish = || {
            writer.close()?;
            writer.rewind()?;
            writer.member(MANIFEST, &text)?;
            writer.member(CHECKSUM, checksum_text(&sha256).as_bytes())?;
            writer.sync()
        };
        finish().map_err(BundleError::Files)?;
        Ok((sha256, manifest))
    })
    .await
}

/// Consecutive items that are written in the same way.
enum Run {
    Image(Item, String),
    Copies(Vec<Item>),
}

fn runs(items: Vec<Item>) -> Vec<Run> {
    let mut runs = Vec::new();
    for item in items {
        match (&item.source, runs.last_mut()) {
            (Source::Image(reference), _) => {
                let reference = reference.clone();
                runs.push(Run::Image(item, reference));
            }
            (_, Some(Run::Copies(copies))) => copies.push(item),
            _ => runs.push(Run::Copies(vec![item])),
        }
    }
    runs
}

fn copy(writer: &mut Writer, item: &Item, token: Option<Token>, meter: &Meter) -> Result<PackedFile, BundleError> {
    let mut watch = Watch::new(token);
    let mut member = writer.begin(&item.name, item.executable).map_err(BundleError::Files)?;
    match &item.source {
        Source::Bytes(content) => push(writer, &mut member, content, meter)?,
        Source::File(path) => copy_file(writer, &mut member, path, &mut watch, meter)?,
        Source::Image(_) => {}
    }
    checked(writer.end(member).map_err(BundleError::Files)?, item)
}

fn copy_file(
    writer: &mut Writer,
    member: &mut OpenMember,
    path: &Path,
    watch: &mut Watch,
    meter: &Meter,
) -> Result<(), BundleError> {
    let mut source = File::open(path).map_err(BundleError::Files)?;
    let mut buffer = vec![0; CHUNK];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => {
                let chunk = buffer.get(..n).unwrap_or_default();
                if watch.sees_token(chunk) {
                    return Err(BundleError::Token(path.to_owned()));
                }
                push(writer, member, chunk, meter)?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(BundleError::Files(error)),
        }
    }
}

fn push(writer: &mut Writer, member: &mut OpenMember, chunk: &[u8], meter: &Meter) -> Result<(), BundleError> {
    writer.push(member, chunk).map_err(BundleError::Files)?;
    meter.add(chunk.len() as u64)
}

/// Somebody may write to a file while it is packed.
fn checked(file: PackedFile, item: &Item) -> Result<PackedFile, BundleError> {
    let is_same =
        item.sha256.as_ref().is_none_or(|sha256| *sha256 == file.sha256) && item.size_bytes == file.size_bytes;
    let path = match &item.source {
        Source::File(path) if !is_same => path.clone(),
        _ => return Ok(file),
    };
    let problem = "it changed while it was packed; run again when nobody writes to it".to_owned();
    Err(BundleError::Unpackable { path, problem })
}

/// An image, as the engine gives it.
#[expect(clippy::too_many_arguments, reason = "it is written as it comes")]
async fn image(
    writer: &mut Writer,
    item: &Item,
    reference: &str,
    engine: Option<&Engine>,
    mut watch: Watch,
    meter: &Meter,
    total_bytes: u64,
    notify: &impl Fn(BundleEvent),
) -> Result<PackedFile, BundleError> {
    let engine = engine.ok_or_else(|| StudyError::Task("an image without an engine".to_owned()))?;
    notify(BundleEvent::Note(format!("the engine saves {reference} ({:.1} MB)", item.size_bytes as f64 / 1e6)));
    let mut member = writer.begin(&item.name, item.executable).map_err(BundleError::Files)?;
    let mut pieces = engine.saved(reference);
    let stopped = meter.stopped();
    tokio::pin!(stopped);
    loop {
        let piece = tokio::select! {
            piece = pieces.next() => piece,
            () = &mut stopped => return Err(BundleError::Stopped),
        };
        let Some(piece) = piece else { break };
        let piece = piece?;
        if watch.sees_token(&piece) {
            let problem =
                "the access token of the model hub is in it, and a bundle is given to others; build it without"
                    .to_owned();
            return Err(BundleError::Image { reference: reference.to_owned(), problem });
        }
        push(writer, &mut member, &piece, meter)?;
        notify(BundleEvent::Progress { doing: "packing", done_bytes: meter.done_bytes(), total_bytes });
    }
    writer.end(member).map_err(BundleError::Files)
}

/// Puts in what is known now.
fn complete(manifest: &mut Manifest, files: Vec<PackedFile>) {
    let by_name: std::collections::BTreeMap<&str, &PackedFile> =
        files.iter().map(|file| (file.name.as_str(), file)).collect();
    for weights in &mut manifest.weights {
        let Some(directory) = &weights.directory else { continue };
        for listed in &mut weights.files {
            if let Some(file) = by_name.get(format!("{directory}/{}", listed.name).as_str()) {
                *listed = PackedFile { name: listed.name.clone(), ..(*file).clone() };
            }
        }
    }
    manifest.files = files;
}
