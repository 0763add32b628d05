//! The contract: what hotcell relies on in an S3 endpoint, one function a row. A row returns an
//! error instead of panicking, so that a peer's known deviations can be asserted.

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _};
use hotcell_signer::presign::{Bound, Method, PresignRequest, Ttl};
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer as _};
use object_store::{
    Attribute, Attributes, GetOptions, GetRange, ObjectStore as _, ObjectStoreExt as _, PutMode,
    PutOptions, UpdateVersion,
};
use reqwest::header::HeaderMap;
use std::time::Duration;

use crate::peers::{Peer, bound, client, now_unix_secs, send_put, send_put_with};
use crate::raw::Raw;

fn is<T: PartialEq + std::fmt::Debug>(what: &str, actual: T, expect: T) -> Result<()> {
    ensure!(actual == expect, "{what}: {actual:?}, expected {expect:?}");
    Ok(())
}

/// API-19: only the URL is needed, made by an independent signer.
pub(crate) async fn presigned_by_object_store(peer: &Peer) -> Result<()> {
    let (store, path, ttl) = (peer.store(), Path::from("a/b c+d.mp4"), Duration::from_secs(60));
    let name = |text: &'static str| http::HeaderName::from_static(text);
    let options =
        SignedUrlOptions::new().with_signed_header(name("content-type"), "video/mp4".parse()?);
    let url = store.signed_url_opts(http::Method::PUT, &path, ttl, &options).await?;
    let headers = [("content-type".to_owned(), "video/mp4".to_owned())];
    is("PUT", send_put_with(url.as_str(), &headers, b"bytes").await, 200)?;
    let url = store.signed_url(http::Method::GET, &path, ttl).await?;
    let response = client().get(url).send().await?;
    is("GET", response.status().as_u16(), 200)?;
    is("type", response.headers()["content-type"].to_str()?, "video/mp4")?;
    is("body", &*response.bytes().await?, b"bytes")
}

/// API-05, API-33.
pub(crate) async fn anonymous_is_refused(peer: &Peer) -> Result<()> {
    is("PUT", peer.put("a", b"secret").await, 200)?;
    let url = format!("{}/{}", peer.url, peer.bucket);
    peer.denies("list", client().get(&url).send().await?.status().as_u16())?;
    peer.denies("get", client().get(format!("{url}/a")).send().await?.status().as_u16())?;
    peer.denies("put", send_put_with(&format!("{url}/b"), &[], b"x").await)?;
    peer.denies("delete", client().delete(format!("{url}/a")).send().await?.status().as_u16())?;
    peer.denies("root", client().get(&peer.url).send().await?.status().as_u16())?;
    is("still there", peer.get("a").await, (200, b"secret".to_vec()))
}

/// API-30, and an altered life.
pub(crate) async fn altered_urls_are_refused(peer: &Peer) -> Result<()> {
    is("PUT", peer.put("a", b"secret").await, 200)?;
    let good = peer.get_url("a").url.expose().to_owned();
    let last = if good.ends_with('0') { "1" } else { "0" };
    let flipped = format!("{}{last}", &good[..good.len() - 1]);
    let longer = good.replace("X-Amz-Expires=3600", "X-Amz-Expires=3599");
    let extra = format!("{good}&response-content-type=text%2Fhtml");
    let (unsigned, _) = good.split_once("&X-Amz-Signature=").context("has a signature")?;
    for (what, url) in
        [("flipped", &*flipped), ("life", &longer), ("extra", &extra), ("unsigned", unsigned)]
    {
        peer.denies(what, client().get(url).send().await?.status().as_u16())?;
    }
    is("good", client().get(good).send().await?.status().as_u16(), 200)
}

