//! The example producers, each run as it stands against a real installation, also while the broker
//! is killed under it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context as _, Result, ensure};
use hotcell_e2e::{
    api::Api,
    media,
    up::{Up, workspace},
};
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

/// A program is done within this long on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// How each is started; the arguments are the same.
fn producers() -> [(&'static str, PathBuf, Option<&'static str>); 3] {
    let root = workspace();
    [
        ("rust", PathBuf::from(env!("CARGO_BIN_EXE_example-producer")), None),
        (
            "python",
            root.join(".tools/venv/bin/python"),
            Some("compose/examples/python/producer.py"),
        ),
        ("node", PathBuf::from("node"), Some("compose/examples/node/producer.mjs")),
    ]
}

/// Runs one producer to its end; the steps that it says.
fn run(up: &Up, index: usize, creds: &str, filename: &str) -> Result<Vec<Value>> {
    let (name, program, script) = &producers()[index];
    let mut command = Command::new(program);
    let child = command
        .args(script)
        .args([up.env("HOTCELL_NATS"), creds, filename])
        .current_dir(workspace())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.with_context(|| format!("{name} cannot be started: run tools/setup"))?;
    let until = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() {
        if Instant::now() > until {
            child.kill()?;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{name} ended with {}: {said}\n{text}", output.status);
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn check(name: &str, steps: &[Value]) -> Result<()> {
    let of = |step: &str| steps.iter().find(|said| said["step"] == step);
    let submit = of("submit").with_context(|| format!("{name}: {steps:?}"))?;
    ensure!(submit["status"] == 202, "{name}: {submit}");
    let id = &submit["said"]["id"];
    let repeat = of("repeat").context("repeat")?;
    ensure!(repeat["status"] == 200 && repeat["said"]["id"] == *id, "{name}: {repeat}");
    let list = of("list").context("list")?;
    ensure!(list["said"]["jobs"][0]["id"] == *id, "{name}: {list}");
    // By event or, where that was missed, by asking: in both ways it is the job's end.
    let end = of("event").or(of("get")).context("an end")?;
    ensure!(end["said"]["state"] == "completed" && end["said"]["id"] == *id, "{name}: {end}");
    let get = steps.iter().rfind(|said| said["step"] == "get").context("get")?;
    ensure!(get["said"]["outputs"][0]["name"] == "out0.mp4", "{name}: {get}");
    let cancel = of("cancel").context("cancel")?;
    let ended = cancel["status"] == 409 && cancel["said"]["state"] == "completed";
    let cancelled = cancel["said"]["result"]["state"] == "cancelled";
    ensure!(ended || cancelled, "{name}: {cancel}");
    let problem = of("problem").context("problem")?;
    let field = &problem["said"]["errors"][0]["field"];
    ensure!(problem["status"] == 422 && *field == json!("inputs[0].url"), "{name}: {problem}");
    Ok(())
}

/// BRK-83: a tenant's own program needs its credential file and a client of the broker, in any
/// language.
#[tokio::test(flavor = "multi_thread")]
async fn brk_83_producers_in_three_languages_submit_list_cancel_and_hear() -> Result<()> {
    let up = Up::start(&["--encoders", "1", "--cell", "noop"])?;
    let added = up.json(&["tenant", "add", "alpha"])?;
    let api = Api::new(up.env("HOTCELL_API"), added["key"].as_str().unwrap());
    let creds = added["creds"].as_str().unwrap().to_owned();
    for (index, (name, ..)) in producers().iter().enumerate() {
        let filename = api.upload("a.mp4", "video/mp4", media::clip(1, 320, 240)?).await?;
        let steps = run(&up, index, &creds, &filename)?;
        check(name, &steps)?;
        ensure!(steps.iter().any(|said| said["step"] == "event"), "{name} heard no event");
    }
    up.stop()?;
    Ok(())
}

/// The broker dies while each of them works; `up` starts it again, and one job comes of it.
#[tokio::test(flavor = "multi_thread")]
async fn brk_83_producers_survive_the_death_of_the_broker() -> Result<()> {
    let up = Up::start(&["--encoders", "1", "--cell", "noop"])?;
    let added = up.json(&["tenant", "add", "alpha"])?;
    let api = Api::new(up.env("HOTCELL_API"), added["key"].as_str().unwrap());
    let creds = added["creds"].as_str().unwrap().to_owned();
    for (index, (name, ..)) in producers().iter().enumerate() {
        let filename = api.upload("a.mp4", "video/mp4", media::clip(1, 320, 240)?).await?;
        let broker = up.pid("nats-server").context("a broker runs")?;
        let steps = std::thread::scope(|scope| {
            let producer = scope.spawn(|| run(&up, index, &creds, &filename));
            std::thread::sleep(Duration::from_millis(200 + 150 * index as u64));
            let killed = Up::signal(broker, "KILL");
            (producer.join(), killed)
        });
        ensure!(steps.1?, "{name}: the broker was not killed");
        let steps = steps.0.map_err(|_| anyhow::anyhow!("{name}: the test's thread failed"))??;
        let submit = steps.iter().find(|said| said["step"] == "submit").context("submit")?;
        ensure!([202, 200].contains(&submit["status"].as_u64().unwrap()), "{name}: {submit}");
        let jobs = steps.iter().find(|said| said["step"] == "repeat").context("repeat")?;
        ensure!(jobs["said"]["id"] == submit["said"]["id"], "{name}: {steps:?}");
    }
    up.stop()?;
    Ok(())
}
