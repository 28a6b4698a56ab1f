//! The oldest C library that a binary of this machine can run on.

use object::LittleEndian;
use object::elf::SHT_DYNSYM;
use object::read::SymbolIndex;
use object::read::elf::{ElfFile64, FileHeader};

/// A version of the GNU C library.
pub(super) type Glibc = (u32, u32);

/// The highest version of glibc's symbols that a binary needs; `None` for what is no such binary.
pub(super) fn glibc_floor(binary: &[u8]) -> Option<Glibc> {
    let file = ElfFile64::<LittleEndian>::parse(binary).ok()?;
    let sections = file.elf_header().sections(LittleEndian, binary).ok()?;
    let versions = sections.versions(LittleEndian, binary).ok()??;
    let symbols = sections.symbols(LittleEndian, binary, SHT_DYNSYM).ok()?;
    let indexes = (0..symbols.len()).map(|place| versions.version_index(LittleEndian, SymbolIndex(place)));
    let names = indexes.filter_map(|index| Some(versions.version(index.index()).ok()??.name()));
    names.filter_map(|name| version(std::str::from_utf8(name).ok()?.strip_prefix("GLIBC_")?)).max()
}

/// The version in `glibc 2.36`; `None` for another C library.
pub(super) fn glibc_version(libc: &str) -> Option<Glibc> {
    version(libc.strip_prefix("glibc ")?)
}

/// `2.17` and `2.2.5`.
fn version(text: &str) -> Option<Glibc> {
    let mut parts = text.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::{glibc_floor, glibc_version};

    #[test]
    fn this_test_needs_no_newer_library_than_that_of_its_machine() {
        let own = fs_err::read(std::env::current_exe().unwrap()).unwrap();
        let floor = glibc_floor(&own).unwrap();
        assert!(floor >= (2, 17), "{floor:?}");
        assert_eq!(glibc_floor(b"#!/bin/sh\n"), None);
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(glibc_version("glibc 2.36"), Some((2, 36)));
        assert!(glibc_version("glibc 2.4") < glibc_version("glibc 2.36"));
        assert_eq!(glibc_version("musl"), None);
    }
}
