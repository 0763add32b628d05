//! Marks of encryption (STEP-02): files that FFmpeg encrypted, files made by hand, and files that
//! only look alike.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/clip.rs"]
mod clip;

use clip::{dir, make, recipe, sample, verdict, verdict_in_steps};
use hotcell_schemas::plan::Container;

fn is_protected(bytes: &[u8], declared: &str) -> bool {
    let seen = verdict(bytes, declared).unwrap();
    for step in [1, 7, 1009] {
        assert_eq!(verdict_in_steps(bytes, declared, step).as_ref(), Ok(&seen), "step {step}");
    }
    seen.protected
}

const KEY: &str = "-encryption_scheme cenc-aes-ctr \
     -encryption_key 00112233445566778899aabbccddeeff -encryption_kid 00112233445566778899aabbccddeeff";

#[test]
fn step_02_what_ffmpeg_encrypted_is_seen() {
    let dir = dir("encrypted");
    for (name, args) in [
        ("plain", "-c:v libx264 -c:a aac -f mp4"),
        ("faststart", "-c:v libx264 -c:a aac -movflags +faststart -f mp4"),
        ("sound", "-map 1:a -c:a aac -f mp4"),
    ] {
        let open = make(&dir, name, args);
        assert!(!is_protected(&open, "video/mp4"), "{name}");
        let closed = make(&dir, &format!("{name}-cenc"), &format!("{KEY} {args}"));
        assert!(is_protected(&closed, "video/mp4"), "{name}");
    }
}

#[test]
fn step_02_no_sample_without_marks_is_called_protected() {
    let dir = dir("open");
    for container in Container::ALL {
        assert!(!is_protected(&sample(&dir, container), recipe(container).1), "{container:?}");
    }
}

fn boxed(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len() + 8).unwrap().to_be_bytes();
    [&size, kind.as_slice(), body].concat()
}

/// A movie of one picture track with this sample entry; `more` in `moov`, `after` behind it.
fn movie(entry: &[u8], more: &[u8], after: &[u8]) -> Vec<u8> {
    let table = [&[0, 0, 0, 0, 0, 0, 0, 1], entry].concat();
    let handler = [&[0; 8], b"vide".as_slice(), &[0; 12]].concat();
    let media =
        [boxed(b"hdlr", &handler), boxed(b"minf", &boxed(b"stbl", &boxed(b"stsd", &table)))];
    let track = boxed(b"trak", &boxed(b"mdia", &media.concat()));
    let parts = [
        boxed(b"ftyp", b"isom\0\0\0\0isom"),
        boxed(b"moov", &[boxed(b"mvhd", &[0; 100]), track, more.to_vec()].concat()),
        after.to_vec(),
        boxed(b"mdat", b"media"),
    ];
    parts.concat()
}

fn entry(kind: &[u8; 4], children: &[u8]) -> Vec<u8> {
    boxed(kind, &[&[0; 78], children].concat())
}

#[test]
fn step_02_every_mark_of_an_iso_file_counts() {
    let plain = entry(b"avc1", &boxed(b"avcC", &[1; 40]));
    let sinf = boxed(b"sinf", &boxed(b"frma", b"avc1"));
    let pssh = boxed(b"pssh", &[0; 24]);
    let seen = |bytes: &[u8]| is_protected(bytes, "video/mp4");
    assert!(!seen(&movie(&plain, &[], &[])));
    for kind in [b"encv", b"enca", b"enct", b"encs", b"drmi", b"drms"] {
        assert!(seen(&movie(&entry(kind, &[]), &[], &[])), "{}", String::from_utf8_lossy(kind));
    }
    assert!(seen(&movie(&entry(b"avc1", &sinf), &[], &[])), "sinf in an entry that looks open");
    assert!(seen(&movie(&plain, &pssh, &[])), "pssh in moov");
    assert!(seen(&movie(&plain, &[], &pssh)), "pssh beside it");
    // Behind more bytes than are kept of a box.
    let long = entry(b"avc1", &boxed(b"avcC", &[1; 4000]));
    assert!(!seen(&movie(&long, &[], &[])));
    assert!(seen(&movie(&[long.clone(), entry(b"encv", &sinf)].concat(), &[], &[])));
    // Fragments.
    let fragment =
        |inner: &[u8]| boxed(b"moof", &[boxed(b"mfhd", &[0; 8]), inner.to_vec()].concat());
    let traf = |inner: &[u8]| boxed(b"traf", &[boxed(b"tfhd", &[0; 8]), inner.to_vec()].concat());
    assert!(!seen(&movie(&plain, &[], &fragment(&traf(&boxed(b"trun", &[0; 300]))))));
    assert!(seen(&movie(&plain, &[], &fragment(&traf(&boxed(b"senc", &[0; 12]))))));
    assert!(seen(&movie(&plain, &[], &fragment(&pssh))));
    // Stereo pictures are restricted, not protected; and words in media data say nothing.
    let scheme = [&[0; 4], b"stvi".as_slice(), &[0; 4]].concat();
    let stereo = boxed(b"rinf", &[boxed(b"frma", b"avc1"), boxed(b"schm", &scheme)].concat());
    assert!(!seen(&movie(&entry(b"resv", &stereo), &[], &[])));
    assert!(!seen(&movie(&plain, &[], &boxed(b"mdat", &[sinf, pssh].concat()))));
}

