//! Matroska and WebM (RFC 8794, RFC 9559): sizes, depth, counts, clocks, links, compressed tracks.

use super::{
    BROKEN, COMPLETED, COMPLEX, Canary, Expect, HUNGRY, MALFORMED, MUTANT, SECRET, Shelf,
    bytes::{back, find, find_last, front, inserted, patched},
    clips::Clips,
    deflate,
};
use anyhow::Result;

const KIND: &str = "video/x-matroska";

/// A size of which nothing is known (RFC 8794 §6.2).
const UNKNOWN: [u8; 8] = [0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];

/// An element with this size field.
fn sized(id: u32, size: &[u8], body: &[u8]) -> Vec<u8> {
    let id = id.to_be_bytes();
    let skip = id.iter().take_while(|byte| **byte == 0).count();
    [id.get(skip..).unwrap_or_default(), size, body].concat()
}

/// An element.
pub(super) fn element(id: u32, body: &[u8]) -> Vec<u8> {
    let mut size = u64::try_from(body.len()).unwrap_or(0).to_be_bytes();
    if let Some(first) = size.first_mut() {
        *first = 1;
    }
    sized(id, &size, body)
}

fn number(id: u32, value: u64) -> Vec<u8> {
    element(id, &value.to_be_bytes())
}

fn head() -> Vec<u8> {
    element(
        0x1A45_DFA3,
        &[element(0x4282, b"matroska"), number(0x4287, 4), number(0x4285, 2)].concat(),
    )
}

/// Segment information: nanoseconds in a tick, ticks in all, and more.
fn info(scale: u64, duration: f64, more: &[u8]) -> Vec<u8> {
    let duration = element(0x4489, &duration.to_be_bytes());
    element(0x1549_A966, &[&number(0x2A_D7B1, scale), duration.as_slice(), more].concat())
}

/// A picture track of JPEG images.
fn track(width: u64, height: u64, more: &[u8]) -> Vec<u8> {
    let video = element(0xE0, &[number(0xB0, width), number(0xBA, height)].concat());
    let fixed = [number(0xD7, 1), number(0x73C5, 1), number(0x83, 1), element(0x86, b"V_MJPEG")];
    element(0xAE, &[&fixed.concat(), video.as_slice(), more].concat())
}

fn tracks(entries: &[u8]) -> Vec<u8> {
    element(0x1654_AE6B, entries)
}

/// A cluster at `ticks` with one frame.
fn cluster(ticks: u64, frame: &[u8]) -> Vec<u8> {
    let block = element(0xA3, &[&[0x81, 0, 0, 0x80], frame].concat());
    element(0x1F43_B675, &[number(0xE7, ticks), block].concat())
}

fn file(parts: &[Vec<u8>]) -> Vec<u8> {
    [head(), element(0x1853_8067, &parts.concat())].concat()
}

