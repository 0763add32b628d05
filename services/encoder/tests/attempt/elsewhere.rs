//! Outputs that go to a bucket of the tenant's, which refuses or is silent: IAM-09.

use crate::site::Site;
use hotcell_schemas::{RejectCode, reject::Failure};

/// What comes of one attempt.
struct Ended {
    failure: Option<Failure>,
    /// Questions for URLs.
    urls: usize,
    /// Writes of outputs.
    puts: usize,
}

/// One attempt after the other at `site`, whose store answers writes of outputs with `refusals` first.
async fn attempt(site: &Site, elsewhere: bool, refusals: &[Option<u16>]) -> Ended {
    let before = {
        let mut seen = site.seen.lock().unwrap();
        seen.objects.clear();
        seen.elsewhere = elsewhere;
        seen.refusals = refusals.iter().copied().collect();
        (seen.urls, seen.puts) = (0, 0);
        seen.done.len()
    };
    site.order(b"media", |_| {});
    let done = site.until("a report", |seen| seen.done.get(before).cloned()).await;
    let seen = site.seen.lock().unwrap();
    let is_stored = seen.objects.contains_key("out.mp4");
    let failure = done.report.failure;
    assert_eq!(is_stored, failure.is_none(), "{failure:?}");
    assert_eq!(done.report.files.is_empty(), failure.is_some());
    Ended { failure, urls: seen.urls, puts: seen.puts }
}

#[tokio::test(flavor = "multi_thread")]
async fn iam_09_a_bucket_that_refuses_under_fresh_urls_too_is_reported_as_refusing() {
    let (site, _programs) = Site::with_stub(1).await;
    let cases = async {
        use RejectCode::{DestinationRefused, UploadFailed};
        let check = async |elsewhere: bool, refusals: &[u16], code, urls: usize| {
            let refusals: Vec<_> = refusals.iter().map(|status| Some(*status)).collect();
            let ended = attempt(&site, elsewhere, &refusals).await;
            let what = format!("{elsewhere} {refusals:?} {:?}", ended.failure);
            assert_eq!(ended.failure.as_ref().map(|failure| failure.code), code, "{what}");
            assert_eq!((ended.urls, ended.puts), (urls, urls), "{what}");
            ended.failure.map(|failure| failure.message).unwrap_or_default()
        };
        for status in [403, 404] {
            let said = check(true, &[status; 2], Some(DestinationRefused), 2).await;
            assert!(said.contains(&format!(" {status} ")) && !said.contains("http"), "{said}");
            // Its key was changed a moment ago.
            check(true, &[status], None, 2).await;
        }
        check(true, &[400], Some(UploadFailed), 1).await;
        // hotcell's own store: as ever.
        check(false, &[403; 2], Some(UploadFailed), 2).await;
        check(false, &[403], None, 2).await;
        check(false, &[404], Some(UploadFailed), 1).await;
    };
    site.work(cases).await;
}

// The place of a worker is its tenant's for that long; another try in the same attempt would take as
// long again. Another attempt may find it awake.
#[tokio::test(flavor = "multi_thread")]
async fn iam_09_a_bucket_that_is_silent_is_given_up_at_once_and_may_be_tried_again() {
    let (site, _programs) = Site::with_stub(1).await;
    let ended = site.work(attempt(&site, true, &[None])).await;
    let failure = ended.failure.unwrap();
    assert_eq!(failure.code, RejectCode::UploadFailed);
    assert!(failure.message.contains("silent") && failure.code.is_retryable(), "{failure:?}");
    assert_eq!((ended.urls, ended.puts), (1, 1), "it was waited for again");
}
