//! One attempt from its order to its report.
//!
//! Promises: every byte of the job is in one folder that is gone afterwards; a beat goes out all
//! along; when told to stop the cell dies at once and nothing more is said, except at shutdown,
//! when the job is given back so that another worker gets it at once. Refuses to report a file that
//! it did not hash, and to go on under a lapsed lease.

mod send;

use crate::{
    ask::Lease,
    cell::Ran,
    draft::Draft,
    ending::{self, Program},
    fetch::{FetchError, fetch},
    probe::ProbeError,
    store,
    worker::Worker,
    workspace::JobDir,
};
use hotcell_jail::cell::CellError;
use hotcell_schemas::{
    RejectCode,
    argv::output_container,
    plan::{CellLimits, Container, OutputPlan},
    reject::Failure,
    report::Probe,
    verify,
    work::{DoneReply, DoneRequest, InputsReply, LeaseRequest, OrderInput, Stop, WorkOrder},
};
use hotcell_stage::{
    AskError, Shutdown,
    blob::BlobError,
    clock,
    retry::{Policy, retry},
    service::describe,
};
use std::{future::Future, path::Path, time::Duration};
use tracing::{debug, error, info, warn};

/// Tries of one download: a store that restarts is back within half a minute.
const GET: Policy = Policy { delay_ms_min: 200, delay_ms_max: 2000, elapsed_ms_max: 30_000 };

/// A question under a lease is asked again until the lease lapses, which its beat finds out first.
const UNDER_LEASE: Policy =
    Policy { delay_ms_min: 100, delay_ms_max: 2000, elapsed_ms_max: 3_600_000 };

/// At shutdown, giving the job back may take this long, in seconds: half of the time that the
/// process has.
const GIVE_BACK_SECS: u64 = 8;

/// Why the steps ended early.
#[derive(Debug)]
enum Halt {
    /// The attempt failed, and the report says why.
    Failed(Failure),
    /// Told to stop.
    Stopped,
}

impl Halt {
    fn failed(code: RejectCode, message: impl AsRef<str>) -> Self {
        Self::Failed(Failure::new(code, message))
    }
}

/// What a prober looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Input,
    Output,
}

/// One attempt.
#[derive(Debug)]
pub(crate) struct Attempt<'a> {
    worker: &'a Worker,
    order: &'a WorkOrder,
    lease: Lease,
    stop: Shutdown,
}

/// Why an attempt's steps were stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    Told(Stop),
    Shutdown,
}

impl<'a> Attempt<'a> {
    /// An attempt at an order that was checked.
    pub(crate) fn new(worker: &'a Worker, order: &'a WorkOrder) -> Self {
        let lease = Lease::new(order.lease.clone());
        Self { worker, order, lease, stop: Shutdown::new() }
    }

    /// Runs it to its end.
    pub(crate) async fn run(&self, shutdown: &Shutdown) {
        info!("attempt begins");
        let mut draft = Draft::new(self.worker.provenance.clone());
        let mut steps = Box::pin(self.to_the_end(&mut draft));
        let why = tokio::select! {
            () = &mut steps => None,
            reason = self.worker.ask.beat_until_stopped(&self.lease) => Some(Why::Told(reason)),
            () = shutdown.begun() => Some(Why::Shutdown),
        };
        if why.is_some() {
            // The cell dies at once; the steps return when it is gone.
            self.stop.begin();
            steps.await;
        } else {
            drop(steps);
        }
        match why {
            _ if draft.reported => {}
            Some(Why::Shutdown) => self.give_back(&mut draft).await,
            Some(Why::Told(reason)) => info!(?reason, "attempt stopped"),
            None => warn!("attempt ended without a report"),
        }
    }

    async fn give_back(&self, draft: &mut Draft) {
        draft.failure = None;
        draft.stderr = None;
        draft.fail(Failure::new(RejectCode::WorkerStopped, "the worker was told to stop"));
        draft.steps.done = Some(clock::now());
        let time = Duration::from_secs(GIVE_BACK_SECS);
        match tokio::time::timeout(time, self.done(draft)).await {
            Ok(_) => info!("the job is given back"),
            Err(_) => warn!("the job is not given back; its lease will lapse"),
        }
    }

    async fn to_the_end(&self, draft: &mut Draft) {
        let dir = self.worker.workspace.fresh(&self.order.job, self.order.attempt);
        let made = match &dir {
            Ok(dir) => self.make(dir, draft).await,
            Err(error) => {
                error!(%error, "no folder for the attempt");
                Err(Halt::failed(RejectCode::CellUnavailable, "the worker has no room for the job"))
            }
        };
        if self.settle(draft, made).is_none() {
            return;
        }
        let stored = match &dir {
            Ok(dir) => self.store(dir, draft).await,
            Err(_) => Ok(()),
        };
        if self.settle(draft, stored).is_none() {
            return;
        }
        // Before the report: whoever hears of the end finds no byte of the job here.
        drop(dir);
        draft.steps.done = Some(clock::now());
        draft.reported = self.until_stopped(self.done(draft)).await.unwrap_or(false);
    }

