//! Any text as a subject.

#![no_main]
#![allow(dead_code, reason = "each target uses one function")]

#[path = "../../schemas/tests/hostile/mod.rs"]
mod hostile;

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::subject(data));
