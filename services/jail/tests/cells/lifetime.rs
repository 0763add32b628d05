//! ZT-07, BRK-04: a cell ends when it must, and nothing of it stays.

use std::time::{Duration, Instant};

use hotcell_jail::capture::Stdout;
use hotcell_jail::cell::{Cell, CellError, End, run};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::fixture::{end_of, hostile, marker, until, with_argument};

fn marked(line: &str) -> (Cell, TempDir, String) {
    let (mut cell, out) = hostile(line);
    let mark = marker();
    cell.args.push(mark.clone());
    (cell, out, mark)
}

/// Launcher, process 1, payload.
async fn all_three(mark: &str) {
    until("three processes", || with_argument(mark).len() == 3).await;
}

fn mounts() -> usize {
    std::fs::read_to_string("/proc/self/mountinfo").unwrap().lines().count()
}

#[tokio::test]
async fn wall_clock_kills_all() {
    for line in ["hold", "spin"] {
        let (mut cell, _out, mark) = marked(line);
        cell.limits.wall_secs = 1;
        let outcome = end_of(&cell).await;
        assert_eq!(outcome.end, End::WallClock, "{line}");
        assert!((1000..60_000).contains(&outcome.wall_ms), "{line}: {}", outcome.wall_ms);
        assert_eq!(with_argument(&mark), Vec::<i32>::new(), "{line}");
        if line == "spin" {
            // As little as a busy machine may have given it in that second.
            assert!(outcome.cpu_ms > 10, "time of the killed is counted: {}", outcome.cpu_ms);
        }
    }
}

#[tokio::test]
async fn cancelling_kills_all_at_once() {
    let (cell, _out, mark) = marked("hold");
    let before = mounts();
    let cancel = CancellationToken::new();
    let stop = async {
        all_three(&mark).await;
        cancel.cancel();
        Instant::now()
    };
    let (outcome, asked) = tokio::join!(run(&cell, &cancel, Stdout::Discard), stop);
    // Left alone it goes on for a minute.
    assert!(asked.elapsed() < Duration::from_secs(30), "{:?}", asked.elapsed());
    assert_eq!(outcome.unwrap().end, End::Cancelled);
    assert_eq!(with_argument(&mark), Vec::<i32>::new());
    assert_eq!(mounts(), before);
}

#[tokio::test]
async fn cancelled_before_the_start() {
    let (cell, _out, mark) = marked("hold");
    let cancel = CancellationToken::new();
    cancel.cancel();
    assert_eq!(run(&cell, &cancel, Stdout::Discard).await.unwrap().end, End::Cancelled);
    assert_eq!(with_argument(&mark), Vec::<i32>::new());
}

/// A dropped future is a supervisor that is gone.
#[tokio::test]
async fn dropping_the_future_kills_all() {
    let (cell, _out, mark) = marked("hold");
    let cancel = CancellationToken::new();
    {
        let job = run(&cell, &cancel, Stdout::Discard);
        tokio::select! {
            outcome = job => panic!("ended by itself: {outcome:?}"),
            () = all_three(&mark) => {}
        }
    }
    until("nothing is left", || with_argument(&mark).is_empty()).await;
}

/// The launcher, killed early, in the middle or late: the cell goes with it, and the supervisor says so. Every moment
/// there is has its turn in `tests/leaks`.
#[tokio::test]
async fn killing_the_launcher_kills_all() {
    for delay_us in [0, 1000, 50_000] {
        let (cell, _out, mark) = marked("hold");
        let cancel = CancellationToken::new();
        let kill = async {
            until("launcher", || !with_argument(&mark).is_empty()).await;
            let launcher = *with_argument(&mark).iter().min().unwrap();
            // Not a condition that is waited for: the moments to try.
            tokio::time::sleep(Duration::from_micros(delay_us)).await;
            kill_process(Pid::from_raw(launcher).unwrap(), Signal::KILL).unwrap();
        };
        let (result, ()) = tokio::join!(run(&cell, &cancel, Stdout::Discard), kill);
        assert!(matches!(result, Err(CellError::NoReport { signal: Some(9), .. })), "{result:?}");
        until("nothing is left", || with_argument(&mark).is_empty()).await;
    }
}

/// A launcher that does not react (stopped) does not hold up the supervisor for ever.
#[tokio::test]
async fn a_stopped_launcher_is_killed() {
    let (mut cell, _out, mark) = marked("hold");
    cell.limits.wall_secs = 1;
    let cancel = CancellationToken::new();
    let stop = async {
        all_three(&mark).await;
        let launcher = *with_argument(&mark).iter().min().unwrap();
        kill_process(Pid::from_raw(launcher).unwrap(), Signal::STOP).unwrap();
    };
    let (result, ()) = tokio::join!(run(&cell, &cancel, Stdout::Discard), stop);
    assert!(matches!(result, Ok(outcome) if outcome.end == End::WallClock));
    until("nothing is left", || with_argument(&mark).is_empty()).await;
}

/// A receiver of lines that stands still cannot keep a cell alive past its wall clock.
#[tokio::test]
async fn a_stuck_receiver_does_not_hang_the_cell() {
    let (mut cell, _out, mark) = marked("environment");
    cell.args = vec!["hold".to_owned(), mark.clone()];
    cell.limits.wall_secs = 1;
    let (sender, _receiver) = tokio::sync::mpsc::channel(1);
    sender.send("full".to_owned()).await.unwrap();
    let outcome = run(&cell, &CancellationToken::new(), Stdout::Lines(sender)).await.unwrap();
    assert_eq!(outcome.end, End::WallClock);
    assert_eq!(with_argument(&mark), Vec::<i32>::new());
}

/// Many cells at once, one after another: nothing of them stays.
#[tokio::test]
async fn a_hundred_cells_leave_nothing() {
    let (mut cell, out, mark) = marked("create /out/x");
    let before = mounts();
    // Eight at once on one thread; each future is one cell.
    for _ in 0..13 {
        let one = || end_of(&cell);
        let all = tokio::join!(one(), one(), one(), one(), one(), one(), one(), one());
        let ends = [all.0, all.1, all.2, all.3, all.4, all.5, all.6, all.7].map(|all| all.end);
        assert!(ends.iter().all(|end| *end == End::Exited(0)), "{ends:?}");
    }
    assert_eq!(with_argument(&mark), Vec::<i32>::new());
    assert_eq!(mounts(), before);
    assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 1);
    cell.args = vec!["read".to_owned(), "/tmp/x".to_owned()];
    assert_eq!(end_of(&cell).await.end, End::Exited(1));
}

/// How the payload ended is told truly, also where it ends by a signal of its own.
#[tokio::test]
async fn ends_are_told_apart() {
    for (line, expect) in [
        ("exit 0", End::Exited(0)),
        ("exit 7", End::Exited(7)),
        ("exit 125", End::Exited(125)),
        ("exit 137", End::Exited(137)),
        ("abort", End::Signaled(6)),
        ("inet", End::Signaled(31)),
    ] {
        let (cell, _out) = hostile(line);
        assert_eq!(end_of(&cell).await.end, expect, "{line}");
    }
}
