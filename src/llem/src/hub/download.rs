use std::io::{self, Read, Write};
use std::path::Path;

use ureq::http::{Response, Uri, header};
use ureq::{Agent, Body};

use super::{Hub, HubError, HubFile};

const MAX_REDIRECTS: usize = 5;

/// Header in which the hub names the commit of the file. On the hub's own answers, not on those of its file servers.
const COMMIT_HEADER: &str = "x-repo-commit";

/// Header in which the hub says what an error is: `GatedRepo`, `RepoNotFound`, `RevisionNotFound`, `EntryNotFound`.
const ERROR_HEADER: &str = "x-error-code";

/// Where the file is, after redirects: an answer with status 200.
struct Answer {
    body: Body,
    commit: Option<String>,
}

/// Downloads a file to `dest` and returns the commit that the hub names.
pub(super) fn download(hub: &Hub, file: &HubFile<'_>, dest: &Path, max_bytes: u64) -> Result<Option<String>, HubError> {
    let answer = open(hub, file)?;
    let too_large =
        || HubError::TooLarge { page: file.page(&hub.settings.endpoint), file: file.file.to_owned(), max_bytes };
    if answer.body.content_length().is_some_and(|length| length > max_bytes) {
        return Err(too_large());
    }
    let directory = dest.parent().unwrap_or(Path::new("."));
    let keep = |source| HubError::store(file, source);
    let mut temporary = tempfile::NamedTempFile::new_in(directory).map_err(keep)?;
    let mut reader = answer.body.into_with_config().limit(u64::MAX).reader().take(max_bytes.saturating_add(1));
    let mut chunk = vec![0; 64 * 1024];
    let mut received: u64 = 0;
    loop {
        let read = match reader.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(HubError::offline(hub, file, format!("the answer broke off: {error}"))),
        };
        received += read as u64;
        if received > max_bytes {
            return Err(too_large());
        }
        temporary.write_all(chunk.get(..read).unwrap_or_default()).map_err(keep)?;
    }
    temporary.as_file().sync_all().map_err(keep)?;
    temporary.persist(dest).map_err(|error| keep(error.error))?;
    Ok(answer.commit)
}

/// Follows redirects by hand: the token goes to the endpoint's own origin and nowhere else.
fn open(hub: &Hub, file: &HubFile<'_>) -> Result<Answer, HubError> {
    let agent = agent(hub);
    let redirect_error = |reason: &str| HubError::Redirect {
        page: file.page(&hub.settings.endpoint),
        file: file.file.to_owned(),
        reason: reason.to_owned(),
    };
    let parse = |text: &str| text.parse::<Uri>().map_err(|_| redirect_error("to an address that cannot be read"));
    let endpoint = parse(&hub.settings.endpoint)?;
    let mut uri = parse(&file.url(&hub.settings.endpoint))?;
    let mut commit = None;
    for _ in 0..=MAX_REDIRECTS {
        let token = hub.token().filter(|_| same_origin(&uri, &endpoint));
        let mut request = agent.get(&uri);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose()));
        }
        let response = request.call().map_err(|error| HubError::offline(hub, file, error.to_string()))?;
        if same_origin(&uri, &endpoint) {
            commit = commit.or_else(|| header_text(&response, COMMIT_HEADER));
        }
        match response.status().as_u16() {
            200 => return Ok(Answer { body: response.into_body(), commit }),
            301 | 302 | 303 | 307 | 308 => {
                let location = header_text(&response, header::LOCATION.as_str()).unwrap_or_default();
                uri = follow(&uri, &location).map_err(redirect_error)?;
            }
            status => {
                let code = header_text(&response, ERROR_HEADER);
                return Err(HubError::status(hub, file, status, code.as_deref(), token.is_some()));
            }
        }
    }
    Err(redirect_error("too often"))
}

fn agent(hub: &Hub) -> Agent {
    let timeouts = hub.settings.timeouts;
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .timeout_resolve(Some(timeouts.connect))
        .timeout_connect(Some(timeouts.connect))
        .timeout_recv_response(Some(timeouts.idle))
        .timeout_per_read(Some(timeouts.idle))
        .timeout_global(Some(timeouts.total))
        .user_agent(concat!("llem/", env!("CARGO_PKG_VERSION")))
        .build()
        .new_agent()
}

fn header_text(response: &Response<Body>, name: &str) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

/// Scheme, host and port decide who may see the token.
fn same_origin(a: &Uri, b: &Uri) -> bool {
    let host = |uri: &Uri| uri.host().map(str::to_ascii_lowercase);
    a.scheme() == b.scheme() && host(a) == host(b) && port(a) == port(b)
}

fn port(uri: &Uri) -> Option<u16> {
    let default = match uri.scheme_str() {
        Some("https") => Some(443),
        Some("http") => Some(80),
        _ => None,
    };
    uri.port_u16().or(default)
}

/// The address that a redirect names: absolute, or an absolute path on the same host.
fn follow(from: &Uri, location: &str) -> Result<Uri, &'static str> {
    let (Some(scheme), Some(authority)) = (from.scheme_str(), from.authority()) else {
        return Err("from an address without a host");
    };
    let absolute = if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        location.to_owned()
    };
    let uri: Uri = absolute.parse().map_err(|_| "to an address that cannot be read")?;
    match (scheme, uri.scheme_str()) {
        ("https", Some("http")) => Err("from https to http, which is not followed"),
        (_, Some("http" | "https")) if uri.host().is_some() => Ok(uri),
        _ => Err("to an address that is not http or https"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn the_origin_is_scheme_host_and_port() {
        let hub = uri("https://huggingface.co");
        for same in ["https://huggingface.co/a/b", "https://HuggingFace.co:443/"] {
            assert!(same_origin(&uri(same), &hub), "{same}");
        }
        for other in [
            "http://huggingface.co/",
            "https://huggingface.co:8443/",
            "https://cdn.huggingface.co/",
            "https://huggingface.co.evil.example/",
        ] {
            assert!(!same_origin(&uri(other), &hub), "{other}");
        }
    }

    #[test]
    fn redirects_are_resolved_against_where_they_came_from() {
        let from = uri("https://hub:8443/a/b?c");
        assert_eq!(follow(&from, "/d/e?f").unwrap(), uri("https://hub:8443/d/e?f"));
        assert_eq!(follow(&from, "//other/x").unwrap(), uri("https://other/x"));
        assert_eq!(follow(&from, "https://other/x").unwrap(), uri("https://other/x"));
        for location in ["http://hub/x", "ftp://hub/x", "file:///etc/passwd", "relative", "", "https://"] {
            assert!(follow(&from, location).is_err(), "{location}");
        }
        assert!(follow(&uri("http://hub/"), "http://other/x").is_ok());
    }
}
