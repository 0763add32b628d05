//! Arbitrary bytes against the parsers, on the stable toolchain: the same functions as the fuzz
//! targets in fuzz/, so that `make test` runs them too.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "hostile/mod.rs"]
mod hostile;
mod samples;

use hotcell_schemas::{Message, routes::ROUTES};
use proptest::prelude::*;
use samples::See;

/// Bodies of real messages: what mutation starts from.
#[derive(Default)]
struct Bodies(Vec<Vec<u8>>);

impl See for Bodies {
    fn see<T: Message + PartialEq + std::fmt::Debug>(&mut self, _: &str, row: &str, value: &T) {
        self.0.push(samples::seal(row, value).body);
    }
}

fn bodies() -> Vec<Vec<u8>> {
    let mut bodies = Bodies::default();
    samples::each(&mut bodies);
    bodies.0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn arbitrary_bytes_open_nothing_and_break_nothing(data in any::<Vec<u8>>()) {
        hostile::open(&data);
        hostile::subject(&data);
        hostile::lease(&data);
    }

    #[test]
    fn arbitrary_headers_open_nothing(
        lines in prop::collection::vec("|[ -~]{0,90}|[A-Za-z0-9+/]{86}", 5), body in any::<Vec<u8>>(),
    ) {
        let mut data = vec![0];
        data.extend(lines.join("\n").into_bytes());
        data.push(b'\n');
        data.extend(body);
        hostile::open(&data);
    }

    #[test]
    fn signed_bodies_with_changed_bytes_break_nothing(
        body in prop::sample::select(bodies()), mode in any::<u8>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(), is_cut in any::<bool>(),
    ) {
        let mut data = body;
        for (at, byte) in changes {
            let at = at.index(data.len());
            data[at] = byte;
        }
        if is_cut {
            data.truncate(cut.index(data.len()));
        }
        data.insert(0, mode | 1);
        hostile::open(&data);
    }

    #[test]
    fn text_near_a_subject_breaks_nothing(
        row in prop::sample::select(ROUTES), at in any::<prop::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut text = samples::concrete(&row).into_bytes();
        hostile::subject(&text);
        let at = at.index(text.len());
        text[at] = byte;
        hostile::subject(&text);
    }
}

/// A body of nothing but opening brackets must not exhaust the stack.
#[test]
fn deep_nesting_is_refused() {
    for opener in
        [&[0x91][..], &[0x81, 0xa1, b'a'], &[0xdc, 0xff, 0xff], &[0xdd, 0xff, 0xff, 0xff, 0xff]]
    {
        for kind in 0..6 {
            let mut data = vec![kind * 2 + 1];
            data.extend(opener.iter().cycle().take(100_000));
            hostile::open(&data);
            // As a body of the right frame, too.
            let framed = [
                &[kind * 2 + 1, 0x83, 0xa4][..],
                b"type",
                &[0xa3],
                b"job",
                &[0xa1],
                b"v",
                &[1, 0xa4],
                b"body",
                &opener.repeat(30_000),
            ]
            .concat();
            hostile::open(&framed);
        }
    }
}
