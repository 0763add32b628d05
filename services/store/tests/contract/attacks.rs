//! Each defence against its attack: the attack works on a naive backend without the guard, fails
//! when the guard is put in front of that very backend (where it is the guard's to stop), and
//! fails on ours.

use hotcell_signer::presign::Bound;

use crate::naive::{guarded, unguarded};
use crate::peers::{ID, Peer, bound, client, send_put, send_put_with};
use crate::raw::{Forge, Raw, send};

/// Status of the attack on the three endpoints: naive, naive behind the guard, ours.
async fn statuses(attack: impl AsyncFn(&Peer) -> u16) -> [u16; 3] {
    let (naive, guarded, ours) = (unguarded().await, guarded().await, Peer::in_process().await);
    [attack(&naive).await, attack(&guarded).await, attack(&ours).await]
}

#[tokio::test]
async fn unsigned_copy_source_steals_across_buckets() {
    let attack = async |peer: &Peer| {
        let secret = peer.presign(&hotcell_signer::presign::PresignRequest::put(
            "hot-secret",
            "victim",
            hotcell_signer::presign::Ttl::MAX,
            Bound::default(),
        ));
        assert_eq!(send_put(&secret, b"secret").await, 200);
        let body = b"12345678";
        let url = peer.put_url("stolen", bound(body));
        let mut headers = url.headers.clone();
        headers.push(("x-amz-copy-source".into(), "/hot-secret/victim".into()));
        let status = send_put_with(url.url.expose(), &headers, body).await;
        let stolen = peer.get("stolen").await == (200, b"secret".to_vec());
        assert_eq!(stolen, status == 200);
        status
    };
    assert_eq!(statuses(attack).await, [200, 403, 403]);
}

#[tokio::test]
async fn a_signed_copy_source_is_not_implemented() {
    let peer = Peer::in_process().await;
    assert_eq!(peer.put("victim", b"secret").await, 200);
    let headers = [("x-amz-copy-source", "/hot-in/victim")];
    let forge = Forge { signed: &headers, ..Forge::new("PUT", "/hot-in/stolen") };
    let (status, _) = send(&peer, "PUT", &forge.target(&peer), &headers, b"").await;
    assert_eq!((status, peer.head("stolen").await), (501, 404));
}

/// Validly signed, by a client that does not tidy paths.
#[tokio::test]
async fn dot_segments_leave_the_bucket() {
    for (path, sent) in [
        ("/hot-in/../hot-secret/victim", "/hot-in/../hot-secret/victim"),
        ("/hot-in/../hot-secret/victim", "/hot-in/%2e%2e/hot-secret/victim"),
        ("/hot-in/../hot-secret/victim", "/hot-in/%2E%2E%2Fhot-secret%2Fvictim"),
    ] {
        let attack = async |peer: &Peer| {
            let forge = Forge::new("PUT", path);
            let target = forge.target(peer).replacen(path, sent, 1);
            let (status, _) = send(peer, "PUT", &target, &[], b"overwritten").await;
            let reached = peer.dir.path().join("hot-secret/victim").exists();
            assert_eq!(reached, status == 200);
            status
        };
        assert_eq!(statuses(attack).await, [200, 400, 400], "{sent}");
    }
}

#[tokio::test]
async fn paths_that_change_when_decoded_again() {
    let peer = Peer::in_process().await;
    for path in ["/hot-in/%2e%2e/x", "/hot-in/a%00b", "/hot-in/a\0b", "/hot-in/.", "/hot-in//x"] {
        let target = Forge::new("PUT", path).target(&peer);
        let (status, _) = send(&peer, "PUT", &target, &[], b"x").await;
        assert_eq!(status, 400, "{path:?}");
    }
}

/// BRK-16: a URL that would live for ten years; the caps are ours and of AWS.
#[tokio::test]
async fn long_lives_are_refused() {
    for (expires, expect) in
        [("315360000", [200, 403, 403]), ("3601", [200, 403, 403]), ("3600", [200, 200, 200])]
    {
        let attack = async |peer: &Peer| {
            assert_eq!(peer.put("a", b"x").await, 200);
            let forge = Forge { expires, ..Forge::new("GET", "/hot-in/a") };
            send(peer, "GET", &forge.target(peer), &[], b"").await.0
        };
        assert_eq!(statuses(attack).await, expect, "{expires}");
    }
    let peer = Peer::in_process().await;
    for expires in ["0", "+600", "600x", "", "-1", "99999999999"] {
        let forge = Forge { expires, ..Forge::new("GET", "/hot-in/a") };
        assert_eq!(send(&peer, "GET", &forge.target(&peer), &[], b"").await.0, 403, "{expires}");
    }
}

