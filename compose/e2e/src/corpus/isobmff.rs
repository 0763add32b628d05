//! MP4 and QuickTime (ISO/IEC 14496-12): sizes, counts, recursion, compressed headers, references.

use super::{
    BROKEN, COMPLETED, COMPLEX, Canary, Expect, HUNGRY, MALFORMED, MUTANT, Shelf,
    bytes::{back, find, front, inserted, len32, patched},
    clips::Clips,
    deflate,
};
use anyhow::{Context as _, Result};

/// A change of one clip: name, box, offset from the end of the box's name, bytes, ends.
type Patch = (&'static str, &'static [u8; 4], isize, &'static [u8], Expect);

const ALL_ONES: &[u8] = &[0xff; 4];

/// Offset of a box's size from the end of its name.
const SIZE: isize = -8;

/// Fields after version and flags, by the tables of the specification.
const PATCHES: &[Patch] = &[
    ("moov-size-0", b"moov", SIZE, &[0; 4], MUTANT),
    ("moov-size-1", b"moov", SIZE, &[0, 0, 0, 1], MALFORMED),
    ("moov-size-7", b"moov", SIZE, &[0, 0, 0, 7], MALFORMED),
    ("moov-size-max", b"moov", SIZE, ALL_ONES, MALFORMED),
    ("mdat-size-max", b"mdat", SIZE, ALL_ONES, MALFORMED),
    ("mdat-size-0", b"mdat", SIZE, &[0; 4], MALFORMED),
    ("trak-size-0", b"trak", SIZE, &[0; 4], MALFORMED),
    ("trak-size-1", b"trak", SIZE, &[0, 0, 0, 1], MALFORMED),
    ("trak-size-max", b"trak", SIZE, ALL_ONES, MALFORMED),
    ("trak-size-7", b"trak", SIZE, &[0, 0, 0, 7], MALFORMED),
    ("trak-overlaps-moov", b"trak", SIZE, &[0, 0, 0x20, 0], MALFORMED),
    ("stsd-size-max", b"stsd", SIZE, ALL_ONES, MALFORMED),
    ("stsz-size-small", b"stsz", SIZE, &[0, 0, 0, 12], BROKEN),
    ("stsd-count-max", b"stsd", 4, ALL_ONES, MUTANT),
    ("stsd-count-0", b"stsd", 4, &[0; 4], BROKEN),
    ("stsd-entry-size-max", b"stsd", 8, ALL_ONES, MUTANT),
    ("stsd-entry-size-0", b"stsd", 8, &[0; 4], MUTANT),
    ("stsd-unknown-codec", b"stsd", 12, b"zzzz", BROKEN),
    ("stsd-65535", b"stsd", 40, &[0xff; 4], COMPLEX),
    ("stsd-0x0", b"stsd", 40, &[0; 4], MUTANT),
    ("tkhd-65535", b"tkhd", 76, &[0xff; 8], COMPLEX),
    ("tkhd-1x1", b"tkhd", 76, &[0, 1, 0, 0, 0, 1, 0, 0], MUTANT),
    ("stsz-count-max", b"stsz", 8, ALL_ONES, MUTANT),
    ("stsz-count-2-31", b"stsz", 8, &[0x7f, 0xff, 0xff, 0xff], MUTANT),
    ("stsz-sample-max", b"stsz", 4, ALL_ONES, MUTANT),
    ("stsz-sample-2-30", b"stsz", 4, &[0x40, 0, 0, 0], MUTANT),
    ("stts-count-max", b"stts", 4, ALL_ONES, MUTANT),
    ("stts-run-max", b"stts", 8, ALL_ONES, MUTANT),
    ("stts-delta-max", b"stts", 12, ALL_ONES, MUTANT),
    ("stts-delta-0", b"stts", 12, &[0; 4], MUTANT),
    ("stsc-count-max", b"stsc", 4, ALL_ONES, MUTANT),
    ("stsc-first-0", b"stsc", 8, &[0; 4], MUTANT),
    ("stsc-samples-max", b"stsc", 12, ALL_ONES, MUTANT),
    ("stco-count-max", b"stco", 4, ALL_ONES, MUTANT),
    ("stco-offset-max", b"stco", 8, ALL_ONES, MUTANT),
    ("stco-offset-0", b"stco", 8, &[0; 4], MUTANT),
    ("mvhd-timescale-0", b"mvhd", 12, &[0; 4], MUTANT),
    ("mvhd-timescale-max", b"mvhd", 12, ALL_ONES, MUTANT),
    ("mdhd-timescale-0", b"mdhd", 12, &[0; 4], MUTANT),
    ("mdhd-timescale-max", b"mdhd", 12, ALL_ONES, MUTANT),
    ("mdhd-timescale-1", b"mdhd", 12, &[0, 0, 0, 1], HUNGRY),
    ("hdlr-unknown", b"hdlr", 8, b"zzzz", MUTANT),
    ("hdlr-sound", b"hdlr", 8, b"soun", MUTANT),
    ("elst-count-max", b"elst", 4, ALL_ONES, MUTANT),
    ("elst-duration-max", b"elst", 8, ALL_ONES, MUTANT),
    ("elst-time-max", b"elst", 12, &[0x7f, 0xff, 0xff, 0xff], MUTANT),
    ("elst-time-min", b"elst", 12, &[0x80, 0, 0, 0], MUTANT),
    ("dref-count-max", b"dref", 4, ALL_ONES, MUTANT),
    ("avcc-sps-count", b"avcC", 5, &[0xff], BROKEN),
    ("avcc-length-size", b"avcC", 4, &[0xff], MUTANT),
    ("esds-length", b"esds", 5, &[0xff, 0xff, 0xff, 0x7f], MUTANT),
];

/// The same for a clip in fragments.
const FRAGMENTS: &[Patch] = &[
    ("trun-count-max", b"trun", 4, ALL_ONES, MUTANT),
    ("trun-offset-max", b"trun", 8, ALL_ONES, MUTANT),
    ("tfhd-track-max", b"tfhd", 4, ALL_ONES, MUTANT),
    ("tfhd-all-flags", b"tfhd", 1, &[0xff; 3], MUTANT),
    ("tfdt-max", b"tfdt", 4, &[0xff; 8], MUTANT),
];

/// A box.
pub(super) fn boxed(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let size = len32(body).saturating_add(8).to_be_bytes();
    [&size, kind.as_slice(), body].concat()
}

/// The first box of a kind: where it begins, and its bytes.
pub(super) fn first<'a>(bytes: &'a [u8], kind: &[u8; 4]) -> Result<(usize, &'a [u8])> {
    let at = find(bytes, kind)?.checked_sub(4).context("a box begins with its size")?;
    let size = bytes.get(at..at + 4).context("a size")?;
    let size = usize::try_from(u32::from_be_bytes(size.try_into()?))?;
    Ok((at, bytes.get(at..at + size).context("a whole box")?))
}

