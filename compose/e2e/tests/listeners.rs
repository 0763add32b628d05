//! Which processes of an installation can be spoken to at all.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context as _, Result, ensure};
use hotcell_e2e::{
    api::{Api, text},
    media,
    up::Up,
};
use reqwest::Method;
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::SocketAddr,
    path::Path,
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(120);

/// State `TCP_LISTEN` in /proc/net/tcp (include/net/tcp_states.h).
const LISTEN: &str = "0A";

/// Ports of sockets that listen, by inode, as /proc/net/tcp and tcp6 have them (proc_net_tcp.txt).
fn listening() -> Result<BTreeMap<u64, u16>> {
    let mut found = BTreeMap::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in fs::read_to_string(table).unwrap_or_default().lines().skip(1) {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if fields[3] == LISTEN {
                let (_, port) = fields[1].rsplit_once(':').context("an address")?;
                found.insert(fields[9].parse()?, u16::from_str_radix(port, 16)?);
            }
        }
    }
    Ok(found)
}

/// A process with everything that it started.
fn family(pid: u32) -> Vec<u32> {
    let children = format!("/proc/{pid}/task");
    let mut all = vec![pid];
    for task in fs::read_dir(children).into_iter().flatten().flatten() {
        let listed = fs::read_to_string(task.path().join("children")).unwrap_or_default();
        for child in listed.split_whitespace().filter_map(|child| child.parse().ok()) {
            all.extend(family(child));
        }
    }
    all
}

/// Ports on which a process or one of its children listens.
fn ports(pid: u32, listening: &BTreeMap<u64, u16>) -> BTreeSet<u16> {
    let mut found = BTreeSet::new();
    for pid in family(pid) {
        for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
            let target = fs::read_link(entry.path()).unwrap_or_default();
            let target = target.to_string_lossy().into_owned();
            let inode = target.strip_prefix("socket:[").and_then(|it| it.strip_suffix(']'));
            found.extend(inode.and_then(|it| listening.get(&it.parse().ok()?)));
        }
    }
    found
}

/// Every process of the installation by name.
fn processes(dir: &Path) -> Result<BTreeMap<String, u32>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir.join("run"))? {
        let name = entry?.file_name().into_string().unwrap();
        if let Some(name) = name.strip_suffix(".pid") {
            let text = fs::read_to_string(dir.join("run").join(format!("{name}.pid")))?;
            let pid = text.split_whitespace().next().context("a pid")?.parse()?;
            found.insert(name.to_owned(), pid);
        }
    }
    Ok(found)
}

/// API-36, STEP-10: three of all the processes take connections: the API, the broker and the store.
/// Of these the API alone starts a job, and not for a stranger.
#[tokio::test(flavor = "multi_thread")]
async fn api_36_step_10_who_wants_a_job_finds_the_api_and_nothing_else() -> Result<()> {
    let up = Up::start(&["--encoders", "1"])?;
    let api = Api::new(up.env("HOTCELL_API"), up.env("HOTCELL_KEY"));
    let file = api.upload("a.mp4", "video/mp4", media::clip(1, 320, 240)?).await?;
    let job = api.submit(&file).await?;
    let done = api.ended(&job, PATIENCE).await?;
    ensure!(text(&done, "state")? == "completed", "{done}");

    let (open, all) = (listening()?, processes(up.dir())?);
    let mut listeners = BTreeMap::new();
    for (name, pid) in &all {
        let ports = ports(*pid, &open);
        if !ports.is_empty() {
            listeners.insert(name.as_str(), ports);
        }
    }
    ensure!(all.len() >= 9, "not every process was looked at: {all:?}");
    let names: Vec<&str> = listeners.keys().copied().collect();
    ensure!(names == ["intake", "nats-server", "store"], "{listeners:?}");

    // A stranger's request for a job, at every port that there is.
    let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).build()?;
    let body = json!({ "inputs": [{ "url": file }], "outputFormat": "mp4" }).to_string();
    for (name, ports) in &listeners {
        for port in ports {
            let at = SocketAddr::from(([127, 0, 0, 1], *port));
            let request = client.request(Method::POST, format!("http://{at}/v1/transcodes"));
            let status = request.body(body.clone()).send().await.map(|said| said.status().as_u16());
            let is_refused = match (*name, status) {
                ("intake", status) => status? == 401,
                // No HTTP at all.
                ("nats-server", status) => status.is_err(),
                (_, status) => status? == 403,
            };
            ensure!(is_refused, "{name} at {port} served a stranger");
        }
    }
    drop(up.stop()?);
    Ok(())
}
