//! The receiver of webhooks: verifies each by an independent library, and hands its arrival to who
//! waits for the job. Refuses (401) what does not verify. Repeated deliveries are counted.

use anyhow::{Context as _, Result, bail};
use axum::{
    Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    routing::post,
};
use http::{HeaderMap, StatusCode};
use serde_json::Value;
use standardwebhooks::Webhook;
use std::{
    collections::{HashMap, hash_map::Entry},
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, sync::oneshot, task::JoinSet, time::timeout};

/// A delivery is a few KiB.
const BODY_BYTES_MAX: usize = 256 << 10;

/// The end of a job, as a webhook told it.
#[derive(Debug, Clone)]
pub(crate) struct Arrival {
    /// When the request was there.
    pub(crate) at: Instant,
    /// `job.completed` or another.
    pub(crate) event: String,
}

#[derive(Debug)]
enum Slot {
    Awaited(oneshot::Sender<Arrival>),
    Arrived(Arrival),
    Taken,
}

#[derive(Default)]
struct Board {
    secrets: Vec<Webhook>,
    slots: HashMap<String, Slot>,
    repeated: u64,
    refused: u64,
}

type Shared = Arc<Mutex<Board>>;

/// The listener; ends on drop.
pub(crate) struct Sink {
    address: SocketAddr,
    board: Shared,
    _task: JoinSet<()>,
}

fn lock(board: &Shared) -> MutexGuard<'_, Board> {
    board.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sink {
    pub(crate) async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let board = Shared::default();
        let router = Router::new()
            .route("/hook/{number}", post(receive))
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .with_state(board.clone());
        let mut task = JoinSet::new();
        task.spawn(async move {
            // It ends only with its task.
            drop(axum::serve(listener, router).await);
        });
        Ok(Self { address, board, _task: task })
    }

    /// URL of the endpoint that is made next.
    pub(crate) fn next_url(&self) -> String {
        format!("http://{}/hook/{}", self.address, lock(&self.board).secrets.len())
    }

    /// The secret of the endpoint that was made.
    pub(crate) fn trust(&self, secret: &str) -> Result<()> {
        lock(&self.board).secrets.push(Webhook::new(secret).context("the webhook's secret")?);
        Ok(())
    }

    /// Waits for the end of `job`, at most so long.
    pub(crate) async fn wait(&self, job: &str, most: Duration) -> Result<Arrival> {
        let arrival = {
            let mut board = lock(&self.board);
            match board.slots.entry(job.to_owned()) {
                Entry::Vacant(place) => {
                    let (sender, receiver) = oneshot::channel();
                    place.insert(Slot::Awaited(sender));
                    receiver
                }
                Entry::Occupied(mut place) => match place.insert(Slot::Taken) {
                    Slot::Arrived(arrival) => return Ok(arrival),
                    Slot::Awaited(_) | Slot::Taken => bail!("job {job} is awaited twice"),
                },
            }
        };
        let came = timeout(most, arrival).await;
        came.with_context(|| format!("no webhook of job {job} within {most:?}"))?
            .context("the listener has ended")
    }

    /// Deliveries that came again, and that did not verify.
    pub(crate) fn odd(&self) -> (u64, u64) {
        let board = lock(&self.board);
        (board.repeated, board.refused)
    }
}

async fn receive(
    State(board): State<Shared>,
    Path(number): Path<usize>,
    headers: HeaderMap,
    body: Bytes,
) -> StatusCode {
    let at = Instant::now();
    let mut board = lock(&board);
    let verified = board.secrets.get(number).is_some_and(|key| key.verify(&body, &headers).is_ok());
    let told = serde_json::from_slice::<Value>(&body).ok().filter(|_| verified);
    let Some((job, event)) = told.as_ref().and_then(job_and_event) else {
        board.refused += 1;
        return StatusCode::UNAUTHORIZED;
    };
    let arrival = Arrival { at, event };
    match board.slots.entry(job) {
        Entry::Vacant(place) => {
            place.insert(Slot::Arrived(arrival));
        }
        Entry::Occupied(mut place) => match place.insert(Slot::Taken) {
            // Nobody listens any more when the wait was given up.
            Slot::Awaited(sender) => drop(sender.send(arrival)),
            earlier @ (Slot::Arrived(_) | Slot::Taken) => {
                place.insert(earlier);
                board.repeated += 1;
            }
        },
    }
    StatusCode::NO_CONTENT
}

fn job_and_event(body: &Value) -> Option<(String, String)> {
    let data = body.get("data")?;
    let id = ["job_id", "jobId", "id"].iter().find_map(|name| data.get(*name))?;
    Some((id.as_str()?.to_owned(), body.get("type")?.as_str()?.to_owned()))
}
