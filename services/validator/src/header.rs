//! Headers of the containers that need no walk of their own: WAV, AVI, FLV, MPEG-TS, Ogg and FLAC.
//!
//! Promises: one pass over the head window. A field that the window does not hold stays unknown;
//! what the header says is held to the limits by the caller.

use crate::{
    field::{be, be16, be32, le32, millis, take},
    protection::{has_access_descriptor, is_scrambled},
    seen::Seen,
};
use hotcell_schemas::{limits::STREAMS_MAX, plan::Container};

/// Packets of a transport stream that are searched for its tables. They repeat at least every 100
/// ms (ISO/IEC 13818-1 and ETSI TR 101 290), which is 5000 packets at 75 Mbit/s.
const TS_PACKETS_MAX: usize = 5000;

/// What the header of this container says.
pub(crate) fn seen(container: Container, head: &[u8], length: u64) -> Seen {
    match container {
        Container::Wav => wav(head, length),
        Container::Avi => avi(head),
        Container::Flv => flv(head),
        Container::MpegTs => mpeg_ts(head),
        Container::Ogg => ogg(head),
        Container::Flac => flac(head),
        Container::Mp3 | Container::Aac => Seen::sound(),
        Container::Mp4
        | Container::Matroska
        | Container::Png
        | Container::Jpeg
        | Container::Gif => Seen::default(),
    }
}

/// One RIFF chunk: its name, its body as far as the window goes, and its offset in the window.
fn chunk<'a>(rest: &mut &'a [u8]) -> Option<([u8; 4], u32, &'a [u8])> {
    let (name, size) = (take::<4>(rest, 0)?, le32(rest, 4)?);
    let body = rest.get(8..)?;
    let have = usize::try_from(size).unwrap_or(usize::MAX).min(body.len());
    // Chunks are padded to even sizes.
    let (body, after) = (body.get(..have)?, body.get(have.saturating_add(have % 2)..));
    *rest = after.unwrap_or_default();
    Some((name, size, body))
}

fn wav(head: &[u8], length: u64) -> Seen {
    let mut seen = Seen::sound();
    let mut rest = head.get(12..).unwrap_or_default();
    let mut bytes_per_sec = None;
    loop {
        let offset = head.len().saturating_sub(rest.len()).saturating_add(8) as u64;
        match chunk(&mut rest) {
            Some((name, _, body)) if &name == b"fmt " => bytes_per_sec = le32(body, 8),
            Some((name, size, _)) if &name == b"data" => {
                // Recorders that cannot seek back write 0 or the largest number.
                let stored = u64::from(size).min(length.saturating_sub(offset));
                let rate = bytes_per_sec.map(u64::from);
                seen.duration_ms = rate.and_then(|rate| millis(stored, rate));
                return seen;
            }
            Some(_) => {}
            None => return seen,
        }
    }
}

fn avi(head: &[u8]) -> Seen {
    let mut seen = Seen::default();
    let mut top = head.get(12..).unwrap_or_default();
    let Some((name, size, list)) = chunk(&mut top) else { return seen };
    let whole = usize::try_from(size).is_ok_and(|size| size == list.len());
    if &name != b"LIST" || !list.starts_with(b"hdrl") || !whole {
        return seen;
    }
    seen = Seen::complete();
    let mut rest = list.get(4..).unwrap_or_default();
    while let Some((name, _, body)) = chunk(&mut rest) {
        match &name {
            b"avih" => {
                let frames = le32(body, 16).map(u64::from);
                let micros = le32(body, 0).map(u64::from);
                let product = frames.zip(micros).and_then(|(f, m)| f.checked_mul(m));
                seen.duration_ms = product.map(|micros| micros / 1000);
            }
            b"LIST" if body.starts_with(b"strl") => avi_stream(&mut seen, body),
            _ => {}
        }
        if seen.streams > STREAMS_MAX {
            break;
        }
    }
    seen
}

fn avi_stream(seen: &mut Seen, list: &[u8]) {
    let mut rest = list.get(4..).unwrap_or_default();
    let (mut kind, mut size) = (None, None);
    while let Some((name, _, body)) = chunk(&mut rest) {
        match &name {
            b"strh" => kind = take::<4>(body, 0),
            // BITMAPINFOHEADER; a negative height means top-down.
            b"strf" => {
                let side = |at| take(body, at).map(|raw| i32::from_le_bytes(raw).unsigned_abs());
                size = side(4).zip(side(8));
            }
            _ => {}
        }
    }
    match kind.as_ref() {
        Some(b"vids") => seen.picture(size),
        Some(b"auds") => seen.voice(),
        _ => seen.streams += 1,
    }
}

/// Adobe FLV 10.1 §E.2. Writers forget the flags, so a flag that is off says nothing.
fn flv(head: &[u8]) -> Seen {
    let flags = head.get(4).copied().unwrap_or_default();
    let on = |bit: u8| (flags & bit != 0).then_some(true);
    Seen { has_video: on(0x01), has_audio: on(0x04), ..Seen::default() }
}