pub(super) fn put(clips: &Clips, canary: &Canary, shelf: &mut Shelf) -> Result<()> {
    shelf.family("matroska");
    let jpg = clips.get("jpg")?;
    let frames: Vec<u8> = (0..10).flat_map(|n| cluster(n * 100, jpg)).collect();
    let plain = |info: Vec<u8>, track: Vec<u8>| file(&[info, tracks(&track), frames.clone()]);
    let good = track(128, 96, &[]);
    let ms = 1_000_000;
    shelf.put("by-hand", KIND, plain(info(ms, 1000.0, &[]), good.clone()), COMPLETED);
    let rows: [(&str, Vec<u8>, Expect); 14] = [
        ("duration-nan", plain(info(ms, f64::NAN, &[]), good.clone()), MUTANT),
        ("duration-infinite", plain(info(ms, f64::INFINITY, &[]), good.clone()), MUTANT),
        ("duration-negative", plain(info(ms, -1e9, &[]), good.clone()), MUTANT),
        ("duration-years", plain(info(ms, 1e12, &[]), good.clone()), COMPLEX),
        ("scale-0", plain(info(0, 1000.0, &[]), good.clone()), MUTANT),
        ("scale-max", plain(info(u64::MAX, 1000.0, &[]), good.clone()), MUTANT),
        ("scale-one", plain(info(1, 1e9, &[]), good.clone()), HUNGRY),
        ("size-65535", plain(info(ms, 1000.0, &[]), track(65_535, 65_535, &[])), COMPLEX),
        ("size-max", plain(info(ms, 1000.0, &[]), track(u64::MAX, u64::MAX, &[])), COMPLEX),
        ("size-0", plain(info(ms, 1000.0, &[]), track(0, 0, &[])), MUTANT),
        ("no-tracks", file(&[info(ms, 1000.0, &[]), frames.clone()]), MUTANT),
        ("no-clusters", file(&[info(ms, 1000.0, &[]), tracks(&good)]), BROKEN),
        ("tracks-33", plain(info(ms, 1000.0, &[]), good.repeat(33)), COMPLEX),
        ("tracks-5000", plain(info(ms, 1000.0, &[]), good.repeat(5000)), COMPLEX),
    ];
    for (name, bytes, expect) in rows {
        shelf.put(name, KIND, bytes, expect);
    }
    sizes(clips, shelf)?;
    nested(&[info(ms, 1000.0, &[]), tracks(&good), frames.clone()], shelf);
    compressed(jpg, shelf);
    // Segments that continue another file (RFC 9559 §17), by the canary's name and an identity.
    let film = canary.film().display().to_string();
    let linked = [
        element(0x73A4, &[7; 16]),
        element(0x3C_B923, &[8; 16]),
        element(0x3C_83AB, film.as_bytes()),
        element(0x3E_B923, &[9; 16]),
        element(0x3E_83BB, film.as_bytes()),
        element(0x7384, film.as_bytes()),
    ];
    let bytes = plain(info(ms, 1000.0, &linked.concat()), good.clone());
    shelf.put("linked-segments", KIND, bytes, COMPLETED);
    let atom = [number(0x73C4, 1), number(0x91, 0), element(0x6E67, &[9; 16])].concat();
    let chapters = element(0x1043_A770, &element(0x45B9, &element(0xB6, &atom)));
    let bytes = file(&[info(ms, 1000.0, &[]), chapters, tracks(&good), frames.clone()]);
    shelf.put("linked-chapters", KIND, bytes, COMPLETED);
    let named = element(
        0x1941_A469,
        &element(
            0x61A7,
            &[
                element(0x466E, format!("../../{SECRET}").as_bytes()),
                element(0x4660, b"text/plain"),
                element(0x465C, b"x"),
                number(0x46AE, 1),
            ]
            .concat(),
        ),
    );
    let bytes = file(&[info(ms, 1000.0, &[]), tracks(&good), named, frames]);
    shelf.put("attachment-name", KIND, bytes, COMPLETED);
    Ok(())
}

fn sizes(clips: &Clips, shelf: &mut Shelf) -> Result<()> {
    let mkv = clips.get("mkv")?;
    let segment = find(mkv, b"\x18\x53\x80\x67")? + 4;
    shelf.put("segment-unknown", KIND, patched(mkv, segment, &UNKNOWN), COMPLETED);
    let huge = [0x01, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff];
    shelf.put("segment-2-40", KIND, patched(mkv, segment, &huge), MALFORMED);
    let most = [0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe];
    shelf.put("segment-max", KIND, patched(mkv, segment, &most), MALFORMED);
    for (name, id) in [
        ("info", b"\x15\x49\xa9\x66".as_slice()),
        ("tracks", b"\x16\x54\xae\x6b"),
        ("cluster", b"\x1f\x43\xb6\x75"),
        ("cues", b"\x1c\x53\xbb\x6b"),
    ] {
        // The list at the front names the others by their ids.
        let at = if name == "cluster" { find(mkv, id)? } else { find_last(mkv, id)? };
        for (what, size) in [("unknown", &UNKNOWN), ("max", &most), ("2-40", &huge)] {
            let part = [front(mkv, at), id.to_vec(), size.to_vec(), back(mkv, at + 8)].concat();
            shelf.put(format!("{name}-{what}"), KIND, part, MUTANT);
        }
    }
    // Void of nothing, often; and an EBML header with lengths that no reader takes.
    let first = find_last(mkv, b"\x15\x49\xa9\x66")?;
    let voids = element(0xEC, &[]).repeat(100_000);
    let bytes = patched(&inserted(mkv, first, &voids), segment, &UNKNOWN);
    shelf.put("voids-100000", KIND, bytes, MUTANT);
    let odd = element(
        0x1A45_DFA3,
        &[element(0x4282, b"matroska"), number(0x42F2, 200), number(0x42F3, 200)].concat(),
    );
    let bytes = [odd, back(mkv, segment - 4)].concat();
    shelf.put("id-length-200", KIND, bytes, MUTANT);
    Ok(())
}

