//! The front of a Matroska or WebM file (RFC 8794 for EBML, RFC 9559 for Matroska).
//!
//! Promises: reads the head window only, once, and follows no pointer of the file. Refuses a
//! segment that claims more bytes than the file has.

use crate::{
    field::be,
    seen::{Flaw, Seen},
};
use hotcell_schemas::limits::STREAMS_MAX;

const EBML: u64 = 0x1A45_DFA3;
const DOC_TYPE: u64 = 0x4282;
const SEGMENT: u64 = 0x1853_8067;
const INFO: u64 = 0x1549_A966;
const TIMESTAMP_SCALE: u64 = 0x2A_D7B1;
const DURATION: u64 = 0x4489;
const TRACKS: u64 = 0x1654_AE6B;
const TRACK_ENTRY: u64 = 0xAE;
const TRACK_TYPE: u64 = 0x83;
const VIDEO: u64 = 0xE0;
const PIXEL_WIDTH: u64 = 0xB0;
const PIXEL_HEIGHT: u64 = 0xBA;
const CONTENT_ENCODINGS: u64 = 0x6D80;
const CONTENT_ENCODING: u64 = 0x6240;
const CONTENT_ENCODING_TYPE: u64 = 0x5033;
const CONTENT_ENCRYPTION: u64 = 0x5035;
const CLUSTER: u64 = 0x1F43_B675;

/// One element.
struct Element<'a> {
    id: u64,
    /// `None`: unknown, which live recordings write (RFC 8794 §6.2).
    size: Option<u64>,
    /// What the window holds of the body.
    body: &'a [u8],
}

impl Element<'_> {
    fn is_whole(&self) -> bool {
        self.size.is_some_and(|size| size == self.body.len() as u64)
    }
}

/// Whether the file says that it is Matroska or WebM. Ours and not the sniffer's, which must see
/// the tracks before it believes so, however much comes before them.
pub(crate) fn is_matroska(head: &[u8]) -> bool {
    let mut rest = head;
    let first = next(&mut rest).filter(|element| element.id == EBML && element.is_whole());
    let named = first.and_then(|element| find(element.body, DOC_TYPE));
    // Strings may be filled up with zeros (RFC 8794 §7.4).
    let name = named.map(|element| element.body.split(|byte| *byte == 0).next());
    matches!(name, Some(Some(b"matroska" | b"webm")))
}

/// What the header says.
pub(crate) fn seen(head: &[u8], length: u64) -> Result<Seen, Flaw> {
    let mut rest = head;
    let first = next(&mut rest).filter(|element| element.id == EBML && element.is_whole());
    first.ok_or(Flaw::Contradiction)?;
    let before = rest.len();
    let segment = next(&mut rest).filter(|element| element.id == SEGMENT);
    let segment = segment.ok_or(Flaw::Truncated)?;
    let header = before.saturating_sub(segment.body.len()).saturating_sub(rest.len());
    let offset = (head.len() - before + header) as u64;
    if segment.size.is_some_and(|size| size > length.saturating_sub(offset)) {
        return Err(Flaw::Truncated);
    }
    let mut seen = Seen::default();
    let mut children = segment.body;
    while let Some(child) = next(&mut children) {
        match child.id {
            INFO if child.is_whole() => seen.duration_ms = duration_ms(child.body),
            TRACKS if child.is_whole() => {
                let (duration_ms, empty) = (seen.duration_ms, Seen::complete());
                seen = tracks(child.body, Seen { duration_ms, ..empty })?;
            }
            // Everything that is wanted comes before the first cluster, or cannot be had cheaply.
            CLUSTER => break,
            _ => {}
        }
    }
    Ok(seen)
}

fn tracks(body: &[u8], mut seen: Seen) -> Result<Seen, Flaw> {
    let mut entries = body;
    while let Some(entry) = next(&mut entries) {
        if entry.id != TRACK_ENTRY {
            continue;
        }
        if seen.streams >= STREAMS_MAX {
            return Err(Flaw::Streams);
        }
        seen.protected |= is_encrypted(entry.body);
        match number(entry.body, TRACK_TYPE) {
            Some(1) => {
                let video = find(entry.body, VIDEO).map_or(&[][..], |video| video.body);
                let side = |id| number(video, id).map(|n| u32::try_from(n).unwrap_or(u32::MAX));
                seen.picture(side(PIXEL_WIDTH).zip(side(PIXEL_HEIGHT)));
            }
            Some(2) => seen.voice(),
            _ => seen.streams += 1,
        }
    }
    Ok(seen)
}

/// Whether a track's data is encrypted (RFC 9559 §5.1.4.1.31): an encoding says so by its type, or
/// by what it holds.
fn is_encrypted(entry: &[u8]) -> bool {
    all(entry, CONTENT_ENCODINGS).flat_map(|list| all(list, CONTENT_ENCODING)).any(|encoding| {
        number(encoding, CONTENT_ENCODING_TYPE) == Some(1)
            || find(encoding, CONTENT_ENCRYPTION).is_some()
    })
}

/// The bodies of every child called `id`.
fn all(body: &[u8], id: u64) -> impl Iterator<Item = &[u8]> {
    let mut rest = body;
    let children = std::iter::from_fn(move || next(&mut rest));
    children.filter(move |child| child.id == id).map(|child| child.body)
}

fn duration_ms(info: &[u8]) -> Option<u64> {
    let nanos_per_tick = number(info, TIMESTAMP_SCALE).unwrap_or(1_000_000);
    let raw = find(info, DURATION)?.body;
    let ticks = match raw.len() {
        4 => f64::from(f32::from_be_bytes(raw.try_into().ok()?)),
        8 => f64::from_be_bytes(raw.try_into().ok()?),
        _ => return None,
    };
    #[expect(clippy::cast_precision_loss, reason = "a duration to a part in 2^52 is exact enough")]
    let millis = ticks * nanos_per_tick as f64 / 1e6;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float cast saturates, and a negative or absurd duration is filtered first"
    )]
    (millis.is_finite() && millis >= 0.0).then_some(millis as u64)
}

fn find(body: &[u8], id: u64) -> Option<Element<'_>> {
    let mut rest = body;
    while let Some(element) = next(&mut rest) {
        if element.id == id {
            return Some(element);
        }
    }
    None
}

fn number(body: &[u8], id: u64) -> Option<u64> {
    find(body, id).and_then(|element| be(element.body))
}

/// Takes one element off the front. Each call takes at least two bytes, so a loop over it ends.
fn next<'a>(rest: &mut &'a [u8]) -> Option<Element<'a>> {
    let (id, after_id) = vint(rest, 4, true)?;
    let (size, after) = vint(after_id, 8, false)?;
    let have = size.and_then(|size| usize::try_from(size).ok()).unwrap_or(usize::MAX);
    let (body, after) = after.split_at(have.min(after.len()));
    *rest = after;
    Some(Element { id: id?, size, body })
}

/// A variable-size integer (RFC 8794 §4) and what follows it. The value is `None` when all its bits
/// are ones.
fn vint(bytes: &[u8], length_max: usize, keep_marker: bool) -> Option<(Option<u64>, &[u8])> {
    let first = *bytes.first()?;
    let length = usize::try_from(first.leading_zeros()).ok()? + 1;
    if length > length_max {
        return None;
    }
    let (own, rest) = bytes.split_at_checked(length)?;
    let value = be(own)?;
    let mask = (1_u64 << (7 * length)) - 1;
    if keep_marker {
        return Some((Some(value), rest));
    }
    let value = value & mask;
    Some(((value != mask).then_some(value), rest))
}
