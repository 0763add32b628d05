//! Clocks: gaps of days, years of duration, none, backwards, before zero; and huge or tiny
//! pictures in small valid files.

use super::{
    COMPLETED, COMPLEX, Expect, HUNGRY, MUTANT, Shelf,
    bytes::{find, patched},
    clips::Clips,
    isobmff::replaced,
};
use anyhow::{Context as _, Result};

const KIND: &str = "video/mp4";

/// Seconds of a day.
const DAY_SECS: u32 = 86_400;

pub(super) fn put(clips: &Clips, shelf: &mut Shelf) -> Result<()> {
    shelf.family("timing");
    let mp4 = clips.get("mp4")?;
    let at = |kind: &[u8; 4], offset: usize| find(mp4, kind).map(|found| found + 4 + offset);
    let number = |value: u32| value.to_be_bytes();
    let movie = |ticks: u32| Ok::<_, anyhow::Error>(patched(mp4, at(b"mvhd", 16)?, &number(ticks)));
    shelf.put("movie-zero", KIND, movie(0)?, MUTANT);
    // Ticks of a millisecond: 4 hours and a second, 49 days.
    shelf.put("movie-4h", KIND, movie(14_401_000)?, COMPLEX);
    shelf.put("movie-49-days", KIND, movie(u32::MAX - 1)?, COMPLEX);
    let media = patched(mp4, at(b"mdhd", 16)?, &number(u32::MAX - 1));
    shelf.put("media-years", KIND, media, HUNGRY);
    // Every sample lasts a day, or most of the clock's range.
    let scale = mp4.get(at(b"mdhd", 12)?..).context("a clock")?.first_chunk().context("a clock")?;
    let scale = u32::from_be_bytes(*scale);
    for (name, delta) in [
        ("gap-minute", scale.saturating_mul(60)),
        ("gap-day", scale.saturating_mul(DAY_SECS)),
        ("gap-max", u32::MAX),
        ("gap-back", 0x8000_0000),
    ] {
        shelf.put(name, KIND, patched(mp4, at(b"stts", 12)?, &number(delta)), HUNGRY);
    }
    let edit = patched(mp4, at(b"elst", 12)?, &number(u32::MAX));
    shelf.put("edit-empty", KIND, edit, MUTANT);
    let rate = patched(mp4, at(b"elst", 16)?, &number(0));
    shelf.put("edit-rate-0", KIND, rate, MUTANT);
    let back = patched(mp4, at(b"elst", 16)?, &number(0x8000_0000));
    shelf.put("edit-rate-negative", KIND, back, MUTANT);
    transport(clips.get("ts")?, shelf);
    flash(clips.get("flv")?, shelf);
    clusters(clips.get("mkv")?, shelf);
    pictures(clips, shelf)
}

/// Rewrites the presentation times of a transport stream.
fn transport(ts: &[u8], shelf: &mut Shelf) {
    let stamped = |time: &dyn Fn(u64) -> u64| {
        let (mut ts, mut seen) = (ts.to_vec(), 0);
        let starts: Vec<usize> = ts
            .windows(4)
            .enumerate()
            .filter(|(_, w)| matches!(w, [0, 0, 1, 0xc0 | 0xe0]))
            .map(|(at, _)| at)
            .collect();
        for at in starts {
            let bits = time(seen);
            seen += 1;
            let part = |shift: u32, mask: u64| u8::try_from(bits >> shift & mask).unwrap_or(0);
            // 33 bits in five bytes with markers (ISO/IEC 13818-1 §2.4.3.6).
            let five = [
                0x21 | part(30, 7) << 1,
                part(22, 0xff),
                part(15, 0x7f) << 1 | 1,
                part(7, 0xff),
                part(0, 0x7f) << 1 | 1,
            ];
            ts = patched(&ts, at + 9, &five);
        }
        ts
    };
    let day = 90_000 * 86_400_u64;
    let rows: [(&str, Vec<u8>); 4] = [
        ("ts-days", stamped(&|n| n * day)),
        ("ts-wraps", stamped(&|n| (1 << 33) - 90_000 + n * 9000)),
        ("ts-backwards", stamped(&|n| (1_u64 << 32).saturating_sub(n * 90_000))),
        ("ts-same", stamped(&|_| 0)),
    ];
    for (name, bytes) in rows {
        shelf.put(name, "video/mp2t", bytes, HUNGRY);
    }
}

