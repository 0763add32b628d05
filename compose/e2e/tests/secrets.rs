//! Who holds which secret, looked for in the memory of every process of a running installation.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context as _, Result, ensure};
use hotcell_e2e::{
    api::Api,
    media,
    up::{SERVICES, Up},
};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    os::unix::fs::FileExt as _,
    path::Path,
    time::Duration,
};

/// Regions larger than this are reserved address space, not memory that a service wrote.
const REGION_BYTES_MAX: u64 = 256 << 20;

/// The one worker that `up` starts here.
const WORKERS: [&str; 1] = ["worker-1"];

/// Whether `needle` is in the writable memory of process `pid`.
fn holds(pid: u32, needle: &[u8]) -> Result<bool> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (range, rights) = (words.next().unwrap(), words.next().unwrap());
        if !rights.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-').unwrap();
        let (from, to) = (u64::from_str_radix(from, 16)?, u64::from_str_radix(to, 16)?);
        if to - from > REGION_BYTES_MAX {
            continue;
        }
        let mut bytes = vec![0; usize::try_from(to - from)?];
        // A region may go away while it is read.
        if memory.read_exact_at(&mut bytes, from).is_ok()
            && bytes.windows(needle.len()).any(|window| window == needle)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The processes whose memory holds `needle`.
fn holders(up: &Up, needle: &[u8]) -> Result<BTreeSet<&'static str>> {
    let mut found = BTreeSet::new();
    for name in SERVICES.into_iter().chain(WORKERS) {
        let pid = up.pid(name).with_context(|| format!("{name} has no pid"))?;
        if holds(pid, needle)? {
            found.insert(name);
        }
    }
    Ok(found)
}

fn secret(up: &Up, name: &str) -> String {
    fs::read_to_string(up.dir().join("secrets").join(name)).unwrap().trim().to_owned()
}

/// BRK-03, BRK-09, BRK-12: after a job, the storage key is in the signer and the store and nowhere
/// else, the other keys are each in one process, and no process has an environment.
#[tokio::test(flavor = "multi_thread")]
async fn each_secret_is_where_it_belongs_and_nowhere_else() -> Result<()> {
    let up = Up::start(&["--encoders", "1"])?;
    let api = Api::new(up.env("HOTCELL_API"), up.env("HOTCELL_KEY"));
    let name = api.upload("a.mp4", "video/mp4", media::clip(1, 320, 240)?).await?;
    let id = api.submit(&name).await?;
    let job = api.ended(&id, Duration::from_secs(120)).await?;
    ensure!(job["state"] == "completed", "{job}");

    let storage = secret(&up, "storage-signer.secret");
    let found = holders(&up, storage.as_bytes())?;
    ensure!(found == BTreeSet::from(["signer", "store"]), "the storage key is in {found:?}");
    let lease = hex::decode(secret(&up, "lease.key"))?;
    let found = holders(&up, &lease)?;
    ensure!(found == BTreeSet::from(["signer"]), "the lease key is in {found:?}");
    let sealing = hex::decode(secret(&up, "destination.key"))?;
    let found = holders(&up, &sealing)?;
    ensure!(found == BTreeSet::from(["signer"]), "the key of destinations is in {found:?}");
    let worker = fs::read_to_string(up.dir().join("nats/creds/worker-worker-1.creds"))?;
    let seed = worker.lines().find(|line| line.starts_with("SU")).context("a seed")?;
    let found = holders(&up, seed.as_bytes())?;
    ensure!(found.is_subset(&BTreeSet::from(["worker-1"])), "the worker's seed is in {found:?}");

    for name in SERVICES.into_iter().chain(WORKERS) {
        let environ = fs::read(format!("/proc/{}/environ", up.pid(name).unwrap()))?;
        ensure!(environ.is_empty(), "{name} has an environment");
    }
    // The worker's folder: one login, the roles' public keys, its settings.
    let line = fs::read(format!("/proc/{}/cmdline", up.pid("worker-1").unwrap()))?;
    let config = line.split(|byte| *byte == 0).nth(1).context("an argument")?;
    let home = Path::new(std::str::from_utf8(config)?).parent().unwrap().to_owned();
    let names = fs::read_dir(&home)?.map(|entry| entry.unwrap().file_name());
    let names: BTreeSet<String> = names.map(|name| name.into_string().unwrap()).collect();
    let expect = ["trust.json", "work", "worker.creds", "worker.toml"].map(String::from);
    ensure!(names == BTreeSet::from(expect), "BRK-09: {names:?}");
    up.stop()?;
    Ok(())
}