#[tokio::test]
async fn another_region_or_service_is_refused() {
    let attack = async |peer: &Peer| {
        assert_eq!(peer.put("a", b"x").await, 200);
        let forge = Forge { region: "eu-west-9", ..Forge::new("GET", "/hot-in/a") };
        send(peer, "GET", &forge.target(peer), &[], b"").await.0
    };
    assert_eq!(statuses(attack).await, [200, 403, 403]);
    let attack = async |peer: &Peer| {
        let forge = Forge { service: "sts", ..Forge::new("PUT", "/hot-in/b") };
        send(peer, "PUT", &forge.target(peer), &[], b"x").await.0
    };
    assert_eq!(statuses(attack).await, [200, 403, 403]);
}

/// s3s accepts Signature Version 2 beside Version 4: no region, no bound headers, no date scope.
#[tokio::test]
async fn signature_version_2_is_refused() {
    let peer = Peer::in_process().await;
    assert_eq!(peer.put("a", b"x").await, 200);
    let target = format!("/hot-in/a?AWSAccessKeyId={ID}&Expires=4102444800&Signature=AAAA");
    assert_eq!(send(&peer, "GET", &target, &[], b"").await.0, 403);
    let header = [("authorization", "AWS AKIDCONTRACT:AAAA")];
    let (status, text) = send(&peer, "GET", "/hot-in/a", &header, b"").await;
    assert_eq!(status, 403);
    assert!(text.contains("only signature version 4"), "{text}");
    // Beside a valid Version 4 signature: s3s would look at Version 2 first.
    let query = [("Signature", "AAAA"), ("AWSAccessKeyId", ID)];
    let forge = Forge { query: &query, ..Forge::new("GET", "/hot-in/a") };
    assert_eq!(send(&peer, "GET", &forge.target(&peer), &[], b"").await.0, 403);
}

#[tokio::test]
async fn post_policies_are_refused() {
    let peer = Peer::in_process().await;
    let headers = [("content-type", "multipart/form-data; boundary=x")];
    assert_eq!(send(&peer, "POST", "/hot-in", &headers, b"--x--\r\n").await.0, 403);
    let target = Forge::new("POST", "/hot-in").target(&peer);
    assert_eq!(send(&peer, "POST", &target, &headers, b"--x--\r\n").await.0, 403);
}

/// A body of no declared length could go on until the disk is full. Where a length was signed, the
/// HTTP parser drops it beside `transfer-encoding`, and the signature fails on any server.
#[tokio::test]
async fn chunks_do_not_smuggle_more_bytes_than_were_declared() {
    let attack = async |peer: &Peer, signed: &[(&str, &str)]| {
        let forge = Forge { signed, ..Forge::new("PUT", "/hot-in/big") };
        let mut raw = Raw::open(peer).await;
        let headers = [("content-length", "3"), ("transfer-encoding", "chunked")];
        raw.head("PUT", &forge.target(peer), &headers).await;
        raw.body(b"a\r\n0123456789\r\n0\r\n\r\n").await;
        let (status, _) = raw.answer().await;
        assert_eq!(peer.get("big").await.0 == 200, status == 200);
        status
    };
    assert_eq!(statuses(async |peer| attack(peer, &[]).await).await, [200, 501, 501]);
    let signed = [("content-length", "3")];
    assert_eq!(statuses(async |peer| attack(peer, &signed).await).await, [403, 501, 501]);
}

#[tokio::test]
async fn doubled_headers_and_parameters_are_refused() {
    let peer = Peer::in_process().await;
    let target = Forge::new("PUT", "/hot-in/a").target(&peer);
    let twice = [("content-type", "video/mp4"), ("content-type", "text/html")];
    assert_eq!(send(&peer, "PUT", &target, &twice, b"x").await.0, 400);
    let again = format!("{target}&X-Amz-Expires=600");
    assert_eq!(send(&peer, "PUT", &again, &[], b"x").await.0, 403);
    let header = [("authorization", "AWS4-HMAC-SHA256 Credential=a, SignedHeaders=b, Signature=c")];
    assert_eq!(send(&peer, "PUT", &target, &header, b"x").await.0, 403);
    // s3s leaves such a value out of the signature, but not out of the request.
    let mut raw = Raw::open(&peer).await;
    raw.head("PUT", &target, &[("content-length", "1"), ("x-amz-meta-a", "\u{e9}")]).await;
    raw.body(b"x").await;
    assert!(matches!(raw.answer().await.0, 400 | 403));
    assert_eq!(peer.head("a").await, 404);
}

/// A bound header in the query would bind nothing: s3s reads it only from the headers.
#[tokio::test]
async fn amz_headers_in_the_query_are_refused() {
    let peer = Peer::in_process().await;
    let query = [("x-amz-checksum-sha256", "AAAA")];
    let forge = Forge { query: &query, ..Forge::new("PUT", "/hot-in/a") };
    assert_eq!(send(&peer, "PUT", &forge.target(&peer), &[], b"x").await.0, 403);
}

