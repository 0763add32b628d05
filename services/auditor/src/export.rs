//! Answers intake: a tenant's own entries of the log, by pages.
//!
//! Promises: a page reads at most [`GROUPS_MAX`] groups and [`PAGE_MS_MAX`], and says where to go
//! on; [`PAGES_AT_ONCE`] are made at once. Its lines are under the checkpoint that it carries.
//! Refuses: to answer with a part of the log that does not verify.

use std::time::Duration;

use hotcell_schemas::Trust;
use hotcell_schemas::evidence::{
    EVIDENCE_BYTES_MAX, EVIDENCE_LIMIT_MAX, EvidenceReply, EvidenceRequest,
};
use hotcell_schemas::routes;
use hotcell_stage::{Bus, Incoming, ServiceError, Shutdown, service::describe};
use tokio::time::Instant;
use tracing::{error, warn};

use crate::evidence::{EvidenceError, Filter, GROUP, Reader};
use crate::note::VerifierKey;
use crate::store::LogStore;

/// Pages made at once. Each may hold the largest bundle of records, 12 MiB, and the log itself must
/// go on being written.
const PAGES_AT_ONCE: usize = 2;
/// Groups that one page reads: 16,384 leaves.
const GROUPS_MAX: u64 = 64;
/// A page ends after this long, in milliseconds: who asks waits for three seconds.
const PAGE_MS_MAX: u64 = 1500;

/// What the pages are made from.
#[derive(Debug, Clone)]
pub struct Exports {
    /// The log's objects.
    pub store: LogStore,
    /// Keys whose checkpoints are believed.
    pub keys: Vec<VerifierKey>,
}

impl Exports {
    /// Answers until shutdown.
    ///
    /// # Errors
    /// [`ServiceError`] when the broker refuses the subscription.
    pub async fn run(self, bus: &Bus, shutdown: &Shutdown) -> Result<(), ServiceError> {
        let row = routes::route("evidence.export").expect("the table has the row of exports");
        let (trust, shutdown) = (bus.trust().clone(), shutdown.clone());
        let handle = move |incoming: Incoming| {
            let (exports, trust) = (self.clone(), trust.clone());
            async move { exports.answer(&incoming, &trust).await }
        };
        let served = bus.serve(&row.filter(), "auditors", PAGES_AT_ONCE, shutdown, handle).await;
        served.map_err(|error| ServiceError::Unreachable(error.to_string()))
    }

    async fn answer(&self, incoming: &Incoming, trust: &Trust) {
        let request = match incoming.open::<EvidenceRequest>() {
            Ok(request) => request.into_inner(),
            Err(error) => return warn!(%error, "a request for evidence is not believed"),
        };
        let reply = self.page(&request, trust).await.unwrap_or_else(|cause| {
            error!(error = %describe(&cause), "evidence cannot be shown");
            EvidenceReply::Unreadable {}
        });
        incoming.answer(&reply).await;
    }

    /// One page.
    ///
    /// # Errors
    /// [`EvidenceError`].
    pub async fn page(
        &self,
        request: &EvidenceRequest,
        trust: &Trust,
    ) -> Result<EvidenceReply, EvidenceError> {
        let published = self.store.checkpoint(&self.keys).await.map_err(EvidenceError::Store)?;
        let Some((head, note)) = published else {
            return Ok(EvidenceReply::Page { rows: Vec::new(), next: None, checkpoint: None });
        };
        let filter = Filter {
            tenant: Some(request.tenant.clone()),
            from: request.from,
            to: request.to,
            actor: request.actor.clone(),
        };
        let end = Instant::now() + Duration::from_millis(PAGE_MS_MAX);
        let mut reader = Reader::new(&self.store, trust, &head);
        let mut first = match (request.cursor, request.from) {
            (Some(index), _) => index,
            (None, Some(from)) => reader.seek(from).await? * GROUP,
            (None, None) => 0,
        };
        let limit = usize::try_from(request.limit.clamp(1, EVIDENCE_LIMIT_MAX)).unwrap_or(1);
        let (mut rows, mut bytes) = (Vec::new(), 0);
        let page = |rows, next| EvidenceReply::Page { rows, next, checkpoint: Some(note.clone()) };
        for _ in 0..GROUPS_MAX {
            if first >= head.size {
                return Ok(page(rows, None));
            }
            let group = first / GROUP;
            let found = reader.found(group, first, &filter).await?;
            for row in found.rows {
                // JSON is the longer of the two forms that a line has.
                bytes += row.json().to_string().len();
                if rows.len() == limit || (bytes > EVIDENCE_BYTES_MAX && !rows.is_empty()) {
                    let next = Some(row.index);
                    return Ok(page(rows, next));
                }
                rows.push(row);
            }
            if found.is_last {
                return Ok(page(rows, None));
            }
            first = (group + 1) * GROUP;
            if Instant::now() >= end {
                break;
            }
        }
        let next = (first < head.size).then_some(first);
        Ok(page(rows, next))
    }
}
