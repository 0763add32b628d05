//! What all slots of a worker share, and the loop of one slot: ask, check, attempt, again.

use crate::{
    ask::Ask,
    attempt::Attempt,
    cell::Cells,
    config::CellKind,
    order::{self, OrderFault},
    workspace::Workspace,
};
use hotcell_schemas::{
    report::Provenance,
    work::{NextReply, NextRequest},
};
use hotcell_stage::{
    AskError, Shutdown,
    blob::Blobs,
    clock,
    retry::{Delays, Policy},
    service::describe,
};
use std::sync::Arc;
use tracing::{Instrument as _, error, info_span, warn};

/// Everything that an attempt in one slot needs; all but the place of its cells is every slot's.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    pub(crate) ask: Ask,
    pub(crate) cells: Cells,
    pub(crate) blobs: Blobs,
    pub(crate) workspace: Arc<Workspace>,
    pub(crate) provenance: Provenance,
}

/// Why a question brought no attempt and no "nothing now".
#[derive(Debug, thiserror::Error)]
enum IdleError {
    #[error("the signer cannot be asked for work")]
    Ask(#[source] AskError),
    #[error("the signer gives this worker no work: {0}")]
    Refused(String),
    #[error("an order is not obeyed")]
    Order(#[source] OrderFault),
}

impl Worker {
    /// Whether the cells' programs are FFmpeg's, and not a stand-in's.
    pub(crate) fn makes_media(&self) -> bool {
        self.provenance.cell == CellKind::Ffmpeg.to_string()
    }

    /// Works until shutdown.
    pub(crate) async fn slot(&self, shutdown: &Shutdown) {
        let mut delays = Policy::FOREVER.delays();
        while !shutdown.has_begun() {
            match self.once(shutdown).await {
                Ok(()) => delays = Policy::FOREVER.delays(),
                Err(problem) => {
                    warn!(error = describe(&problem), "no work");
                    pause(&mut delays, shutdown).await;
                }
            }
        }
    }

    async fn once(&self, shutdown: &Shutdown) -> Result<(), IdleError> {
        let nonce = hex::encode(clock::random::<16>());
        let question = NextRequest {
            nonce: nonce.clone(),
            image_digest: self.provenance.image_digest,
            root_digest: self.provenance.root_digest,
            ffmpeg: self.provenance.ffmpeg.clone(),
        };
        let (answer, trace) = tokio::select! {
            answer = self.ask.next(&question) => answer.map_err(IdleError::Ask)?,
            () = shutdown.begun() => return Ok(()),
        };
        match answer {
            NextReply::Empty { .. } => Ok(()),
            NextReply::Refused { reason, .. } => Err(IdleError::Refused(reason)),
            NextReply::Order { order } => {
                order::check(&order, &nonce, &self.ask.worker, &self.ask.pool).map_err(
                    |fault| {
                        error!(%fault, job = %order.job, "a signed order is not for this worker");
                        IdleError::Order(fault)
                    },
                )?;
                let span = info_span!("attempt", job = %order.job, attempt = order.attempt);
                trace.adopt(&span);
                Box::pin(Attempt::new(self, &order).run(shutdown)).instrument(span).await;
                Ok(())
            }
        }
    }
}

async fn pause(delays: &mut Delays, shutdown: &Shutdown) {
    match delays.next() {
        Some(delay) => shutdown.sleep(delay).await,
        None => *delays = Policy::FOREVER.delays(),
    }
}