fn nested(parts: &[Vec<u8>; 3], shelf: &mut Shelf) {
    let [info, tracks, frames] = parts;
    let nest = |id: u32, depth: usize| (0..depth).fold(Vec::new(), |inner, _| element(id, &inner));
    for (name, depth) in [("64", 64), ("3000", 3000)] {
        let simple = nest(0x67C8, depth);
        let tags = element(0x1254_C367, &element(0x7373, &simple));
        let bytes = file(&[info.clone(), tags, tracks.clone(), frames.clone()]);
        shelf.put(format!("simple-tags-{name}"), KIND, bytes, MUTANT);
        let atoms = element(0x1043_A770, &element(0x45B9, &nest(0xB6, depth)));
        let bytes = file(&[info.clone(), atoms, tracks.clone(), frames.clone()]);
        shelf.put(format!("chapters-{name}"), KIND, bytes, MUTANT);
    }
    let laced = |flags: u8, counts: &[u8]| {
        let block = element(0xA3, &[&[0x81, 0, 0, flags], counts].concat());
        let cluster = element(0x1F43_B675, &[number(0xE7, 0), block].concat());
        file(&[info.clone(), tracks.clone(), cluster])
    };
    shelf.put("lace-xiph-255", KIND, laced(0x02, &[0xff; 600]), MUTANT);
    shelf.put("lace-ebml-255", KIND, laced(0x06, &[0xff; 600]), MUTANT);
    shelf.put("lace-fixed-255", KIND, laced(0x04, &[0xff, 1, 2, 3]), MUTANT);
}

/// Tracks whose frames are compressed: a frame of a megabyte is a gigabyte.
fn compressed(jpg: &[u8], shelf: &mut Shelf) {
    let encoding = |algorithm: u64, settings: &[u8]| {
        let inner = [number(0x4254, algorithm), element(0x4255, settings)].concat();
        let fixed =
            [number(0x5031, 0), number(0x5032, 1), number(0x5033, 0), element(0x5034, &inner)];
        element(0x6D80, &element(0x6240, &fixed.concat()))
    };
    let with = |more: &[u8], frame: &[u8]| {
        file(&[info(1_000_000, 1000.0, &[]), tracks(&track(128, 96, more)), cluster(0, frame)])
    };
    let bomb = encoding(0, &[]);
    for (name, mebibytes) in [("64m", 64_usize), ("1g", 1024)] {
        let (stream, _) = deflate::zeros(mebibytes << 20);
        shelf.put(format!("zlib-frame-{name}"), KIND, with(&bomb, &stream), BROKEN);
    }
    shelf.put("encoding-unknown", KIND, with(&encoding(77, &[]), jpg), MUTANT);
    shelf.put("stripped-header-1m", KIND, with(&encoding(3, &[0xff; 1 << 20]), jpg), MUTANT);
    let (private, _) = deflate::zeros(256 << 20);
    let more = [element(0x63A2, &private), bomb].concat();
    shelf.put("private-256m", KIND, with(&more, jpg), MUTANT);
}
