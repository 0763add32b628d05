//! Any bytes as the prober's answer: the code is the encoder's own file.

#![no_main]
#![allow(dead_code, unreachable_pub, reason = "a module of the encoder, without the rest of it")]

#[path = "../../services/encoder/src/probe.rs"]
mod probe;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Ok(found) = probe::parse(data) else { return };
    let _ = found;
});
