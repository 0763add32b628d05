//! Sound containers whose codec data is not: what decoders get to see.

use super::{
    MUTANT, Shelf,
    bytes::{Random, find},
    clips::Clips,
};
use anyhow::Result;

/// Clip, type, and what begins its codec data.
const CLIPS: [(&str, &str, &[u8]); 18] = [
    ("h264", "video/quicktime", b"mdat"),
    ("hevc", "video/quicktime", b"mdat"),
    ("av1", "video/mp4", b"mdat"),
    ("vp9", "video/mp4", b"mdat"),
    ("vp8", "video/x-matroska", b"\x1f\x43\xb6\x75"),
    ("mpeg4", "video/quicktime", b"mdat"),
    ("mpeg2", "video/x-matroska", b"\x1f\x43\xb6\x75"),
    ("theora", "video/x-matroska", b"\x1f\x43\xb6\x75"),
    ("prores", "video/quicktime", b"mdat"),
    ("mjpeg", "video/quicktime", b"mdat"),
    ("gif", "image/gif", b"\x2c\0\0\0\0"),
    ("aacmov", "video/quicktime", b"mdat"),
    ("opusmka", "audio/x-matroska", b"\x1f\x43\xb6\x75"),
    ("vorbis", "audio/x-matroska", b"\x1f\x43\xb6\x75"),
    ("flacmka", "audio/x-matroska", b"\x1f\x43\xb6\x75"),
    ("mp3mov", "video/quicktime", b"mdat"),
    ("ac3", "video/quicktime", b"mdat"),
    ("alac", "video/quicktime", b"mdat"),
];

/// Bytes after the mark that stay: the box's name, or the cluster's size and clock and the first
/// block's head.
const KEPT: usize = 40;

pub(super) fn put(clips: &Clips, shelf: &mut Shelf) -> Result<()> {
    shelf.family("payload");
    for (clip, kind, mark) in CLIPS {
        let bytes = clips.get(clip)?;
        let from = find(bytes, mark)? + KEPT;
        // QuickTime's index follows the data; Matroska's cues may go as well.
        let to = find(bytes, b"moov").map_or(bytes.len(), |at| at - 4);
        for (name, one_in) in [("sparse", 200), ("some", 20), ("all", 1)] {
            let stem = format!("{clip}-{name}");
            let (mut random, mut copy) = (Random::of(&stem), bytes.to_vec());
            for byte in copy.iter_mut().take(to).skip(from) {
                if random.below(one_in) == 0 {
                    *byte = random.byte();
                }
            }
            let kind = sound(clip, kind);
            shelf.put(stem, kind, copy, MUTANT);
        }
    }
    Ok(())
}

/// Sound is declared as sound, so that it is asked for as sound.
fn sound(clip: &str, kind: &'static str) -> &'static str {
    match clip {
        "aacmov" | "mp3mov" | "ac3" | "alac" => "audio/mp4",
        _ => kind,
    }
}
