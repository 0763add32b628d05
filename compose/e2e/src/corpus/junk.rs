//! Nothing, noise and text under media types.

use super::{BROKEN, Expect, FOREIGN, NOT_MEDIA, Shelf, bytes::Random, references::KINDS};

/// The API refuses it before anything is stored.
const EMPTY: Expect = Expect { completed: false, codes: &["fileSize"] };

pub(super) fn put(shelf: &mut Shelf) {
    shelf.family("junk");
    shelf.put("empty", "video/mp4", Vec::new(), EMPTY);
    shelf.put("text", "video/mp4", b"hello, this is no film\n".repeat(9), NOT_MEDIA);
    shelf.put("line", "audio/mpeg", b"\n".to_vec(), FOREIGN);
    shelf.put("zeros-1m", "video/mp4", vec![0; 1 << 20], FOREIGN);
    shelf.put("ones-1m", "audio/mpeg", vec![0xff; 1 << 20], BROKEN);
    shelf.put("sync-bytes", "video/mp2t", vec![0x47; 1 << 16], BROKEN);
    shelf.put("long-line", "video/mp4", vec![b'a'; 1 << 20], NOT_MEDIA);
    for kind in KINDS.iter().step_by(3) {
        let stem = kind.replace('/', "-");
        let mut random = Random::of(&stem);
        shelf.put(format!("byte-{stem}"), kind, random.bytes(1), FOREIGN);
        shelf.put(format!("noise-{stem}"), kind, random.bytes(4096), FOREIGN);
    }
}