/// API-20, BRK-17, BRK-18, BRK-19.
pub(crate) async fn other_resources_are_refused(peer: &Peer) -> Result<()> {
    is("PUT", peer.put("a", b"one").await, 200)?;
    is("PUT", peer.put("b", b"two").await, 200)?;
    let get = peer.get_url("a").url.expose().to_owned();
    let put = peer.put_url("a", Bound::default()).url.expose().to_owned();
    let swap = |url: &str, to: &str| url.replacen(&format!("/{}/a?", peer.bucket), to, 1);
    let (key, bucket) = (format!("/{}/b?", peer.bucket), format!("/{}/a?", peer.other_bucket));
    peer.denies("GET b", client().get(swap(&get, &key)).send().await?.status().as_u16())?;
    peer.denies("GET other", client().get(swap(&get, &bucket)).send().await?.status().as_u16())?;
    peer.denies("PUT b", send_put_with(&swap(&put, &key), &[], b"x").await)?;
    peer.denies("PUT other", send_put_with(&swap(&put, &bucket), &[], b"x").await)?;
    peer.denies("GET with PUT", client().get(&put).send().await?.status().as_u16())?;
    peer.denies("PUT with GET", send_put_with(&get, &[], b"x").await)?;
    peer.denies("DELETE with PUT", client().delete(&put).send().await?.status().as_u16())?;
    peer.denies("HEAD with GET", client().head(&get).send().await?.status().as_u16())?;
    is("unchanged", peer.get("b").await, (200, b"two".to_vec()))
}

/// API-28, BRK-19: dead after its time, alive before.
pub(crate) async fn expired_urls_are_refused(peer: &Peer) -> Result<()> {
    is("PUT", peer.put("a", b"x").await, 200)?;
    let request = PresignRequest::get(&peer.bucket, "a", Ttl::DOWNLOAD);
    let at_age = async |secs: u64| {
        let url = peer.presign_at(&request, now_unix_secs() - secs);
        client().get(url.url.expose()).send().await.map(|response| response.status().as_u16())
    };
    is("before its time is over", at_age(590).await?, 200)?;
    peer.denies("a second late", at_age(602).await?)?;
    peer.denies("a day late", at_age(86_400).await?)
}

/// API-21, NEW-04: size, type, checksum and create-only are part of the signature.
pub(crate) async fn bound_headers_are_enforced(peer: &Peer) -> Result<()> {
    let url = peer.put_url("a", bound(b"12345678"));
    let without = |name: &str, value: Option<&str>| {
        let mut headers = url.headers.clone();
        headers.retain(|(other, _)| other != name);
        headers.extend(value.map(|value| (name.to_owned(), value.to_owned())));
        headers
    };
    let wrong_sum = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for (what, headers) in [
        ("no type", without("content-type", None)),
        ("other type", without("content-type", Some("text/html"))),
        ("no condition", without("if-none-match", None)),
        ("no checksum", without("x-amz-checksum-sha256", None)),
        ("other checksum", without("x-amz-checksum-sha256", Some(wrong_sum))),
    ] {
        peer.denies(what, send_put_with(url.url.expose(), &headers, b"12345678").await)?;
    }
    for body in [b"123456789".as_slice(), b"1234567", b""] {
        is("length", (body.len(), send_put(&url, body).await), (body.len(), 403))?;
    }
    is("absent", peer.head("a").await, 404)?;
    is("good", send_put(&url, b"12345678").await, 200)
}

/// A leaked upload URL must not become a read of anything: the copy header was not signed.
pub(crate) async fn unsigned_copy_source_is_refused(peer: &Peer) -> Result<()> {
    is("PUT", peer.put("victim", b"secret").await, 200)?;
    let url = peer.put_url("stolen", Bound::default());
    let source = format!("/{}/victim", peer.bucket);
    let headers = [("x-amz-copy-source".to_owned(), source)];
    peer.denies("copy", send_put_with(url.url.expose(), &headers, b"").await)?;
    is("absent", peer.head("stolen").await, 404)
}

/// Any other `x-amz-*` header counts as well.
pub(crate) async fn unsigned_amz_headers_are_refused(peer: &Peer) -> Result<()> {
    let url = peer.put_url("a", Bound::default());
    let headers = [("x-amz-meta-tenant".to_owned(), "other".to_owned())];
    peer.denies("meta", send_put_with(url.url.expose(), &headers, b"x").await)?;
    is("absent", peer.head("a").await, 404)
}

/// NEW-04: other bytes of the same size are refused and leave nothing.
pub(crate) async fn wrong_bytes_are_never_visible(peer: &Peer) -> Result<()> {
    let url = peer.put_url("a", bound(b"12345678"));
    is("other bytes", send_put(&url, b"87654321").await, 400)?;
    is("absent", peer.head("a").await, 404)?;
    is("right bytes", send_put(&url, b"12345678").await, 200)
}

