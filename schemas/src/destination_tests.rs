//! Tests of destinations: what they may be, and the tricks that they may not.

use super::*;

fn record() -> DestinationRecord {
    DestinationRecord {
        tenant: "acme".parse().unwrap(),
        name: "cdn".parse().unwrap(),
        endpoint: "https://s3.example.com".to_owned(),
        region: "eu-central-1".to_owned(),
        bucket: "media".to_owned(),
        prefix: "video/out".to_owned(),
        addressing: Addressing::Path,
        access_key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
        sealed: vec![1; 60],
        created_at: UnixMs(1),
    }
}

fn field(change: impl FnOnce(&mut DestinationRecord)) -> Option<&'static str> {
    let mut record = record();
    change(&mut record);
    record.check().err().map(|error| error.field)
}

#[test]
fn iam_09_an_endpoint_has_one_spelling() {
    let check = |text: &str| field(|it| it.endpoint = text.to_owned());
    for good in [
        "https://s3.example.com",
        "https://s3.eu-central-1.amazonaws.com",
        "https://s3.example.com:9000",
        "https://minio",
        "https://10.0.0.7:9000",
        "https://[2001:db8::1]:9000",
        "https://[2001:db8::1]",
        "http://127.0.0.1:9000",
        "http://localhost:9000",
        "http://[::1]:9000",
        // Another host, and said to be one: a policy on `https://s3.example.com/*` refuses it.
        "https://s3.example.com.evil.org",
    ] {
        assert_eq!(check(good), None, "{good}");
    }
    for bad in [
        "",
        "s3.example.com",
        "ftp://s3.example.com",
        "HTTPS://s3.example.com",
        "https://",
        "https:///s3.example.com",
        "https://s3.example.com/",
        "https://s3.example.com/media",
        "https://s3.example.com?x",
        "https://s3.example.com#x",
        "https://s3.example.com@evil.org",
        "https://user:pass@s3.example.com",
        "https://s3.example.com\\.evil.org",
        "https://S3.example.com",
        "https://s3.example.com.",
        "https://.example.com",
        "https://s3..example.com",
        "https://-s3.example.com",
        "https://s3_x.example.com",
        "https://s3.example.com%2fmedia",
        "https://*.example.com",
        "https://s3.example.com media",
        "https://s3.example.com\n",
        " https://s3.example.com",
        "https://s3.exämple.com",
        "https://s3.example.com:",
        "https://s3.example.com:0",
        "https://s3.example.com:443",
        "http://localhost:80",
        "https://s3.example.com:09000",
        "https://s3.example.com:+9000",
        "https://s3.example.com:65536",
        "https://s3.example.com:9000:9000",
        "https://127.1",
        "https://0x7f000001",
        "https://2130706433",
        "https://127.0.0.01",
        "https://[::ffff:127.0.0.1]",
        "https://[2001:DB8::1]",
        "https://[2001:db8:0:0::1]",
        "https://[::1",
        "https://::1",
        "http://s3.example.com",
        "http://10.0.0.7:9000",
        "http://localhost.example.com",
        "http://127.0.0.1.example.com",
    ] {
        assert_eq!(check(bad), Some("endpoint"), "{bad:?}");
    }
    assert_eq!(check(&format!("https://{}.org", "a".repeat(64))), Some("endpoint"));
    assert_eq!(check(&format!("https://{}org", "a.".repeat(126))), Some("endpoint"));
}

