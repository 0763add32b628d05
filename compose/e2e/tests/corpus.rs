//! The hostile corpus through the whole pipeline: every file ends in a state that it may end in,
//! none shows or tells what belongs to somebody else, and nothing is left over.
//!
//! How time is measured: an upload that is refused, from the request to confirm it to the answer;
//! a job, from the moment its first attempt was assigned (its record's timeline) to its last
//! event. What waits for a worker is not yet worked on.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests; the table of a run"
)]

#[path = "corpus/layers.rs"]
mod layers;
#[path = "corpus/left.rs"]
mod left;
#[path = "corpus/look.rs"]
mod look;
#[path = "corpus/take.rs"]
mod take;

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use hotcell_e2e::{
    api::{Api, text},
    corpus::{BAGGAGE_TEXT, CANARY_TEXT, Canary, Entry, corpus},
    hook::Receiver,
    up::{SERVICES, Up, processes_of},
};
use left::Left;
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};
use take::{End, PlaceOfEnd, request, take_all};

/// Every file has ended this long after work on it began.
const LIMIT: Duration = Duration::from_secs(60);

/// BRK-06: a file that the sniffer refuses is refused within this.
const REFUSAL: Duration = Duration::from_secs(5);

/// Wall clock of an encode here: the few files that would run for an hour run for this long.
const WALL_SECS: &str = "8";

/// Outputs that are decoded at once.
const LOOKS: usize = 2;

/// Two workers. They and the services must be the same processes at the end.
const WORKERS: [&str; 2] = ["worker-1", "worker-2"];

/// ZT-08, ZT-10, ZT-11, BRK-01, BRK-04, BRK-06.
#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_file_ends_and_shows_nothing_of_others() -> Result<()> {
    let before = Left::now();
    // Open to everyone: what hides it from a cell is the cell, not its permissions.
    let dir = tempfile::Builder::new().prefix("corpus-").tempdir_in("/var/tmp")?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
    let canary = Canary::make(dir.path())?;
    let all = corpus(&canary)?;
    let good: Vec<Entry> = all.iter().filter(|it| it.name == "valid-mp4.mp4").cloned().collect();
    let entries = chosen(all);
    ensure!(entries.len() >= 300 || narrowed(), "{} files", entries.len());
    attack_works(dir.path(), &entries)?;

    let up = Up::start(&[
        "--encoders",
        "2",
        "--slots",
        "2",
        "--durability",
        "1s",
        "--wall-secs",
        WALL_SECS,
        "--webhook-retry",
        "1,1,1",
    ])?;
    let homes = ["worker-1", "worker-2"].map(|worker| left::work_dir(&up, worker).unwrap());
    for home in &homes {
        plant(&canary, home)?;
    }
    let started_as = pids(&up);
    let (api, totp) = tenant(&up, "mallory")?;
    let hook = Receiver::start().await?;
    let admin = api.stepped_up(&totp).await?;
    admin.post("/v1/webhooks", &json!({ "url": hook.url, "events": [] })).await?;
    let (victim, _) = tenant(&up, "victim")?;
    let film = victim.upload("film.mp4", "video/mp4", fs::read(canary.film())?).await?;

    // The victim's film is in cells of the same workers all the while.
    let began = Instant::now();
    let (ends, films) =
        tokio::join!(take_all(&api, &totp, &entries), others(&victim, &film, &entries));
    let (ends, films) = (ends?, films?);
    let took = began.elapsed();
    let mut faults = Vec::new();
    for (entry, end) in entries.iter().zip(&ends) {
        faults.extend(judged(entry, end));
    }
    table(&entries, &ends, took);
    keep(&entries, &ends)?;
    say(&faults);
    ensure!(faults.is_empty(), "{} faults", faults.len());
    ensure!(pids(&up) == started_as, "a service died");

    // What completed shows nothing of others, and the check sees the film where it may be.
    ensure!(!films.is_empty());
    for id in &films {
        let seen = look::look(&take::output(&victim, id).await?)?;
        ensure!(seen.shows && seen.sounds, "the check cannot see or hear the canary");
    }
    look_at_all(&api, &entries, &ends).await?;
    let jobs: BTreeSet<String> = ends.iter().filter_map(|end| end.job.clone()).collect();
    hook.until(LIMIT, |all| jobs.is_subset(&all.iter().map(|one| one.job()).collect())).await?;
    nothing_is_told(&up, &api, &jobs).await?;

    // The next good job completes, and the workers are as they were.
    let next = take_all(&api, &totp, &good).await?;
    ensure!(next[0].state == "completed", "{next:?}");
    for home in &homes {
        left::only(home, &["lock", "film.mp4", "secret.txt"])?;
    }
    for name in ["worker-1", "worker-2"] {
        left::no_children(up.pid(name).unwrap())?;
    }
    let cells = homes[0].ancestors().nth(3).context("the cells' folder")?.to_owned();
    let data = up.stop()?;
    ensure!(processes_of(&cells).is_empty() && processes_of(data.path()).is_empty());
    ensure!(!cells.exists(), "{} is left", cells.display());
    before.is_all_there_is()
}

