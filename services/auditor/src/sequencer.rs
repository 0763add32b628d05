//! The auditor's loop: messages of the stream, in stream order, in batches, into the log; then the
//! acknowledgements. It is not a `Stage`: it decides nothing and publishes nothing. Beside it the
//! same process answers who asks for evidence (`export`).
//!
//! Promises: a message is acknowledged only when a published checkpoint commits to it, and each
//! sequence is in the log exactly once, whatever is killed when. A message whose envelope does not
//! verify is recorded like any other: it is evidence. Refuses: to go on with a log that does not
//! verify, or to pass over a message that the broker may still offer.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::{AckKind, Message, consumer::PullConsumer};
use hotcell_schemas::Role;
use hotcell_schemas::envelope::HEADER_ID;
use hotcell_schemas::routes::{CONSUMERS, ConsumerRow};
use hotcell_stage::retry::{Delays, Policy, retry};
use hotcell_stage::service::describe;
use hotcell_stage::{
    Bus, ServiceError, Shutdown,
    feed::{Feed, acknowledge, envelope},
};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::config::{Checked, Config};
use crate::export::Exports;
use crate::kv_head::KvHead;
use crate::log::{Log, LogError, Outcome};
use crate::order::{Consumer, Offer, Window};
use crate::record::Record;
use crate::store::StoreError;

/// Prefix of the headers that a signature needs, besides the message id.
const HEADER_PREFIX: &str = "Hotcell-";
/// While a message is missing, the log and the broker are asked this often, in milliseconds.
const HOLE_LOOK_MS: u64 = 1000;
/// A message that the full window gives back is offered again after this long, in seconds.
const LATER_SECS: u64 = 5;

/// Runs the auditor until shutdown.
///
/// # Errors
/// [`ServiceError`]: a configuration that is refused, a broker or store that cannot be reached, or
/// a log on which a person must look before anything is added.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), ServiceError> {
    let checked = config.check()?;
    let bus = Bus::connect(Role::Auditor, &config.nats).await?;
    let log = open(&checked, &bus).await?;
    info!(size = log.size(), last_seq = log.last_seq(), "log opened and its right edge verified");
    let exports = Exports { store: log.store().clone(), keys: log.keys().to_vec() };
    let sequencer = Sequencer {
        window: Window::after(log.last_seq()),
        log,
        stale: false,
        hole: None,
        batch_records: config.batch_records,
        batch: Duration::from_millis(config.batch_ms),
        unbelieved: 0,
        bus: bus.clone(),
    };
    let follow = async {
        let ended = sequencer.follow(&shutdown).await;
        shutdown.begin();
        ended
    };
    let export = async {
        let ended = exports.run(&bus, &shutdown).await;
        shutdown.begin();
        ended
    };
    let (followed, exported) = tokio::join!(follow, export);
    followed.and(exported)
}

async fn open(checked: &Checked, bus: &Bus) -> Result<Log, ServiceError> {
    let attempt =
        || Log::open(checked.objects.clone(), Arc::new(KvHead::new(bus)), checked.log_config());
    let opened = retry(Policy::REQUEST, |error| fate(error) != Fate::Fatal, attempt).await;
    opened.map_err(|error| ended(&error))
}

/// What an error of the log means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The store or the broker did not answer: try until they do.
    Passing,
    /// It looks forked, but a replica of the head that lags looks the same for a moment.
    Doubtful,
    /// A person must look.
    Fatal,
}

fn fate(error: &LogError) -> Fate {
    match error {
        LogError::Store(StoreError::Read { .. } | StoreError::Write { .. })
        | LogError::Head(_)
        | LogError::Stale => Fate::Passing,
        LogError::HeadMissing | LogError::HeadRolledBack { .. } => Fate::Doubtful,
        LogError::Store(
            StoreError::TooLarge { .. }
            | StoreError::Missing { .. }
            | StoreError::Conflict { .. }
            | StoreError::Tile { .. }
            | StoreError::Checkpoint(_)
            | StoreError::Unproven(_),
        )
        | LogError::Checkpoint(_)
        | LogError::Forked
        | LogError::Edge { .. }
        | LogError::LastSeq
        | LogError::Leaf(_)
        | LogError::Record { .. }
        | LogError::Entry(_)
        | LogError::Order { .. }
        | LogError::Batch { .. } => Fate::Fatal,
    }
}

