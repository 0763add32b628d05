//! Verdicts on real and hostile bytes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/clip.rs"]
mod clip;

use clip::{dir, make, recipe, sample, verdict, verdict_in_steps};
use hotcell_schemas::{RejectCode, plan::Container};
use proptest::prelude::*;
use std::sync::OnceLock;

fn code(bytes: &[u8], declared: &str) -> RejectCode {
    verdict(bytes, declared).expect_err("must be refused").code
}

fn samples() -> &'static [(Container, Vec<u8>)] {
    static SAMPLES: OnceLock<Vec<(Container, Vec<u8>)>> = OnceLock::new();
    SAMPLES.get_or_init(|| {
        // One folder per process: nextest runs each test in its own.
        let dir = dir(&format!("samples-{}", std::process::id()));
        let made = Container::ALL.map(|container| (container, sample(&dir, container)));
        std::fs::remove_dir_all(dir).unwrap();
        made.into()
    })
}

#[test]
fn every_container_is_known_by_its_bytes() {
    for (container, bytes) in samples() {
        let seen = verdict(bytes, recipe(*container).1).unwrap();
        assert_eq!(seen.container, *container);
        let (picture, sound) = match container {
            Container::Wav | Container::Mp3 | Container::Aac | Container::Flac => (false, true),
            Container::Png | Container::Jpeg | Container::Gif => (true, false),
            Container::Mp4
            | Container::Matroska
            | Container::MpegTs
            | Container::Avi
            | Container::Flv
            | Container::Ogg => (true, true),
        };
        assert_eq!(seen.has_video, Some(picture), "{container:?}");
        assert_eq!(seen.has_audio, Some(sound), "{container:?}");
        let size = seen.width.zip(seen.height);
        let says = picture && !matches!(container, Container::MpegTs | Container::Flv);
        assert_eq!(size, says.then_some((128, 96)), "{container:?}");
        let times = [Container::Mp4, Container::Matroska, Container::Avi, Container::Wav];
        if times.contains(container) || *container == Container::Flac {
            let ms = seen.duration_ms.unwrap();
            assert!((900..1200).contains(&ms), "{container:?}: {ms} ms");
        }
    }
}

#[test]
fn variants_of_real_recorders_are_accepted() {
    let dir = dir("variants");
    for (name, args, declared) in [
        ("faststart", "-c:v libx264 -c:a aac -movflags +faststart -f mp4", "video/mp4"),
        (
            "fragments",
            "-c:v libx264 -c:a aac -movflags frag_keyframe+empty_moov -f mp4",
            "video/mp4",
        ),
        ("dash", "-c:v libx264 -c:a aac -movflags dash+default_base_moof -f mp4", "video/mp4"),
        ("mov", "-c:v mjpeg -c:a pcm_s16le -f mov", "video/quicktime"),
        ("mov-as-mp4", "-c:v mjpeg -c:a pcm_s16le -f mov", "video/mp4"),
        ("3gp", "-map 0:v -s 176x144 -c:v h263 -f 3gp", "video/3gpp"),
        ("m4a", "-map 1:a -c:a aac -f ipod", "audio/mp4"),
        ("m4a-as-mp4", "-map 1:a -c:a aac -f ipod", "video/mp4"),
        ("webm", "-c:v libvpx -c:a libvorbis -f webm", "video/webm"),
        ("live", "-c:v libvpx -c:a libvorbis -live 1 -f webm", "video/webm"),
        ("opus", "-map 1:a -c:a libopus -f ogg", "audio/ogg"),
        ("m2ts", "-c:v libx264 -c:a ac3 -mpegts_m2ts_mode 1 -f mpegts", "video/mp2t"),
        ("silent", "-map 0:v -c:v libx264 -f mp4", "video/mp4"),
        (
            "tagged",
            "-map 1:a -c:a libmp3lame -metadata title=x -id3v2_version 4 -f mp3",
            "audio/mp3",
        ),
    ] {
        let bytes = make(&dir, name, args);
        let seen = verdict(&bytes, declared);
        assert!(seen.is_ok(), "{name}: {seen:?}");
        if name == "silent" {
            assert_eq!(seen.unwrap().has_audio, Some(false));
        }
    }
}

