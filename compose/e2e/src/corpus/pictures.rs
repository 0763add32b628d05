//! PNG, GIF and JPEG: few bytes that are many pixels, many frames or much memory.

use super::{
    BROKEN, COMPLETED, COMPLEX, Expect, HUNGRY, MALFORMED, MUTANT, STOPPED, Shelf,
    bytes::{back, crc32, find, front, inserted, len32, patched},
    clips::Clips,
    deflate,
};
use anyhow::Result;

pub(super) fn put(clips: &Clips, shelf: &mut Shelf) -> Result<()> {
    png(clips.get("png")?, shelf)?;
    gif(clips.get("gif")?, shelf);
    jpeg(clips.get("jpg")?, shelf)
}

/// A chunk of a PNG (ISO/IEC 15948 §5.3).
fn chunk(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let named = [name.as_slice(), body].concat();
    [&len32(body).to_be_bytes(), named.as_slice(), &crc32(&named).to_be_bytes()].concat()
}

/// A grey PNG of `bits` bits a pixel, with more chunks before its zeros.
pub(super) fn grey(width: u32, height: u32, bits: u8, more: &[u8]) -> Vec<u8> {
    let row = usize::try_from(u64::from(width) * u64::from(bits) / 8 + 1).unwrap_or(0);
    let height_ = usize::try_from(height).unwrap_or(0);
    let (data, _) = deflate::zeros(row * height_);
    let header = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[bits, 0, 0, 0, 0]].concat();
    let signature = b"\x89PNG\r\n\x1a\n".to_vec();
    [signature, chunk(b"IHDR", &header), more.to_vec(), chunk(b"IDAT", &data), chunk(b"IEND", &[])]
        .concat()
}

fn png(clip: &[u8], shelf: &mut Shelf) -> Result<()> {
    let kind = "image/png";
    shelf.family("png");
    let (bomb, _) = deflate::zeros(1 << 30);
    let text = |name: &[u8; 4], head: &[u8]| chunk(name, &[head, &bomb].concat());
    let profile = text(b"iCCP", b"icc\0\0");
    let ztxt = text(b"zTXt", b"Comment\0\0");
    let itxt = text(b"iTXt", b"Comment\0\x01\0\0\0");
    let apng = |frames: u32| chunk(b"acTL", &[frames.to_be_bytes(), [0; 4]].concat());
    let rows: [(&str, Vec<u8>, Expect); 18] = [
        ("by-hand", grey(64, 64, 8, &[]), COMPLETED),
        ("iccp-1g", grey(64, 64, 8, &profile), HUNGRY),
        ("ztxt-1g", grey(64, 64, 8, &ztxt), HUNGRY),
        ("itxt-1g", grey(64, 64, 8, &itxt), HUNGRY),
        ("ztxt-1g-times-8", grey(64, 64, 8, &ztxt.repeat(8)), HUNGRY),
        ("16384x16384", grey(16_384, 16_384, 8, &[]), COMPLEX),
        ("65535x65535", grey(65_535, 65_535, 1, &[]), COMPLEX),
        ("8192x4320-16-bit", grey(8192, 4320, 16, &[]), HUNGRY),
        ("35389440x1", grey(35_389_440, 1, 1, &[]), BROKEN),
        ("1x35389440", grey(1, 35_389_440, 1, &[]), BROKEN),
        ("size-max", patched(clip, 16, &[0x7f, 0xff, 0xff, 0xff].repeat(2)), COMPLEX),
        ("size-0", patched(clip, 16, &[0; 8]), MALFORMED),
        ("bits-255", patched(clip, 24, &[255]), BROKEN),
        ("type-255", patched(clip, 25, &[255]), BROKEN),
        ("chunk-max", patched(clip, 33, &[0xff; 4]), BROKEN),
        ("apng-frames-max", grey(64, 64, 8, &apng(u32::MAX)), MUTANT),
        ("palette-768k", grey(64, 64, 8, &chunk(b"PLTE", &vec![0; 768 << 10])), MUTANT),
        ("chunks-200000", grey(64, 64, 8, &chunk(b"tEXt", b"a\0b").repeat(200_000)), MUTANT),
    ];
    for (name, bytes, expect) in rows {
        shelf.put(name, kind, bytes, expect);
    }
    let header = back(&front(clip, 33), 8);
    let larger = patched(&header, 8, &[0, 0, 0x20, 0, 0, 0, 0x20, 0]);
    shelf.put("two-headers", kind, inserted(clip, 33, &larger), MUTANT);
    let idat = find(clip, b"IDAT")? + 4;
    shelf.put("idat-noise", kind, patched(clip, idat + 2, &[0xa5; 60]), MUTANT);
    let twice = [clip, clip].concat();
    shelf.put("two-pictures", kind, twice, MUTANT);
    Ok(())
}

