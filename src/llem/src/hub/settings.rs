use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::http::Uri;

use super::{HubError, Token};

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// How the hub is reached and where its files may already be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubSettings {
    /// Scheme and host, optionally a path prefix; without a slash at the end.
    pub endpoint: String,
    /// Never use the network.
    pub offline: bool,
    /// The Hugging Face cache of this user. Only read.
    pub cache_dir: PathBuf,
    /// The access token, sent to the endpoint only.
    pub token: Option<Token>,
    /// A directory with local copies of built-in data sets, for machines without network.
    pub datasets_dir: Option<PathBuf>,
    /// How long to wait.
    pub timeouts: HubTimeouts,
}

/// How long a download waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubTimeouts {
    /// For a connection, name resolution and TLS included.
    pub connect: Duration,
    /// For the head of the answer, and for each further piece of it.
    pub idle: Duration,
    /// For one request from start to end.
    pub total: Duration,
}

impl Default for HubTimeouts {
    fn default() -> Self {
        Self { connect: Duration::from_secs(15), idle: Duration::from_secs(30), total: Duration::from_secs(900) }
    }
}

impl HubSettings {
    /// Settings for an endpoint and a cache; no token, online, default time-outs.
    pub fn new(endpoint: &str, cache_dir: impl Into<PathBuf>) -> Result<Self, HubError> {
        Ok(Self {
            endpoint: checked_endpoint(endpoint)?,
            offline: false,
            cache_dir: cache_dir.into(),
            token: None,
            datasets_dir: None,
            timeouts: HubTimeouts::default(),
        })
    }