/// Cover art makes tags of megabytes: sound behind one is still sound, and what may not be there is
/// refused behind one as without.
#[test]
fn tags_in_front_do_not_hide_what_follows() {
    let dir = dir("tags");
    let tag = |size: usize| {
        let seven = |shift: usize| u8::try_from(size >> shift & 0x7f).unwrap();
        let header = [b"ID3\x04\0\0".as_slice(), &[seven(21), seven(14), seven(7), seven(0)]];
        [header.concat(), vec![0xA5; size]].concat()
    };
    for container in [Container::Mp3, Container::Aac, Container::Flac] {
        let (args, declared) = recipe(container);
        let bytes = make(&dir, &format!("{container:?}"), &format!("{args} -id3v2_version 0"));
        for front in [tag(0), tag(5), tag(3 << 20), [tag(9), tag(2 << 20), tag(0)].concat()] {
            let bytes = [front, bytes.clone()].concat();
            let seen = verdict(&bytes, declared);
            assert_eq!(seen.as_ref().unwrap().container, container);
            for step in [1009, 1 << 20] {
                assert_eq!(seen, verdict_in_steps(&bytes, declared, step));
            }
        }
    }
    let list = b"#EXTM3U\n#EXTINF:1,\n/x.mp4\n";
    let behind = |rest: &[u8]| code(&[&tag(2 << 20), rest].concat(), "audio/mpeg");
    assert_eq!(behind(list), RejectCode::InputPlaylist);
    assert_eq!(behind(b"\0\0\0\x18ftypisom"), RejectCode::InputNotMedia);
    assert_eq!(behind(b"PK\x03\x04\x14\0\0\0\x08\0"), RejectCode::InputNotMedia);
    assert_eq!(behind(b""), RejectCode::InputMalformed);
    let short = tag(1 << 20);
    assert_eq!(code(&short[..short.len() / 2], "audio/mpeg"), RejectCode::InputMalformed);
    // Not seven bits in a byte: no tag for FFmpeg, so none here.
    assert_eq!(code(b"ID3\x04\0\0\xff\xff\xff\xff..", "audio/mpeg"), RejectCode::InputNotMedia);
}

/// Tags and fonts may come before the tracks, and be longer than the window.
#[test]
fn matroska_is_known_by_its_name_whatever_comes_first() {
    let bytes = sample(&dir("names"), Container::Matroska);
    let at = |id: &[u8]| bytes.windows(id.len()).rposition(|window| window == id).unwrap();
    let (segment, info) = (at(b"\x18\x53\x80\x67") + 4, at(b"\x15\x49\xa9\x66"));
    let mut whole = bytes[..info].to_vec();
    // An unknown size for the segment, then a void element of 2 MiB.
    whole[segment..segment + 8].copy_from_slice(&[0x01, 255, 255, 255, 255, 255, 255, 255]);
    whole.extend([0xEC, 0x10, 0x20, 0, 0]);
    whole.extend(vec![0; 2 << 20]);
    whole.extend(&bytes[info..]);
    assert_eq!(verdict(&whole, "video/x-matroska").unwrap().container, Container::Matroska);
    let name = bytes.windows(8).position(|window| window == b"matroska").unwrap();
    let mut other = bytes.clone();
    other[name..name + 8].copy_from_slice(b"otherdoc");
    assert_eq!(code(&other, "video/x-matroska"), RejectCode::InputNotMedia);
    other[name..name + 8].copy_from_slice(b"webm\0\0\0\0");
    assert!(verdict(&other, "video/webm").is_ok());
}

