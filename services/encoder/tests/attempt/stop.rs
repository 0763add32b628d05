//! A worker that is told to stop.

use crate::site::Site;
use hotcell_schemas::{RejectCode, work::Stop};
use std::time::{Duration, Instant};

/// Encodes on this machine whose stand-in takes this long: each test has a number of its own. The
/// start-up's question for the version is no encode.
fn cells(ms: u32) -> usize {
    let name = format!("/bin/hotcell-stub-fixed-{ms}\0");
    let proc = std::fs::read_dir("/proc").unwrap().flatten();
    let commands = proc.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let encodes = |command: &Vec<u8>| {
        command.starts_with(name.as_bytes()) && command.ends_with(b"/out/out.mp4\0")
    };
    commands.filter(encodes).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_ends_at_its_next_beat_and_nothing_is_said() {
    const MS: u32 = 50_001;
    let (site, _programs) = Site::with_stub(MS).await;
    site.order(b"cancelled while it runs", |_| {});
    site.seen.lock().unwrap().stop = Some(Stop::Cancelled);
    site.work(async {
        site.until("a running cell", |_| (cells(MS) > 0).then_some(())).await;
        site.until("a beat", |seen| (!seen.beats.is_empty()).then_some(())).await;
        site.until("the end of the cell", |_| (cells(MS) == 0).then_some(())).await;
        site.until("an empty folder", |_| site.left_behind().is_empty().then_some(())).await;
        // It asks for other work, so it has nothing more to say about this one.
        site.until("the next question", |seen| (seen.nexts.len() > 1).then_some(())).await;
    })
    .await;
    let seen = site.seen.lock().unwrap();
    assert!(seen.done.is_empty() && !seen.objects.contains_key("out.mp4"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_ends_gives_its_job_back() {
    const MS: u32 = 50_002;
    let (site, _programs) = Site::with_stub(MS).await;
    site.order(b"given back", |_| {});
    let shutdown = site.shutdown_of_worker();
    let worker = hotcell_encoder::run(site.config.clone(), shutdown.clone());
    let stop = async {
        site.until("a running cell", |_| (cells(MS) > 0).then_some(())).await;
        shutdown.begin();
        Instant::now()
    };
    let (ended, began) = tokio::join!(worker, stop);
    ended.unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "the process has 20 s to end");
    assert_eq!(cells(MS), 0);
    assert_eq!(site.left_behind(), [] as [&std::path::Path; 0]);
    let seen = site.seen.lock().unwrap();
    let [done] = seen.done.as_slice() else { panic!("one report") };
    assert_eq!(done.report.failure.as_ref().unwrap().code, RejectCode::WorkerStopped);
    assert!(done.report.files.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn beats_renew_the_lease_that_the_report_names() {
    // Longer than one beat, so that there is one.
    let (site, _programs) = Site::with_stub(6_003).await;
    site.order(b"beaten", |_| {});
    let done = site.work(site.report()).await;
    assert_eq!(done.report.failure, None);
    let seen = site.seen.lock().unwrap();
    assert_eq!(seen.beats[0].lease, "lease-0");
    // The last one's answer may be on its way while the report is made.
    let beats = seen.beats.len();
    let renewed = [beats - 1, beats].map(|beat| format!("lease-{beat}"));
    assert!(done.lease != "lease-0" && renewed.contains(&done.lease), "{} {beats}", done.lease);
}
