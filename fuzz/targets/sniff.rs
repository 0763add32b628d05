//! Any bytes as an upload: the code is the validator's own files.

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
#[path = "../../services/validator/src/scan.rs"]
pub mod scan;
#[path = "../../services/validator/src/seen.rs"]
mod seen;
#[path = "../../services/validator/src/sniff.rs"]
pub mod sniff;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut scanner = scan::Scanner::new();
    scanner.feed(data);
    let scan = scanner.finish();
    drop(sniff::sniff(&scan, "video/mp4"));
});
