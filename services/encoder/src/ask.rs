//! The worker's side of the broker's protocol: five questions, all to the signer, all signed both
//! ways. Refuses an answer that no signer signed for this very request.

use hotcell_schemas::{
    PoolId, Subject, WorkerId,
    envelope::Message,
    limits::{BEAT_MS, LEASE_SECS, NEXT_POLL_MS},
    subject::LeaseVerb,
    work::{
        BeatReply, BeatRequest, DoneReply, DoneRequest, InputsReply, LeaseRequest, NextReply,
        NextRequest, Stop, UrlsReply, UrlsRequest,
    },
};
use hotcell_stage::{AskError, Bus, telemetry::TraceParent};
use std::time::Duration;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tracing::warn;

/// The signer holds `next` for [`NEXT_POLL_MS`]; the rest is the network and a restart's delay.
const NEXT_MARGIN_MS: u64 = 5000;

/// Every other question is answered from memory and one publish; then it is asked again.
const ASK_SECS: u64 = 5;

/// Asks as one worker of one pool.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    bus: Bus,
    pub(crate) pool: PoolId,
    pub(crate) worker: WorkerId,
}

impl Ask {
    pub(crate) fn new(bus: Bus, pool: PoolId, worker: WorkerId) -> Self {
        Self { bus, pool, worker }
    }

    /// Asks for work, and waits for it; the answer comes with its job's trace.
    pub(crate) async fn next(
        &self,
        body: &NextRequest,
    ) -> Result<(NextReply, TraceParent), AskError> {
        let timeout = Duration::from_millis(NEXT_POLL_MS + NEXT_MARGIN_MS);
        let subject = Subject::next(&self.pool, &self.worker);
        let (reply, trace) = self.bus.ask_traced(subject, body, timeout).await?;
        Ok((reply.into_inner(), trace))
    }

    /// Asks for fresh GET URLs.
    pub(crate) async fn inputs(&self, body: &LeaseRequest) -> Result<InputsReply, AskError> {
        self.lease(LeaseVerb::Inputs, body, Duration::from_secs(ASK_SECS)).await
    }

    /// Asks for PUT URLs.
    pub(crate) async fn urls(&self, body: &UrlsRequest) -> Result<UrlsReply, AskError> {
        self.lease(LeaseVerb::Urls, body, Duration::from_secs(ASK_SECS)).await
    }

    /// Reports.
    pub(crate) async fn done(&self, body: &DoneRequest) -> Result<DoneReply, AskError> {
        self.lease(LeaseVerb::Done, body, Duration::from_secs(ASK_SECS)).await
    }

    async fn lease<Q: Message, A: Message>(
        &self,
        verb: LeaseVerb,
        body: &Q,
        timeout: Duration,
    ) -> Result<A, AskError> {
        let subject = Subject::lease(&self.worker, verb);
        Ok(self.bus.ask(subject, body, timeout).await?.into_inner())
    }

    /// Beats until told to stop, or until nobody has renewed the lease for its whole life: then
    /// another worker has the job, whatever the network says later.
    pub(crate) async fn beat_until_stopped(&self, lease: &Lease) -> Stop {
        let beat = Duration::from_millis(BEAT_MS);
        let life = Duration::from_secs(u64::from(LEASE_SECS));
        let mut lapses = Instant::now() + life;
        let mut tick = interval_at(Instant::now() + beat, beat);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let asked = Instant::now();
            let body = BeatRequest { lease: lease.token(), progress_permille: lease.progress() };
            match self.lease(LeaseVerb::Beat, &body, beat).await {
                Ok(BeatReply::GoOn { lease: token, .. }) => {
                    lease.renew(token);
                    lapses = asked + life;
                }
                Ok(BeatReply::Stop { reason }) => return reason,
                Err(error) => warn!(%error, "beat not answered"),
            }
            if Instant::now() >= lapses {
                return Stop::LeaseLost;
            }
        }
    }
}

/// What one attempt shares with its heart beat.
#[derive(Debug)]
pub(crate) struct Lease {
    token: watch::Sender<String>,
    progress: watch::Sender<Option<u16>>,
}

impl Lease {
    /// A lease as the order gave it.
    pub(crate) fn new(token: String) -> Self {
        Self { token: watch::Sender::new(token), progress: watch::Sender::new(None) }
    }

    /// The latest token.
    pub(crate) fn token(&self) -> String {
        self.token.borrow().clone()
    }

    fn renew(&self, token: String) {
        self.token.send_replace(token);
    }

    /// Part of the work done, in thousandths.
    pub(crate) fn progress(&self) -> Option<u16> {
        *self.progress.borrow()
    }

    /// Notes progress.
    pub(crate) fn note(&self, permille: Option<u16>) {
        self.progress.send_replace(permille);
    }
}
