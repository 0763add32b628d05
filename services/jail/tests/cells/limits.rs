//! Every limit stops something that goes through without it.

use hotcell_jail::cell::End::{self, Exited, Signaled};
use hotcell_jail::layers::Layer;
use hotcell_jail::limits::CellLimits;

use crate::fixture::{end_of, hostile, marker, outside, text, until, with_argument};

const MIB: u64 = 1 << 20;

async fn check(line: &str, set: impl Fn(&mut CellLimits), with: End) {
    let (mut cell, _out) = hostile(line);
    assert_eq!(end_of(&cell).await.end, Exited(0), "{line} works with the defaults");
    set(&mut cell.limits);
    assert_eq!(end_of(&cell).await.end, with, "{line}");
}

#[tokio::test]
async fn memory() {
    check("allocate 200000000", |limits| limits.memory_bytes = 128 * MIB, Exited(1)).await;
}

#[tokio::test]
async fn one_file() {
    // RLIMIT_FSIZE sends SIGXFSZ, which this program does not catch.
    check("fill /out/x:2000000", |limits| limits.output_bytes = MIB, Signaled(25)).await;
}

/// Many small files are stopped too, by their sum. This program would go on for ever.
#[tokio::test]
async fn all_files() {
    let (mut cell, out) = hostile("litter /out");
    cell.limits.output_bytes = 10 * MIB;
    assert_eq!(end_of(&cell).await.end, End::OutputLimit);
    assert!(std::fs::read_dir(out.path()).unwrap().count() > 100);
}

/// What is printed and not kept costs the supervisor time all the same.
#[tokio::test]
async fn printing() {
    for stream in ["stdout", "stderr"] {
        assert!(outside(&format!("talk {stream} 4000000")).status.success());
        let (cell, _out) = hostile(&format!("talk {stream} 4000000000"));
        let outcome = end_of(&cell).await;
        assert_eq!(outcome.end, End::OutputLimit, "{stream}");
        let kept = outcome.stderr.head.len() + outcome.stderr.tail.len();
        assert!(kept <= 64 * 1024 && (outcome.stderr.bytes > 4_000_000) == (stream == "stderr"));
    }
}

/// Files with nothing in them fill a disk too.
#[tokio::test]
async fn number_of_files() {
    check("many /out 50", |limits| limits.files = 49, End::OutputLimit).await;
    // Without an end, and stopped while it goes on.
    let (mut cell, out) = hostile("many /out 100000000");
    cell.limits.files = 1000;
    assert_eq!(end_of(&cell).await.end, End::OutputLimit);
    assert!(std::fs::read_dir(out.path()).unwrap().count() > 1000);
}

/// A hole takes no space here, but its reader gets, and pays for, every byte of it.
#[tokio::test]
async fn sparse_files() {
    check("hole /out/x 2000000", |limits| limits.output_bytes = MIB, Signaled(25)).await;
    let (mut cell, _out) = hostile("hole /out/x 1000000");
    cell.limits.output_bytes = MIB;
    let outcome = end_of(&cell).await;
    assert_eq!((outcome.end, outcome.bytes_out), (Exited(0), 1_000_000));
    let (mut cell, _out) = hostile("holes /out 3 1000000");
    assert_eq!(end_of(&cell).await.bytes_out, 3_000_000);
    cell.limits.output_bytes = 2_000_000;
    assert_eq!(end_of(&cell).await.end, End::OutputLimit);
}

/// Files without a name cannot be counted, so there can be none: the disk would fill, 64 open files at a time.
#[tokio::test]
async fn files_that_no_listing_shows() {
    for line in ["ghosts /out:20:1000000", "replace /out", "nameless /out"] {
        let (mut cell, out) = hostile(line);
        cell.limits.output_bytes = 2 * MIB;
        let outside = outside(&line.replace("/out", out.path().to_str().unwrap()));
        assert!(outside.status.success(), "{line}: {}", text(&outside.stdout));
        let end = end_of(&cell).await.end;
        let expect = if line.starts_with("nameless") { Signaled(31) } else { Exited(1) };
        assert_eq!(end, expect, "{line}");
        // Landlock and seccomp stop them, and nothing else.
        (cell.layers_off, cell.degraded) = (vec![Layer::Landlock, Layer::Seccomp], true);
        let again = tempfile::tempdir().unwrap();
        cell.out_dir = Some(again.path().to_owned());
        assert_eq!(end_of(&cell).await.end, Exited(0), "{line}");
    }
    // In /tmp they count: it is a file system of its own.
    for line in ["ghosts /tmp:3:100000", "replace /tmp"] {
        check(line, |_| {}, Exited(0)).await;
    }
    check("ghosts /tmp:3:1000000", |limits| limits.tmp_bytes = 2 * MIB, Exited(1)).await;
}

