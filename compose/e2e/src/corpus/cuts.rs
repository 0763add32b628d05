//! The valid clips themselves, their truncations at structural places, and bit flips.

use super::{
    COMPLETED, Expect, MALFORMED, MUTANT, Shelf,
    bytes::{Random, find_from, front},
    clips::Clips,
};
use anyhow::Result;

/// A clip, its type, and what begins its structural parts.
struct Base {
    clip: &'static str,
    kind: &'static str,
    parts: &'static [&'static [u8]],
}

const BASES: &[Base] = &[
    Base { clip: "mp4", kind: "video/mp4", parts: &[b"mdat", b"moov", b"trak", b"stbl", b"stsz"] },
    Base { clip: "fragmented", kind: "video/mp4", parts: &[b"moof", b"traf", b"trun"] },
    Base { clip: "m4a", kind: "audio/mp4", parts: &[b"mdat", b"moov", b"stco"] },
    Base {
        clip: "mkv",
        kind: "video/x-matroska",
        parts: &[
            b"\x18\x53\x80\x67",
            b"\x16\x54\xae\x6b",
            b"\x1f\x43\xb6\x75",
            b"\x1c\x53\xbb\x6b",
        ],
    },
    Base { clip: "webm", kind: "video/webm", parts: &[b"\x15\x49\xa9\x66", b"\x1f\x43\xb6\x75"] },
    Base { clip: "ts", kind: "video/mp2t", parts: &[b"\x47\x50\x00", b"\x47\x41\x00"] },
    Base { clip: "avi", kind: "video/x-msvideo", parts: &[b"strl", b"strf", b"movi", b"idx1"] },
    Base { clip: "flv", kind: "video/x-flv", parts: &[b"onMetaData", b"\x09\x00", b"\x08\x00"] },
    Base { clip: "wav", kind: "audio/wav", parts: &[b"fmt ", b"data"] },
    Base { clip: "mp3", kind: "audio/mpeg", parts: &[b"\xff\xfb"] },
    Base { clip: "aac", kind: "audio/aac", parts: &[b"\xff\xf1"] },
    Base { clip: "flac", kind: "audio/flac", parts: &[b"\x84\x00", b"\xff\xf8"] },
    Base { clip: "ogg", kind: "video/ogg", parts: &[b"\x80theora", b"\x01vorbis", b"\x82theora"] },
    Base { clip: "opus", kind: "audio/ogg", parts: &[b"OpusHead", b"OpusTags"] },
    Base { clip: "png", kind: "image/png", parts: &[b"IDAT", b"IEND"] },
    Base { clip: "jpg", kind: "image/jpeg", parts: &[b"\xff\xdb", b"\xff\xc4", b"\xff\xda"] },
    Base { clip: "gif", kind: "image/gif", parts: &[b"\x21\xf9", b"\x2c\x00"] },
];

/// Bit-flipped copies of each clip, by where the flips are.
const FLIPS: [(&str, usize); 5] = [
    ("front", 64),
    ("head-a", 600),
    ("head-b", 600),
    ("anywhere-a", usize::MAX),
    ("anywhere-b", usize::MAX),
];

/// Flipped bits of one copy.
const FLIPPED_BITS: usize = 12;

pub(super) fn put(clips: &Clips, shelf: &mut Shelf) -> Result<()> {
    shelf.family("valid");
    for base in BASES {
        shelf.put(base.clip, base.kind, clips.get(base.clip)?.to_vec(), COMPLETED);
    }
    shelf.family("cut");
    for base in BASES {
        cut(base, clips.get(base.clip)?, shelf);
    }
    shelf.family("flip");
    for base in BASES {
        flip(base, clips.get(base.clip)?, shelf);
    }
    Ok(())
}

fn cut(base: &Base, bytes: &[u8], shelf: &mut Shelf) {
    let mut at: Vec<usize> =
        base.parts.iter().filter_map(|part| find_from(bytes, part, 4)).collect();
    at.extend([bytes.len() / 2, bytes.len() - 1]);
    at.sort_unstable();
    at.dedup();
    for at in at {
        // A movie's boxes say where it ends (BRK-06); of others what is left may play.
        let whole_or_none = matches!(base.clip, "mp4" | "m4a");
        let expect: Expect = if whole_or_none { MALFORMED } else { MUTANT };
        shelf.put(format!("{}-{at}", base.clip), base.kind, front(bytes, at), expect);
    }
}

fn flip(base: &Base, bytes: &[u8], shelf: &mut Shelf) {
    for (name, within) in FLIPS {
        let stem = format!("{}-{name}", base.clip);
        let (mut random, mut copy) = (Random::of(&stem), bytes.to_vec());
        for _ in 0..FLIPPED_BITS {
            // The signature stays, or only the sniffer's first look is tested.
            let at = 16 + random.below(within.min(copy.len()).saturating_sub(16));
            if let Some(byte) = copy.get_mut(at) {
                *byte ^= 1 << random.below(8);
            }
        }
        shelf.put(stem, base.kind, copy, MUTANT);
    }
}
