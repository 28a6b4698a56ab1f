use std::io;

use super::{Hub, HubFile, cache};

/// Why a file of the hub could not be had. No message contains the token.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    /// `HF_ENDPOINT` is not usable. The value is not repeated: it may hold a password.
    #[error("HF_ENDPOINT is not an http or https address without user name and query, e.g. https://huggingface.co")]
    Endpoint,
    /// The token has characters that no HTTP header may carry.
    #[error("the access token from {origin} has characters that no token has: set it again without quotes or blanks")]
    TokenInvalid {
        /// Variable or file.
        origin: String,
    },
    /// The token file exists and cannot be read.
    #[error("the Hugging Face token file cannot be read: allow it, or set HF_TOKEN")]
    TokenUnreadable {
        /// The reason, with the path.
        source: io::Error,
    },
    /// A name that could leave its place in a URL or a directory.
    #[error("`{text}` is not the {what} of a Hugging Face repository")]
    Name {
        /// Repository, revision or file name.
        what: &'static str,
        /// As given.
        text: String,
    },
    /// HTTP 401 or 403.
    #[error(
        "{page} refused access to `{file}` (HTTP {status}{}): accept its licence on that page and set HF_TOKEN or run \
         `hf auth login`; a repository that does not exist answers the same",
        if *.token_sent { ", with your token" } else { ", without a token" }
    )]
    Gated {
        /// The repository's page.
        page: String,
        /// The file asked for.
        file: String,
        /// 401 or 403.
        status: u16,
        /// Whether a token was sent.
        token_sent: bool,
    },
    /// HTTP 404.
    #[error("{page} has no file `{file}` in revision `{revision}`: check name and revision")]
    Missing {
        /// The repository's page.
        page: String,
        /// The file asked for.
        file: String,
        /// Branch, tag or commit.
        revision: String,
    },
    /// Any other answer than the file.
    #[error("{page} answered HTTP {status} for `{file}`: try again later, or get the file elsewhere: {place}")]
    Status {
        /// The repository's page.
        page: String,
        /// The file asked for.
        file: String,
        /// HTTP status.
        status: u16,
        /// Where a copy is looked for.
        place: String,
    },
    /// No network, no answer, or an answer that broke off.
    #[error("{page} cannot be reached for `{file}` ({reason}): get the file elsewhere: {place}")]
    Offline {
        /// The repository's page.
        page: String,
        /// The file asked for.
        file: String,
        /// What went wrong.
        reason: String,
        /// Where a copy is looked for.
        place: String,
    },
    /// The hub sent the client somewhere where it does not go.
    #[error("{page} redirects `{file}` {reason}")]
    Redirect {
        /// The repository's page.
        page: String,
        /// The file asked for.
        file: String,
        /// What is wrong with the redirect.
        reason: String,
    },
    /// The file is longer than what it can be.
    #[error("`{file}` of {page} is longer than {max_bytes} bytes and was not kept")]
    TooLarge {
        /// The repository's page.
        page: String,
        /// The file asked for.
        file: String,
        /// The limit.
        max_bytes: u64,
    },
    /// A branch or tag whose commit the endpoint does not tell.
    #[error(
        "{page} does not say which commit `{revision}` is: give the commit as revision, or use another HF_ENDPOINT"
    )]
    NoCommit {
        /// The repository's page.
        page: String,
        /// Branch or tag.
        revision: String,
    },
    /// The file could not be written.
    #[error("the download of `{file}` could not be kept")]
    Store {
        /// The file asked for.
        file: String,
        /// The reason, with the path.
        source: io::Error,
    },
}

impl HubError {
    /// Whether the study names something that the hub does not have; else network, rights or disk are at fault.
    pub(crate) fn is_config(&self) -> bool {
        matches!(self, Self::Name { .. } | Self::Missing { .. } | Self::NoCommit { .. })
    }

    pub(super) fn offline(hub: &Hub, file: &HubFile<'_>, reason: String) -> Self {
        Self::Offline {
            page: file.page(&hub.settings.endpoint),
            file: file.file.to_owned(),
            reason,
            place: cache::place(&hub.settings.cache_dir, file),
        }
    }

    pub(super) fn status(hub: &Hub, file: &HubFile<'_>, status: u16, token_sent: bool) -> Self {
        let (page, name) = (file.page(&hub.settings.endpoint), file.file.to_owned());
        match status {
            401 | 403 => Self::Gated { page, file: name, status, token_sent },
            404 => Self::Missing { page, file: name, revision: file.revision.to_owned() },
            _ => Self::Status { page, file: name, status, place: cache::place(&hub.settings.cache_dir, file) },
        }
    }

    pub(super) fn store(file: &HubFile<'_>, source: io::Error) -> Self {
        Self::Store { file: file.file.to_owned(), source }
    }
}
