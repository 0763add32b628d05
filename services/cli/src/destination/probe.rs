//! Tries a bucket with the very URLs that the signer would make for it.
//!
//! Promises: what passes keeps the rules that hotcell's own store keeps: a key is written once, with
//! the size and the SHA-256 that were signed, the key may read what it wrote, and strangers get
//! neither an object nor a list. Refuses with the first rule that is broken. What it wrote stays: the
//! key need not be able to delete.

use crate::fail::Fail;
use bytes::Bytes;
use futures::{TryStreamExt as _, stream};
use hotcell_schemas::{
    Digest, UnixMs,
    destination::DestinationRecord,
    work::{SecretUrl, SignedUrl},
};
use hotcell_signer::presign::{
    Bound, Endpoint, PresignError, PresignKey, PresignRequest, Ttl, presign,
};
use hotcell_stage::{
    blob::{BlobError, Blobs},
    clock,
};
use std::time::Duration;
use tokio::time::timeout;

/// Time for one request, in seconds.
const STEP_SECS: u64 = 10;

/// Life of the URLs, in seconds: the whole trial is over before.
const URL_SECS: u32 = 300;

const BODY: &[u8] = b"hotcell was here\n";
/// As long, and not the same.
const OTHER: &[u8] = b"Hotcell was here\n";
const LONGER: &[u8] = b"hotcell was here, too\n";

const TYPE: &str = "text/plain";

/// What the signer of every hotcell keeps in its own bucket.
const CANARY: &str = "_hotcell/storage-check";

/// Why hotcell's own bucket is no destination.
pub(crate) const OWN_STORE: &str = "the bucket is hotcell's own store, where jobs without a \
                                    destination put their outputs";

/// Why a bucket is not taken.
#[derive(Debug, thiserror::Error)]
enum Broken {
    /// It does not answer, or with an error of its own.
    #[error("{0}: it does not answer, or with an error of its own")]
    Silent(&'static str),
    /// A rule.
    #[error("{0}")]
    Rule(String),
    /// Nothing was sent.
    #[error("no URL can be signed for it")]
    Unsigned(#[source] PresignError),
}

impl From<&str> for Broken {
    fn from(rule: &str) -> Self {
        Self::Rule(rule.to_owned())
    }
}

/// Tries the bucket of `record`.
pub(crate) async fn run(
    key: &PresignKey,
    endpoint: &Endpoint,
    record: &DestinationRecord,
) -> Result<(), Fail> {
    let trial = Trial { key, endpoint, record, blobs: Blobs::new() };
    let at = record.location();
    trial.run().await.map_err(|broken| match broken {
        Broken::Silent(_) => Fail::unreachable(format!("not entered, {at} was tried: {broken}")),
        Broken::Rule(_) | Broken::Unsigned(_) => {
            Fail::failed(format!("not entered, {at} was tried: {broken}"))
        }
    })
}

struct Trial<'a> {
    key: &'a PresignKey,
    endpoint: &'a Endpoint,
    record: &'a DestinationRecord,
    blobs: Blobs,
}

impl Trial<'_> {
    async fn run(&self) -> Result<(), Broken> {
        let first = self.name();
        self.written_once(&first).await?;
        self.only_as_signed().await?;
        self.readable(&first).await?;
        self.closed(&first).await?;
        self.not_ours().await
    }

    /// A key of its own below the prefix.
    fn name(&self) -> String {
        let name = format!("_hotcell/destination-check-{}", hex::encode(clock::random::<16>()));
        match self.record.prefix.as_str() {
            "" => name,
            prefix => format!("{prefix}/{name}"),
        }
    }

    async fn written_once(&self, name: &str) -> Result<(), Broken> {
        let url = self.put_url(name, Some(Digest::of(BODY)))?;
        let step = "a signed PUT";
        match self.put(step, &url, BODY).await? {
            Ok(()) => {}
            Err(BlobError::Missing) => return Err("there is no such bucket".into()),
            Err(BlobError::Denied(_)) => {
                return Err("it refuses the key, or the key may not write below the prefix".into());
            }
            Err(error) => {
                let rule = "a create-only PUT with a SHA-256 must be taken";
                return Err(Broken::Rule(format!("{rule} ({error})")));
            }
        }
        match self.put(step, &url, BODY).await? {
            Err(BlobError::Exists) => Ok(()),
            Ok(()) => Err("a second PUT of one key is taken: If-None-Match is not kept".into()),
            Err(error) => {
                let rule = "a second PUT of one key must be answered with 412";
                Err(Broken::Rule(format!("{rule} ({error})")))
            }
        }
    }

    async fn only_as_signed(&self) -> Result<(), Broken> {
        let url = self.put_url(&self.name(), Some(Digest::of(BODY)))?;
        if self.put("a PUT of other bytes", &url, OTHER).await?.is_ok() {
            return Err("bytes of another SHA-256 than the signed one are taken".into());
        }
        // Without a checksum: it is the size alone that is wrong.
        let url = self.put_url(&self.name(), None)?;
        if self.put("a PUT of another size", &url, LONGER).await?.is_ok() {
            return Err("more bytes than the signed size are taken".into());
        }
        Ok(())
    }

