//! A worker that says what it is told to say.

use crate::{
    job::{image, made},
    rig::DEADLINE,
};
use async_nats::client::RequestErrorKind;
use hotcell_schemas::{
    Digest, Envelope, PoolId, Report, Subject, UnixMs, WorkerId,
    envelope::Message,
    report::ProducedFile,
    subject::LeaseVerb,
    work::{
        BeatReply, BeatRequest, DoneReply, DoneRequest, InputsReply, LeaseRequest, NextReply,
        NextRequest, UrlsReply, UrlsRequest, WorkOrder,
    },
};
use hotcell_stage::{AskError, Bus, clock};
use nkeys::KeyPair;
use std::time::Duration;
use tokio::time::Instant;

/// Longer than the signer's long poll, by what a busy machine may stand still.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub(crate) struct Worker {
    pub(crate) bus: Bus,
    pub(crate) name: WorkerId,
    pool: PoolId,
}

pub(crate) fn nonce() -> String {
    let bytes = clock::random::<16>();
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn request() -> NextRequest {
    NextRequest {
        nonce: nonce(),
        image_digest: image(),
        root_digest: Digest::of(b"root"),
        ffmpeg: "ffmpeg version 5".to_owned(),
    }
}

/// Asks until somebody serves: a signer may still be starting.
pub(crate) async fn ask<Q: Message, A: Message>(bus: &Bus, subject: Subject, body: &Q) -> A {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match bus.ask(subject.clone(), body, PATIENCE).await {
            Ok(answer) => return answer.into_inner(),
            Err(AskError::NoResponders) if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => panic!("{subject}: {error}"),
        }
    }
}

/// Silence after which a question has no answer.
pub(crate) const SILENCE: Duration = Duration::from_secs(2);

/// Sends a request with the id, time and signature that it is told to; the answer as it came, or why
/// there was none within `wait`.
pub(crate) async fn ask_raw<Q: Message>(
    bus: &Bus,
    subject: &Subject,
    (id, time, key): (&str, UnixMs, &KeyPair),
    body: &Q,
    wait: Duration,
) -> Result<async_nats::Message, RequestErrorKind> {
    let sealed = Envelope::seal(subject.clone(), id.to_owned(), time, key, body).unwrap();
    let mut headers = async_nats::HeaderMap::new();
    for (name, value) in sealed.headers() {
        headers.insert(name, value.as_str());
    }
    let request = async_nats::Request::new().headers(headers).payload(sealed.body.into());
    let request = request.timeout(Some(wait));
    let sent = bus.client().send_request(subject.to_string(), request).await;
    sent.map_err(|error| error.kind())
}

impl Worker {
    pub(crate) fn new(bus: Bus, name: &str, pool: &str) -> Self {
        Self { bus, name: name.parse().unwrap(), pool: pool.parse().unwrap() }
    }

    pub(crate) async fn next(&self, request: &NextRequest) -> NextReply {
        ask(&self.bus, Subject::next(&self.pool, &self.name), request).await
    }

    /// The next order; asks again when there is none yet.
    pub(crate) async fn order(&self) -> WorkOrder {
        let deadline = Instant::now() + DEADLINE;
        loop {
            match self.next(&request()).await {
                NextReply::Order { order } => return *order,
                NextReply::Empty { .. } if Instant::now() < deadline => {}
                other => panic!("no order but {other:?}"),
            }
        }
    }

    fn lease(&self, verb: LeaseVerb) -> Subject {
        Subject::lease(&self.name, verb)
    }

    pub(crate) async fn inputs(&self, lease: &str) -> InputsReply {
        let request = LeaseRequest { lease: lease.to_owned() };
        ask(&self.bus, self.lease(LeaseVerb::Inputs), &request).await
    }

    pub(crate) async fn beat(&self, lease: &str) -> BeatReply {
        let request = BeatRequest { lease: lease.to_owned(), progress_permille: Some(1) };
        ask(&self.bus, self.lease(LeaseVerb::Beat), &request).await
    }

    pub(crate) async fn urls(
        &self,
        lease: &str,
        files: Vec<ProducedFile>,
        stderr: Option<(u64, Digest)>,
    ) -> UrlsReply {
        let request = UrlsRequest { lease: lease.to_owned(), files, stderr };
        ask(&self.bus, self.lease(LeaseVerb::Urls), &request).await
    }

    /// URLs for the planned file.
    pub(crate) async fn planned_urls(&self, lease: &str) -> UrlsReply {
        self.urls(lease, vec![made()], None).await
    }

    pub(crate) async fn done(&self, order: &WorkOrder, report: Report) -> DoneReply {
        let request = DoneRequest {
            lease: order.lease.clone(),
            job: order.job.clone(),
            attempt: order.attempt,
            report,
        };
        ask(&self.bus, self.lease(LeaseVerb::Done), &request).await
    }
}