/// Rewrites the times of an FLV file's tags.
fn flash(flv: &[u8], shelf: &mut Shelf) {
    let stamped = |time: &dyn Fn(u32) -> u32| {
        let (mut flv, mut at, mut seen) = (flv.to_vec(), 13, 0);
        while let Some(&[_, a, b, c]) = flv.get(at..at + 4).and_then(|head| head.first_chunk()) {
            let [top, x, y, z] = time(seen).to_be_bytes();
            flv = patched(&flv, at + 4, &[x, y, z, top]);
            at += 15 + usize::from(a) * 65_536 + usize::from(b) * 256 + usize::from(c);
            seen += 1;
        }
        flv
    };
    let rows = [
        ("flv-days", stamped(&|n| n.wrapping_mul(DAY_SECS * 1000))),
        ("flv-backwards", stamped(&|n| u32::MAX / 2 - n * 1000)),
        ("flv-negative", stamped(&|n| u32::MAX - 1000 + n * 10)),
        ("flv-same", stamped(&|_| 7)),
    ];
    for (name, bytes) in rows {
        shelf.put(name, "video/x-flv", bytes, HUNGRY);
    }
}

/// Later clusters of a Matroska file begin days later, or before the first.
fn clusters(mkv: &[u8], shelf: &mut Shelf) {
    let Ok(at) = find(mkv, b"\x1f\x43\xb6\x75") else { return };
    // The cluster's clock is its first child; a wider one takes the place of what follows.
    for (name, ticks) in [("days", 0x0f_ffff_u32), ("zero", 0)] {
        let [_, a, b, c] = ticks.to_be_bytes();
        let bytes = patched(mkv, at + 12, &[0xe7, 0x83, a, b, c]);
        shelf.put(format!("mkv-{name}"), "video/x-matroska", bytes, MUTANT);
    }
}

fn pictures(clips: &Clips, shelf: &mut Shelf) -> Result<()> {
    shelf.family("dimensions");
    let (dot, many) = (clips.get("dot")?, clips.get("many")?);
    let rows: [(&str, &'static str, Vec<u8>, Expect); 3] = [
        ("8192x4320", "video/quicktime", clips.get("wide")?.to_vec(), COMPLETED),
        ("2x2", "video/quicktime", dot.to_vec(), COMPLETED),
        // As 240 lines it would be 122,880 wide: no encoder takes that.
        ("8192x16", "video/mp2t", clips.get("thin")?.to_vec(), MUTANT),
    ];
    for (name, kind, bytes, expect) in rows {
        shelf.put(name, kind, bytes, expect);
    }
    let stts = find(many, b"stts")? + 4;
    shelf.put("8192x4320-days", "video/quicktime", patched(many, stts + 12, &[0x7f; 4]), HUNGRY);
    shelf.put("8192x4320-three", "video/quicktime", many.to_vec(), HUNGRY);
    shelf.put("8192x4320-times-2000", "video/quicktime", again(many, 2000)?, HUNGRY);
    let tkhd = find(dot, b"tkhd")? + 4;
    let lying = patched(dot, tkhd + 76, &[0x20, 0, 0, 0, 0x10, 0xe0, 0, 0]);
    shelf.put("says-8192x4320", "video/quicktime", lying, MUTANT);
    Ok(())
}

/// The first frame of a clip of one track, so many times: the index names it again and again.
fn again(clip: &[u8], times: u32) -> Result<Vec<u8>> {
    let field = |kind: &[u8; 4], offset: usize| -> Result<[u8; 4]> {
        let at = find(clip, kind)? + 4 + offset;
        Ok(*clip.get(at..).and_then(|rest| rest.first_chunk()).context("a field")?)
    };
    let (size, offset) = (field(b"stsz", 12)?, field(b"stco", 8)?);
    let (count, one) = (times.to_be_bytes(), 1_u32.to_be_bytes());
    let often = usize::try_from(times)?;
    let tables: [(&[u8; 4], Vec<u8>); 4] = [
        (b"stsz", [&[0; 8][..], &count, &size.repeat(often)].concat()),
        (b"stco", [&[0; 4][..], &count, &offset.repeat(often)].concat()),
        (b"stsc", [&[0; 4][..], &one, &one, &one, &one].concat()),
        (b"stts", [&[0; 4][..], &one, &count, &512_u32.to_be_bytes()].concat()),
    ];
    tables.iter().try_fold(clip.to_vec(), |clip, (kind, body)| {
        replaced(&clip, &[b"moov", b"trak", b"mdia", b"minf", b"stbl"], kind, body)
    })
}
