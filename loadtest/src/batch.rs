//! A batch of short clips through the whole pipeline, against `xargs` on local files with the very
//! command line that the job's record names.
//!
//! The pipeline's time is from the first upload to the last webhook, with every upload, check,
//! encode, probe and hash in it; a second row adds the download of every result. The baseline runs
//! before and after, and its mean counts, so that a machine that slows down is not our gain.

use crate::{
    client::{self, Tenant},
    driver::{self, JOB_MAX, bar},
    installation::Installation,
    process,
    programs::Programs,
    report::Measured,
    scenario::Scenario,
    sink::Sink,
    stats::ratio,
};
use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use hotcell_schemas::argv::{INPUT, OUTPUT};
use indicatif::ProgressBar;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};
use tokio::task::JoinSet;

/// Seconds of one clip.
const CLIP_SECS: u32 = 2;

/// How much longer than the baseline the pipeline may take.
const GOAL: f64 = 1.15;

/// Makes the clips, all different, with one run of FFmpeg.
fn clips(dir: &Path, count: u32) -> Result<Vec<PathBuf>> {
    let whole = count * CLIP_SECS;
    let picture = format!("testsrc2=d={whole}:s=640x360:r=30");
    let keys = format!("expr:gte(t,n_forced*{CLIP_SECS})");
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-f", "lavfi", "-i", &picture])
        .args(["-f", "lavfi", "-i", &format!("sine=d={whole}")])
        .args(["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"])
        .args(["-force_key_frames", &keys, "-c:a", "aac", "-f", "segment"])
        .args(["-segment_time", &CLIP_SECS.to_string(), "-reset_timestamps", "1"])
        .arg(dir.join("in-%d.mp4"))
        .status()
        .context("cannot start ffmpeg")?;
    ensure!(status.success(), "ffmpeg made no clips");
    let paths: Vec<PathBuf> = (0..count).map(|n| dir.join(format!("in-{n}.mp4"))).collect();
    ensure!(paths.iter().all(|path| path.is_file()), "clips are missing");
    Ok(paths)
}

fn digest(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// One clip's way: its number, its job, what came back.
struct Done {
    number: usize,
    job: String,
    ended: Instant,
}

struct Customer {
    tenant: Tenant,
    sink: Sink,
    clips: Vec<Bytes>,
    next: AtomicUsize,
    progress: ProgressBar,
}

impl Customer {
    /// Uploads, submits and waits, until no clip is left.
    async fn work(&self) -> Result<Vec<Done>> {
        let mut all = Vec::new();
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(clip) = self.clips.get(number) else { return Ok(all) };
            let name = self.tenant.upload(&format!("clip-{number}.mp4"), clip.clone()).await?;
            let job = self.tenant.submit(Tenant::job(&name)).await?;
            let arrival = self.sink.wait(&job, JOB_MAX).await?;
            ensure!(arrival.event == "job.completed", "job {job} ended as {}", arrival.event);
            self.progress.inc(1);
            all.push(Done { number, job, ended: arrival.at });
        }
    }
}

async fn all_clips(customer: &Arc<Customer>, clients: u32) -> Result<Vec<Done>> {
    let mut tasks = JoinSet::new();
    for _ in 0..clients {
        let customer = customer.clone();
        tasks.spawn(async move { customer.work().await });
    }
    let mut done = Vec::new();
    while let Some(task) = tasks.join_next().await {
        done.append(&mut task??);
    }
    Ok(done)
}

/// The command line that the job's record names, without the program.
fn command(audit: &Value) -> Result<Vec<String>> {
    let words = audit.get("command").and_then(Value::as_array).context("no command recorded")?;
    let words: Option<Vec<String>> =
        words.iter().map(|word| word.as_str().map(str::to_owned)).collect();
    words.context("the command recorded is no list of words")
}

/// Seconds of wall clock that `xargs` takes; the outputs are `out-N.mp4`.
fn xargs(dir: &Path, argv: &[String], count: u32, at_once: u32) -> Result<f64> {
    for number in 0..count {
        // FFmpeg is told never to write over a file.
        drop(fs::remove_file(dir.join(format!("out-{number}.mp4"))));
    }
    let place = |name: &str| dir.join(name).display().to_string();
    let argv = argv.iter().map(|word| match word.as_str() {
        INPUT => place("in-@@.mp4"),
        OUTPUT => place("out-@@.mp4"),
        word => word.to_owned(),
    });
    let begun = Instant::now();
    let mut child = Command::new("xargs")
        .args(["-P", &at_once.to_string(), "-I", "@@", "ffmpeg"])
        .args(argv)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start xargs")?;
    let numbers: String = (0..count).map(|number| format!("{number}\n")).collect();
    let mut stdin = child.stdin.take().context("xargs has a standard input")?;
    stdin.write_all(numbers.as_bytes())?;
    drop(stdin);
    let status = child.wait()?;
    ensure!(status.success(), "xargs ended with {status}");
    Ok(begun.elapsed().as_secs_f64())
}