/// NEW-04: a second write is refused and changes nothing.
pub(crate) async fn create_only_wins_once(peer: &Peer) -> Result<()> {
    is("first", send_put(&peer.put_url("a", bound(b"first")), b"first").await, 200)?;
    is("second", send_put(&peer.put_url("a", bound(b"other")), b"other").await, 412)?;
    is("unchanged", peer.get("a").await, (200, b"first".to_vec()))
}

/// NEW-04: eight at a time, one winner.
pub(crate) async fn concurrent_creates_have_one_winner(peer: &Peer) -> Result<()> {
    for round in 0..5 {
        let key = format!("race-{round}");
        let bodies: Vec<String> = (0..8).map(|i| format!("body number {i}")).collect();
        let puts = bodies.iter().map(|body| {
            let url = peer.put_url(&key, bound(body.as_bytes()));
            async move { send_put(&url, body.as_bytes()).await }
        });
        let statuses = futures::future::join_all(puts).await;
        let winners: Vec<_> = (0..8).filter(|i| statuses[*i] == 200).collect();
        is("winners", (winners.len(), &statuses), (1, &statuses))?;
        is("losers", statuses.iter().filter(|status| **status == 412).count(), 7)?;
        is("content", peer.get(&key).await, (200, bodies[winners[0]].clone().into_bytes()))?;
    }
    Ok(())
}

/// Compare-and-set by entity tag.
pub(crate) async fn if_match_is_compare_and_set(peer: &Peer) -> Result<()> {
    let (store, path) = (peer.store(), Path::from("a"));
    let first = store.put(&path, "one".into()).await?;
    let version = UpdateVersion { e_tag: first.e_tag, version: None };
    let update = PutMode::Update(version.clone());
    store.put_opts(&path, "two".into(), update.into()).await?;
    let stale = store.put_opts(&path, "three".into(), PutMode::Update(version).into()).await;
    ensure!(matches!(stale, Err(object_store::Error::Precondition { .. })), "{stale:?}");
    is("content", store.get(&path).await?.bytes().await?, "two".into())
}

/// RFC 9110 §14.
pub(crate) async fn ranges(peer: &Peer) -> Result<()> {
    is("PUT", peer.put("a", b"0123456789").await, 200)?;
    let url = peer.get_url("a").url.expose().to_owned();
    for (range, status, body) in [
        ("bytes=2-4", 206, b"234".as_slice()),
        ("bytes=7-", 206, b"789"),
        ("bytes=-3", 206, b"789"),
        ("bytes=5-99", 206, b"56789"),
        ("bytes=-99", 206, b"0123456789"),
    ] {
        let response = client().get(&url).header("range", range).send().await?;
        is(range, response.status().as_u16(), status)?;
        is(range, &*response.bytes().await?, body)?;
    }
    let response = client().get(&url).header("range", "bytes=10-").send().await?;
    is("beyond", response.status().as_u16(), 416)?;
    let store = peer.store();
    let options = GetOptions { range: Some(GetRange::Bounded(1..3)), ..Default::default() };
    is("object_store", store.get_opts(&Path::from("a"), options).await?.bytes().await?, "12".into())
}

/// RFC 9110 §13.1.2.
pub(crate) async fn conditional_get(peer: &Peer) -> Result<()> {
    is("PUT", peer.put("a", b"x").await, 200)?;
    let url = peer.get_url("a").url.expose().to_owned();
    let tag = client().get(&url).send().await?.headers()["etag"].to_str()?.to_owned();
    ensure!(tag.len() > 2 && tag.starts_with('"') && tag.ends_with('"'), "{tag} is not quoted");
    for (name, value, expect) in
        [("if-none-match", &*tag, 304), ("if-none-match", "\"other\"", 200)]
    {
        let response = client().get(&url).header(name, value).send().await?;
        is(name, (value, response.status().as_u16()), (value, expect))?;
        let body = response.bytes().await?;
        ensure!(expect != 304 || body.is_empty(), "a 304 has no body");
    }
    Ok(())
}