#[test]
fn issue_2_each_hostile_input_has_its_code() {
    use RejectCode::*;
    let master = b"#EXTM3U\n#EXTINF:1,\n/work/other-tenant/secret.mp4\n#EXT-X-ENDLIST\n";
    let mut gif =
        b"GIF89a\x80\x3e\x80\x3e\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x80\x3e\x80\x3e\0".to_vec();
    gif.resize(40, 0);
    for declared in ["video/mp4", "video/mp2t", "audio/mpeg", "image/gif"] {
        assert_eq!(code(master, declared), InputPlaylist);
        assert_eq!(code(b"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\n", declared), InputPlaylist);
        assert_eq!(code(b"ffconcat version 1.0\nfile /etc/passwd\n", declared), InputPlaylist);
        assert_eq!(code(b"<?xml version='1.0'?>\n<MPD></MPD>", declared), InputPlaylist);
        assert_eq!(code(b"just a text\n", declared), InputNotMedia);
        assert_eq!(code(&[0; 4096], declared), InputNotMedia);
        assert_eq!(
            code(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0", declared),
            InputNotMedia
        );
        assert_eq!(code(b"PK\x03\x04\x14\0\0\0\x08\0", declared), InputNotMedia);
        assert_eq!(code(b"%PDF-1.7\n", declared), InputNotMedia);
        assert_eq!(code(b"<svg xmlns='http://www.w3.org/2000/svg'/>", declared), InputNotMedia);
        assert_eq!(code(b"", declared), InputEmpty);
    }
    assert_eq!(code(&gif, "image/gif"), InputTooComplex);
    assert_eq!(code(&gif, "video/mp4"), InputTypeMismatch);
}

#[test]
fn the_declared_type_must_agree() {
    for (container, bytes) in samples() {
        for (other, (_, declared)) in Container::ALL.map(|other| (other, recipe(other))) {
            let seen = verdict(bytes, declared).map_err(|failure| failure.code);
            match seen {
                Ok(_) => assert_eq!(*container, other),
                Err(code) => {
                    assert_ne!(*container, other);
                    assert_eq!(code, RejectCode::InputTypeMismatch, "{container:?} as {declared}");
                }
            }
        }
    }
    let (_, mp4) = &samples()[0];
    assert_eq!(code(mp4, "audio/mp4"), RejectCode::InputTypeMismatch, "sound that has a picture");
    assert_eq!(code(mp4, "application/octet-stream"), RejectCode::InputTypeMismatch);
}

#[test]
fn a_movie_cut_anywhere_is_malformed() {
    let dir = dir("cut");
    let late = make(&dir, "late", "-c:v libx264 -c:a aac -f mp4");
    let early = make(&dir, "early", "-c:v libx264 -c:a aac -movflags +faststart -f mp4");
    for bytes in [late, early] {
        let whole: Vec<usize> = top_level_ends(&bytes);
        for cut in (64..bytes.len()).step_by(7) {
            let failure = verdict(&bytes[..cut], "video/mp4").unwrap_err();
            assert_eq!(failure.code, RejectCode::InputMalformed, "{cut} of {whole:?}");
        }
    }
    let mkv = &samples().iter().find(|(c, _)| *c == Container::Matroska).unwrap().1;
    assert_eq!(code(&mkv[..mkv.len() - 1], "video/webm"), RejectCode::InputMalformed);
}

/// Ends of the top-level boxes, by an independent reading.
fn top_level_ends(bytes: &[u8]) -> Vec<usize> {
    let mut ends = vec![0];
    while let Some(header) = bytes.get(*ends.last().unwrap()..).filter(|rest| rest.len() >= 8) {
        let size = u32::from_be_bytes(header[..4].try_into().unwrap()) as usize;
        ends.push(ends.last().unwrap() + size);
    }
    ends
}

fn boxed(kind: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(body.len() + 8).unwrap();
    [&size.to_be_bytes()[..], kind, body].concat()
}

#[test]
fn forged_movies_are_refused() {
    use RejectCode::{InputMalformed, InputTooComplex};
    let ftyp = boxed(b"ftyp", b"isom\0\0\x02\0isomiso2avc1mp41");
    let data = boxed(b"mdat", &[0; 16]);
    let movie = |moov: &[u8]| [&ftyp[..], &boxed(b"moov", moov), &data].concat();
    let handler = |kind: &[u8; 4]| boxed(b"hdlr", &[&[0; 8][..], kind, &[0; 13]].concat());
    let track = |width: u16, height: u16| {
        let mut entry = vec![0_u8; 48];
        entry[40..42].copy_from_slice(&width.to_be_bytes());
        entry[42..44].copy_from_slice(&height.to_be_bytes());
        let table = boxed(b"minf", &boxed(b"stbl", &boxed(b"stsd", &entry)));
        boxed(b"trak", &boxed(b"mdia", &[handler(b"vide"), table].concat()))
    };
    let seen = verdict(&movie(&track(640, 480)), "video/mp4").unwrap();
    assert_eq!((seen.width, seen.height), (Some(640), Some(480)));

    let check = |bytes: &[u8], expect| assert_eq!(code(bytes, "video/mp4"), expect);
    check(&movie(&track(65_535, 65_535)), InputTooComplex);
    check(&movie(&track(640, 480).repeat(33)), InputTooComplex);
    check(&movie(&boxed(b"cmov", &[0; 32])), InputTooComplex);
    let mut long = vec![0; 100];
    long[12..16].copy_from_slice(&1_u32.to_be_bytes());
    long[16..20].copy_from_slice(&14_401_u32.to_be_bytes());
    check(&movie(&[boxed(b"mvhd", &long), track(640, 480)].concat()), InputTooComplex);
    check(&movie(b""), InputMalformed);
    check(&[&ftyp[..], &data].concat(), InputMalformed);
    check(&[&ftyp[..], &boxed(b"moov", &track(640, 480))].concat(), InputMalformed);
    check(&[movie(&track(2, 2)), boxed(b"moov", &track(2, 2))].concat(), InputMalformed);
    // A child that is larger than its parent, and a box that is smaller than its header.
    let mut child = track(640, 480);
    child[3] = 0xF0;
    check(&movie(&child), InputMalformed);
    child[..4].copy_from_slice(&7_u32.to_be_bytes());
    check(&movie(&child), InputMalformed);
    // 64-bit sizes: one that overflows, one that is honest.
    let mut large = [&[0, 0, 0, 1][..], b"mdat", &[0xFF; 8], &[0; 8]].concat();
    check(&[&ftyp[..], &large].concat(), InputMalformed);
    large[8..16].copy_from_slice(&24_u64.to_be_bytes());
    let honest = [&ftyp[..], &large, &boxed(b"moov", &track(640, 480))].concat();
    assert!(verdict(&honest, "video/mp4").is_ok());
    // More boxes than any film has.
    check(&[&ftyp[..], &boxed(b"free", b"").repeat(1 << 19)].concat(), InputTooComplex);
}

#[test]
fn pictures_over_the_limit_are_refused_by_their_header() {
    let png = |width: u32, height: u32| {
        let sides = [width.to_be_bytes(), height.to_be_bytes()].concat();
        let header = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR";
        [&header[..], &sides, b"\x08\x02\0\0\0\0\0\0\0"].concat()
    };
    let jpeg = |width: u16, height: u16| {
        let start = b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x01\0\0\x01\0\x01\0\0\xff\xc0\0\x11\x08";
        [&start[..], &height.to_be_bytes(), &width.to_be_bytes(), b"\x03\x01\x11\0"].concat()
    };
    assert!(verdict(&png(8192, 4320), "image/png").is_ok());
    assert_eq!(code(&png(8193, 4320), "image/png"), RejectCode::InputTooComplex);
    assert_eq!(code(&png(u32::MAX, u32::MAX), "image/png"), RejectCode::InputTooComplex);
    assert_eq!(code(&png(0, 1), "image/png"), RejectCode::InputMalformed);
    assert_eq!(code(&png(1, 1)[..18], "image/png"), RejectCode::InputMalformed);
    assert!(verdict(&jpeg(4000, 3000), "image/jpeg").is_ok());
    assert_eq!(code(&jpeg(u16::MAX, u16::MAX), "image/jpeg"), RejectCode::InputTooComplex);
    assert_eq!(code(b"\xff\xd8\xff\xe0\0\x10JFIF\0", "image/jpeg"), RejectCode::InputMalformed);
}

#[test]
fn too_many_tracks_are_refused() {
    let dir = dir("tracks");
    let maps = "-map 1:a ".repeat(33);
    for (format, codec, declared) in [
        ("mp4", "aac", "video/mp4"),
        ("matroska", "flac", "video/x-matroska"),
        ("mpegts", "mp2", "video/mp2t"),
        ("avi", "pcm_s16le", "video/x-msvideo"),
        ("ogg", "flac", "video/ogg"),
    ] {
        let args = format!("{maps} -c:a {codec} -f {format}");
        let bytes = make(&dir, format, &args);
        assert_eq!(code(&bytes, declared), RejectCode::InputTooComplex, "{format}");
    }
}

#[test]
fn a_polyglot_is_what_its_first_bytes_are_and_no_more() {
    let (_, png) = samples().iter().find(|(c, _)| *c == Container::Png).unwrap();
    let both = [&png[..], b"\n#EXTM3U\n#EXT-X-MEDIA:URI=/etc/passwd\n"].concat();
    assert_eq!(verdict(&both, "image/png").unwrap().container, Container::Png);
    let list = [&b"#EXTM3U\n"[..], png].concat();
    assert_eq!(code(&list, "image/png"), RejectCode::InputPlaylist);
}

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig { failure_persistence: None, cases, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(2000))]

    /// Any mutation ends in a verdict (no panic), and any cut into pieces gives the same one.
    #[test]
    fn mutants_never_panic_and_pieces_do_not_matter(
        which in 0_usize..13,
        edits in prop::collection::vec(
            (any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 0..16),
        keep in any::<prop::sample::Index>(),
        cut in any::<bool>(),
        step in 1_usize..5000,
    ) {
        let (container, bytes) = &samples()[which];
        let mut bytes = bytes.clone();
        for (at, value, near_front) in edits {
            let span = if near_front { bytes.len().min(512) } else { bytes.len() };
            let at = at.index(span);
            bytes[at] = value;
        }
        if cut {
            let length = keep.index(bytes.len());
            bytes.truncate(length);
        }
        let declared = recipe(*container).1;
        let whole = verdict_in_steps(&bytes, declared, usize::MAX);
        prop_assert_eq!(&whole, &verdict_in_steps(&bytes, declared, step));
        if let Ok(seen) = whole {
            prop_assert_eq!(seen.container, *container);
            let pixels = seen.width.zip(seen.height).map(|(w, h)| u64::from(w) * u64::from(h));
            prop_assert!(pixels.unwrap_or(0) <= hotcell_schemas::limits::PIXELS_MAX);
        } else if let Err(failure) = whole {
            prop_assert!(!failure.message.is_empty() && failure.message.is_ascii());
        }
    }

    /// Noise after a magic number: the parsers' worst food.
    #[test]
    fn noise_behind_a_magic_never_panics(
        magic in prop::sample::select(vec![
            &b"\0\0\0\x18ftypisom"[..], b"\x1A\x45\xDF\xA3", b"RIFF\0\0\0\0AVI LIST", b"OggS\0\x02",
            b"RIFF\0\0\0\0WAVEfmt ", b"fLaC\0\0\0\x22", b"FLV\x01\x05", b"GIF89a",
            b"\xff\xd8\xff\xe0",
            b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\x47\x40\0\x10\0", b"ID3\x04\0\0",
        ]),
        noise in prop::collection::vec(any::<u8>(), 0..4096),
    ) {
        let bytes = [magic, &noise].concat();
        for (_, declared) in Container::ALL.map(recipe) {
            drop(verdict(&bytes, declared));
        }
    }
}
