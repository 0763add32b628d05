//! Scenarios parse, statistics are right, results files are continued, and a small run of every
//! kind ends by itself. No test looks at how long anything took.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use hotcell_loadtest::{
    report::{Report, aligned},
    scenario::{Durability, Kind, Scenario, built_in},
    stats::{Times, ratio, within},
};
use std::{fs, path::Path, process::Command, time::Duration, time::UNIX_EPOCH};

fn near(found: f64, expect: f64) {
    // The histogram keeps three significant digits.
    assert!((found - expect).abs() <= expect * 0.001 + 1e-9, "{found} is not {expect}");
}

#[test]
fn quantiles_are_those_of_the_values() {
    let mut times = Times::default();
    assert_eq!((times.count(), times.ms_min(), times.ms_max(), times.ms(0.5)), (0, 0.0, 0.0, 0.0));
    for ms in (1..=1000).rev() {
        times.record(Duration::from_millis(ms));
    }
    assert_eq!(times.count(), 1000);
    near(times.ms_min(), 1.0);
    near(times.ms(0.5), 500.0);
    near(times.ms(0.9), 900.0);
    near(times.ms(0.99), 990.0);
    near(times.ms(1.0), 1000.0);
    near(times.ms_max(), 1000.0);
}

#[test]
fn times_beyond_the_bounds_are_counted_at_the_bounds() {
    let mut times = Times::default();
    times.record(Duration::ZERO);
    near(times.ms_max(), 0.001);
    times.record(Duration::from_secs(86_400));
    assert_eq!(times.count(), 2);
    near(times.ms_max(), 600_000.0);
}

#[test]
fn shares_of_values_lie_between_them() {
    let values = [4.0, 1.0, 3.0, 2.0];
    for (share, expect) in [(0.0, 1.0), (0.25, 1.75), (0.5, 2.5), (1.0, 4.0), (9.0, 4.0)] {
        near(within(&values, share), expect);
    }
    near(within(&[7.0], 0.3), 7.0);
    near(within(&[], 0.5), 0.0);
}

#[test]
fn a_ratio_to_nothing_is_nothing() {
    near(ratio(3.0, 4.0), 0.75);
    near(ratio(3.0, 0.0), 0.0);
}

#[test]
fn every_scenario_file_is_compiled_in_and_parses() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
    let mut files: Vec<Scenario> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let scenario = Scenario::parse(&fs::read_to_string(&path).unwrap()).unwrap();
            assert_eq!(scenario.name, path.file_stem().unwrap().to_str().unwrap());
            scenario
        })
        .collect();
    let mut built_in = built_in().unwrap();
    files.sort_by(|a, b| a.name.cmp(&b.name));
    built_in.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(files, built_in);
    for kind in Kind::ALL {
        assert!(files.iter().any(|scenario| scenario.kind == kind), "{kind}");
    }
    for kind in [Kind::Throughput, Kind::Latency] {
        for durability in [Durability::Always, Durability::OneSecond] {
            let both = |it: &Scenario| it.kind == kind && it.durability == Some(durability);
            assert!(files.iter().any(both), "{kind} {durability:?}");
        }
    }
}

#[test]
fn scenarios_with_a_wrong_key_or_value_are_refused() {
    let good = "name = \"x\"\nkind = \"latency\"\nrate = 20\nseconds = 1\nencoders = 2\nslots = 1\n\
                tenants = 1\ndurability = \"1s\"\ncell = \"noop\"\n";
    assert!(Scenario::parse(good).is_ok());
    let check = |from: &str, to: &str, why: &str| {
        let text = good.replace(from, to);
        assert_ne!(text, good);
        let error = format!("{:#}", Scenario::parse(&text).unwrap_err());
        assert!(error.contains(why), "{to}: {error}");
    };
    check("rate = 20", "rate = 20\nspeed = 1", "unknown field");
    check("rate = 20", "rate = 20\njobs = 5", "jobs is not a key of kind latency");
    check("rate = 20\n", "", "rate must be 1 to");
    check("rate = 20", "rate = 1000000", "rate must be 1 to");
    check("rate = 20", "rate = -1", "invalid value");
    check("seconds = 1", "seconds = 86400", "seconds must be 1 to");
    check("\"1s\"", "\"2s\"", "unknown variant");
    check("durability = \"1s\"\n", "", "durability is missing");
    check("\"noop\"", "\"sh\"", "cell must be known");
    check("\"x\"", "\"../x\"", "name must be");
    let micro = "name = \"x\"\nkind = \"micro\"\nseconds = 1\n";
    assert!(Scenario::parse(micro).is_ok());
    assert!(Scenario::parse(&format!("{micro}cell = \"noop\"\n")).is_err());
}

#[test]
fn columns_line_up() {
    let rows = [["what", "ms"], ["a longer one", "10"]].map(|row| row.map(String::from).to_vec());
    assert_eq!(aligned(&rows), "what          ms\na longer one  10\n");
}

/// Runs the program, with the workspace's own programs beside it.
fn loadtest(args: &[&str], results: &Path) -> String {
    let ran = Command::new(env!("CARGO_BIN_EXE_loadtest"))
        .args(args)
        .args(["--quick", "--results"])
        .arg(results)
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(
        ran.status.success(),
        "{out}\n{err}\n(build them first: cargo build --workspace --bins)"
    );
    out.into_owned()
}

/// Days since the epoch: a report is named after the UTC day on which it was begun.
fn today() -> u64 {
    UNIX_EPOCH.elapsed().unwrap().as_secs() / 86_400
}

/// The newest report, of as many as there may be.
fn report_of(dir: &Path, most: usize) -> (Report, String) {
    let with = |extension: &str| {
        let mut paths: Vec<_> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|found| found == extension))
            .collect();
        paths.sort();
        assert!((1..=most).contains(&paths.len()), "{paths:?}");
        fs::read_to_string(paths.pop().unwrap()).unwrap()
    };
    (serde_json::from_str(&with("json")).unwrap(), with("md"))
}

#[test]
fn every_kind_runs_ends_and_is_in_the_report_once() {
    let (results, begun) = (tempfile::tempdir().unwrap(), today());
    loadtest(&["micro"], results.path());
    let told = loadtest(&["all"], results.path());
    // One, unless the second run began on another day than the first.
    let most = if today() == begun { 1 } else { 2 };
    let (report, text) = report_of(results.path(), most);
    let mut names: Vec<_> = report.entries.iter().map(|entry| &entry.scenario.name).collect();
    names.sort();
    let mut expect: Vec<_> = built_in().unwrap().into_iter().map(|it| it.name).collect();
    expect.sort();
    assert_eq!(names, expect.iter().collect::<Vec<_>>());
    for entry in &report.entries {
        assert!(!entry.rows.is_empty() && !entry.numbers.is_null(), "{}", entry.scenario.name);
        assert!(text.contains(&entry.rows[0][1..].join(" | ")), "{}", entry.scenario.name);
    }
    for row in [
        "hotcell cell",
        "bwrap",
        "8 at once",
        "in the cell",
        "seal a job",
        "hotcell, upload to webhook",
        "not measured here",
    ] {
        assert!(told.contains(row) && text.contains(row), "{row}: {told}");
    }
}
