//! AVI and WAV: chunk sizes, absurd formats, nesting, stream counts, subtitles that name files.

use super::{
    BROKEN, COMPLETED, COMPLEX, Canary, Expect, HUNGRY, MUTANT, Shelf,
    bytes::{find, inserted, len32, patched},
    clips::Clips,
};
use anyhow::Result;

const ALL_ONES: &[u8] = &[0xff; 4];

/// Name, chunk, offset from the end of the chunk's name, bytes, ends.
type Patch = (&'static str, &'static [u8; 4], usize, &'static [u8], Expect);

/// A WAVEFORMATEX begins after the chunk's size; a BITMAPINFOHEADER likewise.
const AVI: &[Patch] = &[
    ("riff-size-0", b"RIFF", 0, &[0; 4], MUTANT),
    ("riff-size-max", b"RIFF", 0, ALL_ONES, MUTANT),
    ("hdrl-size-max", b"LIST", 0, ALL_ONES, MUTANT),
    ("hdrl-size-0", b"LIST", 0, &[0; 4], MUTANT),
    ("avih-size-max", b"avih", 0, ALL_ONES, MUTANT),
    ("avih-frames-max", b"avih", 20, ALL_ONES, MUTANT),
    ("avih-frame-time-0", b"avih", 4, &[0; 4], MUTANT),
    ("avih-streams-max", b"avih", 28, ALL_ONES, MUTANT),
    ("strh-scale-0", b"strh", 24, &[0; 4], MUTANT),
    ("strh-rate-0", b"strh", 28, &[0; 4], MUTANT),
    ("strh-rate-max", b"strh", 28, ALL_ONES, MUTANT),
    ("strh-start-max", b"strh", 32, ALL_ONES, MUTANT),
    ("strh-length-max", b"strh", 36, ALL_ONES, MUTANT),
    ("strh-sample-size-1", b"strh", 48, &[1, 0, 0, 0], MUTANT),
    ("strf-size-max", b"strf", 0, ALL_ONES, MUTANT),
    ("strf-65535", b"strf", 8, &[0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0], COMPLEX),
    ("strf-negative", b"strf", 8, &[0, 0, 0, 0x80, 0, 0, 0, 0x80], COMPLEX),
    ("strf-codec", b"strf", 20, b"zzzz", BROKEN),
    ("idx1-size-max", b"idx1", 0, ALL_ONES, MUTANT),
    ("idx1-offset-max", b"idx1", 12, ALL_ONES, MUTANT),
    ("movi-size-0", b"movi", 0, &[0; 4], MUTANT),
];

const WAV: &[Patch] = &[
    ("riff-size-max", b"RIFF", 0, ALL_ONES, MUTANT),
    ("fmt-size-max", b"fmt ", 0, ALL_ONES, MUTANT),
    ("fmt-size-0", b"fmt ", 0, &[0; 4], MUTANT),
    ("codec-max", b"fmt ", 4, &[0xff, 0xff], MUTANT),
    ("channels-0", b"fmt ", 6, &[0, 0], BROKEN),
    ("channels-65535", b"fmt ", 6, &[0xff, 0xff], BROKEN),
    ("rate-0", b"fmt ", 8, &[0; 4], BROKEN),
    ("rate-max", b"fmt ", 8, ALL_ONES, BROKEN),
    ("rate-768k", b"fmt ", 8, &[0x00, 0xb8, 0x0b, 0x00], MUTANT),
    ("bytes-per-second-0", b"fmt ", 12, &[0; 4], MUTANT),
    ("bytes-per-second-1", b"fmt ", 12, &[1, 0, 0, 0], COMPLEX),
    ("block-0", b"fmt ", 16, &[0, 0], MUTANT),
    ("block-max", b"fmt ", 16, &[0xff, 0xff], MUTANT),
    ("bits-0", b"fmt ", 18, &[0, 0], MUTANT),
    ("bits-max", b"fmt ", 18, &[0xff, 0xff], MUTANT),
    ("data-size-0", b"data", 0, &[0; 4], MUTANT),
    ("data-size-max", b"data", 0, ALL_ONES, MUTANT),
    ("not-wave", b"WAVE", 0, b"zzzz", MUTANT),
];

fn chunk(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let pad = vec![0; body.len() % 2];
    [name.as_slice(), &len32(body).to_le_bytes(), body, &pad].concat()
}

pub(super) fn put(clips: &Clips, canary: &Canary, shelf: &mut Shelf) -> Result<()> {
    let rows = [("avi", "video/x-msvideo", AVI), ("wav", "audio/wav", WAV)];
    for (family, kind, patches) in rows {
        shelf.family(family);
        let clip = clips.get(family)?;
        for (name, within, offset, with, expect) in patches {
            let at = find(clip, within.as_slice())? + 4 + offset;
            shelf.put(name, kind, patched(clip, at, with), *expect);
        }
    }
    sound(shelf);
    picture(clips.get("avi")?, canary, shelf)
}

/// A WAV of 16-bit silence with this header.
fn wav(channels: u16, rate: u32, bytes: usize) -> Vec<u8> {
    let block = channels.saturating_mul(2);
    let second = rate.saturating_mul(u32::from(block));
    let format = [
        1_u16.to_le_bytes().as_slice(),
        &channels.to_le_bytes(),
        &rate.to_le_bytes(),
        &second.to_le_bytes(),
        &block.to_le_bytes(),
        &16_u16.to_le_bytes(),
    ]
    .concat();
    let parts = [b"WAVE".to_vec(), chunk(b"fmt ", &format), chunk(b"data", &vec![0; bytes])];
    chunk(b"RIFF", &parts.concat())
}

fn sound(shelf: &mut Shelf) {
    shelf.family("wav");
    shelf.put("768khz", "audio/wav", wav(2, 768_000, 3_072_000), COMPLETED);
    shelf.put("1-hertz", "audio/wav", wav(1, 1, 20_000), HUNGRY);
    shelf.put("1-hertz-hour", "audio/wav", wav(1, 1, 7200), HUNGRY);
    shelf.put("64-channels", "audio/wav", wav(64, 48_000, 614_400), MUTANT);
    shelf.put("no-samples", "audio/wav", wav(2, 48_000, 0), BROKEN);
    shelf.put("one-sample", "audio/wav", wav(2, 48_000, 4), MUTANT);
    let lists = (0..3000)
        .fold(Vec::new(), |inner, _| chunk(b"LIST", &[b"INFO", inner.as_slice()].concat()));
    let whole = wav(2, 48_000, 9600);
    shelf.put("lists-3000-deep", "audio/wav", inserted(&whole, 12, &lists), MUTANT);
    let chunks = chunk(b"junk", &[]).repeat(100_000);
    shelf.put("chunks-100000", "audio/wav", inserted(&whole, 12, &chunks), MUTANT);
    let rf64 =
        [b"RF64".as_slice(), &[0xff; 4], b"WAVEds64", &28_u32.to_le_bytes(), &[0xff; 24], &[0; 4]];
    let rest = whole.get(12..).unwrap_or_default();
    shelf.put("rf64-max", "audio/wav", [&rf64.concat(), rest].concat(), BROKEN);
}

fn picture(avi: &[u8], canary: &Canary, shelf: &mut Shelf) -> Result<()> {
    let kind = "video/x-msvideo";
    shelf.family("avi");
    let at = find(avi, b"LIST")?;
    let strh = [b"txts".as_slice(), &[0; 52]].concat();
    // Subtitles within a stream: FFmpeg once opened what they name (2017, fixed).
    let film = canary.film().display().to_string();
    for (name, text) in [
        ("smi", format!("<SAMI><BODY><SYNC Start=0><P><IMG SRC=\"{film}\">")),
        (
            "ssa",
            format!(
                "[Script Info]\n[Events]\nDialogue: 0,0:00:00.00,0:00:09.00,,,,0,0,0,,{film}\n"
            ),
        ),
        ("m3u8", format!("#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{film}\n#EXT-X-ENDLIST\n")),
        ("concat", format!("ffconcat version 1.0\nfile '{film}'\n")),
    ] {
        let body = text.into_bytes();
        let gab2 = [
            b"GAB2\0".as_slice(),
            &[2, 0],
            &0_u32.to_le_bytes(),
            &[4, 0],
            &len32(&body).to_le_bytes(),
            &body,
        ];
        let stream = [b"strl".to_vec(), chunk(b"strh", &strh), chunk(b"strf", &[])].concat();
        let head = chunk(b"LIST", &stream);
        let size = u32::from_le_bytes(avi.get(at + 4..at + 8).unwrap_or_default().try_into()?);
        let end = at + 8 + usize::try_from(size)?;
        let grown = size.saturating_add(len32(&head)).to_le_bytes();
        let bytes = patched(&inserted(avi, end, &head), at + 4, &grown);
        let movi = find(&bytes, b"movi")? + 4;
        let bytes = inserted(&bytes, movi, &chunk(b"02tx", &gab2.concat()));
        shelf.put(format!("gab2-{name}"), kind, bytes, MUTANT);
    }
    let stream = chunk(b"LIST", &[b"strl".to_vec(), chunk(b"strh", &strh)].concat());
    for (count, expect) in [(40, COMPLEX), (2000, COMPLEX)] {
        let body = [b"hdrl".to_vec(), chunk(b"avih", &[0; 56]), stream.repeat(count)].concat();
        let bytes = chunk(b"RIFF", &[b"AVI ".to_vec(), chunk(b"LIST", &body)].concat());
        shelf.put(format!("streams-{count}"), kind, bytes, expect);
    }
    let lists = (0..3000)
        .fold(Vec::new(), |inner, _| chunk(b"LIST", &[b"rec ", inner.as_slice()].concat()));
    shelf.put("lists-3000-deep", kind, inserted(avi, at, &lists), MUTANT);
    let empty = chunk(b"RIFF", b"AVI ");
    shelf.put("empty", kind, empty.clone(), BROKEN);
    shelf.put("riffs-10000", kind, [avi, &empty.repeat(10_000)].concat(), MUTANT);
    Ok(())
}