fn tenant(up: &Up, name: &str) -> Result<(Api, String)> {
    let added = up.json(&["tenant", "add", name])?;
    let api = Api::new(up.env("HOTCELL_API"), &text(&added, "key")?);
    Ok((api, text(&added, "totp")?))
}

/// `HOTCELL_CORPUS=png` runs only files whose name has `png` in it: for work on one family.
fn narrowed() -> bool {
    std::env::var_os("HOTCELL_CORPUS").is_some()
}

fn chosen(entries: Vec<Entry>) -> Vec<Entry> {
    let Ok(part) = std::env::var("HOTCELL_CORPUS") else { return entries };
    entries.into_iter().filter(|entry| entry.name.contains(&part)).collect()
}

/// With the defences off, which is FFmpeg alone, the lists show the film: the attack is real, and
/// the check can fail.
fn attack_works(dir: &Path, entries: &[Entry]) -> Result<()> {
    let files = dir.join("files");
    fs::create_dir(&files)?;
    let (mut tried, mut valid) = (0, 0);
    for entry in entries {
        let path = files.join(&entry.name);
        if entry.leaks {
            fs::write(&path, &entry.bytes)?;
            ensure!(look::file_shows_canary(&path)?, "{} shows nothing", entry.name);
            tried += 1;
        } else if entry.family == "valid" && !entry.kind.starts_with("audio/") {
            fs::write(&path, &entry.bytes)?;
            ensure!(!look::file_shows_canary(&path)?, "{} is taken for the canary", entry.name);
            valid += 1;
        }
    }
    ensure!((tried >= 32 && valid >= 8) || narrowed(), "{tried} lists, {valid} clips");
    fs::remove_dir_all(&files)?;
    Ok(())
}

/// The process of each service and worker.
fn pids(up: &Up) -> Vec<u32> {
    SERVICES.into_iter().chain(WORKERS).map(|name| up.pid(name).unwrap()).collect()
}

