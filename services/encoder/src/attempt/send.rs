//! Outputs and standard error on their way out of an attempt.
//!
//! Promises: URLs that died are asked for again, once; a bucket of the tenant's that refuses under
//! fresh ones, too, is reported as refusing, so that nobody encodes for it again; and one that is away
//! or silent keeps the worker for [`ELSEWHERE`] beside its bytes. Refuses to say where that bucket is,
//! or what it said but the status.

use super::{Attempt, Halt, UNDER_LEASE, refused};
use crate::{
    draft::Draft,
    store::{self, ELSEWHERE},
    workspace::JobDir,
};
use hotcell_schemas::{
    RejectCode, UnixMs,
    work::{UrlsReply, UrlsRequest},
};
use hotcell_stage::{AskError, blob::BlobError, clock, retry::retry, service::describe};
use std::time::Duration;
use tracing::{error, warn};

/// Rounds of URLs: those that died while others were used are asked for again.
const ROUNDS: u32 = 2;

/// Time between them where a tenant's bucket refused, in seconds: a key that was changed there a moment
/// ago may not be known everywhere.
const REFUSED_SECS: u64 = 2;

/// Why nothing more is sent.
#[derive(Debug, thiserror::Error)]
enum Unsent {
    /// No URLs, or not for what was made.
    #[error("there are no URLs for the outputs")]
    NoUrls,
    /// hotcell's own store.
    #[error("the store does not take them")]
    Store(#[source] BlobError),
    /// A bucket of the tenant's.
    #[error("the job's destination does not take them")]
    Elsewhere(#[source] BlobError),
    /// The same, by a URL that had died before the answer.
    #[error("the job's destination does not take them by a URL that has died")]
    Late(#[source] BlobError),
}

impl Unsent {
    /// The status with which a tenant's bucket refuses for good: its key may not write there (403,
    /// 401), or there is no such bucket (404). Whatever else it says may be otherwise the next time.
    fn refusal(&self) -> Option<u16> {
        match self {
            Self::Elsewhere(BlobError::Denied(status)) => Some(*status),
            Self::Elsewhere(BlobError::Missing) => Some(404),
            Self::Elsewhere(_) | Self::Late(_) | Self::Store(_) | Self::NoUrls => None,
        }
    }

    /// What a tenant's bucket said to a URL that dies at `end`. A dead one is refused by every bucket,
    /// which says nothing of the bucket: what took an hour now may take less the next time.
    fn elsewhere(error: BlobError, end: UnixMs, now: UnixMs) -> Self {
        let is_dead = matches!(error, BlobError::Denied(_)) && end <= now;
        if is_dead { Self::Late(error) } else { Self::Elsewhere(error) }
    }

    /// Whether other URLs may help.
    fn is_of_urls(&self) -> bool {
        let died = matches!(self, Self::Store(BlobError::Denied(_)) | Self::Late(_));
        died || self.refusal().is_some()
    }

    fn halt(&self) -> Halt {
        match (self, self.refusal()) {
            (_, Some(status)) => {
                let text =
                    format!("the destination answers {status} to a PUT, also by a fresh URL");
                Halt::failed(RejectCode::DestinationRefused, text)
            }
            (Self::Elsewhere(_) | Self::Late(_), None) => {
                let text = "the destination is away, fails or is silent";
                Halt::failed(RejectCode::UploadFailed, text)
            }
            (Self::Store(_) | Self::NoUrls, None) => {
                Halt::failed(RejectCode::UploadFailed, "the outputs could not be stored")
            }
        }
    }
}

impl Attempt<'_> {
    /// Sends the files and standard error. An attempt that failed sends standard error only, and
    /// goes without it when that fails.
    pub(super) async fn store(&self, dir: &JobDir, draft: &mut Draft) -> Result<(), Halt> {
        if draft.files.is_empty() && draft.stderr.is_none() {
            return Ok(());
        }
        draft.steps.store = Some(clock::now());
        let mut rounds = 1;
        loop {
            let sent = self.until_stopped(self.send_all(dir, draft)).await??;
            let Err(unsent) = sent else { return Ok(()) };
            if rounds == ROUNDS || !unsent.is_of_urls() {
                warn!(error = describe(&unsent), "outputs not stored");
                draft.stderr = None;
                return Err(unsent.halt());
            }
            rounds += 1;
            if unsent.refusal().is_some() {
                self.until_stopped(tokio::time::sleep(Duration::from_secs(REFUSED_SECS))).await?;
            }
        }
    }

    async fn send_all(&self, dir: &JobDir, draft: &Draft) -> Result<Result<(), Unsent>, Halt> {
        let stderr = draft.stderr.as_ref();
        let body = || UrlsRequest {
            lease: self.lease.token(),
            files: draft.files.clone(),
            stderr: stderr.map(|packed| (packed.file.stored_bytes, packed.sha256)),
        };
        let once = || async { self.worker.ask.urls(&body()).await };
        match retry(UNDER_LEASE, AskError::is_transient, once).await {
            Ok(reply @ UrlsReply::Urls { .. }) => Ok(self.send(dir, draft, reply).await),
            Ok(UrlsReply::Refused { reason }) => {
                warn!(?reason, "no URLs for the outputs");
                refused(reason).map_or(Ok(Err(Unsent::NoUrls)), Err)
            }
            Err(error) => {
                error!(%error, "no URLs for the outputs");
                Ok(Err(Unsent::NoUrls))
            }
        }
    }

    async fn send(&self, dir: &JobDir, draft: &Draft, urls: UrlsReply) -> Result<(), Unsent> {
        let UrlsReply::Urls { files, stderr, elsewhere } = urls else {
            return Err(Unsent::NoUrls);
        };
        let blobs = &self.worker.blobs;
        let within = elsewhere.then_some(ELSEWHERE);
        for file in &draft.files {
            let url = files.iter().find(|url| url.name == file.name).ok_or(Unsent::NoUrls)?;
            let sent = store::put_file(blobs, &url.put, &dir.out(), file, within).await;
            sent.map_err(|error| {
                let end = url.put.expires_at;
                if elsewhere {
                    Unsent::elsewhere(error, end, clock::now())
                } else {
                    Unsent::Store(error)
                }
            })?;
        }
        if let Some(packed) = &draft.stderr {
            let url = stderr.as_ref().ok_or(Unsent::NoUrls)?;
            store::put_bytes(blobs, url, &packed.bytes).await.map_err(Unsent::Store)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_a_tenant_s_bucket_is_for_good_and_one_of_the_store_never() {
        let check = |unsent: Unsent, again: bool, code: RejectCode, words: &str| {
            assert_eq!(unsent.is_of_urls(), again, "{unsent:?}");
            let Halt::Failed(failure) = unsent.halt() else { panic!("{unsent:?}") };
            assert_eq!(failure.code, code, "{unsent:?}");
            assert!(failure.message.contains(words), "{failure:?}");
        };
        use RejectCode::{DestinationRefused, UploadFailed};
        for status in [401, 403] {
            let refused = Unsent::Elsewhere(BlobError::Denied(status));
            check(refused, true, DestinationRefused, &format!(" {status} "));
        }
        check(Unsent::Elsewhere(BlobError::Missing), true, DestinationRefused, " 404 ");
        for error in [BlobError::Unreachable(None), BlobError::Refused(400)] {
            check(Unsent::Elsewhere(error), false, UploadFailed, "destination");
        }
        // By a URL that lives, and by one that has died: other URLs help, but no bucket refused.
        let by = |error, end| Unsent::elsewhere(error, UnixMs(end), UnixMs(10));
        check(by(BlobError::Denied(403), 11), true, DestinationRefused, " 403 ");
        check(by(BlobError::Denied(403), 10), true, UploadFailed, "destination");
        check(by(BlobError::Missing, 10), true, DestinationRefused, " 404 ");
        check(by(BlobError::Unreachable(None), 10), false, UploadFailed, "destination");
        check(Unsent::Store(BlobError::Denied(403)), true, UploadFailed, "stored");
        check(Unsent::Store(BlobError::Missing), false, UploadFailed, "stored");
        check(Unsent::NoUrls, false, UploadFailed, "stored");
    }
}