    /// Takes a failure into the draft; `None` when there is nothing more to say.
    fn settle(&self, draft: &mut Draft, step: Result<(), Halt>) -> Option<()> {
        match step {
            _ if self.stop.has_begun() => None,
            Ok(()) => Some(()),
            Err(Halt::Failed(failure)) => {
                draft.fail(failure);
                Some(())
            }
            Err(Halt::Stopped) => None,
        }
    }

    async fn make(&self, dir: &JobDir, draft: &mut Draft) -> Result<(), Halt> {
        let plan = &self.order.plan;
        draft.steps.fetch = Some(clock::now());
        self.until_stopped(self.fetch_all(dir)).await??;

        draft.steps.probe = Some(clock::now());
        let probed = self.probe(&dir.input(0), plan.input, draft, Subject::Input).await?;
        let input = probed.map_err(|error| Halt::failed(error.code(), error.to_string()))?;
        draft.input = Some(input.clone());

        draft.steps.encode = Some(clock::now());
        self.encode(dir, draft, input.duration_ms).await?;
        for output in &plan.outputs {
            self.take(dir, output, &input, draft).await?;
        }
        Ok(())
    }

    /// Probes a file in a cell of its own.
    async fn probe(
        &self,
        file: &Path,
        container: Container,
        draft: &mut Draft,
        subject: Subject,
    ) -> Result<Result<Probe, ProbeError>, Halt> {
        let limits = &self.order.probe_limits;
        let probed = self.worker.cells.probe(file, container, limits, &self.stop).await;
        let (ran, answer) = probed.map_err(|error| unavailable(&error))?;
        let ended = self.ended_well(Program::Prober, &ran, limits);
        let used = Some(ran.usage.clone());
        match subject {
            Subject::Input => draft.probe = used,
            Subject::Output => draft.verify = used,
        }
        // The encode's words stay, unless it is the prober that has something to say.
        if subject == Subject::Input || ended.is_err() {
            draft.note(&ran);
        }
        ended.map(|()| answer)
    }

    async fn encode(
        &self,
        dir: &JobDir,
        draft: &mut Draft,
        duration_ms: Option<u64>,
    ) -> Result<(), Halt> {
        let plan = &self.order.plan;
        let (source, out, note) = (dir.input(0), dir.out(), |permille| self.lease.note(permille));
        let paths = (source.as_path(), out.as_path());
        let ran = self.worker.cells.encode(plan, paths, duration_ms, &self.stop, note).await;
        let ran = ran.map_err(|error| unavailable(&error))?;
        draft.note(&ran);
        draft.encode = Some(ran.usage.clone());
        self.ended_well(Program::Transcoder, &ran, &plan.limits)
    }

