//! What is installed in the image, read from the files of its package managers: dpkg, apk and conda. rpm keeps a database (SQLite or
//! Berkeley) that only its own library reads: images with rpm give nothing.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use fs_err::File;

/// Packages that are kept of one kind.
const ENTRIES: usize = 20_000;

/// What is read of one file, in bytes.
const FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Longest piece of a line that is read at once, in bytes; what follows it in the line is skipped.
const LINE_BYTES: u64 = 64 * 1024;

/// Beginnings of the lines that are of use: those of dpkg, and of apk.
const FIELDS: [&str; 5] = ["Package:", "Status:", "Version:", "P:", "V:"];

/// Longest name or version that is kept, in bytes.
const WORD_BYTES: usize = 256;

/// Packages with their versions.
pub(crate) type Packages = BTreeMap<String, String>;

/// Packages of the image's own package manager.
pub(crate) fn system_packages(root: &Path) -> Packages {
    let mut found = Packages::new();
    let status = root.join("var/lib/dpkg/status");
    // Images without a package manager have a file for each package.
    for file in std::iter::once(status).chain(files_in(&root.join("var/lib/dpkg/status.d"))) {
        stanzas(&file, |stanza| add_dpkg(&mut found, stanza));
    }
    stanzas(&root.join("lib/apk/db/installed"), |stanza| add(&mut found, field(stanza, "P:"), field(stanza, "V:")));
    found
}

/// Packages of conda environments. Those of the first prefix have their plain names, those of other ones `ENVIRONMENT/NAME`.
pub(crate) fn conda_packages(prefixes: &[PathBuf]) -> Packages {
    let mut found = Packages::new();
    for (number, environment) in environments(prefixes).iter().enumerate() {
        let label = environment.file_name().map(|name| name.to_string_lossy().into_owned()).filter(|_| number > 0);
        for file in files_in(&environment.join("conda-meta")) {
            let Some((name, version)) = file.file_name().and_then(|name| conda_package(name.to_str()?)) else {
                continue;
            };
            let name = label.as_ref().map_or(name.to_owned(), |label| format!("{label}/{name}"));
            add(&mut found, Some(&name), Some(version));
        }
    }
    found
}

/// Where conda lies in this container: the environment that is active, and the usual place.
pub(crate) fn conda_prefixes() -> Vec<PathBuf> {
    let active = std::env::var_os("CONDA_PREFIX").map(PathBuf::from);
    active.into_iter().chain([PathBuf::from("/opt/conda")]).collect()
}

/// The prefixes and the environments below them, each once.
fn environments(prefixes: &[PathBuf]) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for prefix in prefixes {
        for environment in std::iter::once(prefix.clone()).chain(files_in(&prefix.join("envs"))) {
            if !found.contains(&environment) {
                found.push(environment);
            }
        }
    }
    found
}

/// `NAME-VERSION-BUILD.json`: a name may have hyphens, the others have none.
fn conda_package(file: &str) -> Option<(&str, &str)> {
    let mut parts = file.strip_suffix(".json")?.rsplitn(3, '-');
    let (_build, version, name) = (parts.next()?, parts.next()?, parts.next()?);
    Some((name, version))
}

/// A package that was removed with its configuration left behind is not installed. Files of `status.d` have no status.
fn add_dpkg(found: &mut Packages, stanza: &[String]) {
    if field(stanza, "Status:").is_none_or(|status| status.ends_with(" installed")) {
        add(found, field(stanza, "Package:"), field(stanza, "Version:"));
    }
}

/// The first version of a name stays: architectures of one package have the same.
fn add(found: &mut Packages, name: Option<&str>, version: Option<&str>) {
    let fits = |word: &&str| !word.is_empty() && word.len() <= WORD_BYTES;
    if let (Some(name), Some(version)) = (name.filter(fits), version.filter(fits))
        && found.len() < ENTRIES
    {
        found.entry(name.to_owned()).or_insert_with(|| version.to_owned());
    }
}

/// The value of the line that begins with `key`.
fn field<'a>(stanza: &'a [String], key: &str) -> Option<&'a str> {
    stanza.iter().find_map(|line| line.strip_prefix(key)).map(str::trim)
}

/// Hands out the stanzas of a file: of the lines between two empty ones, those with the fields that are needed here.
fn stanzas(file: &Path, mut take: impl FnMut(&[String])) {
    let Some(mut reader) = open(file) else { return };
    let (mut stanza, mut line, mut is_start) = (Vec::new(), Vec::new(), true);
    loop {
        line.clear();
        let is_end = !(&mut reader).take(LINE_BYTES).read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0);
        let is_whole = line.ends_with(b"\n");
        let text = String::from_utf8_lossy(line.trim_ascii_end());
        if is_end || (is_start && text.is_empty()) {
            take(&stanza);
            stanza.clear();
        } else if is_start && stanza.len() < FIELDS.len() && FIELDS.iter().any(|key| text.starts_with(key)) {
            stanza.push(text.into_owned());
        }
        if is_end {
            return;
        }
        is_start = is_whole;
    }
}