/// RFC 9110 §13.1.1, §13.1.3 and §13.1.4.
pub(crate) async fn get_preconditions(peer: &Peer) -> Result<()> {
    is("PUT", peer.put("a", b"x").await, 200)?;
    let url = peer.get_url("a").url.expose().to_owned();
    let tag = client().get(&url).send().await?.headers()["etag"].to_str()?.to_owned();
    for (name, value, expect) in [
        ("if-match", &*tag, 200),
        ("if-match", "\"other\"", 412),
        ("if-modified-since", "Fri, 01 Jan 2100 00:00:00 GMT", 304),
        ("if-unmodified-since", "Sat, 01 Jan 2000 00:00:00 GMT", 412),
    ] {
        let response = client().get(&url).header(name, value).send().await?;
        is(name, (value, response.status().as_u16()), (value, expect))?;
    }
    Ok(())
}

/// Prefix, delimiter and pages, in byte order; a key and a longer one below it.
pub(crate) async fn listing(peer: &Peer) -> Result<()> {
    let keys = ["a", "d/e", "d/f/g", "t/1", "t/2", "t/3"];
    for key in keys {
        is("PUT", peer.put(key, key.as_bytes()).await, 200)?;
    }
    let store = peer.store();
    let found: Vec<_> =
        store.list(None).map_ok(|meta| meta.location.to_string()).try_collect().await?;
    is("all", found, keys.map(str::to_owned).to_vec())?;
    let below = store.list_with_delimiter(Some(&Path::from("d"))).await?;
    let names = |paths: Vec<Path>| paths.iter().map(ToString::to_string).collect::<Vec<_>>();
    is("prefixes", names(below.common_prefixes), vec!["d/f".to_owned()])?;
    is(
        "objects",
        names(below.objects.into_iter().map(|o| o.location).collect()),
        vec!["d/e".into()],
    )?;
    let from = Path::from("t/1");
    let after = store.list_with_offset(Some(&Path::from("t")), &from);
    let after: Vec<_> = after.map_ok(|meta| meta.location.to_string()).try_collect().await?;
    is("offset", after, vec!["t/2".to_owned(), "t/3".to_owned()])
}

/// More than one page of a thousand keys.
pub(crate) async fn long_listing(peer: &Peer) -> Result<()> {
    let store = peer.store();
    let puts = (0..1100).map(|i| {
        let (store, path) = (store.clone(), Path::from(format!("long/{i:04}")));
        async move { store.put(&path, "x".into()).await.map(drop) }
    });
    futures::stream::iter(puts).buffer_unordered(8).try_collect::<Vec<()>>().await?;
    let found: Vec<_> = store.list(Some(&Path::from("long"))).try_collect().await?;
    is("count", found.len(), 1100)?;
    let paths = found.into_iter().map(|meta| Ok(meta.location));
    let gone: Vec<_> =
        store.delete_stream(futures::stream::iter(paths).boxed()).try_collect().await?;
    is("deleted", gone.len(), 1100)?;
    is("left", store.list(Some(&Path::from("long"))).count().await, 0)
}

/// Gone is gone, and gone twice is fine.
pub(crate) async fn deleting(peer: &Peer) -> Result<()> {
    is("PUT", peer.put("a", b"x").await, 200)?;
    let mut request = PresignRequest::get(&peer.bucket, "a", Ttl::MAX);
    request.method = Method::Delete;
    let url = peer.presign(&request);
    is("first", client().delete(url.url.expose()).send().await?.status().as_u16(), 204)?;
    is("again", client().delete(url.url.expose()).send().await?.status().as_u16(), 204)?;
    is("absent", peer.get("a").await.0, 404)
}

/// Attributes come back, and do not outlive their object.
pub(crate) async fn attributes(peer: &Peer) -> Result<()> {
    let (store, path) = (peer.store(), Path::from("a"));
    let sent: Attributes = [
        (Attribute::ContentType, "video/mp4"),
        (Attribute::CacheControl, "no-store"),
        (Attribute::Metadata("job".into()), "0192"),
    ]
    .into_iter()
    .collect();
    let options = PutOptions { attributes: sent.clone(), ..Default::default() };
    store.put_opts(&path, "x".into(), options).await?;
    is("kept", store.get(&path).await?.attributes, sent)?;
    store.delete(&path).await?;
    is("PUT", peer.put("a", b"y").await, 200)?;
    let after = store.get(&path).await?.attributes;
    ensure!(after.get(&Attribute::Metadata("job".into())).is_none(), "{after:?}");
    ensure!(after.get(&Attribute::CacheControl).is_none(), "{after:?}");
    Ok(())
}

