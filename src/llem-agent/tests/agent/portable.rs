//! The binary is copied into images that llem does not know: it may need nothing but an old enough C library.

use object::LittleEndian;
use object::read::elf::{ElfFile64, FileHeader};

/// The floor of a plain build on Debian 12, and of every engine image in scope.
const HIGHEST_GLIBC: (u32, u32) = (2, 34);

const ALLOWED: [&str; 6] =
    ["libc.so.6", "libm.so.6", "libgcc_s.so.1", "libpthread.so.0", "libdl.so.2", "ld-linux-x86-64.so.2"];

#[test]
fn only_the_c_library_is_needed() {
    let bytes = fs_err::read(env!("CARGO_BIN_EXE_llem-agent")).unwrap();
    let needed = needed_libraries(&bytes);
    assert!(needed.contains(&"libc.so.6".to_owned()), "{needed:?}");
    assert!(needed.iter().all(|library| ALLOWED.contains(&library.as_str())), "{needed:?}");
}

#[test]
fn no_symbol_is_newer_than_the_floor() {
    let bytes = fs_err::read(env!("CARGO_BIN_EXE_llem-agent")).unwrap();
    let versions = glibc_versions(&bytes);
    let highest = versions.iter().max().unwrap();
    assert!(*highest <= HIGHEST_GLIBC, "needs GLIBC_{}.{}", highest.0, highest.1);
}

fn needed_libraries(bytes: &[u8]) -> Vec<String> {
    let file = ElfFile64::<LittleEndian>::parse(bytes).unwrap();
    let (dynamic, link) = file.elf_section_table().dynamic(LittleEndian, bytes).unwrap().unwrap();
    let strings = file.elf_section_table().strings(LittleEndian, bytes, link).unwrap();
    let needed = dynamic.iter().filter(|entry| entry.d_tag.get(LittleEndian) == object::elf::DT_NEEDED);
    needed
        .map(|entry| {
            let name = strings.get(entry.d_val.get(LittleEndian) as u32).unwrap();
            String::from_utf8(name.to_vec()).unwrap()
        })
        .collect()
}

fn glibc_versions(bytes: &[u8]) -> Vec<(u32, u32)> {
    let file = ElfFile64::<LittleEndian>::parse(bytes).unwrap();
    let header = file.elf_header();
    let sections = header.sections(LittleEndian, bytes).unwrap();
    let versions = sections.versions(LittleEndian, bytes).unwrap().unwrap();
    let symbols = sections.symbols(LittleEndian, bytes, object::elf::SHT_DYNSYM).unwrap();
    let indexes = (0..symbols.len()).map(|place| versions.version_index(LittleEndian, object::SymbolIndex(place)));
    let names = indexes.filter_map(|index| Some(versions.version(index.index()).unwrap()?.name()));
    names.filter_map(|name| parse_version(std::str::from_utf8(name).unwrap())).collect()
}

fn parse_version(name: &str) -> Option<(u32, u32)> {
    let (major, minor) = name.strip_prefix("GLIBC_")?.split_once('.')?;
    let minor = minor.split_once('.').map_or(minor, |(minor, _)| minor);
    Some((major.parse().ok()?, minor.parse().ok()?))
}