/// The clip, whose `moov` is last, with more at the end of its `moov`.
pub(super) fn with_more(clip: &[u8], more: &[u8]) -> Result<Vec<u8>> {
    let (at, moov) = first(clip, b"moov")?;
    let body = [moov.get(8..).unwrap_or_default(), more].concat();
    Ok([front(clip, at), boxed(b"moov", &body)].concat())
}

/// The clip with another body for the first box of a kind, and the sizes of those above it.
pub(super) fn replaced(
    clip: &[u8],
    above: &[&[u8; 4]],
    kind: &[u8; 4],
    body: &[u8],
) -> Result<Vec<u8>> {
    let (at, old) = first(clip, kind)?;
    let made = boxed(kind, body);
    let mut bytes = [&front(clip, at), made.as_slice(), &back(clip, at + old.len())].concat();
    for kind in above {
        let (start, outer) = first(clip, kind)?;
        let size = (len32(outer) + len32(&made)).saturating_sub(len32(old));
        bytes = patched(&bytes, start, &size.to_be_bytes());
    }
    Ok(bytes)
}

pub(super) fn put(clips: &Clips, canary: &Canary, shelf: &mut Shelf) -> Result<()> {
    let (mp4, kind) = (clips.get("mp4")?, "video/mp4");
    shelf.family("mp4-box");
    for (name, within, offset, with, expect) in PATCHES {
        let at = find(mp4, within.as_slice())? + 4;
        let at = at.checked_add_signed(*offset).context("inside the file")?;
        shelf.put(name, kind, patched(mp4, at, with), *expect);
    }
    let (mdat, _) = first(mp4, b"mdat")?;
    for (name, size) in [("2-63", 1_u64 << 63), ("max", u64::MAX), ("15", 15), ("2-40", 1 << 40)] {
        let large = [&[0, 0, 0, 1], b"mdat".as_slice(), &size.to_be_bytes()].concat();
        let bytes = [front(mp4, mdat), large, back(mp4, mdat + 16)].concat();
        shelf.put(format!("mdat-large-{name}"), kind, bytes, MALFORMED);
    }
    fragments(clips.get("fragmented")?, shelf)?;
    nested(mp4, shelf)?;
    compressed(mp4, shelf)?;
    tracks(mp4, shelf)?;
    references(mp4, canary, shelf)
}

