//! Marks of encryption and of digital rights management in containers.
//!
//! Promises: what is found is a fact of the bytes, by the boxes, elements and bits that players
//! need to find a key; constant memory. Refuses to conclude more: a file without marks may be
//! protected by means that no header tells, and marks outside the windows that the scanner keeps
//! are not seen.

/// Boxes that make a file protected at whatever level they lie: the protection scheme and the
/// licence data of ISO/IEC 14496-12 §8.12, and the sample data of ISO/IEC 23001-7 §7 and §8. `schm`
/// by itself is none: restricted video (§8.15) has it for stereo pictures.
const BOXES: [&[u8; 4]; 4] = [b"sinf", b"pssh", b"senc", b"tenc"];

/// Sample entries of protected tracks (ISO/IEC 14496-12 §8.12.1), and Apple's for FairPlay.
const ENTRIES: [&[u8; 4]; 9] =
    [b"encv", b"enca", b"enct", b"encs", b"encm", b"enc3", b"drms", b"drmi", b"drmt"];

/// Whether a box of this kind is a mark by itself.
pub(crate) fn is_mark(kind: &[u8; 4]) -> bool {
    BOXES.contains(&kind)
}

/// Looks for marks in boxes that are not taken apart: their sample entries and fragments nest too
/// deep to be worth a walk, and a mark in the wrong place is a mark as well.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Search {
    /// The last eight bytes: a box's size and kind.
    last: u64,
    /// Bytes since the search began, up to eight.
    known: u8,
    pub(crate) found: bool,
}

impl Search {
    /// A new box begins: what came before it is not part of a header.
    pub(crate) fn begin(&mut self) {
        (self.last, self.known) = (0, 0);
    }

    /// The next bytes of a box of which so many are left, these included. A kind counts behind a size
    /// that fits, so that numbers in a table are no mark.
    pub(crate) fn feed(&mut self, bytes: &[u8], mut left: u64) {
        for byte in bytes {
            left = left.saturating_sub(1);
            self.last = self.last << 8 | u64::from(*byte);
            self.known = self.known.saturating_add(1).min(8);
            if self.known < 8 {
                continue;
            }
            let [a, b, c, d, kind @ ..] = self.last.to_be_bytes();
            let size = u64::from(u32::from_be_bytes([a, b, c, d]));
            // 0 and 1 stand for "to the end" and "the size follows".
            let fits = size <= 1 || (8..=left.saturating_add(8)).contains(&size);
            self.found |= fits && (BOXES.contains(&&kind) || ENTRIES.contains(&&kind));
        }
    }
}

/// Whether a transport stream's packet is scrambled (ISO/IEC 13818-1 §2.4.3.3). Packets that say
/// that they are damaged, and those that carry nothing, say nothing.
pub(crate) fn is_scrambled(packet: &[u8]) -> bool {
    let &[0x47, high, low, control, ..] = packet else { return false };
    let is_whole = high & 0x80 == 0;
    let is_null = (high & 0x1F, low) == (0x1F, 0xFF);
    is_whole && !is_null && control & 0xC0 != 0
}

/// Whether a list of descriptors holds one of conditional access (ISO/IEC 13818-1 §2.6.16).
pub(crate) fn has_access_descriptor(mut list: &[u8]) -> bool {
    while let [tag, length, rest @ ..] = list {
        if *tag == 0x09 {
            return true;
        }
        list = rest.get(usize::from(*length)..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn search(body: &[u8]) -> bool {
        let mut whole = Search::default();
        whole.feed(body, body.len() as u64);
        let mut split = Search::default();
        for (at, byte) in body.iter().enumerate() {
            split.feed(&[*byte], (body.len() - at) as u64);
        }
        assert_eq!(whole.found, split.found);
        whole.found
    }

    #[test]
    fn a_kind_counts_behind_a_size_that_fits() {
        assert!(search(b"\0\0\0\0\0\0\0\x01\0\0\0\x0cencv...."));
        assert!(search(b"\0\0\0\x01sinf...."));
        assert!(search(b"....\0\0\0\x0Apssh.."));
        assert!(!search(b"\0\0\0\x0Cavc1...."));
        assert!(!search(b"\0\0\xff\xffsinf...."), "larger than what holds it");
        assert!(!search(b"\0\0\0\x07sinf...."), "smaller than a header");
        assert!(!search(b"sinf"));
        assert!(!search(b"\0\0\0\x0Cschm...."));
    }

    #[test]
    fn a_new_box_is_not_read_across() {
        let mut search = Search::default();
        search.feed(b"\0\0\0\x09", 100);
        search.begin();
        search.feed(b"sinf....", 100);
        assert!(!search.found);
    }

    #[test]
    fn packets_and_descriptors() {
        assert!(is_scrambled(&[0x47, 0x01, 0x00, 0x90]));
        assert!(is_scrambled(&[0x47, 0x01, 0x00, 0xD0]));
        assert!(!is_scrambled(&[0x47, 0x01, 0x00, 0x10]));
        assert!(!is_scrambled(&[0x47, 0x81, 0x00, 0x90]), "damaged");
        assert!(!is_scrambled(&[0x47, 0x1F, 0xFF, 0x90]), "null");
        assert!(!is_scrambled(&[0x00, 0x01, 0x00, 0x90]), "out of step");
        assert!(!is_scrambled(&[]));
        assert!(has_access_descriptor(&[0x0A, 1, 0, 0x09, 4, 0, 0, 0, 0]));
        assert!(!has_access_descriptor(&[0x09]), "cut short");
        assert!(!has_access_descriptor(&[0x0A, 2, 0x09, 0]));
        assert!(!has_access_descriptor(&[0x0A, 200, 0x09]));
    }
}
