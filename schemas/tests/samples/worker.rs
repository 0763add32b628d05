//! The broker's protocol: what workers and services ask of the signer, and its answers.

use super::{See, T0, digest, file, job_id, jobs, tenant, upload_key, worker};
use hotcell_schemas::{
    RejectCode,
    report::CellEnd,
    work::{
        BeatReply, BeatRequest, DoneReply, DoneRequest, InputsReply, LeaseRequest, NextReply,
        NextRequest, OrderInput, PutUrl, SecretUrl, SignReply, SignRequest, SignedUrl, Stop,
        UrlsReply, UrlsRequest, WorkOrder,
    },
};

const NONCE: &str = "00112233445566778899aabbccddeeff";
const LEASE: &str = "bGVhc2U.bWFj";

/// Every verb and every answer.
pub(crate) fn each(eye: &mut impl See) {
    sign(eye);
    next(eye);
    lease(eye);
    urls(eye);
    done(eye);
}

fn sign(eye: &mut impl See) {
    let (tenant, key) = (tenant(), upload_key());
    let upload = SignRequest::Upload {
        tenant: tenant.clone(),
        key: key.clone(),
        size: 1_048_576,
        content_type: "video/mp4".to_owned(),
    };
    eye.see("upload", "sign.upload", &upload);
    let read = SignRequest::Read { tenant, key, job: Some(job_id()) };
    eye.see("read", "sign.input", &read);
    eye.see("signed", "sign.upload", &SignReply::Signed { signed: signed_url("PUT") });
    let over = SignReply::OverQuota { stored_bytes_max: 68_719_476_736 };
    eye.see("over_quota", "sign.upload", &over);
    eye.see("refused", "sign.upload", &SignReply::Refused { reason: "not yours".to_owned() });
    eye.see("later", "sign.output", &SignReply::Later { reason: "not now".to_owned() });
}

fn signed_url(verb: &str) -> SignedUrl {
    SignedUrl {
        url: SecretUrl::new(format!("http://127.0.0.1:9000/hotcell/acme?x-id={verb}")),
        headers: vec![("content-type".to_owned(), "video/mp4".to_owned())],
        expires_at: T0.plus_ms(3_600_000),
    }
}

fn order_input() -> OrderInput {
    OrderInput { get: signed_url("GET"), size: 1_048_576, sha256: digest("input") }
}

fn next(eye: &mut impl See) {
    let request = NextRequest {
        nonce: NONCE.to_owned(),
        image_digest: digest("image"),
        root_digest: digest("root"),
        ffmpeg: "ffmpeg version 5.1.9-0+deb12u1".to_owned(),
    };
    eye.see("any", "next", &request);
    let order = WorkOrder {
        nonce: NONCE.to_owned(),
        worker: worker(),
        pool: "cpu".parse().unwrap(),
        job: job_id(),
        attempt: 1,
        plan: jobs::plan(),
        probe_limits: jobs::limits(),
        inputs: vec![order_input()],
        lease: LEASE.to_owned(),
        lease_until: T0.plus_ms(20_000),
    };
    eye.see("order", "next", &NextReply::Order { order: Box::new(order) });
    eye.see("empty", "next", &NextReply::Empty { nonce: NONCE.to_owned() });
    let reason = "the image is not allowed".to_owned();
    eye.see("refused", "next", &NextReply::Refused { nonce: NONCE.to_owned(), reason });
}

fn lease(eye: &mut impl See) {
    eye.see("any", "lease.inputs", &LeaseRequest { lease: LEASE.to_owned() });
    let inputs = InputsReply::Inputs { inputs: vec![order_input()] };
    eye.see("inputs", "lease.inputs", &inputs);
    eye.see("refused", "lease.inputs", &InputsReply::Refused { reason: Stop::BadLease });
    for (case, progress_permille) in [("known", Some(500)), ("unknown", None)] {
        let beat = BeatRequest { lease: LEASE.to_owned(), progress_permille };
        eye.see(case, "lease.beat", &beat);
    }
    let go_on = BeatReply::GoOn { lease: LEASE.to_owned(), lease_until: T0.plus_ms(20_000) };
    eye.see("go_on", "lease.beat", &go_on);
    eye.see("stop", "lease.beat", &BeatReply::Stop { reason: Stop::Cancelled });
}

fn urls(eye: &mut impl See) {
    let files = vec![jobs::produced()];
    let stderr = Some((812, digest("stderr")));
    eye.see("any", "lease.urls", &UrlsRequest { lease: LEASE.to_owned(), files, stderr });
    let put = PutUrl { name: file("out.mp4"), put: signed_url("PUT") };
    let urls = |files, stderr, elsewhere| UrlsReply::Urls { files, stderr, elsewhere };
    eye.see("elsewhere", "lease.urls", &urls(vec![put.clone()], None, true));
    let reply = urls(vec![put], Some(signed_url("PUT")), false);
    eye.see("urls", "lease.urls", &reply);
    eye.see("refused", "lease.urls", &UrlsReply::Refused { reason: Stop::NotPlanned });
}

fn done(eye: &mut impl See) {
    let reports = [
        ("good", jobs::report()),
        ("crashed", jobs::failed_report(CellEnd::Signaled(11), RejectCode::CellCrashed)),
        ("wall_clock", jobs::failed_report(CellEnd::WallClock, RejectCode::ResourceWall)),
        ("stopped", jobs::failed_report(CellEnd::Stopped, RejectCode::WorkerStopped)),
        ("violation", jobs::failed_report(CellEnd::Signaled(31), RejectCode::CellViolation)),
        ("output_limit", jobs::failed_report(CellEnd::OutputLimit, RejectCode::ResourceOutput)),
        ("stalled", jobs::failed_report(CellEnd::Stalled, RejectCode::Stalled)),
        ("memory", jobs::failed_report(CellEnd::Memory, RejectCode::ResourceMemory)),
        ("pids", jobs::failed_report(CellEnd::Pids, RejectCode::ResourcePids)),
        ("refused", jobs::failed_report(CellEnd::Refused, RejectCode::CellUnavailable)),
    ];
    for (case, report) in reports {
        let done = DoneRequest { lease: LEASE.to_owned(), job: job_id(), attempt: 1, report };
        eye.see(case, "lease.done", &done);
    }
    eye.see("accepted", "lease.done", &DoneReply::Accepted);
    eye.see("refused", "lease.done", &DoneReply::Refused { reason: Stop::LeaseLost });
}
