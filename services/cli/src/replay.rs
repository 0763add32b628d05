//! `hotcell audit replay`: a recorded job runs again, in a fresh cell, from its record alone.
//!
//! Promises: the command is the recorded one, the input is refused unless its SHA-256 is the
//! recorded one, and the verdict is whether the output's SHA-256 is (commands are bit-exact).

use crate::{
    api::Api,
    fail::{Context as _, Fail},
    layout::{Layout, make_dir},
    print,
    up::{CellProgram, Cells},
};
use hotcell_jail::{
    capture::Stdout,
    cell::{Cell, End, run as run_cell},
    profile::Profile,
};
use hotcell_schemas::{
    JobId,
    argv::{INPUT, OUTPUT},
};
use serde_json::{Value, json};
use std::{fs, path::Path};
use tokio_util::sync::CancellationToken;

/// The one output's name in the cell; the record's name is a tenant's business.
const OUT_NAME: &str = "replayed";

/// Runs the job again.
pub(crate) async fn run(data: &Path, job: &JobId, input: &Path, json: bool) -> Result<(), Fail> {
    let layout = Layout::open(data)?;
    let record = Api::find(data)?.get(&format!("/v1/transcodes/{job}/audit")).await?;
    let text = |pointer: &str| record.pointer(pointer).and_then(Value::as_str);
    let recorded_in = text("/inputs/0/sha256").ok_or_else(|| missing("an input"))?;
    let recorded_out = text("/outputs/0/sha256").ok_or_else(|| missing("an output"))?;
    let extension = text("/outputs/0/name").and_then(|name| name.rsplit('.').next());
    let found_in = sha256(input)?;
    if found_in != recorded_in {
        return Err(Fail::failed(format!(
            "{} is not the job's input: its SHA-256 is {found_in}, the record says {recorded_in}",
            input.display()
        )));
    }
    let name = format!("{OUT_NAME}.{}", extension.unwrap_or("out"));
    let args = command(&record, &name)?;
    let work = layout.root().join("replay");
    let result = encode(&layout, &work, input, &name, args).await;
    let found_out = result.and_then(|()| sha256(&work.join("out").join(&name)));
    fs::remove_dir_all(&work).or_fail("cannot remove the replay folder")?;
    let found_out = found_out?;
    let same = found_out == recorded_out;
    if json {
        print::json(&json!({
            "job": job, "same": same, "recorded": recorded_out, "replayed": found_out,
        }));
    } else {
        print::line(format!("recorded  sha256 {recorded_out}\nreplayed  sha256 {found_out}"));
    }
    if same {
        return Ok(());
    }
    Err(Fail::failed("the outputs differ: another FFmpeg, or another input, made the record's"))
}

fn missing(what: &str) -> Fail {
    Fail::failed(format!("the job's record has no {what}: only a job with output can be replayed"))
}

/// The recorded command with in-cell paths.
fn command(record: &Value, name: &str) -> Result<Vec<String>, Fail> {
    let argv = record.get("command").and_then(Value::as_array).ok_or_else(|| missing("command"))?;
    let tokens = argv.iter().map(|token| match token.as_str() {
        Some(INPUT) => Ok("/in/0".to_owned()),
        Some(OUTPUT) => Ok(format!("/out/{name}")),
        Some(token) => Ok(token.to_owned()),
        None => Err(missing("readable command")),
    });
    tokens.collect()
}

async fn encode(
    layout: &Layout,
    work: &Path,
    input: &Path,
    name: &str,
    args: Vec<String>,
) -> Result<(), Fail> {
    let programs = std::env::current_exe().or_fail("cannot find this program")?;
    let programs = programs.parent().map(Path::to_owned).unwrap_or_default();
    let cells = Cells::prepare(layout, &CellProgram::Ffmpeg, &programs)?;
    let out = work.join("out");
    make_dir(work, 0o700)?;
    make_dir(&out, 0o700)?;
    let copy = work.join("input");
    fs::copy(input, &copy).or_fail("cannot copy the input")?;
    let mut cell = Cell::new(&cells.launcher(), &cells.root, &cells.program, Profile::Transcode);
    cell.args = args;
    cell.inputs = vec![copy];
    cell.out_dir = Some(out.clone());
    let ended = run_cell(&cell, &CancellationToken::new(), Stdout::Discard).await;
    let outcome = ended.or_fail("the cell did not run")?;
    if outcome.end == End::Exited(0) && out.join(name).is_file() {
        return Ok(());
    }
    Err(Fail::failed(format!("the replayed encode ended with {:?}", outcome.end)))
}

fn sha256(path: &Path) -> Result<String, Fail> {
    hotcell_jail::program::sha256(path).or_fail(&format!("cannot read {}", path.display()))
}