    /// Takes one output out of the folder that a hostile program wrote, and holds it to the plan.
    async fn take(
        &self,
        dir: &JobDir,
        output: &OutputPlan,
        input: &Probe,
        draft: &mut Draft,
    ) -> Result<(), Halt> {
        let (plan, out) = (&self.order.plan, dir.out());
        let taken = store::take(&out, output, plan.limits.output_bytes);
        let file = self.until_stopped(taken).await?.map_err(|error| {
            debug!(error = describe(&error), "output not taken");
            let text = format!("{} is missing, empty or not a regular file", output.name);
            Halt::failed(RejectCode::OutputMissing, text)
        })?;
        let path = out.join(output.name.as_str());
        let invalid =
            |why: String| Halt::failed(RejectCode::OutputInvalid, format!("{} {why}", output.name));
        let probed = self.probe(&path, output_container(output.format), draft, Subject::Output);
        let found = match probed.await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return Err(invalid(format!("cannot be taken: {error}"))),
            // The prober ran well enough to say that this is no media file.
            Err(Halt::Failed(failure)) if failure.code == RejectCode::ProbeFailed => {
                return Err(invalid(format!("cannot be read: {}", failure.message)));
            }
            Err(halt) => return Err(halt),
        };
        draft.output = Some(found.clone());
        // A stand-in for FFmpeg writes no media.
        if self.worker.makes_media() {
            let expected = verify::expected(plan, output, input);
            verify::compare(&expected, &found)
                .map_err(|difference| invalid(difference.to_string()))?;
        }
        draft.files.push(file);
        Ok(())
    }

    fn ended_well(&self, program: Program, ran: &Ran, limits: &CellLimits) -> Result<(), Halt> {
        if self.stop.has_begun() {
            return Err(Halt::Stopped);
        }
        match ending::failure(program, &ran.usage, limits) {
            None => Ok(()),
            Some(failure) => Err(Halt::Failed(failure)),
        }
    }

    async fn fetch_all(&self, dir: &JobDir) -> Result<(), Halt> {
        for (number, input) in self.order.inputs.iter().enumerate() {
            let path = dir.input(number);
            let get = |from: OrderInput| {
                let path = path.clone();
                async move {
                    let once = || fetch(&self.worker.blobs, &from.get, input, &path);
                    retry(GET, FetchError::is_transient, once).await
                }
            };
            let mut fetched = get(input.clone()).await;
            if matches!(fetched, Err(FetchError::Store(BlobError::Denied(_)))) {
                // The URL died while the order waited for its slot in the network.
                fetched = get(self.fresh_input(number).await?).await;
            }
            fetched.map_err(|error| not_fetched(&error))?;
        }
        Ok(())
    }

    async fn fresh_input(&self, number: usize) -> Result<OrderInput, Halt> {
        let once =
            || async { self.worker.ask.inputs(&LeaseRequest { lease: self.lease.token() }).await };
        let denied =
            || Halt::failed(RejectCode::DownloadFailed, "the store refuses the input's URL");
        match retry(UNDER_LEASE, AskError::is_transient, once).await {
            Ok(InputsReply::Inputs { mut inputs }) if number < inputs.len() => {
                Ok(inputs.swap_remove(number))
            }
            Ok(InputsReply::Inputs { .. }) | Err(_) => Err(denied()),
            Ok(InputsReply::Refused { reason }) => Err(refused(reason).unwrap_or_else(denied)),
        }
    }

    /// Reports; whether the signer answered.
    async fn done(&self, draft: &Draft) -> bool {
        let body = || DoneRequest {
            lease: self.lease.token(),
            job: self.order.job.clone(),
            attempt: self.order.attempt,
            report: draft.report(),
        };
        let once = || async { self.worker.ask.done(&body()).await };
        let code = draft.failure.as_ref().map(|failure| failure.code);
        match retry(UNDER_LEASE, AskError::is_transient, once).await {
            Ok(DoneReply::Accepted) => info!(failure = ?code, "attempt reported"),
            Ok(DoneReply::Refused { reason }) => warn!(?reason, "report refused"),
            Err(error) => {
                error!(%error, "report not made");
                return false;
            }
        }
        true
    }

    /// The future's value, or [`Halt::Stopped`] as soon as the attempt is told to stop.
    async fn until_stopped<T>(&self, work: impl Future<Output = T>) -> Result<T, Halt> {
        tokio::select! {
            value = work => Ok(value),
            () = self.stop.begun() => Err(Halt::Stopped),
        }
    }
}

/// A refusal that ends the attempt; `None` for one that only concerns what was asked.
fn refused(reason: Stop) -> Option<Halt> {
    match reason {
        Stop::Cancelled | Stop::LeaseLost | Stop::BadLease => Some(Halt::Stopped),
        Stop::NotPlanned => None,
    }
}

fn unavailable(error: &CellError) -> Halt {
    error!(error = describe(error), "a cell cannot be run");
    Halt::failed(
        RejectCode::CellUnavailable,
        "the cell could not be run; the worker's log says why",
    )
}

fn not_fetched(error: &FetchError) -> Halt {
    let code = match error {
        FetchError::Store(BlobError::Missing) => RejectCode::InputMissing,
        FetchError::Changed => RejectCode::InputChanged,
        FetchError::Store(_) | FetchError::Disk(_) => RejectCode::DownloadFailed,
    };
    warn!(error = describe(error), %code, "input not fetched");
    Halt::failed(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(halt: Halt) -> Option<RejectCode> {
        match halt {
            Halt::Failed(failure) => Some(failure.code),
            Halt::Stopped => None,
        }
    }

    #[test]
    fn every_fetch_error_has_its_code() {
        let check = |error: FetchError, expect| assert_eq!(code(not_fetched(&error)), Some(expect));
        check(FetchError::Store(BlobError::Missing), RejectCode::InputMissing);
        check(FetchError::Changed, RejectCode::InputChanged);
        check(FetchError::Store(BlobError::Denied(403)), RejectCode::DownloadFailed);
        check(FetchError::Store(BlobError::Unreachable(None)), RejectCode::DownloadFailed);
        check(FetchError::Disk(std::io::ErrorKind::StorageFull.into()), RejectCode::DownloadFailed);
    }

    #[test]
    fn a_lost_lease_says_nothing_more() {
        for reason in [Stop::Cancelled, Stop::LeaseLost, Stop::BadLease] {
            assert!(matches!(refused(reason), Some(Halt::Stopped)), "{reason:?}");
        }
        assert!(refused(Stop::NotPlanned).is_none());
    }
}
