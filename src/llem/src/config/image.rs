//! Image references: `[registry[:port]/]path[:tag][@sha256:digest]`, by the grammar of the OCI distribution project; or, for Apptainer, paths
//! of SIF files and sandbox directories.

use std::path::Path;

use super::wording::key;

/// What is wrong with an image reference; `None` when it can be one.
pub fn problem(reference: &str) -> Option<String> {
    let shown = key(reference);
    if is_path(reference) {
        let is_odd = reference.chars().any(char::is_control);
        return is_odd.then(|| format!("`{shown}` holds control characters"));
    }
    let (name, digest) = match reference.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (reference, None),
    };
    if digest.is_some_and(|digest| !is_digest(digest)) {
        return Some(format!("`{shown}`: the digest after `@` must be `sha256:` and 64 hexadecimal digits"));
    }
    // A colon before the last slash belongs to a registry's port.
    let (name, tag) = match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (name, None),
    };
    match tag {
        Some("") => return Some(format!("`{shown}`: the tag after `:` is empty")),
        Some(tag) if !is_tag(tag) => return Some(format!("`{shown}`: `{tag}` is not a tag")),
        _ => {}
    }
    if is_name(name) { None } else { Some(format!("`{shown}` is not an image reference such as `registry/name:tag`")) }
}

/// Whether a name is the path of an image of Apptainer and not an image that a container engine may know.
pub fn is_path(reference: &str) -> bool {
    let is_sif = Path::new(reference).extension().is_some_and(|extension| extension == "sif");
    is_sif || ["/", "./", "../"].iter().any(|start| reference.starts_with(start))
}

fn is_digest(digest: &str) -> bool {
    let hexadecimal = |digits: &str| digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    digest.strip_prefix("sha256:").is_some_and(hexadecimal)
}

fn is_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

fn is_name(name: &str) -> bool {
    let (registry, path) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => (Some(first), rest),
        _ => (None, name),
    };
    name.len() <= 255 && registry.is_none_or(is_registry) && path.split('/').all(is_component)
}

fn is_registry(registry: &str) -> bool {
    let (host, port) = registry.split_once(':').map_or((registry, None), |(host, port)| (host, Some(port)));
    !host.is_empty()
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
        && port.is_none_or(|port| port.parse::<u16>().is_ok())
}

fn is_component(component: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    bytes.first().is_some_and(|byte| alphanumeric(*byte))
        && bytes.last().is_some_and(|byte| alphanumeric(*byte))
        && bytes.iter().all(|byte| alphanumeric(*byte) || b"._-".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::{is_path, problem};

    #[test]
    fn paths_are_told_from_references() {
        for path in ["/a", "./a", "../i/x.sif", "x.sif", "/data/images/My Image:1.sif"] {
            assert!(is_path(path) && problem(path).is_none(), "{path}");
        }
        for reference in ["ubuntu", "sif", ".sif", "a/b:sif", "a.sif:1", ".hidden"] {
            assert!(!is_path(reference), "{reference}");
        }
        assert!(problem("/a\n.sif").is_some());
    }

    #[test]
    fn references_of_every_shape_are_accepted() {
        let digest = "a".repeat(64);
        let with_digest = format!("vllm/vllm-openai:v0.33.0@sha256:{digest}");
        for reference in [
            "ubuntu",
            "vllm/vllm-openai:v0.33.0-x86_64",
            "nvcr.io/nvidia/tensorrt-llm/release:1.2.1",
            "localhost:5000/llem/candle",
            "registry.example:443/a__b/c-d.e",
            &with_digest,
        ] {
            assert_eq!(problem(reference), None);
        }
    }

    #[test]
    fn what_is_not_a_reference_is_refused() {
        let long_tag = format!("a:{}", "t".repeat(129));
        for reference in ["", "A/b", "a//b", "a/", "a b", "a:-t", "a@md5:00", "a.b:99999/c", "-a", &long_tag] {
            assert!(problem(reference).is_some(), "`{reference}`");
        }
    }
}