/// A GIF whose frames are one pixel of their colour table's first entry.
fn frames(width: u16, height: u16, of: (u16, u16), count: usize) -> Vec<u8> {
    let side = |number: u16| number.to_le_bytes();
    let head =
        [b"GIF89a".as_slice(), &side(width), &side(height), &[0x80, 0, 0], &[90; 6]].concat();
    let image =
        [&[0x2c, 0, 0, 0, 0][..], &side(of.0), &side(of.1), &[0, 2, 2, 0x44, 1, 0]].concat();
    let control = [0x21, 0xf9, 4, 0, 1, 0, 0, 0];
    [head, [&control, image.as_slice()].concat().repeat(count), vec![0x3b]].concat()
}

fn gif(clip: &[u8], shelf: &mut Shelf) {
    let kind = "image/gif";
    shelf.family("gif");
    let comment =
        [&[0x21, 0xfe][..], &[&[255][..], &[b'x'; 255]].concat().repeat(4000), &[0]].concat();
    let endless = [&[0x21, 0xfe][..], &[&[255][..], &[b'x'; 255]].concat().repeat(4000)].concat();
    let rows: [(&str, Vec<u8>, Expect); 12] = [
        ("16000x16000", frames(16_000, 16_000, (1, 1), 1), COMPLEX),
        ("65535x65535", frames(65_535, 65_535, (65_535, 65_535), 1), COMPLEX),
        ("8192x4320-times-2000", frames(8192, 4320, (1, 1), 2000), STOPPED),
        ("frames-40000", frames(640, 480, (1, 1), 40_000), HUNGRY),
        ("frames-200000", frames(16, 16, (1, 1), 200_000), HUNGRY),
        ("frame-over-screen", frames(16, 16, (8000, 4000), 3), MUTANT),
        ("size-0", frames(0, 0, (1, 1), 1), BROKEN),
        ("no-frames", frames(64, 64, (1, 1), 0), BROKEN),
        ("comment-1m", inserted(&frames(64, 64, (64, 64), 3), 19, &comment), MUTANT),
        ("comment-without-end", inserted(&frames(64, 64, (64, 64), 3), 19, &endless), BROKEN),
        ("code-size-255", patched(&frames(64, 64, (64, 64), 1), 37, &[255]), BROKEN),
        ("times-200", clip.repeat(200), MUTANT),
    ];
    for (name, bytes, expect) in rows {
        shelf.put(name, kind, bytes, expect);
    }
    let delay = frames(64, 64, (64, 64), 3);
    shelf.put("delay-max", kind, patched(&delay, 23, &[0xff, 0xff]), MUTANT);
}

/// A segment of a JPEG file (ITU-T T.81 §B.1.1.4).
fn segment(marker: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len() + 2).unwrap_or(u16::MAX).to_be_bytes();
    [&[0xff, marker], &length[..], body].concat()
}