fn fragments(clip: &[u8], shelf: &mut Shelf) -> Result<()> {
    for (name, within, offset, with, expect) in FRAGMENTS {
        let at = (find(clip, within.as_slice())? + 4).checked_add_signed(*offset);
        let at = at.context("inside the file")?;
        shelf.put(name, "video/mp4", patched(clip, at, with), *expect);
    }
    let (at, _) = first(clip, b"moof")?;
    let count = [&[0; 8][..], &1_u32.to_be_bytes(), &[0; 8], &[0xff; 4], &[0; 64]].concat();
    let sidx = boxed(b"sidx", &count);
    shelf.put("sidx-count-max", "video/mp4", inserted(clip, at, &sidx), MUTANT);
    let twice = [clip, back(clip, at).as_slice()].concat();
    shelf.put("fragments-twice", "video/mp4", twice, MUTANT);
    Ok(())
}

fn nested(mp4: &[u8], shelf: &mut Shelf) -> Result<()> {
    let nest = |kind: &[u8; 4], depth: usize| {
        let size = |level: usize| u32::try_from(8 * (depth - level)).unwrap_or(u32::MAX);
        let one = |level| [&size(level).to_be_bytes(), kind.as_slice()].concat();
        (0..depth).flat_map(one).collect::<Vec<u8>>()
    };
    for (name, kind, depth) in [
        ("udta-20000", b"udta", 20_000),
        ("meta-5000", b"meta", 5000),
        ("moov-1000", b"moov", 1000),
        ("wide-100000", b"wide", 100_000),
    ] {
        let bytes = with_more(mp4, &nest(kind, depth))?;
        shelf.put(format!("nested-{name}"), "video/mp4", bytes, MUTANT);
    }
    let (_, trak) = first(mp4, b"trak")?;
    let inner = boxed(b"trak", &[trak.get(8..).unwrap_or_default(), trak].concat());
    shelf.put("trak-in-trak", "video/mp4", with_more(mp4, &inner)?, MUTANT);
    let (_, moov) = first(mp4, b"moov")?;
    shelf.put("two-indices", "video/mp4", [mp4, moov].concat(), MALFORMED);
    let free = boxed(b"free", &[]).repeat(300_000);
    shelf.put("boxes-300000", "video/mp4", [mp4, &free].concat(), COMPLEX);
    let ilst = boxed(b"\xa9nam", &boxed(b"data", &[0; 8])).repeat(50_000);
    let meta = boxed(b"udta", &boxed(b"meta", &[&[0; 4][..], &boxed(b"ilst", &ilst)].concat()));
    shelf.put("tags-50000", "video/mp4", with_more(mp4, &meta)?, MUTANT);
    Ok(())
}