fn open(file: &Path) -> Option<impl BufRead> {
    // A pipe in its place would be waited for.
    let is_file = fs_err::metadata(file).is_ok_and(|metadata| metadata.is_file());
    is_file.then(|| File::open(file).ok()).flatten().map(|file| BufReader::new(file.take(FILE_BYTES)))
}

/// What is in a directory, in order and bounded.
fn files_in(directory: &Path) -> Vec<PathBuf> {
    let entries = fs_err::read_dir(directory).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.take(ENTRIES).map(|entry| entry.path()).collect();
    files.sort();
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    const DPKG: &str = "\
Package: libc6
Status: install ok installed
Priority: optional
Architecture: amd64
Version: 2.36-9+deb12u10
Description: GNU C Library: Shared libraries
 Contains the standard libraries.
 Version: not this one

Package: old
Status: deinstall ok config-files
Version: 1.0

Package: libc6
Status: install ok installed
Architecture: i386
Version: 2.36-9+deb12u10

Package: libcudnn9-cuda-12
Status: hold ok installed
Version: 9.8.0.87-1";

    const APK: &str = "\
C:Q1jsbNLPLmEiHdAWIGEDwPPVoqLbc=
P:musl
V:1.2.5-r0
A:x86_64
F:lib
R:ld-musl-x86_64.so.1

C:Q1x
P:busybox
V:1.36.1-r29
";

    fn root_with(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = root.path().join(name);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, content).unwrap();
        }
        root
    }

    fn packages(pairs: &[(&str, &str)]) -> Packages {
        pairs.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect()
    }

    #[test]
    fn dpkg_gives_what_is_installed() {
        let root = root_with(&[("var/lib/dpkg/status", DPKG.as_bytes())]);
        let expected = [("libc6", "2.36-9+deb12u10"), ("libcudnn9-cuda-12", "9.8.0.87-1")];
        assert_eq!(system_packages(root.path()), packages(&expected));
    }

    #[test]
    fn images_without_a_package_manager_have_a_file_each() {
        let root = root_with(&[
            ("var/lib/dpkg/status.d/base", b"Package: base-files\nVersion: 12.4+deb12u10\n"),
            ("var/lib/dpkg/status.d/base.md5sums", b"0cc1  etc/debian_version\n"),
            ("var/lib/dpkg/status.d/tz", b"Package: tzdata\nVersion: 2025a-0+deb12u1\n"),
        ]);
        let expected = [("base-files", "12.4+deb12u10"), ("tzdata", "2025a-0+deb12u1")];
        assert_eq!(system_packages(root.path()), packages(&expected));
    }

    #[test]
    fn apk_is_read() {
        let root = root_with(&[("lib/apk/db/installed", APK.as_bytes())]);
        assert_eq!(system_packages(root.path()), packages(&[("busybox", "1.36.1-r29"), ("musl", "1.2.5-r0")]));
    }

    #[test]
    fn conda_names_its_files_after_its_packages() {
        let root = root_with(&[
            ("conda/conda-meta/history", b""),
            ("conda/conda-meta/cuda-cudart-12.4.127-h99ab3db_0.json", b"{}"),
            ("conda/conda-meta/nameless.json", b"{}"),
            ("conda/envs/serve/conda-meta/numpy-1.26.4-py311h64a7726_0.json", b"{}"),
            ("other/conda-meta/numpy-2.0.0-py312_0.json", b"{}"),
        ]);
        let prefix = |name| root.path().join(name);
        let expected = [("cuda-cudart", "12.4.127"), ("serve/numpy", "1.26.4"), ("other/numpy", "2.0.0")];
        assert_eq!(conda_packages(&[prefix("conda"), prefix("other"), prefix("conda")]), packages(&expected));
        assert_eq!(conda_packages(&[prefix("conda/envs/serve"), prefix("conda")]).get("numpy").unwrap(), "1.26.4");
        assert_eq!(conda_packages(&[prefix("none")]), Packages::new());
    }

    #[test]
    fn hostile_files_cost_only_themselves() {
        let mut status =
            b"Package: \xff\xfe\nVersion: 1\n\nPackage: a\n\nVersion: 2\n\n\n\nPackage:\nVersion: 3\n\n".to_vec();
        // The end of a long line is no line.
        status.extend(b"Package: cut\nD: ");
        status.extend(vec![b'x'; LINE_BYTES as usize - 3]);
        status.extend(b"Version: 4\n\nPackage: good\nVersion: 5");
        let root = root_with(&[("var/lib/dpkg/status", &status)]);
        let found = system_packages(root.path());
        assert_eq!(found.values().collect::<Vec<_>>(), ["5", "1"], "{found:?}");
        fs_err::create_dir_all(root.path().join("lib/apk/db/installed")).unwrap();
        assert_eq!(system_packages(root.path()).len(), 2);
    }

    #[test]
    fn a_flood_of_packages_is_cut() {
        let status = (0..ENTRIES + 10).map(|n| format!("Package: p{n}\nVersion: 1\n")).collect::<Vec<_>>().join("\n");
        let root = root_with(&[("var/lib/dpkg/status", status.as_bytes())]);
        assert_eq!(system_packages(root.path()).len(), ENTRIES);
    }
}