fn ended(error: &LogError) -> ServiceError {
    let cause = describe(error);
    if fate(error) == Fate::Passing {
        return ServiceError::Unreachable(format!("the log is out of reach: {cause}"));
    }
    ServiceError::Refused(format!(
        "the log does not verify, and nothing is added to it until a person has looked: {cause}"
    ))
}

struct Sequencer {
    bus: Bus,
    log: Log,
    /// Whether the log must be reloaded before it can grow.
    stale: bool,
    window: Window<(Record, Message)>,
    /// The hole that is waited for, and since when.
    hole: Option<((u64, u64), Instant)>,
    batch_records: usize,
    batch: Duration,
    /// Messages since the last checkpoint whose envelope does not verify.
    unbelieved: u64,
}

impl Sequencer {
    async fn follow(mut self, shutdown: &Shutdown) -> Result<(), ServiceError> {
        let row = CONSUMERS.iter().find(|row| row.role == Role::Auditor);
        let row = row.expect("the table has the auditor's consumer");
        let mut feed = Feed::new(&self.bus, row.durable, self.batch_records);
        let ended = self.read(row, &mut feed, shutdown).await;
        feed.give_back().await;
        for (_, message) in self.window.advance(u64::MAX) {
            acknowledge(&message, AckKind::Nak(None)).await;
        }
        self.bus.flush().await;
        ended
    }

    /// Reads until the shutdown begins; then what is ready is written.
    async fn read(
        &mut self,
        row: &ConsumerRow,
        feed: &mut Feed,
        shutdown: &Shutdown,
    ) -> Result<(), ServiceError> {
        let mut due: Option<Instant> = None;
        loop {
            let at = due.unwrap_or_else(Instant::now);
            tokio::select! {
                message = feed.next(shutdown) => match message? {
                    Some(message) => self.admit(message).await,
                    None => return self.flush(shutdown).await,
                },
                () = tokio::time::sleep_until(at), if due.is_some() => {
                    self.flush(shutdown).await?;
                    if self.window.hole().is_some() {
                        self.look_at_hole(row, shutdown).await?;
                    }
                    due = None;
                }
            }
            if self.window.has_ready(self.batch_records) {
                self.flush(shutdown).await?;
                due = None;
            }
            if due.is_none() && !self.window.is_empty() {
                let hole = Duration::from_millis(HOLE_LOOK_MS);
                let wait = if self.window.has_ready(1) { self.batch } else { hole };
                due = Some(Instant::now() + wait);
            }
        }
    }

    /// Takes a message in, whatever it says.
    async fn admit(&mut self, message: Message) {
        let Some((seq, record)) = record_of(&message) else {
            return debug!(subject = %message.subject, "not a message of the stream");
        };
        if !is_believed(&self.bus, &message) && seq > self.log.last_seq() {
            self.unbelieved += 1;
        }
        match self.window.offer(seq, message.payload.len(), (record, message)) {
            Offer::Held => {}
            Offer::Known((_, message)) => acknowledge(&message, AckKind::Ack).await,
            Offer::Later((_, message)) => {
                let later = Some(Duration::from_secs(LATER_SECS));
                acknowledge(&message, AckKind::Nak(later)).await;
            }
        }
    }

    /// Writes everything that is ready. During a shutdown it gives up at the first failure: what
    /// is not acknowledged is offered again.
    async fn flush(&mut self, shutdown: &Shutdown) -> Result<(), ServiceError> {
        let (mut passing, mut doubts) = (Policy::FOREVER.delays(), Policy::REQUEST.delays());
        while self.stale || self.window.has_ready(1) {
            let Err(error) = self.step().await else {
                (passing, doubts) = (Policy::FOREVER.delays(), Policy::REQUEST.delays());
                continue;
            };
            if shutdown.has_begun() && fate(&error) != Fate::Fatal {
                return Ok(());
            }
            self.wait(&error, &mut passing, &mut doubts, shutdown).await?;
        }
        Ok(())
    }

