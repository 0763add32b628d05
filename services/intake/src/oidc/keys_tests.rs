//! When keys of an issuer are asked for, and which serve meanwhile.

use super::*;

fn key(byte: u8) -> Arc<PublicKey> {
    Arc::new(PublicKey::ed25519([byte; 32]))
}

fn kept(kids: &[&str], fetched: Instant) -> Kept {
    let keys =
        (0..).zip(kids).map(|(byte, kid)| Named { kid: Some((*kid).into()), key: key(byte) });
    Kept { keys: keys.collect(), fetched: Some(fetched), ..Kept::default() }
}

fn next(kept: &Kept, kid: &str, at: Instant) -> Next {
    kept.next(Some(kid), Algorithm::EdDsa, at)
}

#[test]
fn keys_are_asked_for_when_they_are_old_and_serve_on_when_nobody_answers() {
    let began = Instant::now();
    let mut kept = kept(&["a"], began);
    let known = Lookup::Known(key(0));
    assert_eq!(next(&kept, "a", began), Next::Done(known.clone()));
    assert_eq!(next(&kept, "a", began + FRESH), Next::Ask(known.clone()));
    kept.failed = Some(began + FRESH);
    let soon = began + FRESH + Duration::from_secs(1);
    assert_eq!(next(&kept, "a", soon), Next::Done(known.clone()), "not for every request");
    assert_eq!(next(&kept, "b", soon), Next::Done(Lookup::Unknown));
    assert_eq!(next(&kept, "a", began + FRESH + AGAIN), Next::Ask(known));
    assert_eq!(next(&kept, "a", began + KEEP), Next::Ask(Lookup::Away), "not for ever");
    let empty = Kept { failed: Some(began), ..Kept::default() };
    assert_eq!(next(&empty, "a", began), Next::Done(Lookup::Away));
    assert_eq!(next(&empty, "a", began + AGAIN_EMPTY), Next::Ask(Lookup::Away));
}

#[test]
fn strangers_tokens_ask_once_in_thirty_seconds() {
    let began = Instant::now();
    let mut kept = kept(&["a"], began);
    assert_eq!(next(&kept, "x", began), Next::Ask(Lookup::Unknown), "a key may be new");
    kept.asked_unknown = Some(began);
    let almost = began + UNKNOWN_EVERY - Duration::from_millis(1);
    for stranger in ["x", "y", "z"] {
        assert_eq!(next(&kept, stranger, almost), Next::Done(Lookup::Unknown));
    }
    assert_eq!(next(&kept, "x", began + UNKNOWN_EVERY), Next::Ask(Lookup::Unknown));
    assert_eq!(next(&kept, "a", almost), Next::Done(Lookup::Known(key(0))));
}

#[test]
fn a_key_is_found_by_its_name_or_when_there_is_no_choice() {
    let now = Instant::now();
    let (one, two) = (kept(&["a"], now), kept(&["a", "b"], now));
    assert_eq!(two.find(Some("b"), Algorithm::EdDsa), Some(key(1)));
    assert_eq!(two.find(Some("B"), Algorithm::EdDsa), None);
    assert_eq!(two.find(None, Algorithm::EdDsa), None);
    assert_eq!(one.find(None, Algorithm::EdDsa), Some(key(0)));
    assert_eq!(one.find(Some("a"), Algorithm::Es256), None, "of another kind");
}

#[test]
fn issuers_are_asked_by_https_or_on_this_machine() {
    let check = |url: &str, good| assert_eq!(allowed(&url.parse().unwrap()), good, "{url}");
    check("https://idp.example/realms/x", true);
    check("http://127.0.0.1:4455", true);
    check("http://[::1]:4455", true);
    check("http://localhost:4455", true);
    check("http://idp.example", false);
    check("http://127.0.0.1.evil.example", false);
    check("http://localhost.evil.example", false);
    check("http://10.0.0.1", false);
    check("file:///etc/passwd", false);
}