/// The kinds of streams in the program map tables (ISO/IEC 13818-1 §2.4.4).
fn mpeg_ts(head: &[u8]) -> Seen {
    let mut seen = Seen::default();
    // Blu-ray puts four bytes of time before each packet.
    let (step, skip) = if head.get(4) == Some(&0x47) && head.get(196) == Some(&0x47) {
        (192, 4)
    } else {
        (188, 0)
    };
    let mut maps: Vec<u16> = Vec::new();
    let mut done: Vec<u16> = Vec::new();
    let packets = head.chunks_exact(step).take(TS_PACKETS_MAX);
    seen.protected = packets.filter_map(|packet| packet.get(skip..)).any(is_scrambled);
    for packet in head.chunks_exact(step).take(TS_PACKETS_MAX) {
        let Some((pid, section)) = packet.get(skip..).and_then(ts_section) else { continue };
        if pid == 0 && maps.is_empty() {
            maps = ts_programs(section);
            // A table that says more programs than tracks are allowed is over the limit by itself.
            seen.streams = if maps.len() > STREAMS_MAX { maps.len() } else { 0 };
        } else if maps.contains(&pid) && !done.contains(&pid) {
            done.push(pid);
            ts_streams(&mut seen, section);
        }
        let all = !maps.is_empty() && done.len() == maps.len();
        if all || seen.streams > STREAMS_MAX {
            break;
        }
    }
    seen
}

/// The packet's id and the table that starts in it.
fn ts_section(packet: &[u8]) -> Option<(u16, &[u8])> {
    let flags = be16(packet, 1)?;
    let control = packet.get(3)? >> 4 & 3;
    if packet.first() != Some(&0x47) || flags & 0x4000 == 0 || control & 1 == 0 {
        return None;
    }
    let adaptation = if control & 2 == 0 { 0 } else { usize::from(*packet.get(4)?) + 1 };
    let payload = packet.get(4 + adaptation..)?;
    let pointer = usize::from(*payload.first()?);
    let section = payload.get(1 + pointer..)?;
    let length = usize::from(be16(section, 1)? & 0x0FFF) + 3;
    // The last four bytes are a checksum.
    let end = length.min(section.len()).checked_sub(if length <= section.len() { 4 } else { 0 })?;
    Some((flags & 0x1FFF, section.get(..end)?))
}

fn ts_programs(section: &[u8]) -> Vec<u16> {
    let entries = section.get(8..).unwrap_or_default().chunks_exact(4);
    let pids = entries.filter(|entry| be16(entry, 0) != Some(0)).filter_map(|entry| be16(entry, 2));
    pids.map(|pid| pid & 0x1FFF).collect()
}

fn ts_streams(seen: &mut Seen, section: &[u8]) {
    let info = usize::from(be16(section, 10).unwrap_or_default() & 0x0FFF);
    let (all, mut rest) =
        section.get(12..).and_then(|body| body.split_at_checked(info)).unwrap_or_default();
    seen.protected |= has_access_descriptor(all);
    while let (Some(kind), Some(info)) = (rest.first(), be16(rest, 3)) {
        match kind {
            0x01 | 0x02 | 0x10 | 0x1B | 0x24 | 0x42 | 0xEA => seen.picture(None),
            0x03 | 0x04 | 0x0F | 0x11 | 0x81 | 0x87 => seen.voice(),
            _ => seen.streams += 1,
        }
        let (own, after) = rest
            .get(5..)
            .and_then(|body| body.split_at_checked(usize::from(info & 0x0FFF)))
            .unwrap_or_default();
        seen.protected |= has_access_descriptor(own);
        rest = after;
    }
}

/// The first pages, which name the codec of each stream (RFC 3533 §4).
fn ogg(head: &[u8]) -> Seen {
    let mut seen = Seen::complete();
    let mut rest = head;
    while rest.starts_with(b"OggS") && rest.get(5).is_some_and(|flags| flags & 2 != 0) {
        let count = usize::from(rest.get(26).copied().unwrap_or_default());
        let Some((table, after)) = rest.get(27..).and_then(|at| at.split_at_checked(count)) else {
            return Seen::default();
        };
        let size: usize = table.iter().map(|lace| usize::from(*lace)).sum();
        let body = after.get(..size.min(after.len())).unwrap_or_default();
        match body {
            [0x80, b't', b'h', b'e', b'o', b'r', b'a', ..] => {
                let side = |at: usize| body.get(at..at + 3).and_then(be);
                let pair = side(14).zip(side(17));
                let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
                seen.picture(pair.map(|(width, height)| (narrow(width), narrow(height))));
            }
            [1, b'v', b'o', b'r', b'b', b'i', b's', ..]
            | [b'O', b'p', b'u', b's', b'H', b'e', b'a', b'd', ..]
            | [0x7F, b'F', b'L', b'A', b'C', ..]
            | [b'S', b'p', b'e', b'e', b'x', ..] => seen.voice(),
            _ => seen.streams += 1,
        }
        if seen.streams > STREAMS_MAX {
            break;
        }
        rest = after.get(size..).unwrap_or_default();
    }
    seen
}

/// STREAMINFO (RFC 9639 §8.2).
fn flac(head: &[u8]) -> Seen {
    let mut seen = Seen::sound();
    let rate = be32(head, 18).map(|word| u64::from(word >> 12));
    let samples = head.get(21..26).and_then(be).map(|word| word & 0xF_FFFF_FFFF);
    seen.duration_ms = rate.zip(samples.filter(|n| *n > 0)).and_then(|(r, n)| millis(n, r));
    seen
}
