//! The presigner against three independent signers (AWS's published example is a unit test in
//! `presign.rs`; here object_store and boto3), and what it refuses.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic,
    reason = "tests"
)]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use hotcell_signer::presign::{
    Addressing, Bound, Endpoint, Method, PresignError, PresignKey, PresignRequest, Ttl, presign,
};
use object_store::aws::AmazonS3Builder;
use object_store::signer::{SignedUrlOptions, Signer as _};
use proptest::prelude::*;

const ID: &str = "AKIDEXAMPLE";
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const REGION: &str = "eu-central-1";
const ENDPOINT: &str = "http://127.0.0.1:9000";
const KEY: &str = "acme/jobs/0192/out/a b+c=d&é~%2F.mp4";

fn key() -> PresignKey {
    PresignKey::new(ID, SECRET, REGION).unwrap()
}

fn endpoint() -> Endpoint {
    Endpoint::parse(ENDPOINT, Addressing::Path).unwrap()
}

/// Decoded query of a URL; order does not matter to SigV4.
fn query(url: &str) -> BTreeMap<String, String> {
    url::Url::parse(url).unwrap().query_pairs().into_owned().collect()
}

/// Seconds since 1970 of `20130524T000000Z`.
fn unix_secs(stamp: &str) -> u64 {
    let number = |from: usize, to: usize| stamp[from..to].parse::<u64>().unwrap();
    let (year, month, day) = (number(0, 4), number(4, 6), number(6, 8));
    let leap = |y: u64| y.is_multiple_of(4) && (!y.is_multiple_of(100) || y.is_multiple_of(400));
    let lengths = [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let days = (1970..year).map(|y| if leap(y) { 366 } else { 365 }).sum::<u64>()
        + lengths.iter().take(usize::try_from(month).unwrap() - 1).sum::<u64>()
        + day
        - 1;
    days * 86_400 + number(9, 11) * 3600 + number(11, 13) * 60 + number(13, 15)
}

/// Signs the same request at the moment the peer signed it, and wants the same query.
fn same_as_peer(peer_url: &str, request: &PresignRequest<'_>) {
    let peer = query(peer_url);
    let now = unix_secs(&peer["X-Amz-Date"]);
    let ours = presign(&key(), &endpoint(), request, now).unwrap();
    assert_eq!(query(ours.url.expose()), peer);
    assert_eq!(
        url::Url::parse(ours.url.expose()).unwrap().path(),
        url::Url::parse(peer_url).unwrap().path()
    );
}

fn sha() -> [u8; 32] {
    std::array::from_fn(|i| u8::try_from(i).unwrap())
}

fn sha_base64() -> String {
    base64::engine::general_purpose::STANDARD.encode(sha())
}

#[tokio::test]
async fn the_same_signature_as_object_store() {
    drop(rustls::crypto::ring::default_provider().install_default());
    let store = AmazonS3Builder::new()
        .with_endpoint(ENDPOINT)
        .with_allow_http(true)
        .with_bucket_name("hot-in")
        .with_region(REGION)
        .with_access_key_id(ID)
        .with_secret_access_key(SECRET)
        .build()
        .unwrap();
    let path = object_store::path::Path::parse(KEY).unwrap();
    let ttl = Duration::from_secs(900);
    let get = store.signed_url(http::Method::GET, &path, ttl).await.unwrap();
    let ours = Ttl::from_secs(900).unwrap();
    same_as_peer(get.as_str(), &PresignRequest::get("hot-in", KEY, ours));

    let name = |text: &'static str| http::HeaderName::from_static(text);
    let options = SignedUrlOptions::new()
        .with_signed_header(name("content-type"), "video/mp4; a=b".parse().unwrap())
        .with_signed_header(name("if-none-match"), "*".parse().unwrap())
        .with_signed_header(name("x-amz-checksum-sha256"), sha_base64().parse().unwrap())
        .with_query([("partNumber", "7"), ("uploadId", "a/b+c d")]);
    let put = store.signed_url_opts(http::Method::PUT, &path, ttl, &options).await.unwrap();
    let bound = Bound {
        content_length: None,
        content_type: Some("video/mp4; a=b".into()),
        create_only: true,
        sha256: Some(sha()),
    };
    let mut request = PresignRequest::put("hot-in", KEY, ours, bound);
    request.query = vec![("uploadId".into(), "a/b+c d".into()), ("partNumber".into(), "7".into())];
    same_as_peer(put.as_str(), &request);
}

/// boto3 signs `content-length` and `content-type`, and says which headers it bound.
const BOTO3: &str = r"
import boto3, botocore.config, json, sys
a = json.load(sys.stdin)
s3 = boto3.client('s3', endpoint_url=a['endpoint'], region_name=a['region'],
    aws_access_key_id=a['id'], aws_secret_access_key=a['secret'],
    config=botocore.config.Config(signature_version='s3v4', s3={'addressing_style': 'path'},
        request_checksum_calculation='when_required'))
out = [s3.generate_presigned_url(op, Params={'Bucket': 'hot-in', 'Key': a['key'], **more},
    ExpiresIn=3600) for op, more in a['calls']]
json.dump(out, sys.stdout)
";

fn boto3(calls: &serde_json::Value) -> Vec<String> {
    let python = std::env::var("HOTCELL_TEST_PYTHON").unwrap_or_else(|_| {
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../.tools/venv/bin/python").to_owned()
    });
    let mut child = Command::new(&python)
        .args(["-c", BOTO3])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| {
            panic!("{python}: {e}; install tools/requirements-test.txt or set HOTCELL_TEST_PYTHON")
        });
    let input = serde_json::json!({ "endpoint": ENDPOINT, "region": REGION, "id": ID,
        "secret": SECRET, "key": KEY, "calls": calls });
    child.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "boto3 is missing from {python}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn api_21_the_same_signature_as_boto3_content_length_included() {
    let urls = boto3(&serde_json::json!([
        ["get_object", {}],
        ["head_object", {}],
        ["delete_object", {}],
        ["put_object", { "ContentLength": 12_345, "ContentType": "video/mp4" }],
        ["get_object", { "ResponseContentDisposition": "attachment; filename=\"a b.mp4\"" }],
    ]));
    let plain = |method| {
        let mut request = PresignRequest::get("hot-in", KEY, Ttl::MAX);
        request.method = method;
        request
    };
    same_as_peer(&urls[0], &plain(Method::Get));
    same_as_peer(&urls[1], &plain(Method::Head));
    same_as_peer(&urls[2], &plain(Method::Delete));
    let bound = Bound {
        content_length: Some(12_345),
        content_type: Some("video/mp4".into()),
        ..Bound::default()
    };
    let put = PresignRequest::put("hot-in", KEY, Ttl::MAX, bound);
    same_as_peer(&urls[3], &put);
    assert_eq!(query(&urls[3])["X-Amz-SignedHeaders"], "content-length;content-type;host");
    let mut named = plain(Method::Get);
    let disposition = "attachment; filename=\"a b.mp4\"";
    named.query = vec![("response-content-disposition".into(), disposition.into())];
    same_as_peer(&urls[4], &named);
}

