//! The one consume loop: pull, open, handle, publish, await the acknowledgements, then ack.
//!
//! Promises: while a handler runs the broker is told so; at most `concurrency` messages are in
//! hand; at shutdown no new message is taken and those in hand are finished. Every handler may run
//! twice: a repeat publishes the same message ids, or meets the compare-and-set.
//! Refuses: an envelope that does not verify. It is recorded in the audit log and terminated.

use crate::{
    bus::Bus,
    feed::{acknowledge, each, envelope},
    publish::{Outgoing, PublishError},
    read::unix_ms,
    service::{ServiceError, Shutdown},
    telemetry,
};
use async_nats::jetstream::{AckKind, Message as JsMessage};
use hotcell_schemas::{
    Digest, UnixMs, Verified,
    envelope::{Message, OpenError},
    records::{AuditAct, Refusal},
    routes::{CONSUMERS, ConsumerRow},
};
use std::{future::Future, sync::Arc, time::Duration};
use tracing::{Instrument as _, debug, error, info_span, warn};

/// Delay before a message is offered again after the broker did not acknowledge, in milliseconds.
const RETRY_MS: u64 = 500;

/// Delay before a message is offered again whose outcome cannot be published, in seconds: only
/// another version of the program can help.
const UNPUBLISHABLE_SECS: u64 = 20;

/// A message that a stage may believe.
#[derive(Debug)]
pub struct Delivered<T> {
    /// The message, checked.
    pub message: Verified<T>,
    /// Its sequence in the stream: what a job's next event must follow.
    pub seq: u64,
    /// How often it was delivered, this time included.
    pub delivered: u32,
    /// When the broker stored it: its own clock, which no sender can set.
    pub stored_at: UnixMs,
}

/// Why a handler has nothing to publish. A verdict on a tenant's file is not a halt but an event.
#[derive(Debug)]
pub enum Halt {
    /// Something of ours is not there now; try again.
    Retry {
        /// After this long.
        after: Duration,
        /// What, for the log: a constant.
        reason: &'static str,
    },
    /// The message makes no sense although it verifies; record it and never retry.
    Reject {
        /// Why, for the audit log: a constant.
        reason: &'static str,
    },
}

impl Halt {
    /// A retry after `ms` milliseconds.
    #[must_use]
    pub fn retry_ms(ms: u64, reason: &'static str) -> Self {
        Self::Retry { after: Duration::from_millis(ms), reason }
    }
}

/// One step of the pipeline.
pub trait Stage: Send + Sync + 'static {
    /// What it consumes.
    type Input: Message + Send + Sync + 'static;

    /// Decides what to publish. May run twice for one message.
    fn handle(
        &self,
        input: Delivered<Self::Input>,
    ) -> impl Future<Output = Result<Vec<Outgoing>, Halt>> + Send;
}

/// Runs `stage` on the durable consumer `durable` of the table until shutdown.
///
/// # Errors
/// [`ServiceError::Unreachable`] when the consumer cannot be found: it is made by
/// `hotcell nats provision`.
pub async fn run<S: Stage>(
    bus: &Bus,
    durable: &'static str,
    concurrency: usize,
    stage: S,
    shutdown: Shutdown,
) -> Result<(), ServiceError> {
    let row = CONSUMERS
        .iter()
        .find(|row| row.durable == durable)
        .expect("services name consumers of the table");
    let stage = Arc::new(stage);
    each(bus, durable, concurrency, &shutdown, |message| {
        let (bus, stage) = (bus.clone(), Arc::clone(&stage));
        async move { one(&bus, row, stage.as_ref(), message).await }
    })
    .await
}

/// Opens, handles, publishes and acks one message.
async fn one<S: Stage>(bus: &Bus, row: &'static ConsumerRow, stage: &S, message: JsMessage) {
    let span = info_span!("stage", durable = row.durable, subject = %message.subject);
    telemetry::follow(&span, message.headers.as_ref());
    async {
        let end = match open::<S::Input>(bus, &message) {
            Ok(input) => match handle(row, stage, input, &message).await {
                Ok(out) => publish_all(bus, &out).await,
                Err(Halt::Retry { after, reason }) => {
                    warn!(reason, "message will be retried");
                    AckKind::Nak(Some(after))
                }
                Err(Halt::Reject { reason }) => refuse(bus, &message, reason).await,
            },
            Err(error) => refuse(bus, &message, &error.to_string()).await,
        };
        acknowledge(&message, end).await;
    }
    .instrument(span)
    .await;
}

/// Runs the handler, telling the broker each third of the ack wait that it is at work.
async fn handle<S: Stage>(
    row: &ConsumerRow,
    stage: &S,
    input: Delivered<S::Input>,
    message: &JsMessage,
) -> Result<Vec<Outgoing>, Halt> {
    let third = Duration::from_secs(u64::from(row.ack_wait_secs)) / 3;
    let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + third, third);
    let work = stage.handle(input);
    tokio::pin!(work);
    loop {
        tokio::select! {
            out = &mut work => return out,
            _ = beat.tick() => acknowledge(message, AckKind::Progress).await,
        }
    }
}

async fn publish_all(bus: &Bus, out: &[Outgoing]) -> AckKind {
    for each in out {
        match bus.publish(each).await {
            Ok(published) => debug!(seq = published.seq, published.duplicate, "published"),
            Err(PublishError::Conflict) => {
                // Another delivery of this message made the transition, or the job ended.
                debug!("the job moved on; nothing to do");
                return AckKind::Ack;
            }
            Err(PublishError::Unacknowledged(error)) => {
                warn!(%error, "publish not acknowledged; message will be retried");
                return AckKind::Nak(Some(Duration::from_millis(RETRY_MS)));
            }
            Err(error @ (PublishError::Seal(_) | PublishError::NotRouted)) => {
                error!(%error, "a message of ours cannot be published");
                return AckKind::Nak(Some(Duration::from_secs(UNPUBLISHABLE_SECS)));
            }
        }
    }
    AckKind::Ack
}

fn open<T: Message>(bus: &Bus, message: &JsMessage) -> Result<Delivered<T>, OpenError> {
    let checked = envelope(message)?.open(&bus.trust)?;
    let info = message.info().map_err(|_| OpenError::Header("reply"))?;
    let delivered = u32::try_from(info.delivered).unwrap_or(u32::MAX);
    let stored_at = unix_ms(info.published.unix_timestamp_nanos());
    Ok(Delivered { message: checked, seq: info.stream_sequence, delivered, stored_at })
}

/// Records what is not believed, then ends it: an attack is not retried, nor forgotten.
pub async fn refuse(bus: &Bus, message: &JsMessage, reason: &str) -> AckKind {
    let subject: String = message.subject.chars().take(200).collect();
    warn!(%subject, %reason, "message refused");
    let act = AuditAct::Refused {
        by: bus.role(),
        what: Refusal::Envelope,
        subject,
        reason: reason.to_owned(),
    };
    match bus.publish(&Outgoing::audit(None, act, refusal_id(bus, message))).await {
        Ok(_) => AckKind::Term,
        Err(error) => {
            warn!(%error, "refusal not recorded; message will be retried");
            AckKind::Nak(Some(Duration::from_millis(RETRY_MS)))
        }
    }
}

/// One id for each message of the stream, however often it is delivered: two messages with the
/// same bytes are two refusals.
fn refusal_id(bus: &Bus, message: &JsMessage) -> String {
    let role = bus.role();
    match message.info() {
        Ok(info) => format!("refused.{role}.{}.{}", info.stream, info.stream_sequence),
        Err(_) => format!("refused.{role}.{}", Digest::of(message.payload.as_ref())),
    }
}
