//! What the broker cannot close: workers share one account, and a reply subject is not checked
//! against the asker's rights. So a worker can have an answer delivered into another worker's
//! inbox. The answer is signed and bound to its request, so the receiver does not believe it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use crate::world::{World, worker};
use hotcell_e2e::raw::{Act, Delivered};
use hotcell_nats_config::Login;
use hotcell_schemas::{
    Envelope, PoolId, Role, Subject, Trust, UnixMs, WorkerId, envelope::OpenError, work::NextReply,
};
use nkeys::KeyPair;

const NOW: UnixMs = UnixMs(1);

fn next(pool: &str, worker: &str) -> Subject {
    let (pool, worker): (PoolId, WorkerId) = (pool.parse().unwrap(), worker.parse().unwrap());
    Subject::next(&pool, &worker)
}

/// As `Bus::ask` reads an answer: as one to `subject`, whatever inbox it came on.
fn opened(answer: &Delivered, subject: &Subject, id: &str, trust: &Trust) -> Result<(), OpenError> {
    let received = Envelope::received(subject.as_str(), |name| answer.header(name), &answer.body)?;
    received.open_reply::<NextReply>(id, trust).map(|_| ())
}

#[tokio::test]
async fn zt_04_an_answer_in_a_foreign_inbox_is_not_believed() {
    let world = World::start().await;
    let trust = world.admin.installation().trust().unwrap();
    let signer_key = world.server.creds(&Login::Service(Role::Signer)).unwrap().key;
    let w1_key = world.server.creds(&worker("w1", "cpu")).unwrap().key;
    let mut signer = world.connect(&Login::Service(Role::Signer));
    let mut w1 = world.connect(&worker("w1", "cpu"));
    let mut g1 = world.connect(&worker("g1", "gpu"));
    assert!(signer.subscribe("next.*.*").unwrap());
    assert!(g1.subscribe("_INBOX_g1.>").unwrap());
    let (asked, awaited) = (next("cpu", "w1"), next("gpu", "g1"));
    let order = NextReply::Empty { nonce: "0".repeat(32) };
    let sealed = |subject: &Subject, id: &str, key: &KeyPair| {
        Envelope::seal_reply(subject.clone(), id.to_owned(), NOW, key, &order).unwrap()
    };

    // g1's inbox cannot be written to, but an answer can be sent there.
    assert!(!w1.may(Act::Publish, "_INBOX_g1.known").unwrap());
    let mut delivered = |answer: &Envelope| {
        assert!(w1.publish(asked.as_str(), Some("_INBOX_g1.known"), &[], b"").unwrap());
        let request = signer.next_message().unwrap();
        let back = request.reply.unwrap();
        assert_ne!(back, "_INBOX_g1.known", "the broker replaces reply subjects between accounts");
        assert!(signer.publish(&back, None, &answer.headers(), &answer.body).unwrap());
        let arrived = g1.next_message().unwrap();
        assert_eq!(arrived.subject, "_INBOX_g1.known");
        arrived
    };

    // The honest answer to w1, in g1's inbox, while g1 waits for the answer to "mine".
    let arrived = delivered(&sealed(&asked, "w1-s", &signer_key));
    assert_eq!(opened(&arrived, &asked, "w1-s", &trust), Ok(()), "it is a good answer to w1");
    assert_eq!(opened(&arrived, &awaited, "mine", &trust), Err(OpenError::OtherRequest));
    // w1 guessed g1's request id: the answer is still signed for w1's subject.
    let arrived = delivered(&sealed(&asked, "mine", &signer_key));
    assert_eq!(opened(&arrived, &awaited, "mine", &trust), Err(OpenError::BadSignature));
    // An answer that w1 wrote itself would be signed by a key that no role has.
    let arrived = delivered(&sealed(&awaited, "mine", &w1_key));
    assert_eq!(opened(&arrived, &awaited, "mine", &trust), Err(OpenError::UnknownKey));
    // With nothing forged it opens: the refusals above are of what was forged.
    let arrived = delivered(&sealed(&awaited, "mine", &signer_key));
    assert_eq!(opened(&arrived, &awaited, "mine", &trust), Ok(()));
}
