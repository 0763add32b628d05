//! Control groups of an installation: each worker has folders of its own in them, bounds its cells
//! there without being root, and nothing of them is left, however the installation ends.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Result, ensure};
use hotcell_e2e::{api::Api, media, up::Up};
use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(120);

/// Two cells at once: two worker processes, because each cell has a user of its own.
const ARGS: [&str; 7] =
    ["--encoders", "1", "--slots", "2", "--cgroup", "required", "--webhook-retry=1"];

/// The folders that this installation noted.
fn noted(dir: &Path) -> Vec<PathBuf> {
    let text = fs::read_to_string(dir.join("run/groups")).unwrap_or_default();
    text.lines().map(PathBuf::from).collect()
}

/// Who owns the worker's folders, in every hierarchy that has one.
fn owners(dir: &Path, worker: &str) -> BTreeSet<u32> {
    let folders = noted(dir).into_iter().map(|folder| folder.join(worker));
    folders.filter_map(|folder| Some(fs::metadata(folder).ok()?.uid())).collect()
}

/// The limit that the worker's last cell had, read where the kernel has it.
fn memory_limit(dir: &Path, worker: &str) -> Option<u64> {
    let folders = noted(dir).into_iter().map(|folder| folder.join(worker));
    let files = folders.map(|folder| folder.join("slot-0/memory.limit_in_bytes"));
    files.filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok()).next()
}

async fn encode(up: &Up) -> Result<()> {
    let api = Api::new(up.env("HOTCELL_API"), up.env("HOTCELL_KEY"));
    let name = api.upload("a.mp4", "video/mp4", media::clip(1, 320, 240)?).await?;
    let id = api.submit(&name).await?;
    let job = api.ended(&id, PATIENCE).await?;
    ensure!(job["state"] == "completed", "{job}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_bound_their_cells_in_folders_of_their_own_and_nothing_is_left() -> Result<()> {
    let up = Up::start(&ARGS)?;
    let users = [owners(up.dir(), "worker-1"), owners(up.dir(), "worker-2")];
    ensure!(users.iter().all(|users| users.len() == 1), "{users:?}");
    ensure!(users[0] != users[1] && !users[0].contains(&0), "{users:?}");
    encode(&up).await?;
    // On hosts with version 1: in version 2 the cell's group is gone with the cell.
    let limits = ["worker-1", "worker-2"].map(|worker| memory_limit(up.dir(), worker));
    if limits.iter().any(Option::is_some) {
        let bounded = |limit: &Option<u64>| limit.is_some_and(|limit| limit < 1 << 40);
        ensure!(limits.iter().any(bounded), "{limits:?}");
    }

    // A SIGKILL leaves them; the next start works in them again, and its end removes them.
    let folders = noted(up.dir());
    let there = || folders.iter().filter(|folder| folder.exists()).count();
    ensure!(there() > 0, "{folders:?}");
    let dir = up.kill()?;
    ensure!(there() > 0, "{folders:?}");
    let up = Up::start_in(dir, &ARGS)?;
    encode(&up).await?;
    let dir = up.stop()?;
    ensure!(there() == 0, "{folders:?}");
    ensure!(noted(dir.path()).is_empty());
    Ok(())
}