    /// The settings that the environment gives, with the names and precedence of Hugging Face's own tools
    /// (<https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables>): `HF_ENDPOINT`,
    /// `HF_HUB_OFFLINE`, `HF_HOME`, `HF_HUB_CACHE`; the token from `HF_TOKEN`, else from its old name
    /// `HUGGING_FACE_HUB_TOKEN`, else from the file `HF_TOKEN_PATH`, else
    /// from `$HF_HOME/token`. `LLEM_DATASETS_DIR` names a directory with local copies of data sets.
    pub fn from_env() -> Result<Self, HubError> {
        Self::from_variables(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn from_variables(get: impl Fn(&str) -> Option<String>) -> Result<Self, HubError> {
        let home = hugging_face_home(&get);
        let cache_dir = get("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from);
        let endpoint = get("HF_ENDPOINT").unwrap_or_else(|| DEFAULT_ENDPOINT.to_owned());
        Ok(Self {
            offline: get("HF_HUB_OFFLINE").is_some_and(|value| is_true(&value)),
            token: find_token(&get, &home)?,
            datasets_dir: get("LLEM_DATASETS_DIR").map(PathBuf::from),
            ..Self::new(&endpoint, cache_dir)?
        })
    }
}

fn hugging_face_home(get: &impl Fn(&str) -> Option<String>) -> PathBuf {
    if let Some(home) = get("HF_HOME") {
        return PathBuf::from(home);
    }
    let cache = get("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| get("HOME").map(|home| Path::new(&home).join(".cache")));
    cache.unwrap_or_else(|| PathBuf::from(".cache")).join("huggingface")
}

fn is_true(value: &str) -> bool {
    matches!(value.to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
}

/// The variable, else the token file. A token file that does not exist is no token; one that cannot be read is an error,
/// because going on without it would end in a misleading "access refused".
fn find_token(get: &impl Fn(&str) -> Option<String>, home: &Path) -> Result<Option<Token>, HubError> {
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        if let Some(text) = get(name) {
            return parse_token(&text, name);
        }
    }
    let path = get("HF_TOKEN_PATH").map_or_else(|| home.join("token"), PathBuf::from);
    match fs_err::read_to_string(&path) {
        Ok(text) => parse_token(&text, &path.display().to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(HubError::TokenUnreadable { source }),
    }
}

fn parse_token(text: &str, origin: &str) -> Result<Option<Token>, HubError> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    Token::new(text).map(Some).ok_or_else(|| HubError::TokenInvalid { origin: origin.to_owned() })
}

/// Refuses what cannot be an endpoint, and one with a password in it: endpoints appear in messages.
fn checked_endpoint(text: &str) -> Result<String, HubError> {
    let trimmed = text.trim_end_matches('/');
    let valid = trimmed.parse::<Uri>().is_ok_and(|uri| {
        let has_scheme = matches!(uri.scheme_str(), Some("http" | "https"));
        let plain_host = uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
        has_scheme && plain_host && uri.query().is_none()
    });
    if valid { Ok(trimmed.to_owned()) } else { Err(HubError::Endpoint) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Result<HubSettings, HubError> {
        let find = |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        HubSettings::from_variables(find)
    }

    #[test]
    fn defaults_are_those_of_hugging_face() {
        let found = settings(&[("HOME", "/nonexistent/me")]).unwrap();
        assert_eq!(found.endpoint, "https://huggingface.co");
        assert_eq!(found.cache_dir, Path::new("/nonexistent/me/.cache/huggingface/hub"));
        assert!(!found.offline && found.token.is_none() && found.datasets_dir.is_none());
    }

    #[test]
    fn variables_override_in_hugging_faces_order() {
        let found = settings(&[("HF_HOME", "/hf"), ("XDG_CACHE_HOME", "/xdg"), ("HF_HUB_OFFLINE", "yes")]).unwrap();
        assert_eq!(found.cache_dir, Path::new("/hf/hub"));
        assert!(found.offline);
        let found = settings(&[("XDG_CACHE_HOME", "/xdg"), ("HF_HUB_OFFLINE", "0")]).unwrap();
        assert_eq!(found.cache_dir, Path::new("/xdg/huggingface/hub"));
        assert!(!found.offline);
        let found = settings(&[("HF_HUB_CACHE", "/c"), ("HF_ENDPOINT", "http://mirror:8080/hf/")]).unwrap();
        assert_eq!((found.cache_dir.as_path(), found.endpoint.as_str()), (Path::new("/c"), "http://mirror:8080/hf"));
    }

    #[test]
    fn the_token_comes_from_the_variable_then_the_named_file_then_the_home() {
        let home = tempfile::tempdir().unwrap();
        let (at_home, named) = (home.path().join("token"), home.path().join("named"));
        fs_err::write(&at_home, "hf_home\n").unwrap();
        fs_err::write(&named, "hf_named\n").unwrap();
        let home = ("HF_HOME", home.path().to_str().unwrap());
        let named = ("HF_TOKEN_PATH", named.to_str().unwrap());
        let token = |variables: &[_]| settings(variables).unwrap().token.map(|token| token.expose().to_owned());
        assert_eq!(token(&[home]).as_deref(), Some("hf_home"));
        assert_eq!(token(&[home, named]).as_deref(), Some("hf_named"));
        let old = ("HUGGING_FACE_HUB_TOKEN", "hf_old");
        assert_eq!(token(&[home, named, old]).as_deref(), Some("hf_old"));
        assert_eq!(token(&[home, named, old, ("HF_TOKEN", "hf_variable")]).as_deref(), Some("hf_variable"));
    }

    #[test]
    fn a_bad_token_is_named_by_its_origin_only() {
        let error = settings(&[("HF_TOKEN", "secret with spaces")]).unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(text.contains("HF_TOKEN") && !text.contains("secret"), "{text}");
        let unreadable = settings(&[("HF_TOKEN_PATH", "/")]).unwrap_err();
        assert!(matches!(unreadable, HubError::TokenUnreadable { .. }), "{unreadable}");
    }

    #[test]
    fn endpoints_with_a_password_or_without_a_scheme_are_refused() {
        for endpoint in ["huggingface.co", "ftp://x", "https://me:secret@x", "https://x/?a=b", "/x", "https://"] {
            let error = settings(&[("HF_ENDPOINT", endpoint)]).unwrap_err();
            assert!(matches!(error, HubError::Endpoint) && !error.to_string().contains("secret"), "{endpoint}");
        }
    }
}