/// The canary where `../film.mp4` of a job's folder is, and its worker may read it.
fn plant(canary: &Canary, home: &Path) -> Result<()> {
    let until = Instant::now() + LIMIT;
    while !home.join("lock").exists() {
        ensure!(Instant::now() < until, "no worker works in {}", home.display());
        std::thread::sleep(Duration::from_millis(10));
    }
    for path in [canary.film(), canary.text()] {
        let to = home.join(path.file_name().context("a name")?);
        fs::copy(&path, &to)?;
        fs::set_permissions(&to, fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

/// Jobs of the other tenant, one for every 40 files; their ids.
async fn others(victim: &Api, film: &str, entries: &[Entry]) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for _ in 0..entries.len().div_ceil(40) {
        let id = text(&victim.post("/v1/transcodes", &request(film, "video/mp4")).await?, "id")?;
        let job = take::ended(victim, &id).await?;
        ensure!(job["state"] == "completed", "the other tenant's job: {job}");
        ids.push(id);
    }
    Ok(ids)
}

/// What is wrong with how a file ended.
fn judged(entry: &Entry, end: &End) -> Option<String> {
    let good = match end.state.as_str() {
        "completed" => entry.expect.completed,
        "rejected" | "failed" => entry.expect.codes.contains(&end.code.as_str()),
        _ => false,
    };
    let quick = match end.place {
        PlaceOfEnd::Upload => end.took < REFUSAL,
        PlaceOfEnd::Validation => end.took < REFUSAL && end.attempts == 0,
        PlaceOfEnd::Cell => end.took < LIMIT,
    };
    (!good || !quick).then(|| {
        let End { place, state, code, message, took, attempts, .. } = end;
        format!("{}: {state} {code} ({message}) at {place:?} in {took:?}, {attempts}", entry.name)
    })
}

/// Count, ends and the longest time of each family.
fn table(entries: &[Entry], ends: &[End], took: Duration) {
    let mut families: BTreeMap<&str, (usize, [usize; 3], Duration, &str)> = BTreeMap::new();
    for (entry, end) in entries.iter().zip(ends) {
        let row = families.entry(entry.family).or_default();
        row.0 += 1;
        let column = match (end.state.as_str(), end.place) {
            ("completed", _) => 0,
            (_, PlaceOfEnd::Cell) => 2,
            (_, PlaceOfEnd::Upload | PlaceOfEnd::Validation) => 1,
        };
        row.1[column] += 1;
        if end.took >= row.2 {
            (row.2, row.3) = (end.took, &entry.name);
        }
    }
    println!("{} files in {:.1} s", entries.len(), took.as_secs_f64());
    println!("family            files  completed  refused  failed  longest");
    for (family, (files, [completed, refused, failed], longest, name)) in families {
        let longest = longest.as_secs_f64();
        println!(
            "{family:<16} {files:>6} {completed:>10} {refused:>8} {failed:>7} {longest:>7.2} s \
             {name}"
        );
    }
    let mut codes: BTreeMap<&str, usize> = BTreeMap::new();
    for end in ends {
        *codes.entry(&end.code).or_default() += 1;
    }
    println!("{codes:?}");
}

/// Every end, in a file of the build's folder: what to look into after a run.
fn keep(entries: &[Entry], ends: &[End]) -> Result<()> {
    let row = |(entry, end): (&Entry, &End)| {
        let End { place, state, code, message, took, .. } = end;
        let ms = took.as_millis();
        format!("{}\t{state}\t{code}\t{place:?}\t{ms}\t{message}\n", entry.name)
    };
    let rows: String = entries.iter().zip(ends).map(row).collect();
    fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("corpus.tsv"), rows)?;
    Ok(())
}

fn say(faults: &[String]) {
    for fault in faults {
        println!("FAULT {fault}");
    }
}

/// No output shows the film or sounds like it, or holds a text that it must not.
async fn look_at_all(api: &Api, entries: &[Entry], ends: &[End]) -> Result<()> {
    let one = async |(entry, end): (&Entry, &End)| {
        let id = end.job.clone().filter(|_| end.state == "completed");
        let Some(id) = id else { return Ok(None) };
        look_at(api, entry, &id).await
    };
    let looks = stream::iter(entries.iter().zip(ends)).map(one).buffer_unordered(LOOKS);
    let faults: Vec<Option<String>> = looks.try_collect().await?;
    let faults: Vec<String> = faults.into_iter().flatten().collect();
    say(&faults);
    ensure!(faults.is_empty(), "{} faults", faults.len());
    Ok(())
}

async fn look_at(api: &Api, entry: &Entry, id: &str) -> Result<Option<String>> {
    let bytes = take::output(api, id).await?;
    for needle in [CANARY_TEXT, BAGGAGE_TEXT] {
        if look::holds(&bytes, needle) {
            return Ok(Some(format!("the output of {} holds {needle}", entry.name)));
        }
    }
    let seen = tokio::task::spawn_blocking(move || look::look(&bytes)).await?;
    let seen = seen.with_context(|| format!("the output of {}", entry.name))?;
    let has_it = seen.shows || seen.sounds;
    Ok(has_it.then(|| format!("{} has the canary: {seen:?}", entry.name)))
}

/// The canary's text is in no record, log, event, stored object or standard error.
async fn nothing_is_told(up: &Up, api: &Api, jobs: &BTreeSet<String>) -> Result<()> {
    for id in jobs {
        let record = api.get(&format!("/v1/transcodes/{id}/audit")).await?;
        ensure!(!record.to_string().contains(CANARY_TEXT), "it is in the record of {id}");
    }
    // The search sees what FFmpeg says in standard error, which the store keeps compressed.
    ensure!(!look::files_that_hold(&up.dir().join("store"), "Stream mapping:")?.is_empty());
    let told = look::files_that_hold(up.dir(), CANARY_TEXT)?;
    ensure!(told.is_empty(), "it is in {told:?}");
    for name in SERVICES.into_iter().chain(WORKERS) {
        let log = up.log(name);
        ensure!(!log.contains("panicked"), "{name} panicked");
    }
    Ok(())
}
