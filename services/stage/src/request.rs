//! Requests between services: signed both ways. An answer is bound to its request's id, so it can
//! not be replayed for another.

use crate::{
    bus::Bus,
    clock,
    publish::{envelope_of, headers_of},
    service::Shutdown,
    telemetry::{self, TraceParent},
};
use async_nats::{HeaderMap, HeaderName, HeaderValue, client::RequestErrorKind};
use futures::StreamExt as _;
use hotcell_schemas::{
    Role, Subject, Trust, Verified,
    envelope::{Envelope, Message, OpenError, SealError},
    limits::REQUEST_AGE_MS_MAX,
};
use serde::Deserialize;
use std::{future::Future, sync::Arc, time::Duration};
use tokio::{sync::Semaphore, task::JoinSet};
use tracing::{Instrument as _, debug, warn};

/// Header in which the broker states who is behind a request from another account. The broker
/// replaces what a client puts there, but only on subjects that come through an import.
const REQUEST_INFO: &str = "Nats-Request-Info";

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// Nobody serves it: the other service is not running.
    #[error("no service answers this request")]
    NoResponders,
    /// No answer in time.
    #[error("no answer in time")]
    TimedOut,
    /// The connection failed.
    #[error("the broker connection failed")]
    Broker(#[source] async_nats::client::RequestError),
    /// The answer does not verify.
    #[error("the answer does not verify")]
    NotBelieved(#[source] OpenError),
    /// The request cannot be signed.
    #[error("the request cannot be sealed")]
    Seal(#[source] SealError),
}

impl AskError {
    /// Whether asking again can help.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::NoResponders | Self::TimedOut | Self::Broker(_))
    }
}

/// A header that may be sent once was sent more often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the header was sent more than once")]
pub struct Repeated;

/// Who is behind a request from another account, as the broker states it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct RequestInfo {
    /// The account's public key.
    pub acc: String,
    /// The login's public nkey.
    #[serde(default)]
    pub user: String,
    /// The name in the login's token.
    #[serde(default)]
    pub name_tag: String,
    /// The tags in the login's token.
    #[serde(default)]
    pub tags: Vec<String>,
}

/// A request as it arrived; nothing about it is proven.
#[derive(Debug)]
pub struct Incoming {
    bus: Bus,
    message: async_nats::Message,
}

impl Bus {
    /// Sends `body` to `subject`, waits up to `timeout` for the answer, and checks it.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask<Q: Message, A: Message>(
        &self,
        subject: Subject,
        body: &Q,
        timeout: Duration,
    ) -> Result<Verified<A>, AskError> {
        Ok(self.ask_traced(subject, body, timeout).await?.0)
    }

    /// As [`Self::ask`], with the trace that the answer belongs to: for a worker, which asks before
    /// it knows for whose job.
    ///
    /// # Errors
    /// [`AskError`].
    pub async fn ask_traced<Q: Message, A: Message>(
        &self,
        subject: Subject,
        body: &Q,
        timeout: Duration,
    ) -> Result<(Verified<A>, TraceParent), AskError> {
        let id = hex::encode(clock::random::<16>());
        let sealed = Envelope::seal(subject.clone(), id.clone(), clock::now(), &self.key, body)
            .map_err(AskError::Seal)?;
        let request = async_nats::Request::new()
            .headers(headers_of(&sealed))
            .payload(sealed.body.into())
            .timeout(Some(timeout));
        let sent = self.client.send_request(subject.to_string(), request).await;
        let answer = sent.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => AskError::NoResponders,
            RequestErrorKind::TimedOut => AskError::TimedOut,
            RequestErrorKind::InvalidSubject
            | RequestErrorKind::MaxPayloadExceeded
            | RequestErrorKind::Other => AskError::Broker(error),
        })?;
        // The answer is signed for the request's subject; it arrives on a private inbox.
        let sealed = envelope_of(subject.as_str(), answer.headers.as_ref(), &answer.payload)
            .map_err(AskError::NotBelieved)?;
        let opened = sealed.open_reply(&id, &self.trust).map_err(AskError::NotBelieved)?;
        Ok((opened, TraceParent::of(answer.headers.as_ref())))
    }

    /// Serves `filter` in queue group `queue` until shutdown: at most `concurrency` requests at
    /// once, the rest wait in the client's bounded buffer. Requests without a reply subject are
    /// dropped: nobody could hear the answer.
    ///
    /// # Errors
    /// When the subscription is refused.
    pub async fn serve<F, Fut>(
        &self,
        filter: &str,
        queue: &str,
        concurrency: usize,
        shutdown: Shutdown,
        handle: F,
    ) -> Result<(), async_nats::SubscribeError>
    where
        F: Fn(Incoming) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let mut requests = self.client.queue_subscribe(filter.to_owned(), queue.to_owned()).await?;
        let (slots, handle) = (Arc::new(Semaphore::new(concurrency)), Arc::new(handle));
        let mut running = JoinSet::new();
        loop {
            let message = tokio::select! {
                message = requests.next() => message,
                () = shutdown.begun() => None,
            };
            let Some(message) = message else { break };
            while running.try_join_next().is_some() {}
            if message.reply.is_none() {
                debug!(subject = %message.subject, "request without reply subject dropped");
                continue;
            }
            let slot = Arc::clone(&slots).acquire_owned().await;
            let span = tracing::info_span!("request", subject = %message.subject);
            telemetry::follow(&span, message.headers.as_ref());
            let (bus, handle) = (self.clone(), Arc::clone(&handle));
            running.spawn(
                async move {
                    handle(Incoming { bus, message }).await;
                    drop(slot);
                }
                .instrument(span),
            );
        }
        if let Err(error) = requests.unsubscribe().await {
            debug!(%error, "unsubscribe failed");
        }
        while running.join_next().await.is_some() {}
        Ok(())
    }
}

