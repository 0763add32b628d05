//! What the place of a cell brings with it: a user of its own, control groups, a clock of progress.

use crate::site::Site;
use hotcell_schemas::{JobId, RejectCode, report::CellEnd};
use std::{collections::BTreeSet, fs};

/// A transcoder that sleeps for ever is ended by the clock that only progress winds up.
#[tokio::test(flavor = "multi_thread")]
async fn brk_07_an_encode_without_progress_is_stalled() {
    let (site, _programs) = Site::with_stub(59_999).await;
    site.order(b"never", |order| order.plan.limits.stall_secs = 1);
    let report = site.work(site.report()).await.report;
    let failure = report.failure.unwrap();
    assert_eq!(failure.code, RejectCode::Stalled, "{}", failure.message);
    let used = report.encode.unwrap();
    assert_eq!(used.end, CellEnd::Stalled);
    assert!((500..20_000).contains(&used.wall_ms), "{}", used.wall_ms);
    assert_eq!(used.bytes_in, 5);
}

/// Users of the processes whose command line starts so.
fn users(program: &str) -> BTreeSet<u32> {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let user = |path: std::path::PathBuf| {
        let command = fs::read(path.join("cmdline")).ok()?;
        let status = fs::read_to_string(path.join("status")).ok()?;
        let line = status.lines().find(|line| line.starts_with("Uid:"))?;
        let id = line.split_whitespace().nth(1)?.parse().ok()?;
        command.starts_with(program.as_bytes()).then_some(id)
    };
    processes.filter_map(|entry| user(entry.path())).collect()
}

/// A worker that is root has a user for each slot, and none of them is root or another's.
#[tokio::test(flavor = "multi_thread")]
async fn each_slot_has_its_own_user() {
    const MS: u32 = 50_004;
    let (mut site, _programs) = Site::with_stub(MS).await;
    // Users that no other test has: those of a machine are seen by all of its tests.
    (site.config.slots, site.config.first_uid) = (2, 64_170);
    for number in [3, 4] {
        site.order(b"one of two", move |order| order.job = JobId::new(1, [number; 10]));
    }
    let program = format!("/bin/hotcell-stub-fixed-{MS}\0");
    let both = BTreeSet::from([64_170, 64_171]);
    site.work(async {
        site.until("two users", |_| (users(&program) == both).then_some(())).await;
    })
    .await;
    assert_eq!(users(&program), BTreeSet::new());
}
