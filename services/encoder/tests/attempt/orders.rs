//! Orders and inputs that are not what they should be.

use crate::site::{LIMITS, Site};
use bytes::Bytes;
use hotcell_encoder::config::Config;
use hotcell_nats_config::Login;
use hotcell_schemas::{
    Digest, RejectCode, Role, plan::CellLimits, report::CellEnd, work::WorkOrder,
};
use hotcell_stage::{ServiceError, Shutdown};

/// The code of the report on `input`, after `spoil` changed the store or the queue.
async fn code_of(spoil: impl Fn(&mut crate::site::Seen), change: fn(&mut WorkOrder)) -> RejectCode {
    let (site, _programs) = Site::with_stub(0).await;
    site.order(b"honest bytes", change);
    spoil(&mut site.seen.lock().unwrap());
    let report = site.work(site.report()).await.report;
    assert!(report.files.is_empty());
    assert_eq!(site.left_behind(), [] as [&std::path::Path; 0]);
    report.failure.unwrap().code
}

#[tokio::test(flavor = "multi_thread")]
async fn zt_05_a_changed_input_is_not_opened() {
    let swap = |seen: &mut crate::site::Seen| {
        seen.objects.insert("in".to_owned(), Bytes::from_static(b"other bytes!"));
    };
    assert_eq!(code_of(swap, |_| {}).await, RejectCode::InputChanged);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_input_is_said_to_be_missing() {
    let remove = |seen: &mut crate::site::Seen| {
        seen.objects.clear();
    };
    assert_eq!(code_of(remove, |_| {}).await, RejectCode::InputMissing);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_fills_its_limit_is_not_taken() {
    // The stand-in writes 1024 bytes.
    let small = |order: &mut WorkOrder| order.plan.limits.output_bytes = 512;
    assert_eq!(code_of(|_| {}, small).await, RejectCode::ResourceOutput);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encode_that_takes_too_long_is_ended() {
    let (site, _programs) = Site::with_stub(50_003).await;
    site.order(b"honest bytes", |order| order.plan.limits.wall_secs = 1);
    let report = site.work(site.report()).await.report;
    assert_eq!(report.failure.unwrap().code, RejectCode::ResourceWall);
    assert_eq!(report.encode.unwrap().end, CellEnd::WallClock);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_without_cells_is_refused_before_anything_connects() {
    let (site, _programs) = Site::with_stub(0).await;
    for launcher in ["/nonexistent/hotcell-jail", "/usr/bin/true"] {
        let config = Config { launcher: launcher.into(), ..site.config.clone() };
        let ended = hotcell_encoder::run(config, Shutdown::new()).await;
        assert!(matches!(ended, Err(ServiceError::Refused(_))), "{launcher}: {ended:?}");
    }
    assert!(site.seen.lock().unwrap().nexts.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn iam_06_orders_that_are_not_ours_are_not_obeyed() {
    let (site, _programs) = Site::with_stub(0).await;
    let spoilt: [fn(&mut WorkOrder); 5] = [
        |order| order.nonce = "0".repeat(32),
        |order| order.worker = "w2".parse().unwrap(),
        |order| order.pool = "gpu".parse().unwrap(),
        |order| order.plan.argv.insert(0, "-dump_attachment".to_owned()),
        |order| order.plan.limits = CellLimits { output_bytes: u64::MAX, ..LIMITS },
    ];
    for change in spoilt {
        site.order(b"honest bytes", change);
    }
    site.work(async {
        site.until("all questions", |seen| (seen.nexts.len() > spoilt.len()).then_some(())).await;
        {
            let seen = site.seen.lock().unwrap();
            assert_eq!((seen.gets, seen.done.len()), (0, 0), "nothing was done about them");
        }
        // The same order unspoilt is obeyed, so it was the change that was refused.
        site.order(b"honest bytes", |_| {});
        assert_eq!(site.report().await.report.failure, None);
    })
    .await;
    let seen = site.seen.lock().unwrap();
    let [file] = seen.done[0].report.files.as_slice() else { panic!("one file") };
    assert_eq!(file.sha256, Digest::of(&seen.objects["out.mp4"]));
}

/// A perfect order in the very answer that the worker waits for, signed by every login but a
/// signer's: services, the provisioner, a worker, a program of a tenant, and a key of nobody. The
/// same signed by the signer is obeyed.
#[tokio::test(flavor = "multi_thread")]
async fn iam_06_no_other_login_s_signature_makes_a_worker_run_anything() {
    let (site, _programs) = Site::with_stub(0).await;
    let others = Role::PIPELINE.into_iter().filter(|role| *role != Role::Signer);
    let logins = others.map(Login::Service).chain([
        Login::Sys,
        Login::Worker { name: "w1".parse().unwrap(), pools: vec!["cpu".parse().unwrap()] },
    ]);
    let mut thieves: Vec<_> = logins.map(|login| site.server.creds(&login).unwrap().key).collect();
    thieves.push(nkeys::KeyPair::new_user());
    let signer = site.seen.lock().unwrap().signs.clone();
    site.work(async {
        for key in thieves {
            let before = {
                let mut seen = site.seen.lock().unwrap();
                seen.signs = Some(std::sync::Arc::new(key));
                seen.nexts.len()
            };
            site.order(b"honest bytes", |_| {});
            // With the next question the answer to this one was thrown away.
            site.until("questions", |seen| {
                (seen.orders.is_empty() && seen.nexts.len() > before + 1).then_some(())
            })
            .await;
            let seen = site.seen.lock().unwrap();
            assert_eq!((seen.gets, seen.beats.len(), seen.done.len()), (0, 0, 0), "it was obeyed");
        }
        site.seen.lock().unwrap().signs = signer;
        site.order(b"honest bytes", |_| {});
        assert_eq!(site.report().await.report.failure, None);
    })
    .await;
}
