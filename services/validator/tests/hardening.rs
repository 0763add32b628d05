//! What the minimal FFmpeg is as a program: static, position-independent, with every hardening that
//! its build asks for, read from the file itself. (What checksec does, without checksec.)
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::{fs, path::Path, process::Command};

/// ELF-64 constants (elf(5)).
const ET_DYN: u16 = 3;
const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const PT_GNU_STACK: u32 = 0x6474_e551;
const PT_GNU_RELRO: u32 = 0x6474_e552;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const DT_NEEDED: u64 = 1;
const DT_TEXTREL: u64 = 22;
const DT_FLAGS: u64 = 30;
const DT_FLAGS_1: u64 = 0x6fff_fffb;
const DF_TEXTREL: u64 = 4;
const DF_BIND_NOW: u64 = 8;
const DF_1_NOW: u64 = 1;
const DF_1_PIE: u64 = 0x0800_0000;

/// One program header.
#[derive(Debug)]
struct Segment {
    kind: u32,
    flags: u32,
    offset: usize,
    size: usize,
}

struct Elf(Vec<u8>);

impl Elf {
    fn read(path: &Path) -> Self {
        let bytes = fs::read(path)
            .unwrap_or_else(|error| panic!("{}: {error}: run `make ffmpeg`", path.display()));
        assert_eq!(bytes[..6], *b"\x7fELF\x02\x01", "64 bits, little-endian");
        Self(bytes)
    }

    fn number(&self, at: usize, size: usize) -> u64 {
        let bytes = &self.0[at..at + size];
        bytes.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte))
    }

    fn short(&self, at: usize) -> usize {
        usize::try_from(self.number(at, 2)).unwrap()
    }

    fn word(&self, at: usize) -> u32 {
        u32::try_from(self.number(at, 4)).unwrap()
    }

    fn place(&self, at: usize) -> usize {
        usize::try_from(self.number(at, 8)).unwrap()
    }

    fn segments(&self) -> Vec<Segment> {
        let (first, size) = (self.place(32), self.short(54));
        let count = self.short(56);
        let one = |number: usize| {
            let at = first + number * size;
            Segment {
                kind: self.word(at),
                flags: self.word(at + 4),
                offset: self.place(at + 8),
                size: self.place(at + 32),
            }
        };
        (0..count).map(one).collect()
    }

    /// Tag and value of each dynamic entry.
    fn dynamic(&self) -> Vec<(u64, u64)> {
        let segments = self.segments();
        let found = segments.iter().find(|segment| segment.kind == PT_DYNAMIC).unwrap();
        let rows = (found.offset..found.offset + found.size).step_by(16);
        rows.map(|at| (self.number(at, 8), self.number(at + 8, 8))).collect()
    }

    fn has(&self, text: &[u8]) -> bool {
        self.0.windows(text.len()).any(|found| found == text)
    }

    /// In the first megabytes of the code: it takes long in a debug build.
    fn count(&self, needle: &[u8]) -> usize {
        self.0[..8 << 20].windows(needle.len()).filter(|found| *found == needle).count()
    }
}

fn programs() -> [Elf; 2] {
    let bin = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/ffmpeg/bin");
    ["ffmpeg", "ffprobe"].map(|name| Elf::read(&bin.join(name)))
}

#[test]
fn the_built_programs_are_static_and_position_independent() {
    for elf in programs() {
        assert_eq!(elf.number(16, 2), u64::from(ET_DYN), "at a random address");
        let segments = elf.segments();
        assert!(segments.iter().all(|segment| segment.kind != PT_INTERP), "no loader");
        let dynamic = elf.dynamic();
        assert!(dynamic.iter().all(|(tag, _)| *tag != DT_NEEDED), "no library");
        let flags = |wanted: u64| dynamic.iter().find(|(tag, _)| *tag == wanted).unwrap().1;
        assert_eq!(flags(DT_FLAGS_1) & DF_1_PIE, DF_1_PIE);
    }
}

#[test]
fn no_memory_of_them_is_writable_and_executable() {
    for elf in programs() {
        let segments = elf.segments();
        let loads: Vec<_> = segments.iter().filter(|segment| segment.kind == PT_LOAD).collect();
        assert!(loads.iter().all(|load| load.flags & (PF_W | PF_X) != PF_W | PF_X), "{loads:?}");
        let stack = segments.iter().find(|segment| segment.kind == PT_GNU_STACK).unwrap();
        assert_eq!(stack.flags & PF_X, 0, "the stack");
        let dynamic = elf.dynamic();
        assert!(dynamic.iter().all(|(tag, _)| *tag != DT_TEXTREL), "code is never written");
        let flags = |wanted: u64| dynamic.iter().find(|(tag, _)| *tag == wanted).map(|row| row.1);
        assert_eq!(flags(DT_FLAGS).unwrap_or(0) & DF_TEXTREL, 0);
        // Full RELRO: all is bound at start, and then read-only.
        let relro = segments.iter().find(|segment| segment.kind == PT_GNU_RELRO).unwrap();
        assert!(relro.size > 0);
        assert_eq!(flags(DT_FLAGS).unwrap() & DF_BIND_NOW, DF_BIND_NOW);
        assert_eq!(flags(DT_FLAGS_1).unwrap() & DF_1_NOW, DF_1_NOW);
    }
}

#[test]
fn they_notice_overflows() {
    for elf in programs() {
        assert!(elf.has(b"stack smashing detected"), "-fstack-protector-strong");
        assert!(elf.has(b"buffer overflow detected"), "_FORTIFY_SOURCE");
        if cfg!(target_arch = "x86_64") {
            // `mov %fs:0x28,%reg` begins each function that has an array: the canary. A C library
            // alone has some hundreds.
            let canaries = elf.count(b"\x64\x48\x8b\x04\x25\x28\0\0\0")
                + elf.count(b"\x64\x48\x2b\x04\x25\x28\0\0\0");
            assert!(canaries > 2000, "{canaries} canaries");
            // `endbr64`, where control flow protection lets indirect jumps land.
            let landings = elf.count(b"\xf3\x0f\x1e\xfa");
            assert!(landings > 2000, "{landings} landing places");
        }
    }
}

/// Debian's patches are in: the version names Debian's revision, which is the one that apt has.
#[test]
fn they_are_of_debian_s_source() {
    let tools = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools/ffmpeg");
    let manifest = fs::read_to_string(tools.join("MANIFEST")).unwrap();
    let source = manifest.lines().find_map(|line| line.strip_prefix("source ffmpeg ")).unwrap();
    let upstream = source.split_once(':').map_or(source, |(_, version)| version);
    assert!(upstream.contains("-"), "{source} is a Debian version");
    for name in ["ffmpeg", "ffprobe"] {
        let out = Command::new(tools.join("bin").join(name)).arg("-version").output().unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let line = text.lines().next().unwrap();
        assert!(line.starts_with(&format!("{name} version {upstream}+hotcell ")), "{line}");
    }
}
