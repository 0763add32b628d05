//! Any bytes as the prober's answer: the code is the encoder's own file. What it takes is within
//! every limit, and safe to show.

#![no_main]

#[path = "../../services/encoder/src/probe.rs"]
#[allow(dead_code, unreachable_pub, reason = "a module of the encoder, without the rest of it")]
mod probe;

use hotcell_schemas::limits::{
    CHANNELS_MAX, DURATION_SECS_MAX, PIXELS_MAX, SAMPLE_RATE_MAX, STREAMS_MAX,
};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let found = match probe::parse(data) {
        Ok(found) => found,
        Err(error) => {
            assert!(!error.to_string().contains(char::is_control));
            return;
        }
    };
    let name = |text: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b",_-.".contains(&b);
        assert!(!text.is_empty() && text.len() <= 48 && text.bytes().all(plain), "{text:?}");
    };
    name(&found.format);
    assert!(found.duration_ms <= Some(u64::from(DURATION_SECS_MAX) * 1000));
    assert!((1..=STREAMS_MAX).contains(&found.streams.len()));
    for stream in &found.streams {
        name(&stream.kind);
        name(&stream.codec);
        let side = |pixels: Option<u32>| u64::from(pixels.unwrap_or(0));
        assert!(side(stream.width) * side(stream.height) <= PIXELS_MAX);
        assert!(stream.sample_rate.is_none_or(|rate| u64::from(rate) <= SAMPLE_RATE_MAX));
        assert!(stream.channels.is_none_or(|channels| channels <= CHANNELS_MAX));
    }
});
