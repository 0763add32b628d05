//! Files that are two things, or another thing than they say.

use super::{COMPLETED, FOREIGN, MISMATCH, MUTANT, NOT_MEDIA, Shelf, clips::Clips, isobmff::boxed};
use anyhow::Result;

/// An empty ZIP archive: its end record (APPNOTE §4.3.16).
const ZIP: &[u8] = b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
const HTML: &[u8] = b"<html><script>fetch('//127.0.0.1:9')</script></html>";
const PDF: &[u8] =
    b"%PDF-1.7\n1 0 obj<</Type/Catalog/OpenAction<</S/JavaScript/JS(x)>>>>endobj\n%%EOF\n";
const ELF: &[u8] = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0";
const PE: &[u8] = b"MZ\x90\0\x03\0\0\0\x04\0\0\0\xff\xff\0\0";
const SHELL: &[u8] = b"#!/bin/sh\ncat /etc/passwd\n";

pub(super) fn put(clips: &Clips, shelf: &mut Shelf) -> Result<()> {
    let (mp4, kind) = (clips.get("mp4")?, "video/mp4");
    shelf.family("polyglot");
    // What a player ignores may be anything: it must not come out again.
    for (name, other) in
        [("zip", ZIP), ("html", HTML), ("pdf", PDF), ("elf", ELF), ("pe", PE), ("sh", SHELL)]
    {
        let tail = [mp4, &boxed(b"free", other)].concat();
        shelf.put(format!("mp4-{name}-box"), kind, tail, COMPLETED);
        shelf.put(format!("mp4-{name}-tail"), kind, [mp4, other].concat(), MUTANT);
        shelf.put(format!("{name}-mp4"), kind, [other, mp4].concat(), FOREIGN);
        shelf.put(format!("{name}-only"), kind, other.repeat(40), FOREIGN);
    }
    for (name, bytes) in [
        ("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\x03".as_slice()),
        ("7z", b"7z\xbc\xaf\x27\x1c\0\x04"),
        ("class", b"\xca\xfe\xba\xbe\0\0\0\x34"),
        ("wasm", b"\0asm\x01\0\0\0"),
        ("sqlite", b"SQLite format 3\0"),
        ("ole", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"),
        ("xz", b"\xfd7zXZ\0"),
        ("rtf", b"{\\rtf1 x}"),
        ("tiff", b"MM\0\x2a\0\0\0\x08"),
        ("bmp", b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0"),
        ("webp", b"RIFF\x24\0\0\0WEBPVP8 "),
        ("heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
        ("avif", b"\0\0\0\x18ftypavif\0\0\0\0mif1avif"),
        ("jxl", b"\0\0\0\x0cJXL \x0d\x0a\x87\x0a"),
        ("asf", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\0\xaa\0\x62\xce\x6c"),
        ("mpeg-ps", b"\0\0\x01\xba\x44\0\x04\0\x04\x01"),
        ("midi", b"MThd\0\0\0\x06\0\x01\0\x01"),
        ("swf", b"FWS\x09\x40\0\0\0"),
        ("exr", b"\x76\x2f\x31\x01\x02\0\0\0"),
        ("psd", b"8BPS\0\x01\0\0\0\0\0\0"),
        ("dicom", &[0; 128]),
    ] {
        shelf.put(name, kind, [bytes, &[0; 500]].concat(), NOT_MEDIA);
    }
    // Media of another kind than declared.
    for (name, clip, declared) in [
        ("webm-as-mp4", "webm", "video/mp4"),
        ("mp4-as-webm", "mp4", "video/webm"),
        ("mp4-as-png", "mp4", "image/png"),
        ("gif-as-mp4", "gif", "video/mp4"),
        ("wav-as-mp3", "wav", "audio/mpeg"),
        ("mp4-as-audio", "mp4", "audio/mp4"),
        ("ts-as-aac", "ts", "audio/aac"),
        ("avi-as-wav", "avi", "audio/wav"),
    ] {
        shelf.put(name, declared, clips.get(clip)?.to_vec(), MISMATCH);
    }
    let gifar = [clips.get("gif")?, ZIP].concat();
    shelf.put("gif-zip", "image/gif", gifar, MUTANT);
    shelf.put("png-html", "image/png", [clips.get("png")?, HTML].concat(), MUTANT);
    shelf.put("jpeg-zip", "image/jpeg", [clips.get("jpg")?, ZIP].concat(), MUTANT);
    shelf.put(
        "mp3-php",
        "audio/mpeg",
        [clips.get("mp3")?, b"<?php system($_GET[0]);"].concat(),
        MUTANT,
    );
    Ok(())
}
