//! Any bytes as an upload: the code is the validator's own files. The first byte picks the declared
//! type, the second where the upload is cut in two. What is accepted is of the declared container
//! and within the limits, and the cut changes nothing.

#![no_main]
#![allow(dead_code, unreachable_pub, reason = "modules of the validator, without the rest of it")]

#[path = "../../services/validator/src/accept.rs"]
pub mod accept;
#[path = "../../services/validator/src/ebml.rs"]
mod ebml;
#[path = "../../services/validator/src/field.rs"]
mod field;
#[path = "../../services/validator/src/header.rs"]
mod header;
#[path = "../../services/validator/src/isobmff.rs"]
mod isobmff;
#[path = "../../services/validator/src/playlist.rs"]
mod playlist;
#[path = "../../services/validator/src/protection.rs"]
mod protection;
#[path = "../../services/validator/src/scan.rs"]
pub mod scan;
#[path = "../../services/validator/src/seen.rs"]
mod seen;
#[path = "../../services/validator/src/sniff.rs"]
pub mod sniff;

use hotcell_schemas::limits::{DURATION_SECS_MAX, PIXELS_MAX};

/// One type for each container, in the order of the seeds' first bytes.
const DECLARED: [&str; 14] = [
    "video/mp4",
    "video/x-matroska",
    "video/mp2t",
    "video/x-msvideo",
    "video/x-flv",
    "audio/wav",
    "audio/mpeg",
    "audio/aac",
    "audio/flac",
    "video/ogg",
    "image/png",
    "image/jpeg",
    "image/gif",
    "audio/mp4",
];

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let [kind, cut, file @ ..] = data else { return };
    let declared = DECLARED[usize::from(*kind) % DECLARED.len()];
    let verdict = |pieces: &[&[u8]]| {
        let mut scanner = scan::Scanner::new();
        pieces.iter().for_each(|piece| scanner.feed(piece));
        sniff::sniff(&scanner.finish(), declared)
    };
    let (front, back) = file.split_at(file.len() * usize::from(*cut) / 256);
    let whole = verdict(&[file]);
    assert_eq!(whole, verdict(&[front, back]), "a cut changes the verdict");
    let Ok(seen) = whole else { return };
    assert_eq!(Some(seen.container), accept::declared(declared));
    let pixels = u64::from(seen.width.unwrap_or(0)) * u64::from(seen.height.unwrap_or(0));
    assert!(pixels <= PIXELS_MAX);
    assert!(seen.duration_ms <= Some(u64::from(DURATION_SECS_MAX) * 1000));
});