    async fn readable(&self, name: &str) -> Result<(), Broken> {
        let url = self.signed(PresignRequest::get(&self.record.bucket, name, ttl()?))?;
        match self.get("a signed GET", &url).await? {
            Ok(bytes) if bytes == BODY => Ok(()),
            Ok(_) => Err("it answers with other bytes than were put there".into()),
            Err(_) => Err("the key may not read what it has written".into()),
        }
    }

    async fn closed(&self, name: &str) -> Result<(), Broken> {
        for (rest, why) in [
            (name, "anybody may read it; close it to the public"),
            ("?list-type=2&max-keys=1", "anybody may list it; close it to the public"),
        ] {
            let url = SecretUrl::new(self.endpoint.unsigned_url(&self.record.bucket, rest));
            let url = SignedUrl { url, headers: Vec::new(), expires_at: UnixMs(u64::MAX) };
            if self.get("a stranger's GET", &url).await?.is_ok() {
                return Err(why.into());
            }
        }
        Ok(())
    }

    /// Where the key may read it, the mark that a signer leaves in its bucket tells a store of
    /// hotcell under whatever name.
    async fn not_ours(&self) -> Result<(), Broken> {
        let url = self.signed(PresignRequest::get(&self.record.bucket, CANARY, ttl()?))?;
        match self.get("a signed GET", &url).await? {
            Ok(_) => Err(OWN_STORE.into()),
            Err(_) => Ok(()),
        }
    }

    fn put_url(&self, name: &str, sha256: Option<Digest>) -> Result<SignedUrl, Broken> {
        let bound = Bound {
            content_length: Some(u64::try_from(BODY.len()).unwrap_or_default()),
            content_type: Some(TYPE.to_owned()),
            create_only: true,
            sha256: sha256.map(|digest| *digest.as_bytes()),
        };
        self.signed(PresignRequest::put(&self.record.bucket, name, ttl()?, bound))
    }

    fn signed(&self, request: PresignRequest<'_>) -> Result<SignedUrl, Broken> {
        let now = clock::now().secs();
        let signed = presign(self.key, self.endpoint, &request, now).map_err(Broken::Unsigned)?;
        Ok(SignedUrl {
            url: SecretUrl::new(signed.url.expose().to_owned()),
            headers: signed.headers,
            expires_at: UnixMs(signed.expires_at_unix_secs.saturating_mul(1000)),
        })
    }

    /// The outer error is silence, the inner one an answer.
    async fn put(
        &self,
        step: &'static str,
        url: &SignedUrl,
        body: &'static [u8],
    ) -> Result<Result<(), BlobError>, Broken> {
        let size = u64::try_from(body.len()).unwrap_or_default();
        let bytes = stream::iter([Ok(Bytes::from_static(body))]);
        answered(step, self.blobs.put(url, size, bytes)).await
    }

    async fn get(
        &self,
        step: &'static str,
        url: &SignedUrl,
    ) -> Result<Result<Vec<u8>, BlobError>, Broken> {
        let read = async {
            // A stranger is told pages of any length: what is compared is no longer than this.
            let (mut bytes, mut chunks) =
                (Vec::new(), Box::pin(self.blobs.get(url).await?.stream()));
            while bytes.len() <= BODY.len() {
                let Some(chunk) = chunks.try_next().await? else { break };
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes)
        };
        answered(step, read).await
    }
}

fn ttl() -> Result<Ttl, Broken> {
    Ttl::from_secs(URL_SECS).map_err(Broken::Unsigned)
}

