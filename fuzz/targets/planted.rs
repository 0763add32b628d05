//! A bug that was put here on purpose, behind a comparison of eight bytes and an overflow. Chance
//! does not get there; whoever sees which comparisons and branches an input reached does within
//! seconds. `tools/fuzz` finds it first, or stops: a run that finds nothing proves nothing unless
//! this one is found.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((magic, rest)) = data.split_first_chunk::<8>() else { return };
    if u64::from_be_bytes(*magic) == 0x686f_7463_656c_6c21
        && let Some([count, ..]) = rest.first_chunk::<4>()
        && *count > 3
    {
        // 252 and more overflow, which only a build with overflow checks notices.
        let with_header: u8 = count + 4;
        std::hint::black_box(with_header);
    }
});
