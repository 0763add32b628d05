//! Messages of a durable consumer, one after another. One pull is out at a time, made by hand: the
//! client's own streams ask for more whenever they are polled, so what they have asked for cannot
//! be given back, and notice a broker that restarted after up to 25 s.
//!
//! Promises: a pull that fails or falls silent is made again, for a day at least; what was pulled
//! and not begun is given back at shutdown, so that another process has it at once and not after
//! the ack wait. Refuses: to hold more than one batch.

use crate::{
    bus::Bus,
    publish::envelope_of,
    retry::{Delays, Policy},
    service::{ServiceError, Shutdown},
};
use async_nats::{
    StatusCode, Subscriber,
    jetstream::{AckKind, Message},
};
use futures::StreamExt as _;
use hotcell_schemas::{
    envelope::{Envelope, OpenError},
    routes::{CONSUMERS, ConsumerRow},
};
use serde_json::json;
use std::{
    future::Future,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tracing::{debug, warn};

/// One pull asks for messages for this long, in seconds; the broker answers sooner when it has any.
const PULL_SECS: u64 = 20;

/// While it has none the broker says so this often, in seconds; after twice this silence the pull
/// is made again.
const HEARTBEAT_SECS: u64 = 3;

/// A new connection is noticed within this long, in milliseconds: pulls do not survive one.
const LOOK_MS: u64 = 250;

/// At shutdown, what the broker has sent already arrives within this long, in milliseconds.
const QUIET_MS: u64 = 50;

/// The pulls of one durable consumer.
pub struct Feed {
    bus: Bus,
    row: &'static ConsumerRow,
    batch: usize,
    /// Where pulls are answered: `<inbox>.<number of the pull>`.
    inbox: String,
    replies: Option<Subscriber>,
    /// Number of the last pull.
    pull: u64,
    /// Messages that the last pull may still bring; 0 asks for another.
    owed: usize,
    /// Connections made when it was sent.
    connects: u64,
    /// Made at the first failure: its clock starts with it.
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
        Self {
            bus: bus.clone(),
            row: row.expect("services name consumers of the table"),
            batch,
            inbox: bus.client.new_inbox(),
            replies: None,
            pull: 0,
            owed: 0,
            connects: 0,
            delays: None,
            retry_at: None,
        }
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
                    () = sleep_until(at) => self.retry_at = None,
                    () = shutdown.begun() => return Ok(None),
                }
            }
            let next = tokio::select! {
                biased;
                () = shutdown.begun() => return Ok(None),
                next = self.receive() => next,
            };
            match next {
                Ok(message) => {
                    self.delays = None;
                    return Ok(Some(message));
                }
                Err(reason) => {
                    self.owed = 0;
                    let delays = self.delays.get_or_insert_with(|| Policy::FOREVER.delays());
                    let delay = delays.next();
                    let (durable, stream) = (self.row.durable, self.row.stream.as_str());
                    let Some(delay) = delay else {
                        return Err(ServiceError::Unreachable(format!(
                            "consumer {durable} of stream {stream} cannot be pulled ({reason}): \
                             run `hotcell nats provision`"
                        )));
                    };
                    warn!(durable, stream, %reason, "pull interrupted; making it again");
                    self.retry_at = Some(Instant::now() + delay);
                }
            }
        }
    }

    /// The next message, or why the pull brings none.
    async fn receive(&mut self) -> Result<Message, String> {
        let silence = Duration::from_secs(2 * HEARTBEAT_SECS);
        let mut heard = Instant::now();
        loop {
            if self.owed == 0 || self.connects != self.connections() {
                self.ask().await?;
                heard = Instant::now();
            }
            let Some(replies) = self.replies.as_mut() else { continue };
            let Ok(reply) = timeout(Duration::from_millis(LOOK_MS), replies.next()).await else {
                if heard.elapsed() > silence {
                    return Err("the broker is silent".to_owned());
                }
                continue;
            };
            let Some(message) = reply else {
                self.replies = None;
                return Err("the broker connection is closed".to_owned());
            };
            heard = Instant::now();
            let Some(status) = message.status else {
                self.owed = self.owed.saturating_sub(1);
                return Ok(Message { message, context: self.bus.jetstream.clone() });
            };
            // A status names the pull that it ends; one of an earlier pull says nothing here.
            if message.subject.as_str() != self.reply_to() || status == StatusCode::IDLE_HEARTBEAT {
                continue;
            }
            if status != StatusCode::TIMEOUT {
                return Err(format!("status {status} {}", message.description.unwrap_or_default()));
            }
            self.owed = 0;
        }
    }

    /// Sends one pull.
    async fn ask(&mut self) -> Result<(), String> {
        if self.replies.is_none() {
            let subscribed = self.bus.client.subscribe(format!("{}.*", self.inbox)).await;
            self.replies = Some(subscribed.map_err(|error| error.to_string())?);
        }
        self.connects = self.connections();
        self.pull += 1;
        let (stream, durable) = (self.row.stream.as_str(), self.row.durable);
        let ask = json!({
            "batch": self.batch,
            "expires": PULL_SECS * 1_000_000_000,
            "idle_heartbeat": HEARTBEAT_SECS * 1_000_000_000,
        });
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{durable}");
        let (client, reply) = (self.bus.client.clone(), self.reply_to());
        let sent = client.publish_with_reply(subject, reply, ask.to_string().into()).await;
        sent.map_err(|error| error.to_string())?;
        self.owed = self.batch;
        Ok(())
    }

    fn reply_to(&self) -> String {
        format!("{}.{}", self.inbox, self.pull)
    }

    fn connections(&self) -> u64 {
        self.bus.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// Gives back what was pulled and not taken: at most what the last pull may still bring.
    pub async fn give_back(mut self) {
        let Some(mut replies) = self.replies.take() else { return };
        let (quiet, mut pulled) = (Duration::from_millis(QUIET_MS), Vec::new());
        while pulled.len() < self.owed {
            let Ok(Some(message)) = timeout(quiet, replies.next()).await else { break };
            if message.status.is_none() {
                let context = self.bus.jetstream.clone();
                pulled.push(Message { message, context });
            }
        }
        // First the inbox goes, then they are offered: not to the pull that nobody reads.
        drop(replies);
        for message in pulled {
            acknowledge(&message, AckKind::Nak(None)).await;
        }
    }
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