#[tokio::test]
async fn tmp() {
    check("fill /tmp/x:2000000", |limits| limits.tmp_bytes = MIB, Exited(1)).await;
    // Empty files take kernel memory, so their number is limited too.
    let (cell, _out) = hostile("many /tmp 300");
    assert_eq!(end_of(&cell).await.end, Exited(1));
    let (cell, _out) = hostile("many /tmp 200");
    assert_eq!(end_of(&cell).await.end, Exited(0));
}

#[tokio::test]
async fn stack() {
    let (cell, _out) = hostile("deep 2000");
    assert_eq!(end_of(&cell).await.end, Exited(0));
    let (cell, _out) = hostile("deep 100000");
    assert_eq!(end_of(&cell).await.end, Signaled(11), "SIGSEGV");
}

/// A payload that does nothing for ever ends by the clock that only progress winds up.
#[tokio::test]
async fn brk_07_no_progress() {
    let pulse = std::sync::Arc::new(tokio::sync::Notify::new());
    let (mut cell, _out) = hostile("hold");
    cell.pulse = Some(std::sync::Arc::clone(&pulse));
    (cell.limits.stall_secs, cell.limits.wall_secs) = (1, 60);
    let outcome = end_of(&cell).await;
    assert_eq!(outcome.end, End::Stalled);
    assert!((900..50_000).contains(&outcome.wall_ms), "{}", outcome.wall_ms);

    // With progress it is the wall clock that ends it, later.
    cell.limits.wall_secs = 3;
    let winder = async {
        loop {
            pulse.notify_one();
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    // The winder first: where this thread stood still for a second, the clock was not to be wound.
    tokio::select! {
        biased;
        () = winder => {}
        outcome = end_of(&cell) => assert_eq!(outcome.end, End::WallClock),
    }
}

/// What a cell used, as far as it does not depend on the moment.
#[tokio::test]
async fn use_is_measured() {
    let (mut cell, out) = hostile("fill /out/x:8192");
    let input = out.path().with_extension("input");
    std::fs::write(&input, [1; 777]).unwrap();
    cell.inputs = vec![input.clone(), input.clone()];
    let outcome = end_of(&cell).await;
    std::fs::remove_file(input).unwrap();
    assert_eq!((outcome.bytes_in, outcome.bytes_out), (1554, 8192));
    assert!(outcome.max_rss_bytes > 100_000);
    assert_eq!((outcome.violation, outcome.cgroup), (None, None));
}

#[tokio::test]
async fn threads() {
    check("threads 20", |limits| limits.procs = 20, Exited(1)).await;
    // The payload itself is one of them.
    check("threads 20", |limits| limits.procs = 21, Exited(0)).await;
}

/// The limit is of the cell and not of the user: two cells of one user do not take from each other.
#[tokio::test]
async fn threads_are_counted_per_cell() {
    let mark = marker();
    let (mut holder, _out) = hostile("hold");
    holder.args.push(mark.clone());
    let (mut cell, _other) = hostile("threads 20");
    cell.limits.procs = 21;
    assert_eq!(cell.identity, holder.identity);
    let cancel = tokio_util::sync::CancellationToken::new();
    let work = async {
        until("holder", || with_argument(&mark).len() == 3).await;
        let end = end_of(&cell).await.end;
        cancel.cancel();
        end
    };
    let hold = hotcell_jail::cell::run(&holder, &cancel, hotcell_jail::capture::Stdout::Discard);
    let (_, end) = tokio::join!(hold, work);
    assert_eq!(end, Exited(0));
}

#[tokio::test]
async fn processor_time() {
    let (mut cell, _out) = hostile("spin");
    cell.limits.cpu_secs = 1;
    assert_eq!(end_of(&cell).await.end, Signaled(24), "SIGXCPU");
}

#[tokio::test]
async fn descriptors() {
    // The loader opens each library as descriptor 3.
    check("create /tmp/x", |limits| limits.nofile = 3, Exited(127)).await;
    // Three are its streams, and one the listing of what to open.
    check("open_many /bin/hotcell-hostile 40", |limits| limits.nofile = 40, Exited(1)).await;
}