#[test]
fn new_04_an_upload_names_every_header_that_the_client_must_send() {
    let bound = Bound {
        content_length: Some(7),
        content_type: Some("video/mp4".into()),
        create_only: true,
        sha256: Some(sha()),
    };
    let request = PresignRequest::put("hot-in", "a/b", Ttl::MAX, bound);
    let signed = presign(&key(), &endpoint(), &request, 1_000_000_000).unwrap();
    let names: Vec<_> = signed.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["content-length", "content-type", "if-none-match", "x-amz-checksum-sha256"]);
    assert_eq!(signed.headers[3].1, sha_base64());
    assert_eq!(
        query(signed.url.expose())["X-Amz-SignedHeaders"],
        "content-length;content-type;host;if-none-match;x-amz-checksum-sha256"
    );
    assert_eq!(signed.expires_at_unix_secs, 1_000_003_600);
}

#[test]
fn brk_16_api_27_lives_are_capped() {
    assert_eq!(Ttl::MAX.as_secs(), 3600);
    assert_eq!(Ttl::DOWNLOAD.as_secs(), 600);
    assert_eq!(Ttl::from_secs(0), Err(PresignError::Ttl));
    assert_eq!(Ttl::from_secs(3601), Err(PresignError::Ttl));
    let request = PresignRequest::get("hot-in", "a", Ttl::DOWNLOAD);
    let one = presign(&key(), &endpoint(), &request, 1_000_000_000).unwrap();
    assert_eq!(query(one.url.expose())["X-Amz-Expires"], "600");
    // API-29: a fresh URL each time.
    let two = presign(&key(), &endpoint(), &request, 1_000_000_001).unwrap();
    let signature = |url: &str| query(url)["X-Amz-Signature"].clone();
    assert_ne!(signature(one.url.expose()), signature(two.url.expose()));
}

#[test]
fn nothing_prints_a_url_or_a_secret() {
    let request = PresignRequest::get("hot-in", "a", Ttl::MAX);
    let signed = presign(&key(), &endpoint(), &request, 1_000_000_000).unwrap();
    let printed = format!("{:?} {} {signed:?} {:?}", signed.url, signed.url, key());
    for leak in [SECRET, "X-Amz", "hot-in"] {
        assert!(!printed.contains(leak), "{printed}");
    }
}

