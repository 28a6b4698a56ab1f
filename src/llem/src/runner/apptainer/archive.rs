//! Archives of images, as container engines and tools of the OCI format write them: which image is in them, and whether its bytes are those
//! that its digests name. Apptainer compares neither, so that a damaged archive would become an image that is said to be the whole one.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::contents::Content;

/// What an archive says of its image.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Archive {
    /// How Apptainer calls its format.
    pub(super) transport: &'static str,
    /// Content id of the image: the digest of its config, as engines give it; of an OCI archive for several platforms, that of its index.
    pub(super) id: String,
    /// The first name that it has.
    pub(super) tag: Option<String>,
}

/// An entry of `manifest.json`, as `docker save` writes it.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerManifest {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Vec<String>,
}

/// An image's config, as far as it names the layers.
#[derive(Deserialize)]
struct Config {
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

/// `index.json` of the OCI format.
#[derive(Deserialize)]
struct OciIndex {
    manifests: Vec<OciReference>,
}

#[derive(Deserialize)]
struct OciReference {
    digest: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

/// A manifest of the OCI format; an index of several platforms has no config.
#[derive(Deserialize)]
struct OciManifest {
    config: Option<OciReference>,
}

impl Archive {
    /// Reads the whole archive and compares every digest in it. The error is what is wrong with it.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        // What is no file may never end.
        if !fs_err::metadata(path).map_err(|error| error.to_string())?.is_file() {
            return Err("it is no plain file".to_owned());
        }
        let content = Content::read(path)?;
        content.compare_blobs()?;
        // Newer engines write both, and mean the same image.
        if content.has("manifest.json") { Self::of_docker(&content) } else { Self::of_oci(&content) }
    }

    fn of_docker(content: &Content<'_>) -> Result<Self, String> {
        let manifests: Vec<DockerManifest> = content.json("manifest.json")?;
        let [manifest] = manifests.as_slice() else { return Err(format!("it holds {} images", manifests.len())) };
        // `HASH.json`, or `blobs/sha256/HASH` in newer engines.
        let name = manifest.config.rsplit('/').next().unwrap_or_default().trim_end_matches(".json");
        let name = name.trim_start_matches("sha256:");
        content.compare(&manifest.config, name)?;
        let Config { rootfs } = content.json(&manifest.config)?;
        if rootfs.diff_ids.len() != manifest.layers.len() {
            let (layers, named) = (manifest.layers.len(), rootfs.diff_ids.len());
            return Err(format!("layers of its image: {named}, listed: {layers}"));
        }
        for (layer, diff_id) in manifest.layers.iter().zip(&rootfs.diff_ids) {
            let expected = if content.is_compressed(layer) { named_digest(layer)? } else { diff_id };
            content.compare(layer, expected.trim_start_matches("sha256:"))?;
        }
        let tag = manifest.repo_tags.as_ref().and_then(|tags| tags.first()).cloned();
        Ok(Self { transport: "docker-archive", id: format!("sha256:{name}"), tag })
    }

