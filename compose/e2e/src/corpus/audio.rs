//! MP3, ADTS and FLAC: tag sizes, frame lengths, pictures in tags, frames that never come.

use super::{
    BROKEN, COMPLEX, Canary, Expect, HUNGRY, MUTANT, Shelf,
    bytes::{back, find, inserted, len32, patched},
    clips::Clips,
};
use anyhow::Result;

/// An ID3v2.4 tag; sizes have seven bits in a byte (ID3v2.4 §6.2).
pub(super) fn id3(frames: &[u8], size: [u8; 4]) -> Vec<u8> {
    [b"ID3\x04\0\0".as_slice(), &size, frames].concat()
}

/// The size of what there is.
pub(super) fn synchsafe(size: usize) -> [u8; 4] {
    let seven = |shift: u32| u8::try_from(size >> shift & 0x7f).unwrap_or(0);
    [seven(21), seven(14), seven(7), seven(0)]
}

/// One frame of a tag.
pub(super) fn frame(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    [name.as_slice(), &synchsafe(body.len()), &[0, 0], body].concat()
}

pub(super) fn put(clips: &Clips, canary: &Canary, shelf: &mut Shelf) -> Result<()> {
    mp3(clips, canary, shelf)?;
    adts(clips.get("aac")?, shelf);
    flac(clips, canary, shelf)
}

fn mp3(clips: &Clips, canary: &Canary, shelf: &mut Shelf) -> Result<()> {
    let kind = "audio/mpeg";
    let clip = clips.get("mp3")?;
    let sound = back(clip, find(clip, b"\xff\xfb")?);
    shelf.family("mp3");
    let film = canary.film().display().to_string();
    let tagged = |frames: &[u8]| [id3(frames, synchsafe(frames.len())), sound.clone()].concat();
    let picture = |mime: &str, body: &[u8]| {
        frame(b"APIC", &[b"\0", mime.as_bytes(), b"\0\x03\0", body].concat())
    };
    let huge_frame = [b"APIC".as_slice(), &[0x40, 0, 0, 0], &[0; 66]].concat();
    let info = find(&sound, b"Info").or_else(|_| find(&sound, b"Xing"))?;
    let rows: [(&str, Vec<u8>, Expect); 14] = [
        ("id3-256m", [id3(&[], [0x7f; 4]), sound.clone()].concat(), BROKEN),
        ("id3-not-synchsafe", [id3(&[], [0xff; 4]), sound.clone()].concat(), MUTANT),
        ("id3-frame-1g", tagged(&huge_frame), MUTANT),
        ("id3-empty-frames", tagged(&frame(b"TIT2", &[]).repeat(100_000)), MUTANT),
        ("id3-times-10000", [id3(&[], [0; 4]).repeat(10_000), sound.clone()].concat(), MUTANT),
        (
            "id3-compressed",
            tagged(&[b"TIT2".as_slice(), &synchsafe(9), &[0, 0x09], &[0xff; 9]].concat()),
            MUTANT,
        ),
        ("picture-link", tagged(&picture("-->", film.as_bytes())), MUTANT),
        ("picture-noise", tagged(&picture("image/png", &[0x5a; 4000])), MUTANT),
        ("link-frame", tagged(&frame(b"LINK", film.as_bytes())), MUTANT),
        ("xing-frames-max", patched(&sound, info + 8, &[0xff; 4]), MUTANT),
        ("xing-bytes-max", patched(&sound, info + 12, &[0xff; 4]), MUTANT),
        ("xing-frames-0", patched(&sound, info + 8, &[0; 4]), MUTANT),
        ("sync-only", b"\xff\xfb\x90\x64".repeat(20_000), MUTANT),
        ("free-format", b"\xff\xfb\x00\x00".repeat(20_000), MUTANT),
    ];
    for (name, bytes, expect) in rows {
        shelf.put(name, kind, bytes, expect);
    }
    let ape = [b"APETAGEX".as_slice(), &2000_u32.to_le_bytes(), &[0xff; 8], &[0; 12]].concat();
    shelf.put("ape-max", kind, [sound.clone(), ape].concat(), MUTANT);
    Ok(())
}

