//! Whether a work order is one to obey. Pure.
//!
//! Promises: an order that passes was made for this worker, for this very question, and its
//! command line is the one that its typed plan compiles to. That a signer signed it was checked
//! before (IAM-06: every node refuses by itself). The plan's types hold no option, filter, format or
//! number that is not on their lists; the limits here are this program's own, whoever signs.

use hotcell_schemas::{
    PoolId, WorkerId, argv,
    limits::{ATTEMPTS_MAX, INPUTS_MAX, OUTPUT_BYTES_MAX, OUTPUTS_MAX, UPLOAD_BYTES_MAX},
    plan::CellLimits,
    work::WorkOrder,
};

/// The most that an order may ask of a cell: what the largest picture needs. A signer that was taken
/// over cannot ask for more.
const CEILING: CellLimits = CellLimits {
    memory_bytes: 12 << 30,
    cpu_secs: 14_400,
    wall_secs: 3600,
    output_bytes: OUTPUT_BYTES_MAX,
    temp_bytes: 64 << 20,
    procs: 64,
    stall_secs: 300,
    files: 64,
};

/// Why an order is not obeyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OrderFault {
    /// It answers another question: replayed, or meant for another slot.
    #[error("the order answers another request")]
    Nonce,
    /// It names another worker.
    #[error("the order is another worker's")]
    Worker,
    /// It names another pool.
    #[error("the order is of another pool")]
    Pool,
    /// An attempt that no job can have.
    #[error("the order's attempt is not 1 to {ATTEMPTS_MAX}")]
    Attempt,
    /// More or fewer inputs than a cell is given, or larger ones than can have been uploaded.
    #[error("the order's inputs are not of an accepted number and size")]
    Inputs,
    /// More outputs than a job may have.
    #[error("the order's outputs are not of an accepted number")]
    Outputs,
    /// The command line is not the plan's.
    #[error("the order's command line is not what its plan compiles to")]
    Argv,
    /// A limit is zero, or above what any job may have.
    #[error("the order's limits are outside their bounds")]
    Limits,
}

/// Checks an order that answers the request with `nonce`.
pub(crate) fn check(
    order: &WorkOrder,
    nonce: &str,
    worker: &WorkerId,
    pool: &PoolId,
) -> Result<(), OrderFault> {
    let must = |good: bool, fault| if good { Ok(()) } else { Err(fault) };
    must(order.nonce == nonce, OrderFault::Nonce)?;
    must(order.worker == *worker, OrderFault::Worker)?;
    must(order.pool == *pool, OrderFault::Pool)?;
    must((1..=ATTEMPTS_MAX).contains(&order.attempt), OrderFault::Attempt)?;
    let sized = |size: u64| (1..=UPLOAD_BYTES_MAX).contains(&size);
    let inputs = &order.inputs;
    let good = inputs.len() == INPUTS_MAX && inputs.iter().all(|input| sized(input.size));
    must(good, OrderFault::Inputs)?;
    must(order.plan.outputs.len() <= OUTPUTS_MAX, OrderFault::Outputs)?;
    must(argv::agrees(&order.plan), OrderFault::Argv)?;
    let encode = bounded(&order.plan.limits) && order.plan.limits.output_bytes > 0;
    must(encode && bounded(&order.probe_limits), OrderFault::Limits)
}