#[test]
fn iam_09_a_bucket_and_a_prefix_cannot_reach_out_of_their_place() {
    let bucket = |text: &str| field(|it| it.bucket = text.to_owned());
    for good in ["media", "media-x", "my.media", "a1b", &"a".repeat(63)] {
        assert_eq!(bucket(good), None, "{good}");
    }
    let bad =
        ["", "ab", "Media", "me dia", "media/", "me/dia", "..", "me..dia", "-media", "media-"];
    let worse = ["media?", "media#", "media*", "media%2f", "m_dia", "192.168.5.4", "xn--media"];
    for bad in bad.into_iter().chain(worse).chain([".media", "media.", "media-s3alias"]) {
        assert_eq!(bucket(bad), Some("bucket"), "{bad:?}");
    }
    assert_eq!(bucket(&"a".repeat(64)), Some("bucket"));

    let prefix = |text: &str| field(|it| it.prefix = text.to_owned());
    for good in ["", "a", "a/b", "A-1_b.c/..d/...", &"a".repeat(256)] {
        assert_eq!(prefix(good), None, "{good}");
    }
    for bad in [
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "a/../b",
        "a/./b",
        "a/..",
        "*",
        "a*",
        "a?b",
        "a#b",
        "a b",
        "a%2e%2e/b",
        "a\\b",
        "a\0b",
        "ä",
        "a\n",
    ] {
        assert_eq!(prefix(bad), Some("prefix"), "{bad:?}");
    }
    assert_eq!(prefix(&"a".repeat(257)), Some("prefix"));
}

#[test]
fn the_other_fields_have_rules_too() {
    assert_eq!(field(|_| ()), None);
    assert_eq!(field(|it| it.name = STORE.parse().unwrap()), Some("name"));
    for bad in ["", "eu/west", "eu west", &"a".repeat(65)] {
        assert_eq!(field(|it| it.region = bad.to_owned()), Some("region"), "{bad:?}");
    }
    for bad in ["", "AKIA/x", "AKIA x", "AKIA&x", &"a".repeat(129)] {
        assert_eq!(field(|it| it.access_key_id = bad.to_owned()), Some("access_key_id"), "{bad:?}");
    }
    assert_eq!(field(|it| it.sealed.clear()), Some("sealed"));
    assert_eq!(field(|it| it.sealed = vec![0; 1025]), Some("sealed"));
    // A bucket in the host's name: a certificate of `*.host` has no place for a dot, and an address
    // none for a bucket.
    let host = |endpoint: &str, bucket: &str| {
        field(|it| {
            it.addressing = Addressing::Virtual;
            (it.endpoint, it.bucket) = (endpoint.to_owned(), bucket.to_owned());
        })
    };
    assert_eq!(host("https://s3.example.com", "media"), None);
    assert_eq!(host("https://s3.example.com", "my.media"), Some("addressing"));
    assert_eq!(host("https://10.0.0.7", "media"), Some("addressing"));
    let error = DestinationRecord { bucket: "x".to_owned(), ..record() }.check().unwrap_err();
    assert!(error.to_string().starts_with("bucket must be 3 to 63"), "{error}");
}

#[test]
fn iam_09_a_location_is_one_of_what_records_can_have() {
    let check = |text: &str| check_location(text).map_err(|error| error.field);
    for good in [
        "https://s3.example.com/media",
        "https://s3.example.com:9000/media/video/out",
        "http://127.0.0.1:9000/media/a",
    ] {
        assert_eq!(check(good), Ok(()), "{good}");
    }
    for (bad, field) in [
        ("", "endpoint"),
        ("store", "endpoint"),
        ("https:/s3.example.com/media", "endpoint"),
        ("https://s3.example.com@evil.org/media", "endpoint"),
        ("https://s3.example.com", "bucket"),
        ("https://s3.example.com/", "bucket"),
        ("https://s3.example.com//media", "bucket"),
        ("https://s3.example.com/media/", "prefix"),
        ("https://s3.example.com/media/*", "prefix"),
        ("https://s3.example.com/media//x", "prefix"),
        ("https://s3.example.com/media/../x", "prefix"),
        ("https://s3.example.com/media/x?y", "prefix"),
    ] {
        assert_eq!(check(bad), Err(field), "{bad}");
    }
    assert_eq!(check(&record().location()), Ok(()));
}

#[test]
fn iam_09_a_location_says_the_same_however_the_bucket_is_addressed() {
    let path = record();
    let named = DestinationRecord { addressing: Addressing::Virtual, ..record() };
    assert_eq!(path.location(), "https://s3.example.com/media/video/out");
    assert_eq!(named.location(), path.location());
    assert_ne!(named.owner(), path.owner());
    let whole = DestinationRecord { prefix: String::new(), ..record() };
    assert_eq!(whole.location(), "https://s3.example.com/media");
}