/// Long keys, odd keys, and a key that is a prefix of another.
pub(crate) async fn keys(peer: &Peer) -> Result<()> {
    let long = format!("{}/{}", "k".repeat(500), "é".repeat(261));
    let odd = "a b+c=d&e?f#g%20h\u{2603}'()!*~";
    for key in ["d", "d/e", "d/e/f", odd, "%41", &long, &long[..1021]] {
        is(key, peer.put(key, key.as_bytes()).await, 200)?;
        is(key, peer.get(key).await, (200, key.as_bytes().to_vec()))?;
    }
    Ok(())
}

/// A client that goes away in the middle leaves no object.
pub(crate) async fn truncated_upload_leaves_nothing(peer: &Peer) -> Result<()> {
    let body = vec![7; 600_000];
    let url = peer.put_url("a", bound(&body));
    let target = url.url.expose().strip_prefix(&peer.url).context("same host")?;
    let headers: Vec<_> = url.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    let mut raw = Raw::open(peer).await;
    raw.head("PUT", target, &headers).await;
    raw.body(&body[..400_000]).await;
    drop(raw);
    is("absent", peer.head("a").await, 404)?;
    is("again", send_put(&url, &body).await, 200)?;
    is("whole", peer.get("a").await, (200, body))
}

/// The stored SHA-256 comes back on request (HEAD and GET with checksum mode).
pub(crate) async fn checksum_comes_back(peer: &Peer) -> Result<()> {
    let url = peer.put_url("a", bound(b"12345678"));
    is("PUT", send_put(&url, b"12345678").await, 200)?;
    let expect = url.headers.iter().find(|(name, _)| name == "x-amz-checksum-sha256");
    let expect = expect.context("bound")?.1.clone();
    let mode = [("x-amz-checksum-mode", "ENABLED")];
    for method in ["HEAD", "GET"] {
        let path = format!("/{}/a", peer.bucket);
        let mut forge = crate::raw::Forge::new(method, &path);
        (forge.signed, forge.region) = (&mode, &peer.region);
        let (status, text) = crate::raw::send(peer, method, &forge.target(peer), &mode, b"").await;
        is(method, status, 200)?;
        let line = format!("x-amz-checksum-sha256: {expect}\r\n").to_lowercase();
        ensure!(text.to_lowercase().contains(&line), "{method} without checksum");
    }
    Ok(())
}

/// 20 MiB out and back, bytes equal.
pub(crate) async fn large_object(peer: &Peer) -> Result<()> {
    let body: Vec<u8> = (0..20 * 1024 * 1024_u32).map(|i| i.to_le_bytes()[1] ^ 0x5a).collect();
    is("PUT", send_put(&peer.put_url("large", bound(&body)), &body).await, 200)?;
    let (status, back) = peer.get("large").await;
    is("GET", (status, back.len(), back == body), (200, body.len(), true))
}

/// API-21 for a large body: the refusal arrives, not a broken connection.
pub(crate) async fn large_bodies_are_refused_readably(peer: &Peer) -> Result<()> {
    let mut body = vec![7; 30 * 1024 * 1024];
    for round in 0..5 {
        let url = peer.put_url("large", bound(&body));
        body.push(0);
        peer.denies(&format!("round {round}"), send_put(&url, &body).await)?;
    }
    is("absent", peer.head("large").await, 404)
}

/// The answer to what is not there.
pub(crate) async fn missing(peer: &Peer) -> Result<()> {
    is("key", peer.get("nothing").await.0, 404)?;
    is("HEAD", peer.head("nothing").await, 404)?;
    let request = PresignRequest::get("no-such-bucket", "a", Ttl::MAX);
    let status = client().get(peer.presign(&request).url.expose()).send().await?.status();
    ensure!(matches!(status.as_u16(), 403 | 404), "bucket: {status}");
    let headers: HeaderMap =
        client().get(peer.get_url("x").url.expose()).send().await?.headers().clone();
    ensure!(headers["content-type"].to_str()?.contains("/xml"), "an error document");
    Ok(())
}
