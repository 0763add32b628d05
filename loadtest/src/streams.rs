//! What the installation's broker was given to store: sequences of every stream and bucket.

use crate::{installation::Installation, stats};
use anyhow::{Context as _, Result};
use hotcell_nats_config::{Login, Replicas, api, connect, streams::streams};
use hotcell_schemas::Role;
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// The stream of events and records, whose messages all stay: its mean size is known.
const KEPT: &str = "JOBS";

/// Nothing was stored for so long: the run has settled.
const QUIET: Duration = Duration::from_millis(700);

/// Settling takes no longer: the auditor's head is written at most once a second.
const SETTLE_MAX: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, Deserialize)]
struct State {
    messages: u64,
    bytes: u64,
    last_seq: u64,
}

#[derive(Deserialize)]
struct Info {
    state: State,
}

/// State of every stream at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Stored(BTreeMap<String, State>);

/// A connection that may look at streams.
pub(crate) struct Streams {
    client: async_nats::Client,
}

impl Streams {
    pub(crate) async fn connect(installation: &Installation) -> Result<Self> {
        let creds = installation.keys()?.creds(&Login::Service(Role::Provisioner))?;
        let client = connect(installation.env("HOTCELL_NATS")?, &creds).await?;
        Ok(Self { client })
    }

    /// What is stored now.
    pub(crate) async fn look(&self) -> Result<Stored> {
        let mut all = BTreeMap::new();
        for spec in streams(Replicas::One) {
            let answer = self.client.request(api::stream_info(&spec.name), "".into()).await?;
            let info: Info = serde_json::from_slice(&answer.payload)
                .with_context(|| format!("the state of {}", spec.name))?;
            all.insert(spec.name, info.state);
        }
        Ok(Stored(all))
    }

    /// What is stored once nothing more comes.
    pub(crate) async fn settled(&self) -> Result<Stored> {
        let until = Instant::now() + SETTLE_MAX;
        let mut before = self.look().await?;
        loop {
            sleep(QUIET).await;
            let now = self.look().await?;
            if now.sequences() == before.sequences() || Instant::now() > until {
                return Ok(now);
            }
            before = now;
        }
    }
}

impl Stored {
    fn sequences(&self) -> u64 {
        self.0.values().map(|state| state.last_seq).sum()
    }

    /// Messages stored since `before`, of every stream.
    pub(crate) fn messages_since(&self, before: &Self) -> u64 {
        self.sequences().saturating_sub(before.sequences())
    }

    /// Mean bytes of a kept message stored since `before`, as the broker stores it.
    pub(crate) fn mean_bytes_since(&self, before: &Self) -> f64 {
        let of = |all: &Self| all.0.get(KEPT).map_or((0, 0), |state| (state.messages, state.bytes));
        let ((old, old_bytes), (new, new_bytes)) = (of(before), of(self));
        let bytes = stats::number(new_bytes.saturating_sub(old_bytes));
        stats::ratio(bytes, stats::number(new.saturating_sub(old)))
    }

    /// "JOBS 8.0, HOOKS 1.0": messages of each stream since `before`, of `jobs` jobs.
    pub(crate) fn per_job(&self, before: &Self, jobs: f64) -> String {
        let one = |(name, state): (&String, &State)| {
            let old = before.0.get(name).map_or(0, |state| state.last_seq);
            let each = stats::number(state.last_seq.saturating_sub(old)) / jobs;
            (each >= 0.005).then(|| format!("{name} {each:.2}"))
        };
        self.0.iter().filter_map(one).collect::<Vec<_>>().join(", ")
    }
}