/// A progressive grey JPEG with one-component scans that each code "end of all bands".
fn progressive(width: u16, height: u16, scans: usize) -> Vec<u8> {
    let quantizer = segment(0xdb, &[&[0][..], &[1; 64]].concat());
    let sizes = [height.to_be_bytes(), width.to_be_bytes()].concat();
    let frame = segment(0xc2, &[&[8][..], &sizes, &[1, 1, 0x11, 0]].concat());
    let table =
        |class: u8, symbol: u8| segment(0xc4, &[&[class][..], &[1], &[0; 15], &[symbol]].concat());
    // DC: one code, no difference. AC: one code, 2^14 blocks without bands.
    let tables = [table(0x00, 0), table(0x10, 0xe0)].concat();
    let blocks = usize::from(width.div_ceil(8)) * usize::from(height.div_ceil(8));
    let bits = vec![0; (blocks / 8 + 8).min(100_000)];
    let first = [segment(0xda, &[1, 1, 0, 0, 0, 0x00]), bits].concat();
    let scan = [segment(0xda, &[1, 1, 0, 1, 63, 0x00]), vec![0; 80]].concat();
    [vec![0xff, 0xd8], quantizer, frame, tables, first, scan.repeat(scans), vec![0xff, 0xd9]]
        .concat()
}

fn jpeg(clip: &[u8], shelf: &mut Shelf) -> Result<()> {
    let kind = "image/jpeg";
    shelf.family("jpeg");
    let sof = find(clip, b"\xff\xc0")?;
    let exif = |body: &[u8]| inserted(clip, 2, &segment(0xe1, &[b"Exif\0\0", body].concat()));
    // A directory whose next one is itself (TIFF 6.0 §2), and one of 65535 entries.
    let own = [b"MM\0\x2a\0\0\0\x08".as_slice(), &[0, 1], &[0; 12], &[0, 0, 0, 8]].concat();
    let full = [b"MM\0\x2a\0\0\0\x08".as_slice(), &[0xff, 0xff], &[0x5a; 2000]].concat();
    let rows: [(&str, Vec<u8>, Expect); 16] = [
        ("65500x65500", patched(clip, sof + 5, &[0xff, 0xdc, 0xff, 0xdc]), COMPLEX),
        ("65500x65500-progressive", progressive(65_500, 65_500, 4), COMPLEX),
        ("progressive", progressive(640, 480, 3), MUTANT),
        ("scans-500", progressive(4096, 4096, 500), HUNGRY),
        ("scans-10000", progressive(8192, 4320, 10_000), HUNGRY),
        ("8192x4320", patched(clip, sof + 5, &[0x10, 0xe0, 0x20, 0]), MUTANT),
        ("size-0", patched(clip, sof + 5, &[0; 4]), BROKEN),
        ("height-0", patched(clip, sof + 5, &[0; 2]), BROKEN),
        ("components-255", patched(clip, sof + 9, &[255]), BROKEN),
        ("sampling-max", patched(clip, sof + 11, &[0xff]), MUTANT),
        ("bits-255", patched(clip, sof + 4, &[255]), BROKEN),
        ("exif-loop", exif(&own), MUTANT),
        ("exif-65535", exif(&full), MUTANT),
        ("segments-5000", inserted(clip, 2, &segment(0xfe, &[b'x'; 100]).repeat(5000)), MUTANT),
        ("two-pictures", [clip, clip].concat(), MUTANT),
        ("restart-1", inserted(clip, 2, &segment(0xdd, &[0, 1])), MUTANT),
    ];
    for (name, bytes, expect) in rows {
        shelf.put(name, kind, bytes, expect);
    }
    let dht = find(clip, b"\xff\xc4")? + 5;
    shelf.put("tables-max", kind, patched(clip, dht, &[0xff; 16]), BROKEN);
    let profile = |number: u8| {
        segment(0xe2, &[b"ICC_PROFILE\0".as_slice(), &[number, 255], &[0x5a; 60_000]].concat())
    };
    let profiles: Vec<u8> = (1..=255).flat_map(profile).collect();
    shelf.put("profile-15m", kind, inserted(clip, 2, &profiles), MUTANT);
    Ok(())
}
