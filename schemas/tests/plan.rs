//! What the values, filters and options of a tree may be.
#![allow(clippy::unwrap_used, reason = "tests")]

use hotcell_schemas::plan::value::{
    Bits, Dec, FrameRate, Length, Num, Ratio, Seconds, TEXT_CHARS_MAX, Text, Value,
};

fn check<T: Value>(text: &str, written: Option<&str>) {
    let found = T::read(text).map(|value| value.write());
    assert_eq!(found.as_deref(), written, "{text:?}");
}

#[test]
fn what_is_read_is_within_its_bounds_and_written_in_one_way() {
    for (text, written) in [
        ("0", Some("0")),
        ("51", Some("51")),
        ("52", None),
        ("-1", None),
        ("-0", None),
        ("+1", None),
        ("01", None),
        ("1.0", None),
        ("", None),
        ("1 ", None),
        ("0x1", None),
        ("99999999999", None),
        ("１", None),
        ("1e1", None),
    ] {
        check::<Num<0, 51>>(text, written);
    }
    for (text, written) in [
        ("2M", Some("2000000")),
        ("800k", Some("800000")),
        ("64000", Some("64000")),
        ("3M", None),
        ("1.5M", None),
        ("9999999M", None),
        ("k", None),
        ("2Mi", None),
    ] {
        check::<Bits<1, 2_000_000>>(text, written);
    }
    for (text, written) in [
        ("1.5", Some("1.5")),
        ("-1.50", Some("-1.5")),
        ("-0.25", Some("-0.25")),
        ("0.001", Some("0.001")),
        ("2", Some("2")),
        ("2.0", Some("2")),
        ("2.001", None),
        ("-0", None),
        ("1.", None),
        (".5", None),
        ("--1", None),
        ("1.0005", None),
        ("-", None),
        ("nan", None),
        ("1.5.5", None),
    ] {
        check::<Dec<-2000, 2000>>(text, written);
    }
}

#[test]
fn times_ratios_and_rates_are_written_in_one_way() {
    for (text, written) in [
        ("75.5", Some("75.5")),
        ("00:01:15.5", Some("75.5")),
        ("01:15", Some("75")),
        ("04:00:00", Some("14400")),
        ("04:00:00.001", None),
        ("1:15", None),
        ("00:61", None),
        ("0:00:01:15", None),
        ("-1", None),
        ("00:-1", None),
        ("1:", None),
        (":", None),
    ] {
        check::<Seconds>(text, written);
    }
    // FFmpeg takes a length of nothing for no length, and reads everything.
    check::<Seconds>("0", Some("0"));
    check::<Length>("0", None);
    check::<Length>("00:00:00.000", None);
    check::<Length>("0.001", Some("0.001"));
    check::<Ratio>("16/9", Some("16/9"));
    check::<Ratio>("1/1", Some("1"));
    check::<Ratio>("1/0", None);
    check::<FrameRate>("30000/1001", Some("30000/1001"));
    check::<FrameRate>("60000/1002", None);
    check::<FrameRate>("241", None);
}

#[test]
fn a_text_is_words_and_nothing_that_ffmpeg_reads() {
    for good in ["Blick aus dem Fenster, Teil 2", "第1話", "A-Team (1983)", "x"] {
        check::<Text>(good, Some(good));
    }
    let long = "x".repeat(TEXT_CHARS_MAX + 1);
    for bad in [
        "",
        " x",
        "-x",
        "a\nb",
        "a\0",
        "a:b",
        "a/b",
        "a\\b",
        "a;b",
        "a=b",
        "a%b",
        "a|b",
        "a@b",
        "a\u{202e}b",
        "a\u{200b}b",
        "a[b]",
        "{in0}",
        "a\u{7f}",
        "\u{ff0d}x",
        "'x",
        "a\"b",
        &long,
    ] {
        check::<Text>(bad, None);
    }
}
