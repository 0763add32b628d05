//! 2000 cells at each parallelism, without control groups and with: what this process, the folders and the kernel hold
//! is what they held before.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hotcell_jail::Identity;
use hotcell_jail::cell::{Cell, End};
use hotcell_jail::cgroup::{Choice, Groups, Slot, Wish};
use tokio::task::JoinSet;

use crate::fixture::{end_of, hostile, marker};
use crate::kept::{Kept, cgroups, kernel_objects, resident_bytes, until_objects};

/// Cells at each parallelism.
const CELLS: u32 = 2000;
/// Before those that count: what is allocated once is allocated then.
const WARM_UP: u32 = 200;
/// What 2000 cells may add to this process: a leak of one descriptor's worth of bookkeeping each would be more.
const BYTES_MAX: u64 = 2 << 20;
/// What the kernel may hold for others, and let go of late: a leak of one in five cells would be more.
const OBJECTS_MAX: u64 = 400;

/// Most at once.
const AT_ONCE_MAX: usize = 8;

/// Runs so many cells, so many at once, each of these in a slot if there are any; how long each took, shortest first.
async fn run(cell: &Cell, slots: &[Arc<Slot>], cells: u32, at_once: usize) -> Vec<Duration> {
    let next = Arc::new(AtomicU32::new(0));
    let mut tasks = JoinSet::new();
    for number in 0..at_once {
        let (mut cell, next) = (cell.clone(), next.clone());
        cell.slot = slots.get(number).cloned();
        tasks.spawn(async move {
            let mut took = Vec::new();
            while next.fetch_add(1, Ordering::Relaxed) < cells {
                let begun = Instant::now();
                let outcome = end_of(&cell).await;
                took.push(begun.elapsed());
                assert_eq!(outcome.end, End::Exited(0), "{outcome:?}");
            }
            took
        });
    }
    let mut all: Vec<Duration> = tasks.join_all().await.into_iter().flatten().collect();
    all.sort();
    all
}

fn print(at_once: usize, took: &[Duration]) {
    let at = |share: f64| {
        let last = f64::from(u32::try_from(took.len()).unwrap() - 1);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        let index = (last * share) as usize;
        took[index].as_secs_f64() * 1e3
    };
    eprintln!(
        "{} cells, {at_once} at once: min {:.2} p50 {:.2} p90 {:.2} p99 {:.2} max {:.2} ms (debug build)",
        took.len(),
        at(0.0),
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0)
    );
}

/// Runs all of them, one after another in each slot if there are any.
async fn leave_nothing(slots: &[Arc<Slot>]) {
    let (mut cell, out) = hostile("create /out/x");
    let mark = marker();
    cell.args.push(mark.clone());
    let input = out.path().with_extension("input");
    std::fs::write(&input, "input").unwrap();
    cell.inputs = vec![input.clone()];
    let root = cell.root.path().to_owned();
    let folders = [root.parent().unwrap(), out.path()];

    run(&cell, slots, WARM_UP, AT_ONCE_MAX).await;
    let (before, bytes, objects) = (Kept::now(&mark, &folders), resident_bytes(), kernel_objects());
    assert_eq!((before.children.len(), before.marked.len(), before.mounts), (0, 0, 0));
    let groups = own_groups();
    for at_once in [1, 2, AT_ONCE_MAX] {
        let took = run(&cell, slots, CELLS, at_once).await;
        assert_eq!(took.len(), CELLS as usize);
        print(at_once, &took);
        assert_eq!(Kept::now(&mark, &folders), before, "{at_once} at once");
        assert_eq!(own_groups(), groups, "{at_once} at once");
        let now = resident_bytes();
        assert!(now < bytes + BYTES_MAX, "{at_once} at once: {bytes} bytes became {now}");
        until_objects(&objects, OBJECTS_MAX);
    }
    std::fs::remove_file(input).unwrap();
}

/// Groups that this process made.
fn own_groups() -> Vec<PathBuf> {
    cgroups(&format!("hotcell-{}-", std::process::id()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_thousand_cells_leave_nothing() {
    leave_nothing(&[]).await;
    assert_eq!(own_groups(), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn six_thousand_cells_in_groups_leave_nothing() {
    let wish = Wish { choice: Choice::Required, folders: Vec::new(), cpu_percent: None };
    let groups = Groups::open(&wish).unwrap();
    let slot = |number| groups.slot(number, Identity::for_this_process()).unwrap();
    let slots: Vec<Arc<Slot>> = (0..AT_ONCE_MAX).map(|number| Arc::new(slot(number))).collect();
    assert!(own_groups().len() > AT_ONCE_MAX);
    leave_nothing(&slots).await;
    drop((slots, groups));
    assert_eq!(own_groups(), Vec::<PathBuf>::new());
}
