//! An envelope from anywhere, and signed bodies of any bytes.

#![no_main]
#![allow(dead_code, reason = "each target uses one function")]

#[path = "../../schemas/tests/hostile/mod.rs"]
mod hostile;

libfuzzer_sys::fuzz_target!(|data: &[u8]| hostile::open(data));