async fn answered<T>(
    step: &'static str,
    sent: impl Future<Output = Result<T, BlobError>>,
) -> Result<Result<T, BlobError>, Broken> {
    match timeout(Duration::from_secs(STEP_SECS), sent).await {
        Ok(Err(BlobError::Unreachable(_))) | Err(_) => Err(Broken::Silent(step)),
        Ok(answer) => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hotcell_schemas::destination::Addressing;
    use hotcell_signer::presign;
    use std::collections::BTreeMap;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpStream},
        task::JoinSet,
    };

    /// Objects by the path that they were put to.
    type Kept = BTreeMap<String, Vec<u8>>;

    /// What a bucket does wrong.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Fault {
        None,
        Key,
        NoBucket,
        Overwrites,
        Hash,
        Size,
        WriteOnly,
        OtherBytes,
        Public,
        Listed,
        Ours,
        Failing,
        All200,
    }

    /// A request as far as the trial needs it.
    struct Asked {
        head: String,
        name: String,
        query: String,
        body: Vec<u8>,
    }

    async fn read(socket: &mut TcpStream) -> Option<Asked> {
        let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
        let end = loop {
            let length = socket.read(&mut buffer).await.unwrap();
            bytes.extend_from_slice(&buffer[..length]);
            match bytes.windows(4).position(|end| end == b"\r\n\r\n") {
                Some(end) => break end,
                None if length == 0 => return None,
                None => {}
            }
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let size = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let size: usize = size.map_or(0, |size| size.parse().unwrap());
        let mut body = bytes.split_off(end + 4);
        while body.len() < size {
            let length = socket.read(&mut buffer).await.unwrap();
            body.extend_from_slice(&buffer[..length]);
        }
        let path = head.split_whitespace().nth(1).unwrap();
        let (name, query) = path.split_once('?').unwrap_or((path, ""));
        let (name, query) = (name.to_owned(), query.to_owned());
        Some(Asked { head, name, query, body })
    }

    /// The least of S3 that a trial sees: it believes every signature, and keeps what is bound.
    fn answer(fault: Fault, asked: Asked, kept: &mut Kept) -> (u16, Vec<u8>) {
        let Asked { head, name, query, body } = asked;
        let is_signed = query.contains("x-amz-signature");
        let wrong_hash = head.contains("x-amz-checksum-sha256") && body == OTHER;
        let status = |status: u16| (status, Vec::new());
        match (fault, head.starts_with("put")) {
            (Fault::All200, _) => status(200),
            (Fault::Failing, _) => status(503),
            (Fault::Key, _) => status(403),
            (Fault::NoBucket, true) => status(404),
            (_, true) if wrong_hash && fault != Fault::Hash => status(400),
            (_, true) if body.len() != BODY.len() && fault != Fault::Size => status(403),
            (_, true) if kept.contains_key(&name) && fault != Fault::Overwrites => status(412),
            (_, true) => {
                kept.insert(name, body);
                status(200)
            }
            (Fault::Listed, false) if query.contains("list-type") => (200, b"<x/>".to_vec()),
            (Fault::Public, false) if query.is_empty() => (200, BODY.to_vec()),
            (_, false) if !is_signed => status(403),
            (Fault::WriteOnly, false) => status(403),
            (Fault::OtherBytes, false) => (200, OTHER.to_vec()),
            (Fault::Ours, false) if name.ends_with(CANARY) => (200, b"hotcell".to_vec()),
            (_, false) => kept.get(&name).map_or(status(404), |body| (200, body.clone())),
        }
    }

    async fn serve(mut socket: TcpStream, fault: Fault, kept: &mut Kept) {
        let Some(asked) = read(&mut socket).await else { return };
        let (status, body) = answer(fault, asked, kept);
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            body.len()
        );
        socket.write_all(&[head.into_bytes(), body].concat()).await.unwrap();
    }

    async fn tried(fault: Fault) -> Result<(), Fail> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut kept = Kept::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                serve(socket, fault, &mut kept).await;
            }
        });
        let record = DestinationRecord {
            tenant: "acme".parse().unwrap(),
            name: "cdn".parse().unwrap(),
            endpoint: format!("http://{address}"),
            region: "us-east-1".to_owned(),
            bucket: "media".to_owned(),
            prefix: "video".to_owned(),
            addressing: Addressing::Path,
            access_key_id: "acme".to_owned(),
            sealed: vec![1],
            created_at: UnixMs(1),
        };
        let place = Endpoint::parse(&record.endpoint, presign::Addressing::Path).unwrap();
        let key = PresignKey::new("acme", "CANARY-SECRET", "us-east-1").unwrap();
        let result = run(&key, &place, &record).await;
        if let Err(fail) = &result {
            let text = &fail.message;
            assert!(!text.contains("CANARY") && !text.contains("X-Amz"), "{text}");
        }
        result
    }

    #[tokio::test]
    async fn iam_09_a_bucket_that_is_weaker_than_the_own_store_is_named_and_refused() {
        tried(Fault::None).await.unwrap();
        for (fault, code, words) in [
            (Fault::Key, 1, "refuses the key"),
            (Fault::NoBucket, 1, "no such bucket"),
            (Fault::Overwrites, 1, "If-None-Match is not kept"),
            (Fault::Hash, 1, "another SHA-256"),
            (Fault::Size, 1, "more bytes than the signed size"),
            (Fault::WriteOnly, 1, "may not read what it has written"),
            (Fault::OtherBytes, 1, "other bytes than were put there"),
            (Fault::Public, 1, "anybody may read it"),
            (Fault::Listed, 1, "anybody may list it"),
            (Fault::Ours, 1, "hotcell's own store"),
            (Fault::Failing, 69, "does not answer"),
            (Fault::All200, 1, "If-None-Match is not kept"),
        ] {
            let fail = tried(fault).await.unwrap_err();
            assert_eq!(fail.code, code, "{fault:?}: {fail}");
            assert!(fail.message.contains(words), "{fault:?}: {fail}");
        }
    }
}