struct Piped {
    to_webhook: f64,
    to_file: f64,
    cpu: f64,
    same: usize,
    argv: Vec<String>,
    baseline: [f64; 2],
    baseline_cpu: f64,
}

/// One warm-up clip, the baseline, the pipeline, the baseline again.
async fn measure(installation: &Installation, scenario: &Scenario, dir: &Path) -> Result<Piped> {
    let (http, sink) = (client::http()?, Sink::start().await?);
    let tenant = driver::tenant(installation, &sink, &http, 0).await?;
    let paths = clips(dir, scenario.jobs)?;
    let clips: Vec<Bytes> =
        paths.iter().map(|path| fs::read(path).map(Bytes::from)).collect::<Result<_, _>>()?;
    let warm_up = tenant.upload("warm-up.mp4", clips.first().context("a clip")?.clone()).await?;
    let warm_up = tenant.submit(Tenant::job(&warm_up)).await?;
    sink.wait(&warm_up, JOB_MAX).await?;
    let argv = command(&tenant.audit(&warm_up).await?)?;

    let own = || process::usage(std::process::id()).values().sum::<f64>();
    let cpu_of_baseline = own();
    let first = xargs(dir, &argv, scenario.jobs, scenario.encoders)?;
    let baseline_cpu = (own() - cpu_of_baseline) / 1000.0;

    let progress = bar(u64::from(scenario.jobs), &scenario.name)?;
    let next = AtomicUsize::new(0);
    let customer = Arc::new(Customer { tenant, sink, clips, next, progress });
    let usage = process::usage(installation.pid());
    let begun = Instant::now();
    let done = all_clips(&customer, scenario.in_flight).await?;
    let last = done.iter().map(|done| done.ended).max().context("no clip was done")?;
    let to_webhook = last.saturating_duration_since(begun).as_secs_f64();
    let mut results = Vec::new();
    for Done { number, job, .. } in &done {
        results.push((*number, digest(&customer.tenant.download(job).await?)));
    }
    let to_file = begun.elapsed().as_secs_f64();
    let used = process::since(&usage, &process::usage(installation.pid()));
    customer.progress.finish_and_clear();

    let second = xargs(dir, &argv, scenario.jobs, scenario.encoders)?;
    let same = results.iter().filter(|(number, hash)| {
        let local = fs::read(dir.join(format!("out-{number}.mp4")));
        local.is_ok_and(|bytes| digest(&bytes) == *hash)
    });
    Ok(Piped {
        to_webhook,
        to_file,
        cpu: used.values().sum::<f64>() / 1000.0,
        same: same.count(),
        argv,
        baseline: [first, second],
        baseline_cpu,
    })
}

/// Runs the scenario.
pub(crate) async fn run(programs: &Programs, scenario: &Scenario, dir: &Path) -> Result<Measured> {
    if scenario.tenants != 1 || scenario.cell.as_deref() != Some("ffmpeg") {
        bail!("a batch has one tenant, and ffmpeg in its cells");
    }
    let work = tempfile::Builder::new().prefix("hotcell-batch-").tempdir_in(dir)?;
    let installation = Installation::start(programs, scenario, dir)?;
    let piped = measure(&installation, scenario, work.path())
        .await
        .with_context(|| installation.complaints())?;
    let baseline = f64::midpoint(piped.baseline[0], piped.baseline[1]);
    let clips = f64::from(scenario.jobs);
    let row = |name: String, wall: f64, cpu: f64, goal: bool| {
        vec![
            name,
            format!("{wall:.2}"),
            format!("{:.2}", ratio(clips, wall)),
            format!("{cpu:.2}"),
            format!("{:.3}", ratio(wall, baseline)),
            if goal { format!("<= {GOAL}") } else { "-".to_owned() },
        ]
    };
    let xargs = format!("xargs -P{} ffmpeg, local files", scenario.encoders);
    let [first, second] = piped.baseline;
    Ok(Measured {
        rows: vec![
            row(xargs, baseline, piped.baseline_cpu, false),
            row("hotcell, upload to webhook".to_owned(), piped.to_webhook, piped.cpu, true),
            row("the same, and every download".to_owned(), piped.to_file, piped.cpu, false),
        ],
        notes: vec![
            format!(
                "{} clips of {CLIP_SECS} s, {} uploads at once; {} of {} outputs are the same bytes \
                 as the baseline's; the baseline took {first:.2} s before and {second:.2} s after",
                scenario.jobs, scenario.in_flight, piped.same, scenario.jobs
            ),
            format!("command of both: ffmpeg {}", piped.argv.join(" ")),
        ],
        numbers: json!({
            "baseline_s": piped.baseline, "upload_to_webhook_s": piped.to_webhook,
            "with_downloads_s": piped.to_file, "ratio": ratio(piped.to_webhook, baseline),
            "goal": GOAL, "cpu_s": piped.cpu, "baseline_cpu_s": piped.baseline_cpu,
            "same_outputs": piped.same,
        }),
    })
}