/// QuickTime's compressed index: a small `cmov` is a large `moov` (QTFF, Movie Header Atoms).
fn compressed(mp4: &[u8], shelf: &mut Shelf) -> Result<()> {
    let (at, _) = first(mp4, b"moov")?;
    for (name, mebibytes) in [("16m", 16_usize), ("512m", 512)] {
        let (stream, size) = deflate::zeros(mebibytes << 20);
        let size = u32::try_from(size)?.to_be_bytes();
        let cmvd = boxed(b"cmvd", &[&size, stream.as_slice()].concat());
        let cmov = boxed(b"cmov", &[boxed(b"dcom", b"zlib"), cmvd].concat());
        let bytes = [front(mp4, at), boxed(b"moov", &cmov)].concat();
        shelf.put(format!("cmov-{name}"), "video/quicktime", bytes, COMPLEX);
    }
    Ok(())
}

fn tracks(mp4: &[u8], shelf: &mut Shelf) -> Result<()> {
    shelf.family("tracks");
    let second = find(mp4, b"trak")? + 4;
    let (_, trak) = first(mp4.get(second..).context("a second track")?, b"trak")?;
    let expects = [(29, COMPLETED), (31, COMPLEX), (1000, COMPLEX), (10_000, COMPLEX)];
    for (more, expect) in expects {
        let bytes = with_more(mp4, &trak.repeat(more))?;
        shelf.put(format!("mp4-{more}-more"), "video/mp4", bytes, expect);
    }
    Ok(())
}

/// Data references that name other files: `url `, and QuickTime's `alis` with an absolute path.
fn references(mp4: &[u8], canary: &Canary, shelf: &mut Shelf) -> Result<()> {
    shelf.family("reference-in");
    let film = canary.film().display().to_string();
    let whole = |entry: Vec<u8>| {
        let body = [&[0; 4][..], &1_u32.to_be_bytes(), &entry].concat();
        let above = [b"moov", b"trak", b"mdia", b"minf", b"dinf"];
        replaced(mp4, &above, b"dref", &body)
    };
    let urls = [
        ("url-path", film.clone()),
        ("url-file", format!("file://{film}")),
        ("url-http", "http://127.0.0.1:9/film.mp4".to_owned()),
        ("url-up", "../film.mp4".to_owned()),
    ];
    for (name, target) in urls {
        let entry = boxed(b"url ", &[&[0; 4][..], target.as_bytes(), b"\0"].concat());
        let bytes = whole(entry)?;
        shelf.put(format!("dref-{name}"), "video/mp4", bytes, MUTANT);
    }
    // An alias record: 150 bytes of fixed fields, then typed strings; type 18 is the POSIX path.
    let path = film.trim_start_matches('/').as_bytes();
    let length = u16::try_from(path.len())?.to_be_bytes();
    let pad = vec![0; path.len() % 2];
    let tail = [&18_u16.to_be_bytes()[..], &length, path, &pad, &[0xff, 0xff, 0, 0]];
    let alias = [&[0; 4][..], &[0; 150], &tail.concat()].concat();
    let bytes = whole(boxed(b"alis", &alias))?;
    shelf.put("dref-alis", "video/quicktime", bytes, MUTANT);
    // A reference movie: only the name of another one (QTFF, Reference Movie Atoms).
    let rdrf = boxed(
        b"rdrf",
        &[&[0; 4][..], b"url ", &len32(film.as_bytes()).to_be_bytes(), film.as_bytes(), b"\0"]
            .concat(),
    );
    let rmra = boxed(b"rmra", &boxed(b"rmda", &rdrf));
    let movie = [boxed(b"ftyp", b"qt  \0\0\0\0qt  "), boxed(b"moov", &rmra)].concat();
    shelf.put("rmra", "video/quicktime", movie, MALFORMED);
    Ok(())
}