fn bounded(limits: &CellLimits) -> bool {
    (1..=CEILING.memory_bytes).contains(&limits.memory_bytes)
        && (1..=CEILING.cpu_secs).contains(&limits.cpu_secs)
        && (1..=CEILING.wall_secs).contains(&limits.wall_secs)
        && (1..=CEILING.procs).contains(&limits.procs)
        && limits.output_bytes <= CEILING.output_bytes
        && limits.temp_bytes <= CEILING.temp_bytes
        && limits.stall_secs <= CEILING.stall_secs
        && limits.files <= CEILING.files
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use hotcell_schemas::{
        Digest, JobId, Plan, UnixMs,
        plan::{AudioPlan, Container, Effort, OutputPlan, Rate, Scale, VideoPlan},
        request::{AudioCodec, Format, VideoCodec},
        work::{OrderInput, SecretUrl, SignedUrl},
    };

    /// A plan with small limits: 160 lines of H.264 from an MP4.
    fn plan() -> Plan {
        let video = VideoPlan {
            codec: VideoCodec::H264,
            rate: Rate::Crf(30),
            effort: Effort::Fast,
            scale: Scale::Height(160),
        };
        let output = OutputPlan {
            name: "out.mp4".parse().unwrap(),
            format: Format::Mp4,
            content_type: "video/mp4".to_owned(),
            video: Some(video),
            audio: Some(AudioPlan { codec: AudioCodec::Aac, bitrate: 64_000 }),
            raw: None,
        };
        let (argv, filters) = argv::argv(Container::Mp4, &output);
        let limits = CellLimits {
            memory_bytes: 2 << 30,
            cpu_secs: 60,
            wall_secs: 60,
            output_bytes: 64 << 20,
            temp_bytes: 1 << 20,
            procs: 64,
            stall_secs: 30,
            files: 8,
        };
        Plan { input: Container::Mp4, outputs: vec![output], argv, filters, limits }
    }

    fn order() -> WorkOrder {
        let get = SignedUrl {
            url: SecretUrl::new("http://127.0.0.1:1/x".to_owned()),
            headers: Vec::new(),
            expires_at: UnixMs(0),
        };
        let plan = plan();
        WorkOrder {
            nonce: "n".to_owned(),
            worker: "w1".parse().unwrap(),
            pool: "cpu".parse().unwrap(),
            job: JobId::new(1, [2; 10]),
            attempt: 1,
            probe_limits: CellLimits { output_bytes: 0, ..plan.limits },
            plan,
            inputs: vec![OrderInput { get, size: 9, sha256: Digest::of(b"x") }],
            lease: "t".to_owned(),
            lease_until: UnixMs(0),
        }
    }

    #[test]
    fn iam_06_a_foreign_or_changed_order_is_refused() {
        let check = |change: &dyn Fn(&mut WorkOrder), expect| {
            let mut order = order();
            change(&mut order);
            let (worker, pool) = ("w1".parse().unwrap(), "cpu".parse().unwrap());
            assert_eq!(check(&order, "n", &worker, &pool), expect);
        };
        check(&|_| {}, Ok(()));
        check(&|order| order.nonce = "m".to_owned(), Err(OrderFault::Nonce));
        check(&|order| order.worker = "w2".parse().unwrap(), Err(OrderFault::Worker));
        check(&|order| order.pool = "gpu".parse().unwrap(), Err(OrderFault::Pool));
        check(&|order| order.attempt = 0, Err(OrderFault::Attempt));
        check(&|order| order.attempt = ATTEMPTS_MAX + 1, Err(OrderFault::Attempt));
        check(&|order| order.inputs.clear(), Err(OrderFault::Inputs));
        check(&|order| order.inputs.push(order.inputs[0].clone()), Err(OrderFault::Inputs));
        check(&|order| order.inputs[0].size = 0, Err(OrderFault::Inputs));
        check(&|order| order.inputs[0].size = UPLOAD_BYTES_MAX + 1, Err(OrderFault::Inputs));
        let evil = |order: &mut WorkOrder| order.plan.argv.extend(["-f".into(), "tee".into()]);
        check(&evil, Err(OrderFault::Argv));
        check(&|order| order.plan.filters.push("movie".into()), Err(OrderFault::Argv));
        check(&|order| order.plan.input = Container::Flv, Err(OrderFault::Argv));
        check(&|order| order.plan.outputs.clear(), Err(OrderFault::Argv));
        check(&|order| order.plan.limits.wall_secs = 0, Err(OrderFault::Limits));
        check(&|order| order.plan.limits.output_bytes = 0, Err(OrderFault::Limits));
        check(&|order| order.plan.limits.output_bytes = u64::MAX, Err(OrderFault::Limits));
        check(&|order| order.probe_limits.memory_bytes = 0, Err(OrderFault::Limits));
        let twice = |order: &mut WorkOrder| {
            order.plan.outputs.push(order.plan.outputs[0].clone());
        };
        check(&twice, Err(OrderFault::Outputs));
        for more in [
            |limits: &mut CellLimits| limits.memory_bytes = CEILING.memory_bytes + 1,
            |limits: &mut CellLimits| limits.cpu_secs = CEILING.cpu_secs + 1,
            |limits: &mut CellLimits| limits.wall_secs = CEILING.wall_secs + 1,
            |limits: &mut CellLimits| limits.procs = CEILING.procs + 1,
            |limits: &mut CellLimits| limits.temp_bytes = CEILING.temp_bytes + 1,
            |limits: &mut CellLimits| limits.stall_secs = CEILING.stall_secs + 1,
            |limits: &mut CellLimits| limits.files = CEILING.files + 1,
        ] {
            check(&|order| more(&mut order.plan.limits), Err(OrderFault::Limits));
            check(&|order| more(&mut order.probe_limits), Err(OrderFault::Limits));
        }
        // All that the validator gives is under the ceiling.
        check(&|order| order.plan.limits = CEILING, Ok(()));
    }
}
