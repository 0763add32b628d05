//! Signatures per second on one thread: seal and open of a job's message, presigned URLs.

use crate::{
    report::Measured,
    scenario::Scenario,
    stats::{number, ratio},
};
use anyhow::{Context as _, Result};
use hotcell_schemas::{Envelope, EventKind, Job, Role, Subject, Trust, UnixMs, trust::TrustedKey};
use hotcell_signer::presign::{
    Addressing, Bound, Endpoint, PresignKey, PresignRequest, Ttl, presign,
};
use nkeys::{KeyPair, KeyPairType};
use serde::Deserialize;
use serde_json::json;
use std::{
    hint::black_box,
    time::{Duration, Instant},
};

/// A completed job as the wire's golden file shows it.
const JOBS: &str = include_str!("../../schemas/golden/job.v1.json");

/// Part of a loop's time that it runs before it counts.
const WARM_UP: f64 = 0.2;

/// Turns between two looks at the clock.
const TURNS: u32 = 64;

/// Time of the samples, in seconds since 1970.
const NOW: u64 = 1_779_460_245;

#[derive(Deserialize)]
struct Golden {
    body: Job,
}

fn completed() -> Result<Job> {
    let mut all: serde_json::Value = serde_json::from_str(JOBS)?;
    let one = all.get_mut("completed").context("the golden file has a completed job")?.take();
    Ok(serde_json::from_value::<Golden>(one)?.body)
}

/// Turns per second.
fn rate(seconds: u32, mut turn: impl FnMut() -> Result<()>) -> Result<f64> {
    let whole = Duration::from_secs(u64::from(seconds));
    let mut run = |most: Duration| -> Result<f64> {
        let (begun, mut turns) = (Instant::now(), 0_u64);
        while begun.elapsed() < most {
            for _ in 0..TURNS {
                turn()?;
            }
            turns += u64::from(TURNS);
        }
        Ok(ratio(number(turns), begun.elapsed().as_secs_f64()))
    };
    run(whole.mul_f64(WARM_UP))?;
    run(whole)
}

/// Runs the scenario.
pub(crate) fn run(scenario: &Scenario) -> Result<Measured> {
    let job = completed()?;
    let key = KeyPair::new(KeyPairType::User);
    let trust = Trust::new(vec![TrustedKey { role: Role::Hasher, key: key.public_key() }])?;
    let subject =
        Subject::job(&job.tenant, &job.id, EventKind::Completed).context("a job's subject")?;
    let now = UnixMs(NOW * 1000);
    let seal = || Envelope::seal(subject.clone(), "load.1".to_owned(), now, &key, &job);
    let sealed = seal()?;
    let seals = rate(scenario.seconds, || {
        black_box(seal()?);
        Ok(())
    })?;
    let opens = rate(scenario.seconds, || {
        black_box(black_box(&sealed).open::<Job>(&trust)?);
        Ok(())
    })?;
    let presigns = presigns(scenario.seconds)?;
    let rows = [("seal a job", seals), ("open a job", opens), ("presign a PUT", presigns)];
    let row = |(name, rate): (&str, f64)| {
        vec![name.to_owned(), format!("{rate:.0}"), format!("{:.1}", ratio(1e6, rate))]
    };
    Ok(Measured {
        rows: rows.into_iter().map(row).collect(),
        notes: vec![format!(
            "the message is a completed job of {} bytes; the URL binds size, type and SHA-256",
            sealed.body.len()
        )],
        numbers: json!({
            "seal_per_second": seals, "open_per_second": opens,
            "presign_per_second": presigns, "message_bytes": sealed.body.len(),
        }),
    })
}

fn presigns(seconds: u32) -> Result<f64> {
    let key = PresignKey::new("signer", &"s".repeat(64), "us-east-1")?;
    let endpoint = Endpoint::parse("http://127.0.0.1:9000", Addressing::Path)?;
    let object = "t/load-0/out/019e5018868075058505050505050505/1/out.mp4";
    let bound = Bound {
        content_length: Some(1 << 20),
        content_type: Some("video/mp4".to_owned()),
        create_only: true,
        sha256: Some([7; 32]),
    };
    rate(seconds, || {
        let request = PresignRequest::put("hotcell", object, Ttl::MAX, bound.clone());
        black_box(presign(&key, &endpoint, black_box(&request), NOW)?);
        Ok(())
    })
}