    async fn wait(
        &self,
        error: &LogError,
        passing: &mut Delays,
        doubts: &mut Delays,
        shutdown: &Shutdown,
    ) -> Result<(), ServiceError> {
        let delay = match fate(error) {
            Fate::Passing => passing.next(),
            Fate::Doubtful => doubts.next(),
            Fate::Fatal => None,
        };
        let Some(delay) = delay else { return Err(ended(error)) };
        warn!(error = %describe(error), "log not written; trying again");
        shutdown.sleep(delay).await;
        Ok(())
    }

    /// One reload, or one batch.
    async fn step(&mut self) -> Result<(), LogError> {
        if self.stale {
            self.log.reload().await?;
            self.stale = false;
            self.settle().await;
            return Ok(());
        }
        let ready = self.window.ready(self.batch_records).map(|(record, _)| record.clone());
        let records: Vec<Record> = ready.collect();
        if records.is_empty() {
            return Ok(());
        }
        self.stale = true;
        match self.log.append(&records).await? {
            Outcome::Published(head) => {
                self.stale = false;
                debug!(size = head.size, records = records.len(), "checkpoint published");
                if self.unbelieved > 0 {
                    let count = self.unbelieved;
                    warn!(count, "messages recorded whose envelope does not verify");
                    self.unbelieved = 0;
                }
                self.settle().await;
            }
            Outcome::Lost => warn!("another auditor was first; reading its head"),
        }
        Ok(())
    }

    /// Acknowledges what the log has.
    async fn settle(&mut self) {
        for (_, message) in self.window.advance(self.log.last_seq()) {
            acknowledge(&message, AckKind::Ack).await;
        }
    }

    /// A message is missing. Either another auditor took it, or the broker still waits for the
    /// acknowledgement of a process that died, or it is gone from the stream.
    async fn look_at_hole(
        &mut self,
        row: &ConsumerRow,
        shutdown: &Shutdown,
    ) -> Result<(), ServiceError> {
        self.stale = true;
        self.flush(shutdown).await?;
        let Some(hole) = self.window.hole() else { return Ok(()) };
        let since = match self.hole {
            Some((known, since)) if known == hole => since,
            _ => Instant::now(),
        };
        self.hole = Some((hole, since));
        let stream = async_nats::jetstream::new(self.bus.client().clone());
        let found = stream.get_consumer_from_stream(row.durable, row.stream.as_str()).await;
        let consumer: PullConsumer = match found {
            Ok(consumer) => consumer,
            Err(error) => {
                warn!(%error, "consumer not read; the missing messages are waited for");
                return Ok(());
            }
        };
        let state = consumer.cached_info();
        let state = Consumer {
            delivered: state.delivered.stream_sequence,
            unacked: state.num_ack_pending,
            ack_wait_secs: row.ack_wait_secs.into(),
            hole_secs: since.elapsed().as_secs(),
        };
        let (first, last) = hole;
        if !self.window.is_hole_final(state) {
            debug!(first, last, "missing messages are waited for");
            return Ok(());
        }
        error!(first, last, "sequences are gone from the stream; the log goes on with a gap");
        self.window.skip_hole();
        Ok(())
    }
}

fn is_believed(bus: &Bus, message: &Message) -> bool {
    envelope(message).and_then(|envelope| envelope.check_signature(bus.trust())).is_ok()
}

/// The message as evidence: all that its signature needs, and nothing that may differ between two
/// deliveries of it.
fn record_of(message: &Message) -> Option<(u64, Record)> {
    let info = message.info().ok()?;
    let time_ms = u64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
    let kept = |name: &str| name == HEADER_ID || name.starts_with(HEADER_PREFIX);
    let headers = message.headers.iter().flat_map(|map| map.iter());
    let headers = headers.filter(|(name, _)| kept(name.as_ref())).flat_map(|(name, values)| {
        values.iter().map(move |value| (name.to_string(), value.as_str().to_owned()))
    });
    let (seq, subject) = (info.stream_sequence, message.subject.as_str());
    let record = Record::new(seq, time_ms, subject, headers.collect(), message.payload.clone());
    Some((seq, record))
}
