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
        "{page} refused access to `{file}` (HTTP {status}{}): {}{}",
        if *.token_sent { ", with your token" } else { ", without a token" },
        if *.token_sent {
            "accept its licence on that page with the token's account, or set HF_TOKEN to a token that may read it"
        } else {
            "accept its licence on that page and set HF_TOKEN or run `hf auth login`"
        },
        if *.is_gated { "" } else { "; a repository that does not exist answers the same" }
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
        /// Whether the hub says that the repository is gated; else it may as well not exist.
        is_gated: bool,
    },
    /// The hub says that there is no such repository for this user.
    #[error(
        "{page} does not exist, or is private{}: check the name; for a private repository {}",
        if *.token_sent { " and your token may not read it" } else { "" },
        if *.token_sent { "set HF_TOKEN to a token of an account with access" } else { "set HF_TOKEN or run `hf auth login`" }
    )]
    NoRepository {
        /// The repository's page.
        page: String,
        /// Whether a token was sent.
        token_sent: bool,
    },
    /// The hub says that the repository has no such branch, tag or commit.
    #[error("{page} has no revision `{revision}`: name a branch, a tag or a full commit of it after `@`")]
    NoRevision {
        /// The repository's page.
        page: String,
        /// As given.
        revision: String,
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
        matches!(
            self,
            Self::Name { .. }
                | Self::NoRepository { .. }
                | Self::NoRevision { .. }
                | Self::Missing { .. }
                | Self::NoCommit { .. }
        )
    }

    pub(super) fn offline(hub: &Hub, file: &HubFile<'_>, reason: String) -> Self {
        Self::Offline {
            page: file.page(&hub.settings.endpoint),
            file: file.file.to_owned(),
            reason,
            place: cache::place(&hub.settings.cache_dir, file),
        }
    }

    /// What a status means. `code` is the hub's own word for it, which mirrors may not give.
    pub(super) fn status(hub: &Hub, file: &HubFile<'_>, status: u16, code: Option<&str>, token_sent: bool) -> Self {
        let (page, name) = (file.page(&hub.settings.endpoint), file.file.to_owned());
        match (status, code) {
            (401 | 403 | 404, Some("RepoNotFound")) => Self::NoRepository { page, token_sent },
            (404, Some("RevisionNotFound")) => Self::NoRevision { page, revision: file.revision.to_owned() },
            (401 | 403, _) => Self::Gated { page, file: name, status, token_sent, is_gated: code == Some("GatedRepo") },
            (404, _) => Self::Missing { page, file: name, revision: file.revision.to_owned() },
            _ => Self::Status { page, file: name, status, place: cache::place(&hub.settings.cache_dir, file) },
        }
    }

    pub(super) fn store(file: &HubFile<'_>, source: io::Error) -> Self {
        Self::Store { file: file.file.to_owned(), source }
    }
}
