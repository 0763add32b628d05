//! Valid media with baggage: tags, fonts, subtitles, cover art. It is dropped, whatever it is.

use super::{
    BAGGAGE_TEXT, COMPLETED, HUNGRY, MUTANT, Shelf,
    audio::{frame, id3, synchsafe},
    bytes::{back, find, find_last, inserted, patched},
    clips::Clips,
    isobmff::{boxed, with_more},
    matroska::element,
    pictures::grey,
};
use anyhow::Result;

/// Tag texts that a careless reader takes for something else.
fn texts() -> [(&'static str, String); 5] {
    [
        ("plain", BAGGAGE_TEXT.to_owned()),
        (
            "lines",
            format!("{BAGGAGE_TEXT}\nprogress=end\nout_time_us=999999999999\n{BAGGAGE_TEXT}"),
        ),
        ("terminal", format!("\x1b[2J\x1b]0;{BAGGAGE_TEXT}\x07")),
        (
            "json",
            format!("{BAGGAGE_TEXT}\"}}],\"format\":{{\"format_name\":\"mov\"}},\"x\":[{{\"y\":\""),
        ),
        ("huge", BAGGAGE_TEXT.repeat(60_000)),
    ]
}

pub(super) fn put(clips: &Clips, shelf: &mut Shelf) -> Result<()> {
    shelf.family("baggage");
    let mkv = clips.get("mkv")?;
    let sound = clips.get("mp3")?;
    let sound = back(sound, find(sound, b"\xff\xfb")?);
    for (name, text) in texts() {
        let data = boxed(b"data", &[&[0, 0, 0, 1, 0, 0, 0, 0], text.as_bytes()].concat());
        let ilst = boxed(b"ilst", &boxed(b"\xa9nam", &data));
        let handler = boxed(b"hdlr", &[&[0; 8], b"mdirappl".as_slice(), &[0; 9]].concat());
        let meta = boxed(b"meta", &[&[0; 4], handler.as_slice(), &ilst].concat());
        let bytes = with_more(clips.get("mp4")?, &boxed(b"udta", &meta))?;
        shelf.put(format!("mp4-{name}"), "video/mp4", bytes, COMPLETED);
        let title = frame(b"TIT2", &[b"\x03", text.as_bytes()].concat());
        let own = frame(b"TXXX", &[b"\x03k\0", text.as_bytes()].concat());
        let frames = [title, own].concat();
        let bytes = [id3(&frames, synchsafe(frames.len())), sound.clone()].concat();
        shelf.put(format!("mp3-{name}"), "audio/mpeg", bytes, COMPLETED);
        let simple = [element(0x45A3, b"TITLE"), element(0x4487, text.as_bytes())].concat();
        let tags = element(0x1254_C367, &element(0x7373, &element(0x67C8, &simple)));
        shelf.put(format!("mkv-{name}"), "video/x-matroska", first_child(mkv, &tags)?, COMPLETED);
    }
    attachments(mkv, shelf)?;
    covers(clips, &sound, shelf)?;
    shelf.put("mkv-subtitles", "video/x-matroska", clips.get("srt")?.to_vec(), COMPLETED);
    Ok(())
}

/// A Matroska file with one more element before its tracks; the segment's size becomes unknown.
fn first_child(mkv: &[u8], child: &[u8]) -> Result<Vec<u8>> {
    let segment = find(mkv, b"\x18\x53\x80\x67")? + 4;
    let info = find_last(mkv, b"\x15\x49\xa9\x66")?;
    let unknown = [0x01, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    Ok(patched(&inserted(mkv, info, child), segment, &unknown))
}

fn attachments(mkv: &[u8], shelf: &mut Shelf) -> Result<()> {
    let file = |name: &str, kind: &str, bytes: &[u8]| {
        let parts = [
            element(0x466E, name.as_bytes()),
            element(0x4660, kind.as_bytes()),
            element(0x465C, bytes),
            element(0x46AE, &[1]),
        ];
        element(0x61A7, &parts.concat())
    };
    let text = BAGGAGE_TEXT.as_bytes();
    for (name, files) in [
        ("font", file("a.ttf", "application/x-truetype-font", &text.repeat(1000))),
        ("path", file("/out/out0.mp4", "application/x-truetype-font", text)),
        ("fonts-20", file("a.ttf", "font/ttf", text).repeat(20)),
        ("cover", file("cover.png", "image/png", &grey(64, 64, 8, &[]))),
        ("cover-16384", file("cover.png", "image/png", &grey(16_384, 16_384, 8, &[]))),
        ("cover-noise", file("cover.jpg", "image/jpeg", &text.repeat(100))),
    ] {
        let bytes = first_child(mkv, &element(0x1941_A469, &files))?;
        shelf.put(format!("mkv-{name}"), "video/x-matroska", bytes, HUNGRY);
    }
    Ok(())
}

fn covers(clips: &Clips, sound: &[u8], shelf: &mut Shelf) -> Result<()> {
    for (name, picture) in [
        ("small", grey(64, 64, 8, &[])),
        ("8192x4320", grey(8192, 4320, 8, &[])),
        ("16384", grey(16_384, 16_384, 8, &[])),
        ("65535", grey(65_535, 65_535, 1, &[])),
    ] {
        let body = [b"\0image/png\0\x03\0".as_slice(), &picture].concat();
        let frames = frame(b"APIC", &body);
        let bytes = [id3(&frames, synchsafe(frames.len())), sound.to_vec()].concat();
        shelf.put(format!("mp3-cover-{name}"), "audio/mpeg", bytes, MUTANT);
        let data = boxed(b"data", &[&[0, 0, 0, 14, 0, 0, 0, 0], picture.as_slice()].concat());
        let ilst = boxed(b"ilst", &boxed(b"covr", &data));
        let handler = boxed(b"hdlr", &[&[0; 8], b"mdirappl".as_slice(), &[0; 9]].concat());
        let meta = boxed(b"meta", &[&[0; 4], handler.as_slice(), &ilst].concat());
        let bytes = with_more(clips.get("m4a")?, &boxed(b"udta", &meta))?;
        shelf.put(format!("m4a-cover-{name}"), "audio/mp4", bytes, MUTANT);
    }
    Ok(())
}