    fn of_oci(content: &Content<'_>) -> Result<Self, String> {
        if !content.has("index.json") {
            return Err("no image is in it".to_owned());
        }
        let index: OciIndex = content.json("index.json")?;
        let [manifest] = index.manifests.as_slice() else {
            return Err(format!("it holds {} images", index.manifests.len()));
        };
        let OciManifest { config } = content.json(&format!("blobs/{}", manifest.digest.replacen(':', "/", 1)))?;
        let id = config.map_or_else(|| manifest.digest.clone(), |config| config.digest);
        let tag = manifest.annotations.get("org.opencontainers.image.ref.name").cloned();
        Ok(Self { transport: "oci-archive", id, tag })
    }
}

/// The digest by which a compressed layer is named, as in `blobs/sha256/HEX` and `HEX.tar.gz`: that in the config is of what it unpacks to.
fn named_digest(layer: &str) -> Result<&str, String> {
    let name = layer.rsplit('/').next().unwrap_or_default();
    let digest = name.trim_start_matches("sha256:").split('.').next().unwrap_or_default();
    if digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Ok(digest);
    }
    Err(format!(
        "layer {layer} is compressed, and its name is no digest to compare it with; load the archive into an engine, and export it from there"
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sha2::{Digest, Sha256};

    use super::Archive;

    fn sha256(content: &str) -> String {
        hex::encode(Sha256::digest(content))
    }

    fn archive(files: &[(&str, &str)]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut builder = tar::Builder::new(file.as_file());
        for (name, content) in files {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            if let Some(target) = content.strip_prefix("-> ") {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                builder.append_link(&mut header, name, target).unwrap();
            } else {
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, name, content.as_bytes()).unwrap();
            }
        }
        builder.into_inner().unwrap();
        file
    }

    fn config(layers: &[&str]) -> String {
        let ids: Vec<_> = layers.iter().map(|layer| format!("\"sha256:{}\"", sha256(layer))).collect();
        format!(r#"{{"rootfs": {{"diff_ids": [{}]}}}}"#, ids.join(", "))
    }

    fn error(files: &[(&str, &str)]) -> String {
        Archive::read(archive(files).path()).unwrap_err()
    }

    /// As `docker save` of version 20 writes it: layers in directories, one of them a link to the same in another.
    fn docker(config: &str, layer: &str) -> Vec<(String, String)> {
        let name = format!("{}.json", sha256(config));
        let manifest =
            format!(r#"[{{"Config": "{name}", "RepoTags": ["r:t"], "Layers": ["a/layer.tar", "b/layer.tar"]}}]"#);
        let files = [
            (name.as_str(), config),
            ("a/layer.tar", layer),
            ("b/layer.tar", "-> ../a/layer.tar"),
            ("manifest.json", &manifest),
        ];
        files.map(|(name, content)| (name.to_owned(), content.to_owned())).into()
    }

    fn borrowed(files: &[(String, String)]) -> Vec<(&str, &str)> {
        files.iter().map(|(name, content)| (name.as_str(), content.as_str())).collect()
    }

    #[test]
    fn an_archive_of_docker_tells_what_it_holds() {
        let config = config(&["layer", "layer"]);
        let found = Archive::read(archive(&borrowed(&docker(&config, "layer"))).path()).unwrap();
        let id = format!("sha256:{}", sha256(&config));
        assert_eq!(found, Archive { transport: "docker-archive", id, tag: Some("r:t".into()) });
    }

    #[test]
    fn what_an_archive_of_docker_does_not_hold_whole_is_named() {
        let config = config(&["layer", "layer"]);
        let damaged = error(&borrowed(&docker(&config, "lazer")));
        let expected = format!(
            "it is damaged: the SHA-256 of a/layer.tar is {}, and must be {}",
            sha256("lazer"),
            sha256("layer")
        );
        assert_eq!(damaged, expected);
        let mut files = docker(&config, "layer");
        files[0].1.push(' ');
        assert!(error(&borrowed(&files)).contains("the SHA-256 of "), "the config");
        files.remove(0);
        assert!(error(&borrowed(&files)).contains(".json is not in it"));
        let short = self::config(&["layer"]);
        assert!(error(&borrowed(&docker(&short, "layer"))).contains("layers of its image: 1, listed: 2"));
    }

    /// As tools without an engine write it: the config and the compressed layers are named by their digests.
    #[test]
    fn compressed_layers_are_compared_by_their_names() {
        let (config, packed) = (config(&["unpacked"]), "BZhpacked");
        let of = |name: &str, content: &str| {
            let manifest = format!(r#"[{{"Config": "sha256:{}", "Layers": ["{name}"]}}]"#, sha256(&config));
            let config_name = format!("sha256:{}", sha256(&config));
            Archive::read(archive(&[(&config_name, &config), (name, content), ("manifest.json", &manifest)]).path())
        };
        let name = format!("{}.tar.bz2", sha256(packed));
        assert_eq!(of(&name, packed).unwrap().id, format!("sha256:{}", sha256(&config)));
        assert!(of(&name, "BZhpacker").unwrap_err().contains("it is damaged: the SHA-256 of "));
        assert!(of("layer.tar.bz2", packed).unwrap_err().contains("its name is no digest"));
    }

    /// The digest of a compressed layer is that of the blob.
    fn oci(layer: &str) -> Vec<(String, String)> {
        let config = config(&["unpacked"]);
        let digest = |content: &str| format!(r#"{{"digest": "sha256:{}"}}"#, sha256(content));
        let manifest = format!(r#"{{"config": {}, "layers": [{}]}}"#, digest(&config), digest(layer));
        let index = format!(
            r#"{{"manifests": [{{"digest": "sha256:{}", "annotations": {{"org.opencontainers.image.ref.name": "r:t"}}}}]}}"#,
            sha256(&manifest)
        );
        let blob = |content: &str| (format!("./blobs/sha256/{}", sha256(content)), content.to_owned());
        vec![blob(&config), blob(layer), blob(&manifest), ("index.json".to_owned(), index)]
    }

    #[test]
    fn an_oci_archive_tells_what_it_holds() {
        let mut files = oci("\u{1f}\u{8b}packed");
        let id = format!("sha256:{}", sha256(&config(&["unpacked"])));
        let expected = Archive { transport: "oci-archive", id: id.clone(), tag: Some("r:t".into()) };
        assert_eq!(Archive::read(archive(&borrowed(&files)).path()).unwrap(), expected);
        files[1].1.push('x');
        assert!(error(&borrowed(&files)).contains("it is damaged: the SHA-256 of blobs/sha256/"));
    }

    /// Newer engines write both manifests, and layers as blobs.
    #[test]
    fn both_formats_in_one_archive_are_one_image() {
        let layer = "BZhpacked";
        let config = config(&["unpacked"]);
        let mut files = oci(layer);
        let (name, blob) = (sha256(&config), sha256(layer));
        let manifest =
            format!(r#"[{{"Config": "blobs/sha256/{name}", "RepoTags": ["r:t"], "Layers": ["blobs/sha256/{blob}"]}}]"#);
        files.push(("manifest.json".to_owned(), manifest));
        let found = Archive::read(archive(&borrowed(&files)).path()).unwrap();
        assert_eq!((found.transport, found.id), ("docker-archive", format!("sha256:{name}")));
    }

    #[test]
    fn what_is_no_archive_of_one_image_is_refused() {
        assert!(error(&[("a", "b")]).contains("no image is in it"));
        let two = r#"[{"Config": "a.json"}, {"Config": "b.json"}]"#;
        assert!(error(&[("manifest.json", two)]).contains("it holds 2 images"));
        let of = |bytes: &[u8]| {
            let file = tempfile::NamedTempFile::new().unwrap();
            fs_err::write(file.path(), bytes).unwrap();
            Archive::read(file.path()).unwrap_err()
        };
        assert!(of(&[7; 2000]).contains("no tar archive, or damaged"));
        let whole = fs_err::read(archive(&[("manifest.json", &"x".repeat(2000))]).path()).unwrap();
        assert!(of(&whole[..1000]).contains("damaged: it ends in the middle of manifest.json"));
        assert!(of(b"\x1f\x8b\x08\x00rest").contains("it is compressed: unpack it first"));
        assert_eq!(Archive::read(Path::new("/dev/zero")).unwrap_err(), "it is no plain file");
        assert!(Archive::read(Path::new("/no/such.tar")).unwrap_err().contains("/no/such.tar"));
    }
}