#[tokio::test]
async fn what_would_be_ignored_is_not_implemented() {
    let peer = Peer::in_process().await;
    for header in [
        ("x-amz-acl", "public-read"),
        ("x-amz-tagging", "a=b"),
        ("x-amz-server-side-encryption", "AES256"),
        ("x-amz-object-lock-mode", "COMPLIANCE"),
        ("x-amz-security-token", "x"),
    ] {
        let signed = [header];
        let forge = Forge { signed: &signed, ..Forge::new("PUT", "/hot-in/a") };
        let (status, _) = send(&peer, "PUT", &forge.target(&peer), &signed, b"x").await;
        assert_eq!((status, peer.head("a").await), (501, 404), "{header:?}");
    }
    for (method, query) in [
        ("GET", [("tagging", "")]),
        ("PUT", [("acl", "")]),
        ("POST", [("uploads", "")]),
        ("GET", [("versions", "")]),
        ("PUT", [("policy", "")]),
        ("GET", [("location", "")]),
        ("PUT", [("partNumber", "1")]),
        ("PUT", [("uploadId", "1")]),
    ] {
        for path in ["/hot-in/a", "/hot-in"] {
            let forge = Forge { query: &query, ..Forge::new(method, path) };
            let (status, text) = send(&peer, method, &forge.target(&peer), &[], b"").await;
            assert_eq!(status, 501, "{method} {path} {query:?}: {text}");
        }
    }
}

#[tokio::test]
async fn bytes_that_fail_their_checksum_are_visible_on_a_naive_store() {
    let naive = unguarded().await;
    let url = naive.put_url("a", bound(b"12345678"));
    assert_eq!(send_put(&url, b"87654321").await, 400);
    assert_eq!(naive.get("a").await, (200, b"87654321".to_vec()), "the attack works");

    let ours = Peer::in_process().await;
    let url = ours.put_url("a", bound(b"12345678"));
    assert_eq!(send_put(&url, b"87654321").await, 400);
    assert_eq!((ours.get("a").await.0, ours.temp_files().len()), (404, 0));
}

/// All eight are past their check, and wait in the middle of the body, before any may finish.
#[tokio::test]
async fn create_only_wins_once_even_when_all_check_first() {
    let race = async |peer: &Peer| {
        let mut waiting = Vec::new();
        for number in 0..8 {
            let body = format!("body number {number}");
            let url = peer.put_url("a", bound(body.as_bytes()));
            let target = url.url.expose().strip_prefix(&peer.url).unwrap();
            let mut headers = vec![("expect", "100-continue")];
            headers.extend(url.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())));
            let mut raw = Raw::open(peer).await;
            raw.head("PUT", target, &headers).await;
            raw.wait_continue().await;
            waiting.push((raw, body));
        }
        let answers = waiting.into_iter().map(|(mut raw, body)| async move {
            raw.body(body.as_bytes()).await;
            raw.answer().await.0
        });
        futures::future::join_all(answers).await
    };
    assert_eq!(race(&unguarded().await).await, [200; 8], "the attack works");
    let mut ours = race(&Peer::in_process().await).await;
    ours.sort_unstable();
    assert_eq!(ours, [200, 412, 412, 412, 412, 412, 412, 412]);
}

/// Ours, exactly: a truncated upload leaves no temporary file either.
#[tokio::test]
async fn a_truncated_upload_leaves_no_temporary_file() {
    let peer = Peer::in_process().await;
    let body = vec![7; 600_000];
    let url = peer.put_url("a", bound(&body));
    let target = url.url.expose().strip_prefix(&peer.url).unwrap();
    let headers: Vec<_> = url.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let mut raw = Raw::open(&peer).await;
    raw.head("PUT", target, &headers).await;
    raw.body(&body[..400_000]).await;
    eventually(|| peer.temp_files().len() == 1, "the upload has begun").await;
    drop(raw);
    eventually(|| peer.temp_files().is_empty(), "the temporary file is gone").await;
    assert_eq!(peer.head("a").await, 404);
}

/// Polls a condition for a minute.
pub(crate) async fn eventually(condition: impl Fn() -> bool, what: &str) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "not within a minute: {what}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// API-05, API-33.
#[tokio::test]
async fn anonymous_gets_403_for_everything() {
    let peer = Peer::in_process().await;
    for method in ["GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS", "PATCH", "TRACE"] {
        for path in ["/", "/hot-in", "/hot-in/a", "/hot-in?list-type=2", "/no-such-bucket"] {
            let (status, _) = send(&peer, method, path, &[], b"").await;
            assert_eq!(status, 403, "{method} {path}");
        }
    }
    let ready = client().get(&peer.url).send().await.unwrap().status();
    assert_eq!(ready, 403, "a plain GET is the readiness check");
}