/// One element; sizes of up to 16,382 bytes.
fn element(id: &[u8], body: &[u8]) -> Vec<u8> {
    let size = (0x4000 | u16::try_from(body.len()).unwrap()).to_be_bytes();
    [id, &size, body].concat()
}

fn matroska(encoding: &[&[u8]]) -> Vec<u8> {
    let encodings: Vec<u8> = encoding.iter().flat_map(|body| element(b"\x62\x40", body)).collect();
    let encodings = if encodings.is_empty() { encodings } else { element(b"\x6D\x80", &encodings) };
    let size = [element(b"\xB0", &[0, 128]), element(b"\xBA", &[0, 96])].concat();
    let track =
        [element(b"\xD7", &[1]), element(b"\x83", &[1]), element(b"\xE0", &size), encodings];
    let tracks = element(b"\x16\x54\xAE\x6B", &element(b"\xAE", &track.concat()));
    let head = element(b"\x1A\x45\xDF\xA3", &element(b"\x42\x82", b"matroska"));
    [head, element(b"\x18\x53\x80\x67", &tracks)].concat()
}

#[test]
fn step_02_encrypted_tracks_of_matroska_are_seen() {
    let seen = |encoding: &[&[u8]]| is_protected(&matroska(encoding), "video/x-matroska");
    let compressed = element(b"\x50\x34", &element(b"\x42\x54", &[3]));
    let (by_type, by_body) = (element(b"\x50\x33", &[1]), element(b"\x50\x35", &[]));
    assert!(!seen(&[]));
    assert!(!seen(&[&compressed]));
    assert!(!seen(&[&element(b"\x50\x33", &[0])]));
    assert!(seen(&[&by_type]));
    assert!(seen(&[&by_body]));
    assert!(seen(&[&compressed, &by_body]), "the second encoding");
}

#[test]
fn step_02_scrambled_packets_and_access_tables_are_seen() {
    let bytes = sample(&dir("scrambled"), Container::MpegTs);
    let seen = |bytes: &[u8]| is_protected(bytes, "video/mp2t");
    assert!(!seen(&bytes));
    // The second half of a stream is scrambled, its tables are not.
    let mut scrambled = bytes.clone();
    let half = bytes.len() / 188 / 2;
    for packet in scrambled.chunks_exact_mut(188).skip(half) {
        packet[3] |= 0x80;
    }
    assert!(seen(&scrambled));
    // A programme's map with a descriptor of conditional access: in all of it, and of one stream.
    let map = |all: &[u8], own: &[u8]| {
        let long = |list: &[u8]| [0xF0, u8::try_from(list.len()).unwrap()];
        let streams = [&[0x1B, 0xE1, 0x01][..], &long(own), own].concat();
        let body = [&[0, 1, 0xC1, 0, 0, 0xE1, 0x01][..], &long(all), all, &streams, &[0; 4]];
        let body = body.concat();
        let head = [0x02, 0xB0, u8::try_from(body.len()).unwrap()];
        let packet = [&[0x47, 0x50, 0, 0x10, 0][..], &head, &body].concat();
        let pad = vec![0xFF; 188 - packet.len()];
        [packet, pad].concat()
    };
    let at = bytes.chunks_exact(188).position(|packet| packet[1] & 0x1F == 0x10 && packet[2] == 0);
    let (access, language) = ([0x09, 4, 0x0B, 0, 0xE1, 0], [0x0A, 4, b'e', b'n', b'g', 0]);
    let with = |map: &[u8]| {
        let mut bytes = bytes.clone();
        let at = at.unwrap() * 188;
        bytes[at..at + 188].copy_from_slice(map);
        bytes
    };
    assert!(!seen(&with(&map(&language, &language))));
    assert!(seen(&with(&map(&access, &[]))));
    assert!(seen(&with(&map(&language, &access))));
}
