//! Requests per second that one intake answers with all its checks on: who asks, whether its tenant
//! is served, how often it asked, whether policy permits it; against the answer to anyone.

use crate::{
    client::{self, Tenant},
    driver::{Fleet, bar},
    installation::Installation,
    process,
    programs::Programs,
    report::Measured,
    scenario::Scenario,
    stats::{Times, number, ratio},
};
use anyhow::{Context as _, Result};
use serde_json::json;
use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::task::JoinSet;

/// One request, as often as it is answered.
struct Loop {
    times: Times,
    elapsed: Duration,
    /// CPU time of intake.
    cpu_secs: f64,
}

/// What is asked for, by whom.
enum Ask {
    /// `/livez`, by nobody.
    Anyone(reqwest::Client, String),
    /// A job, by its tenant.
    Job(Tenant, String),
}

impl Ask {
    async fn once(&self) -> Result<()> {
        match self {
            Self::Anyone(http, url) => {
                http.get(url).send().await?.error_for_status()?.bytes().await?;
            }
            Self::Job(tenant, id) => {
                tenant.job_now(id).await?;
            }
        }
        Ok(())
    }
}

async fn looped(
    installation: &Installation,
    asks: Vec<Ask>,
    scenario: &Scenario,
    doing: &str,
) -> Result<Loop> {
    let (asks, progress) = (Arc::new(asks), bar(u64::from(scenario.seconds), doing)?);
    let intake = |used: &std::collections::BTreeMap<String, f64>| {
        used.get("hotcell-intake").copied().unwrap_or_default()
    };
    let usage = process::usage(installation.pid());
    let (begun, until) =
        (Instant::now(), Instant::now() + Duration::from_secs(scenario.seconds.into()));
    let mut tasks = JoinSet::new();
    for worker in 0..usize::try_from(scenario.in_flight)? {
        let asks = Arc::clone(&asks);
        tasks.spawn(async move {
            let ask = asks.get(worker % asks.len().max(1)).context("something is asked for")?;
            let mut took = Vec::new();
            while Instant::now() < until {
                let begun = Instant::now();
                ask.once().await?;
                took.push(begun.elapsed());
            }
            anyhow::Ok(took)
        });
    }
    let mut times = Times::default();
    while let Some(task) = tasks.join_next().await {
        task??.into_iter().for_each(|took| times.record(took));
    }
    let elapsed = begun.elapsed();
    progress.finish_and_clear();
    let used = process::since(&usage, &process::usage(installation.pid()));
    Ok(Loop { times, elapsed, cpu_secs: intake(&used) / 1000.0 })
}

/// Runs the scenario.
pub(crate) async fn run(programs: &Programs, scenario: &Scenario, dir: &Path) -> Result<Measured> {
    let installation = Installation::start(programs, scenario, dir)?;
    let measured = async {
        let (fleet, http) = (Fleet::gather(&installation, scenario).await?, client::http()?);
        let (mut by_key, mut by_token) = (Vec::new(), Vec::new());
        for index in 0..usize::try_from(scenario.tenants)? {
            let (tenant, job) = fleet.tenant(index)?;
            let id = tenant.submit(job.clone()).await?;
            by_key.push(Ask::Job(tenant.clone(), id.clone()));
            by_token.push(Ask::Job(tenant.with_token().await?, id));
        }
        let livez = format!("{}/livez", installation.env("HOTCELL_API")?);
        let anyone = vec![Ask::Anyone(http, livez)];
        let anyone = looped(&installation, anyone, scenario, "anyone").await?;
        let by_key = looped(&installation, by_key, scenario, "by key").await?;
        let by_token = looped(&installation, by_token, scenario, "by token").await?;
        anyhow::Ok(
            [("/livez, by anyone", anyone), ("a job, by API key", by_key)]
                .into_iter()
                .chain([("a job, by access token", by_token)])
                .collect::<Vec<_>>(),
        )
    };
    let loops = measured.await.with_context(|| installation.complaints())?;
    let rate = |it: &Loop| ratio(number(it.times.count()), it.elapsed.as_secs_f64());
    let cpu = |it: &Loop| ratio(it.cpu_secs * 1e6, number(it.times.count()));
    let base = loops.first().map(|(_, it)| rate(it)).unwrap_or_default();
    let row = |(name, it): &(&str, Loop)| {
        vec![
            (*name).to_owned(),
            format!("{:.0}", rate(it)),
            format!("{:.2}", it.times.ms(0.5)),
            format!("{:.2}", it.times.ms(0.99)),
            format!("{:.0}", cpu(it)),
            format!("{:.2}", ratio(rate(it), base)),
        ]
    };
    let rows = loops.iter().map(row).collect();
    let numbers: Vec<_> = loops
        .iter()
        .map(|(name, it)| {
            json!({
                "request": name, "per_second": rate(it), "p50_ms": it.times.ms(0.5),
                "p99_ms": it.times.ms(0.99), "intake_cpu_us": cpu(it),
            })
        })
        .collect();
    let notes = vec![format!(
        "one intake, {} requests at once of {} tenants, {} s each; the client, the broker and intake \
         share the machine, so the rate is a lower bound",
        scenario.in_flight, scenario.tenants, scenario.seconds,
    )];
    Ok(Measured { rows, notes, numbers: numbers.into() })
}
