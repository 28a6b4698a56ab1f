use super::HubError;

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RepoKind {
    /// A model.
    Model,
    /// A data set.
    Dataset,
}

impl RepoKind {
    /// Between the endpoint and the repository's name in a URL.
    const fn url_prefix(self) -> &'static str {
        match self {
            Self::Model => "",
            Self::Dataset => "datasets/",
        }
    }

    /// First part of the repository's folder name in a cache.
    const fn folder_prefix(self) -> &'static str {
        match self {
            Self::Model => "models",
            Self::Dataset => "datasets",
        }
    }
}

/// One file of one revision of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HubFile<'a> {
    /// What the repository holds.
    pub kind: RepoKind,
    /// `organisation/name`, or `name` for the oldest repositories.
    pub repo: &'a str,
    /// Branch, tag or commit.
    pub revision: &'a str,
    /// Path inside the repository.
    pub file: &'a str,
}

impl HubFile<'_> {
    /// Refuses names that could leave a URL's or a cache's place.
    pub(super) fn check(&self) -> Result<(), HubError> {
        let repo_valid = is_clean_path(self.repo, 2, is_name_byte);
        let revision_valid = is_clean_path(self.revision, usize::MAX, is_name_byte);
        let file_valid = is_clean_path(self.file, usize::MAX, |byte| is_name_byte(byte) || byte == b' ');
        for (what, text, valid) in [
            ("repository", self.repo, repo_valid),
            ("revision", self.revision, revision_valid),
            ("file name", self.file, file_valid),
        ] {
            if !valid {
                return Err(HubError::Name { what, text: text.to_owned() });
            }
        }
        Ok(())
    }

    /// Whether the revision is a commit and so never changes its meaning.
    pub(super) fn is_pinned(&self) -> bool {
        is_commit(self.revision)
    }

    /// The repository's folder in a cache, e.g. `models--org--name`.
    pub(super) fn folder(&self) -> String {
        format!("{}--{}", self.kind.folder_prefix(), self.repo.replace('/', "--"))
    }

    /// The repository's page for people.
    pub(super) fn page(&self, endpoint: &str) -> String {
        format!("{endpoint}/{}{}", self.kind.url_prefix(), self.repo)
    }

    /// Where the file is downloaded from. A slash in a revision is not a separator of the URL's path.
    pub(super) fn url(&self, endpoint: &str) -> String {
        let revision = self.revision.replace('/', "%2F");
        format!("{}/resolve/{revision}/{}", self.page(endpoint), self.file.replace(' ', "%20"))
    }
}

/// Whether the text is a full commit hash.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'+')
}

fn is_clean_path(text: &str, max_parts: usize, allowed: impl Fn(u8) -> bool) -> bool {
    let parts = text.split('/');
    parts.clone().count() <= max_parts
        && parts.into_iter().all(|part| !matches!(part, "" | "." | "..") && part.bytes().all(&allowed))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: HubFile<'_> =
        HubFile { kind: RepoKind::Dataset, repo: "org/name", revision: "refs/pr/1", file: "data/a b.parquet" };

    #[test]
    fn urls_and_folders_are_those_of_the_hub() {
        assert_eq!(FILE.url("https://hub"), "https://hub/datasets/org/name/resolve/refs%2Fpr%2F1/data/a%20b.parquet");
        assert_eq!(FILE.folder(), "datasets--org--name");
        let model = HubFile { kind: RepoKind::Model, ..FILE };
        assert_eq!(model.page("https://hub"), "https://hub/org/name");
        assert_eq!(model.folder(), "models--org--name");
    }

    #[test]
    fn names_that_leave_their_place_are_refused() {
        FILE.check().unwrap();
        for repo in ["", "a/b/c", "../x", "a//b", "a/..", "a?b", "a%2f", "/a"] {
            assert!(HubFile { repo, ..FILE }.check().is_err(), "{repo}");
        }
        for file in ["", "/etc/passwd", "a/../b", "a\\b", "a#b", "a\nb"] {
            assert!(HubFile { file, ..FILE }.check().is_err(), "{file}");
        }
        assert!(HubFile { revision: "..", ..FILE }.check().is_err());
        assert!(HubFile { revision: "main branch", ..FILE }.check().is_err());
    }
}
