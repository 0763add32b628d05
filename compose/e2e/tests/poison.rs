//! A hostile program in ffmpeg's place, in a whole installation: what it tries is told at once,
//! twice is enough for everyone, and the operator can let the file in again.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context as _, Result, ensure};
use hotcell_e2e::{
    api::{Api, text},
    hook::Receiver,
    media,
    up::Up,
};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(120);

/// The encoder's own test program, which does what its name says, where the workers' user finds it.
fn forger(dir: &Path, what: &str) -> Result<PathBuf> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    let program = dir.join(format!("forger-{what}"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../services/encoder/tests/programs/forger.rs");
    let built = Command::new("rustc")
        .args(["--edition", "2024", "-o"])
        .args([&program, &source])
        .status()
        .context("rustc")?;
    ensure!(built.success(), "the forger does not compile");
    Ok(program)
}

/// Submits the file and waits for the end; state, code, and how many attempts there were.
async fn ended(api: &Api, filename: &str) -> Result<(String, String, usize)> {
    let id = api.submit(filename).await?;
    let job = api.ended(&id, PATIENCE).await?;
    let record = api.get(&format!("/v1/transcodes/{id}/audit")).await?;
    let attempts = record["attempts"].as_array().map_or(0, Vec::len);
    Ok((text(&job, "state")?, text(&job["failure"], "code")?, attempts))
}

/// Waits until a record of this subject is in the evidence log, whose bundles are plain files.
async fn in_the_log(dir: &Path, subject: &str) -> Result<()> {
    let holds = |path: &Path| {
        let bytes = fs::read(path).unwrap_or_default();
        bytes.windows(subject.len()).any(|window| window == subject.as_bytes())
    };
    let until = Instant::now() + PATIENCE;
    loop {
        let mut folders = vec![dir.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if holds(&path) {
                    return Ok(());
                }
            }
        }
        ensure!(Instant::now() < until, "{subject} is not in the log");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn state(rows: &Value, tenant: Option<&str>) -> Option<String> {
    let rows = rows.as_array()?;
    let row = rows.iter().find(|row| row["tenant"].as_str() == tenant)?;
    Some(format!("{} {}", row["state"].as_str()?, row["strikes"].as_array()?.len()))
}

/// NEW-09, NEW-13, ZT-16.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_reaches_for_the_network_is_told_of_and_quarantined() -> Result<()> {
    let programs = tempfile::tempdir()?;
    let ffmpeg = forger(programs.path(), "socket")?;
    let envs = [("HOTCELL_FFMPEG", ffmpeg.as_path())];
    let up = Up::start_with(
        tempfile::tempdir()?,
        &["--encoders", "1", "--tenant", "acme", "--webhook-retry", "1,1,1"],
        &envs,
    )?;
    let api = Api::new(up.env("HOTCELL_API"), up.env("HOTCELL_KEY"));
    let other = up.json(&["tenant", "add", "bolt"])?;
    let other = Api::new(up.env("HOTCELL_API"), other["key"].as_str().context("key")?);
    let hook = Receiver::start().await?;
    let admin = api.stepped_up(&up.totp()?).await?;
    admin.post("/v1/webhooks", &json!({ "url": hook.url, "events": [] })).await?;
    let clip = media::clip(1, 320, 240)?;
    let file = api.upload("a.mp4", "video/mp4", clip.clone()).await?;
    let same = other.upload("b.mp4", "video/mp4", clip).await?;
    ensure!(up.json(&["poison", "list"])? == json!([]), "nothing is held against anybody");

    let failed = |code: &str| ("failed".to_owned(), code.to_owned(), 1);
    ensure!(ended(&api, &file).await? == failed("cell_violation"));
    in_the_log(up.dir(), "audit.acme.violation").await?;
    let told = hook.until(PATIENCE, |received| !received.is_empty()).await?;
    let words = String::from_utf8_lossy(&told[0].body).into_owned();
    ensure!(words.contains("cell_violation"), "{words}");
    let rows = up.json(&["poison", "list"])?;
    ensure!(state(&rows, None).as_deref() == Some("watched 1"), "{rows}");

    // The same bytes of another tenant: the second strike, and from now on nobody runs them.
    ensure!(ended(&other, &same).await? == failed("cell_violation"));
    let refused = ("rejected".to_owned(), "input_poisoned".to_owned(), 0);
    ensure!(ended(&api, &file).await? == refused);
    ensure!(ended(&other, &same).await? == refused);
    let rows = up.json(&["poison", "list"])?;
    ensure!(state(&rows, None).as_deref() == Some("quarantined 2"), "{rows}");
    let strike = &rows[0]["strikes"][0];
    ensure!(strike["code"] == "cell_violation" && strike["worker"] == "worker-1", "{rows}");
    let table = up.cli(&["poison", "list"])?;
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    ensure!(table.contains("quarantined") && table.lines().count() == 2, "{table}");

    // The operator lets it in again: it runs, and counting begins anew.
    let sha256 = text(&rows[0], "sha256")?;
    let released = up.cli(&["poison", "release", &sha256])?;
    ensure!(released.status.success(), "{released:?}");
    in_the_log(up.dir(), "poison_released").await?;
    ensure!(up.json(&["poison", "list"])? == json!([]));
    ensure!(ended(&api, &file).await? == failed("cell_violation"));
    let rows = up.json(&["poison", "list"])?;
    ensure!(state(&rows, None).as_deref() == Some("watched 1"), "{rows}");
    let gone = up.cli(&["poison", "release", &"0".repeat(64)])?;
    ensure!(gone.status.code() == Some(1), "{gone:?}");
    ensure!(up.json(&["audit", "verify"])?["sound"] == true);
    drop(up.stop()?);
    Ok(())
}

/// One job of a file that crashes FFmpeg is two strikes, and ends with the crash's own code.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_crashes_is_tried_twice_and_never_again() -> Result<()> {
    let programs = tempfile::tempdir()?;
    let ffmpeg = forger(programs.path(), "crash")?;
    let envs = [("HOTCELL_FFMPEG", ffmpeg.as_path())];
    let up = Up::start_with(tempfile::tempdir()?, &["--encoders", "2"], &envs)?;
    let api = Api::new(up.env("HOTCELL_API"), up.env("HOTCELL_KEY"));
    let file = api.upload("a.mp4", "video/mp4", media::clip(1, 320, 240)?).await?;
    ensure!(
        ended(&api, &file).await? == ("failed".to_owned(), "cell_crashed".to_owned(), 2),
        "twice"
    );
    let again = ended(&api, &file).await?;
    ensure!(again == ("rejected".to_owned(), "input_poisoned".to_owned(), 0), "{again:?}");
    drop(up.stop()?);
    Ok(())
}
