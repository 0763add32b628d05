//! Messages of a durable consumer, one after another.
//!
//! Promises: a pull that fails or falls silent is given up and made again, for a day without a
//! message at least; what was pulled and not begun is given back at shutdown, so that another
//! process has it at once and not after the ack wait. Refuses: to hold more than one batch.

use crate::{
    bus::Bus,
    publish::envelope_of,
    retry::{Delays, Policy},
    service::{ServiceError, Shutdown},
};
use async_nats::jetstream::{AckKind, Message, consumer};
use futures::{FutureExt as _, StreamExt as _};
use hotcell_schemas::{
    envelope::{Envelope, OpenError},
    routes::{CONSUMERS, ConsumerRow},
};
use std::{future::Future, sync::Arc, time::Duration};
use tokio::{sync::Semaphore, task::JoinSet, time::Instant};
use tracing::{debug, warn};

/// One pull asks for messages for this long, in seconds; the broker answers sooner when it has any.
const PULL_SECS: u64 = 20;

/// Twice this silence and a pull is given up and made again, in seconds. The client's own watch
/// takes 25 s, and counts wrongly when another process waits at the same consumer.
const HEARTBEAT_SECS: u64 = 3;

/// The pull of one durable consumer, made again as often as it must be.
pub struct Feed {
    bus: Bus,
    row: &'static ConsumerRow,
    batch: usize,
    messages: Option<consumer::pull::Stream>,
    /// Since the last message. Made at the first failure: its clock starts with it.
    delays: Option<Delays>,
    /// When the next pull may be made.
    retry_at: Option<Instant>,
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("durable", &self.row.durable).finish_non_exhaustive()
    }
}

impl Feed {
    /// A feed of the durable consumer `durable` of the table, `batch` messages to a pull.
    ///
    /// # Panics
    /// When the table has no such consumer: a constant name that a test covers.
    #[must_use]
    pub fn new(bus: &Bus, durable: &'static str, batch: usize) -> Self {
        let row = CONSUMERS.iter().find(|row| row.durable == durable);
        let row = row.expect("services name consumers of the table");
        Self { bus: bus.clone(), row, batch, messages: None, delays: None, retry_at: None }
    }

    /// The consumer.
    #[must_use]
    pub fn row(&self) -> &'static ConsumerRow {
        self.row
    }

    /// The next message; `None` once the shutdown has begun. May be dropped and called again:
    /// nothing is lost.
    ///
    /// # Errors
    /// [`ServiceError::Unreachable`] after a day without the consumer: it is made by
    /// `hotcell nats provision`.
    pub async fn next(&mut self, shutdown: &Shutdown) -> Result<Option<Message>, ServiceError> {
        loop {
            if let Some(at) = self.retry_at {
                tokio::select! {
                    () = tokio::time::sleep_until(at) => self.retry_at = None,
                    () = shutdown.begun() => return Ok(None),
                }
            }
            let next = async {
                let messages = match self.messages.as_mut() {
                    Some(messages) => messages,
                    None => self.messages.insert(pull(&self.bus, self.row, self.batch).await?),
                };
                match messages.next().await {
                    Some(Ok(message)) => Ok(message),
                    Some(Err(error)) => Err(error.to_string()),
                    None => Err("the pull ended".to_owned()),
                }
            };
            let next = tokio::select! {
                biased;
                () = shutdown.begun() => return Ok(None),
                next = next => next,
            };
            match next {
                Ok(message) => {
                    self.delays = None;
                    return Ok(Some(message));
                }
                Err(reason) => {
                    self.messages = None;
                    let delays = self.delays.get_or_insert_with(|| Policy::FOREVER.delays());
                    let Some(delay) = delays.next() else {
                        return Err(ServiceError::Unreachable(reason));
                    };
                    warn!(durable = self.row.durable, %reason, "pull interrupted; making it again");
                    self.retry_at = Some(Instant::now() + delay);
                }
            }
        }
    }

    /// Gives back what was pulled and not taken.
    pub async fn give_back(mut self) {
        let mut pulled = Vec::new();
        if let Some(mut messages) = self.messages.take() {
            // Without a pause in between: each poll may ask the broker for more.
            while let Some(Some(Ok(message))) =
                tokio::task::unconstrained(messages.next()).now_or_never()
            {
                pulled.push(message);
            }
        }
        for message in pulled {
            acknowledge(&message, AckKind::Nak(None)).await;
        }
    }
}

/// The pull stream of a durable consumer that exists.
///
/// # Errors
/// A sentence for the operator.
async fn pull(
    bus: &Bus,
    row: &'static ConsumerRow,
    batch: usize,
) -> Result<consumer::pull::Stream, String> {
    let consumer: consumer::PullConsumer = bus
        .jetstream
        .get_consumer_from_stream(row.durable, row.stream.as_str())
        .await
        .map_err(|error| {
            let (durable, stream) = (row.durable, row.stream.as_str());
            format!("consumer {durable} of stream {stream} cannot be used ({error}): run `hotcell nats provision`")
        })?;
    consumer
        .stream()
        .max_messages_per_batch(batch)
        .expires(Duration::from_secs(PULL_SECS))
        .heartbeat(Duration::from_secs(HEARTBEAT_SECS))
        .messages()
        .await
        .map_err(|error| format!("consumer {} cannot be pulled ({error})", row.durable))
}

/// Hands each message of the durable consumer `durable` to `handle`, at most `concurrency` at once,
/// until shutdown; those in hand are finished.
///
/// # Errors
/// As [`Feed::next`].
pub async fn each<F, Fut>(
    bus: &Bus,
    durable: &'static str,
    concurrency: usize,
    shutdown: &Shutdown,
    handle: F,
) -> Result<(), ServiceError>
where
    F: Fn(Message) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let mut feed = Feed::new(bus, durable, concurrency);
    let slots = Arc::new(Semaphore::new(concurrency));
    let mut running = JoinSet::new();
    let ended = loop {
        let slot = tokio::select! {
            slot = Arc::clone(&slots).acquire_owned() => slot,
            () = shutdown.begun() => break Ok(()),
        };
        let next = feed.next(shutdown).await;
        while running.try_join_next().is_some() {}
        match next {
            Ok(Some(message)) => {
                let work = handle(message);
                running.spawn(async move {
                    work.await;
                    drop(slot);
                });
            }
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    feed.give_back().await;
    while running.join_next().await.is_some() {}
    bus.flush().await;
    ended
}

/// The envelope of a message, form checked only.
///
/// # Errors
/// As [`Envelope::received`].
pub fn envelope(message: &Message) -> Result<Envelope, OpenError> {
    envelope_of(&message.subject, message.headers.as_ref(), &message.payload)
}

/// Says how a message ends. What is lost here is delivered again.
pub async fn acknowledge(message: &Message, kind: AckKind) {
    if let Err(error) = message.ack_with(kind).await {
        debug!(%error, "message not acked; it will be delivered again");
    }
}