fn refused(change: impl FnOnce(&mut PresignRequest<'static>)) -> PresignError {
    let mut request = PresignRequest::get("hot-in", "a", Ttl::MAX);
    change(&mut request);
    presign(&key(), &endpoint(), &request, 1_000_000_000).unwrap_err()
}

#[test]
fn what_cannot_be_signed_faithfully_is_refused() {
    for key in ["", "/a", "a/", "a//b", "a/../b", "..", "./a", "a/.", "a\0b", "a\nb"] {
        assert_eq!(refused(|r| r.key = key), PresignError::Key, "{key:?}");
    }
    let long: &'static str = Box::leak("k".repeat(1025).into_boxed_str());
    assert_eq!(refused(|r| r.key = long), PresignError::Key);
    for bucket in ["", "ab", "Hot", "a/b", "a..b", "-ab", "ab-", "a_b"] {
        assert_eq!(refused(|r| r.bucket = bucket), PresignError::Bucket, "{bucket:?}");
    }
    for value in ["", " a", "a ", "a  b", "a\tb", "é", "a\r\nb"] {
        let error = refused(|r| r.bound.content_type = Some(value.into()));
        assert_eq!(error, PresignError::Header, "{value:?}");
    }
    for name in ["", "X-Amz-Expires", "x-amz-signature"] {
        let error = refused(|r| r.query = vec![(name.into(), "1".into())]);
        assert_eq!(error, PresignError::Query, "{name:?}");
    }
    let twice = vec![("a".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())];
    assert_eq!(refused(|r| r.query = twice), PresignError::Query);
    for url in ["ftp://h", "http://h/path", "http://u@h", "http://h?a=b", "h:9000", ""] {
        assert_eq!(Endpoint::parse(url, Addressing::Path).unwrap_err(), PresignError::Endpoint);
    }
    for (id, secret, region) in
        [("", "s", "r"), ("a/b", "s", "r"), ("a", "", "r"), ("a", "s", "r/x")]
    {
        assert!(matches!(PresignKey::new(id, secret, region), Err(PresignError::Credential)));
    }
}

#[derive(Debug, Clone)]
struct Sample {
    method: Method,
    bucket: String,
    key: String,
    ttl: u32,
    bound: Bound,
    part: u32,
    now: u64,
}

fn signature(sample: &Sample) -> String {
    let request = PresignRequest {
        method: sample.method,
        bucket: &sample.bucket,
        key: &sample.key,
        ttl: Ttl::from_secs(sample.ttl).unwrap(),
        bound: sample.bound.clone(),
        query: vec![("partNumber".into(), sample.part.to_string())],
    };
    let signed = presign(&key(), &endpoint(), &request, sample.now).unwrap();
    query(signed.url.expose())["X-Amz-Signature"].clone()
}

fn samples() -> impl Strategy<Value = Sample> {
    let methods = prop_oneof![Just(Method::Get), Just(Method::Head), Just(Method::Put)];
    let bound = (0..u64::MAX, "[a-z]{1,9}/[a-z0-9]{1,9}", any::<bool>(), any::<[u8; 32]>());
    let bound = bound.prop_map(|(length, content_type, create_only, sha256)| Bound {
        content_length: Some(length),
        content_type: Some(content_type),
        create_only,
        sha256: Some(sha256),
    });
    (
        methods,
        "[a-z0-9]{3,20}",
        "[a-zA-Z0-9 +%?&=é]{1,40}",
        1..3600_u32,
        bound,
        1..100_u32,
        0..9_999_999_999_u64,
    )
        .prop_map(|(method, bucket, key, ttl, bound, part, now)| Sample {
            method,
            bucket,
            key,
            ttl,
            bound,
            part,
            now,
        })
}

proptest! {
    /// BRK-18, BRK-19, API-20, API-21: any one part changed, and the signature is another.
    #[test]
    fn any_changed_byte_changes_the_signature(sample in samples(), at in any::<prop::sample::Index>()) {
        let original = signature(&sample);
        prop_assert_eq!(&original, &signature(&sample));
        let differs = |change: &dyn Fn(&mut Sample)| {
            let mut other = sample.clone();
            change(&mut other);
            signature(&other) != original
        };
        prop_assert!(differs(&|s| s.method = Method::Delete));
        prop_assert!(differs(&|s| s.bucket.push('x')));
        prop_assert!(differs(&|s| s.key = flip(&s.key, at.index(s.key.chars().count()))));
        prop_assert!(differs(&|s| s.ttl += 1));
        prop_assert!(differs(&|s| s.now += 1));
        prop_assert!(differs(&|s| s.part += 1));
        prop_assert!(differs(&|s| s.bound.content_length = s.bound.content_length.map(|n| n + 1)));
        prop_assert!(differs(&|s| s.bound.create_only = !s.bound.create_only));
        prop_assert!(differs(&|s| s.bound.content_type = s.bound.content_type.as_deref()
            .map(|text| flip(text, at.index(text.len())))));
        let flip_sha = |s: &mut Sample| s.bound.sha256.as_mut().unwrap()[at.index(32)] ^= 1;
        prop_assert!(differs(&flip_sha));
        prop_assert!(differs(&|s| s.bound.sha256 = None));
    }
}

/// The text with the character at `index` replaced by one that was not there.
fn flip(text: &str, index: usize) -> String {
    let swap = |c: char| if c == 'q' { 'Q' } else { 'q' };
    text.chars().enumerate().map(|(i, c)| if i == index { swap(c) } else { c }).collect()
}