impl Incoming {
    /// The subject that it arrived on.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.message.subject
    }

    /// The raw body: what a tenant's program sent.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.message.payload
    }

    /// What its sender wrote under the header `name`, in any case as over HTTP: `None` without it.
    /// What the broker states is in [`Self::info`].
    ///
    /// # Errors
    /// [`Repeated`] when it is there more than once.
    pub fn header(&self, name: &str) -> Result<Option<&str>, Repeated> {
        let headers = self.message.headers.iter().flat_map(HeaderMap::iter);
        let is = |key: &HeaderName| AsRef::<str>::as_ref(key).eq_ignore_ascii_case(name);
        let mut values = headers.filter(|(key, _)| is(key)).flat_map(|(_, values)| values);
        match (values.next(), values.next()) {
            (value, None) => Ok(value.map(HeaderValue::as_str)),
            (_, Some(_)) => Err(Repeated),
        }
    }

    /// Who is behind it, for requests that came through an import.
    #[must_use]
    pub fn info(&self) -> Option<RequestInfo> {
        let text = self.message.headers.as_ref()?.get(REQUEST_INFO)?.as_str();
        serde_json::from_str(text).ok()
    }

    /// The envelope, form checked only.
    ///
    /// # Errors
    /// As [`Envelope::received`].
    pub fn envelope(&self) -> Result<Envelope, OpenError> {
        envelope_of(&self.message.subject, self.message.headers.as_ref(), &self.message.payload)
    }

    /// The body, when the envelope verifies against the roles' keys and is fresh.
    ///
    /// # Errors
    /// [`OpenError`]; `Header` of the time when the request is too old.
    pub fn open<T: Message>(&self) -> Result<Verified<T>, OpenError> {
        fresh(self.envelope()?.open(&self.bus.trust)?)
    }

    /// The body, when the envelope verifies against `key`, which the broker stated for `role`.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_as<T: Message>(&self, role: Role, key: &str) -> Result<Verified<T>, OpenError> {
        let trust = Trust::only(role, key).map_err(|_| OpenError::UnknownKey)?;
        fresh(self.envelope()?.open(&trust)?)
    }

    /// Signs and sends the answer.
    pub async fn answer<T: Message>(&self, body: &T) {
        let (Some(reply), Ok(request)) = (self.message.reply.clone(), self.envelope()) else {
            return;
        };
        let sealed = Envelope::seal_reply(
            request.subject,
            request.msg_id,
            clock::now(),
            &self.bus.key,
            body,
        );
        match sealed {
            Ok(sealed) => self.send(reply, headers_of(&sealed), sealed.body).await,
            Err(error) => warn!(%error, "answer not sealed"),
        }
    }

    /// Sends a plain answer: JSON to a tenant's program, which has no trust list. `fields` are
    /// constant names with values of printable ASCII; any other is left out.
    pub async fn answer_json(&self, status: u16, fields: &[(&'static str, String)], body: Vec<u8>) {
        let Some(reply) = self.message.reply.clone() else { return };
        let mut headers = HeaderMap::new();
        headers.insert("Hotcell-Status", status.to_string().as_str());
        for (name, value) in fields {
            if value.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
                headers.insert(*name, value.as_str());
            }
        }
        self.send(reply, headers, body).await;
    }

    async fn send(&self, reply: async_nats::Subject, headers: HeaderMap, body: Vec<u8>) {
        #[expect(clippy::disallowed_methods, reason = "an answer: the asker repeats if it is lost")]
        let sent = self.bus.client.publish_with_headers(reply, headers, body.into()).await;
        if let Err(error) = sent {
            warn!(%error, "answer not sent");
        }
    }
}

fn fresh<T>(message: Verified<T>) -> Result<Verified<T>, OpenError> {
    let now = clock::now();
    let age = now.since_ms(message.time()).max(message.time().since_ms(now));
    if age > REQUEST_AGE_MS_MAX {
        return Err(OpenError::Header(hotcell_schemas::envelope::HEADER_TIME));
    }
    Ok(message)
}