fn adts(clip: &[u8], shelf: &mut Shelf) {
    let kind = "audio/aac";
    shelf.family("adts");
    let length = |length: u16| {
        let [high, low] = length.to_be_bytes();
        // 13 bits from the last two of the fourth byte on (ISO/IEC 14496-3 §1.A.2.2).
        [0xff, 0xf1, 0x50, 0x80 | (high >> 3 & 3), high << 5 | low >> 3, low << 5 | 0x1f, 0xfc]
    };
    let frame = |stated: u16, body: usize| [&length(stated)[..], &vec![0x21; body]].concat();
    let rows: [(&str, Vec<u8>, Expect); 6] = [
        ("length-0", frame(0, 100).repeat(100), BROKEN),
        ("length-6", frame(6, 0).repeat(2000), BROKEN),
        ("length-7", frame(7, 0).repeat(5000), BROKEN),
        ("length-max", frame(8191, 8184).repeat(20), MUTANT),
        ("headers", [0xff, 0xf1].repeat(20_000), BROKEN),
        ("id3-256m", [id3(&[], [0x7f; 4]), clip.to_vec()].concat(), BROKEN),
    ];
    for (name, bytes, expect) in rows {
        shelf.put(name, kind, bytes, expect);
    }
    // Each frame says another rate and channel count.
    let mut changing = clip.to_vec();
    let mut at = 0;
    for number in 0_u8.. {
        let Some(&[_, _, two, three, four, five]) =
            changing.get(at..at + 6).and_then(|b| b.first_chunk())
        else {
            break;
        };
        let size =
            (usize::from(three & 3) << 11) | (usize::from(four) << 3) | usize::from(five >> 5);
        changing = patched(&changing, at + 2, &[two & 0xc3 | (number % 13) << 2, three]);
        at += size.max(7);
        if number == u8::MAX {
            break;
        }
    }
    shelf.put("rates", kind, changing, MUTANT);
}

fn flac(clips: &Clips, canary: &Canary, shelf: &mut Shelf) -> Result<()> {
    let kind = "audio/flac";
    let clip = clips.get("flac")?;
    shelf.family("flac");
    // After `fLaC` and STREAMINFO's four and 34 bytes.
    let more = |block: &[u8]| inserted(clip, 42, block);
    let block = |kind: u8, body: &[u8]| {
        let [_, a, b, c] = len32(body).to_be_bytes();
        [&[kind, a, b, c], body].concat()
    };
    let text = |text: &[u8]| [&len32(text).to_be_bytes(), text].concat();
    let picture = |mime: &str, description: &[u8], size: u32, body: &[u8]| {
        let head =
            [3_u32.to_be_bytes().to_vec(), text(mime.as_bytes()), text(description)].concat();
        let numbers = [65_535_u32, 65_535, 24, 0, size].map(u32::to_be_bytes).concat();
        block(6, &[head, numbers, body.to_vec()].concat())
    };
    let film = canary.film().display().to_string();
    let rows: [(&str, Vec<u8>, Expect); 15] = [
        ("samples-max", patched(clip, 21, &[0x4f, 0xff, 0xff, 0xff, 0xff]), COMPLEX),
        ("samples-0", patched(clip, 21, &[0xf0, 0, 0, 0, 0]), MUTANT),
        ("rate-0", patched(clip, 18, &[0, 0, 0]), MUTANT),
        ("rate-max", patched(clip, 18, &[0xff, 0xff, 0xf0]), MUTANT),
        ("blocks-0", patched(clip, 8, &[0; 4]), BROKEN),
        ("blocks-max", patched(clip, 8, &[0xff; 4]), MUTANT),
        ("info-size-max", patched(clip, 5, &[0xff; 3]), BROKEN),
        ("block-16m", more(&[4, 0xff, 0xff, 0xff]), MUTANT),
        ("comments-max", more(&block(4, &[0xff; 64])), MUTANT),
        (
            "picture-link",
            more(&picture("-->", b"", len32(film.as_bytes()), film.as_bytes())),
            MUTANT,
        ),
        ("picture-size-max", more(&picture("image/png", b"", u32::MAX, b"x")), MUTANT),
        ("picture-noise", more(&picture("image/png", b"", 4000, &[0x5a; 4000])), MUTANT),
        ("cuesheet-max", more(&block(5, &[0xff; 400])), MUTANT),
        ("seektable-max", more(&block(3, &[0xff; 18 * 1000])), MUTANT),
        ("blocks-100000", more(&block(1, &[]).repeat(100_000)), MUTANT),
    ];
    for (name, bytes, expect) in rows {
        shelf.put(name, kind, bytes, expect);
    }
    shelf.put("times-100", kind, clip.repeat(100), HUNGRY);
    Ok(())
}
