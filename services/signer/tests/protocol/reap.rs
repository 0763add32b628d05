//! What is removed, when, and what the log says of it (API-26, API-32 in first form).

use crate::{
    rig::{Rig, eventually},
    worker::ask,
};
use futures::stream;
use hotcell_nats_config::TenantSpec;
use hotcell_schemas::{
    BlobKey, Digest, FileName, Subject, TenantId, UploadId,
    records::{AuditAct, Pinned, UploadRecord},
    subject::SignVerb,
    work::{SignReply, SignRequest, SignedUrl},
};
use hotcell_stage::{
    blob::{BlobError, Blobs},
    clock,
};

const BODY: &[u8] = b"not media, but stored";

async fn url(rig: &Rig, verb: SignVerb, request: &SignRequest) -> SignedUrl {
    match ask(&rig.intake, Subject::sign(verb), request).await {
        SignReply::Signed { signed } => signed,
        other => panic!("{other:?}"),
    }
}

/// Stores an object of `tenant` by a presigned PUT.
async fn put(rig: &Rig, tenant: &TenantId, name: &FileName) -> BlobKey {
    let key = BlobKey::upload(tenant, &UploadId::new(1, clock::random()), name);
    let size = u64::try_from(BODY.len()).unwrap();
    let request = SignRequest::Upload {
        tenant: tenant.clone(),
        key: key.clone(),
        size,
        content_type: "video/mp4".to_owned(),
    };
    let signed = url(rig, SignVerb::Upload, &request).await;
    let body = stream::iter([Ok(bytes::Bytes::from_static(BODY))]);
    Blobs::new().put(&signed, size, body).await.unwrap();
    key
}

async fn is_there(rig: &Rig, tenant: &TenantId, key: &BlobKey) -> bool {
    let request = SignRequest::Read { tenant: tenant.clone(), key: key.clone(), job: None };
    let signed = url(rig, SignVerb::Confirm, &request).await;
    match Blobs::new().get(&signed).await {
        Ok(_) => true,
        Err(BlobError::Missing) => false,
        Err(error) => panic!("{error}"),
    }
}

async fn confirm(rig: &Rig, tenant: &TenantId, name: &FileName, key: &BlobKey) {
    let record = UploadRecord {
        id: UploadId::new(1, [1; 10]),
        name: name.clone(),
        key: key.clone(),
        content_type: "video/mp4".to_owned(),
        size: 21,
        created_at: clock::now(),
        pinned: Some(Pinned {
            sha256: Digest::of(BODY),
            etag: String::new(),
            at: clock::now(),
            sniffed: None,
        }),
    };
    rig.intake.bucket("uploads").create(&format!("{tenant}.{name}"), &record).await.unwrap();
}

/// What the log says was removed, and why.
async fn reaped(rig: &Rig) -> Vec<(Digest, String)> {
    let acts = rig.audit().await.into_iter();
    acts.filter_map(|act| match act {
        AuditAct::Reaped { keys, why } => Some((keys, why)),
        _ => None,
    })
    .flat_map(|(keys, why)| keys.into_iter().map(move |key| (key, why.clone())))
    .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_26_unconfirmed_and_expired_bytes_are_removed_and_recorded() {
    let mut rig = Rig::without_signer().await;
    rig.tenant("acme", 16).await;
    let brief = TenantSpec {
        retention_secs: 1,
        ..TenantSpec::new("bolt".parse().unwrap(), vec!["cpu".parse().unwrap()])
    };
    rig.admin.add_tenant(&brief, &"app".parse().unwrap(), clock::now()).await.unwrap();
    // What is to be confirmed is, long before.
    rig.signer_with("reap_secs = 1\nunconfirmed_secs = 8\n");
    let (acme, bolt): (TenantId, TenantId) = ("acme".parse().unwrap(), "bolt".parse().unwrap());
    let (kept, lost): (FileName, FileName) =
        ("kept.mp4".parse().unwrap(), "lost.mp4".parse().unwrap());

    let confirmed = put(&rig, &acme, &kept).await;
    confirm(&rig, &acme, &kept, &confirmed).await;
    let forgotten = put(&rig, &acme, &lost).await;
    let old = put(&rig, &bolt, &kept).await;
    confirm(&rig, &bolt, &kept, &old).await;

    let log = eventually(|| async {
        let log = reaped(&rig).await;
        (log.len() >= 2).then_some(log)
    })
    .await;
    assert!(log.contains(&(forgotten.digest(), "unconfirmed".to_owned())), "{log:?}");
    assert!(log.contains(&(old.digest(), "retention".to_owned())), "{log:?}");
    for (tenant, key) in [(&acme, &forgotten), (&bolt, &old)] {
        eventually(|| async { (!is_there(&rig, tenant, key).await).then_some(()) }).await;
    }
    assert!(is_there(&rig, &acme, &confirmed).await, "a confirmed upload was removed");
    assert!(!reaped(&rig).await.iter().any(|(key, _)| *key == confirmed.digest()));
}

/// Whether any file below `folder` holds the stored bytes. What goes while it looks is gone.
fn holds(folder: &std::path::Path) -> bool {
    std::fs::read_dir(folder).into_iter().flatten().flatten().any(|entry| {
        let path = entry.path();
        if path.is_dir() {
            return holds(&path);
        }
        std::fs::read(&path).unwrap_or_default().windows(BODY.len()).any(|part| part == BODY)
    })
}

// Issue 4, item 1: a removed tenant's bytes are gone from the disk, and the log says which; what
// it stores later by a URL of before is erased, too. Another tenant's bytes stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_tenant_s_bytes_are_erased_and_recorded() {
    let mut rig = Rig::without_signer().await;
    rig.tenant("acme", 16).await;
    rig.tenant("bolt", 16).await;
    rig.signer_with("reap_secs = 1\n");
    let (acme, bolt): (TenantId, TenantId) = ("acme".parse().unwrap(), "bolt".parse().unwrap());
    let name: FileName = "kept.mp4".parse().unwrap();
    let gone = put(&rig, &acme, &name).await;
    confirm(&rig, &acme, &name, &gone).await;
    let stays = put(&rig, &bolt, &name).await;
    confirm(&rig, &bolt, &name, &stays).await;
    let late = BlobKey::upload(&acme, &UploadId::new(1, clock::random()), &name);
    let size = u64::try_from(BODY.len()).unwrap();
    let request = SignRequest::Upload {
        tenant: acme.clone(),
        key: late.clone(),
        size,
        content_type: "video/mp4".to_owned(),
    };
    let given = url(&rig, SignVerb::Upload, &request).await;

    rig.admin.remove_tenant(&acme, clock::now()).await.unwrap();
    let why = |key: &BlobKey| (key.digest(), "tenant_removed".to_owned());
    let erased = async |key: &BlobKey| {
        eventually(|| async { reaped(&rig).await.contains(&why(key)).then_some(()) }).await;
        eventually(|| async { (!is_there(&rig, &acme, key).await).then_some(()) }).await;
    };
    erased(&gone).await;
    let body = stream::iter([Ok(bytes::Bytes::from_static(BODY))]);
    Blobs::new().put(&given, size, body).await.unwrap();
    erased(&late).await;

    assert!(holds(&rig.stored()), "another tenant's bytes are gone");
    assert!(is_there(&rig, &bolt, &stays).await);
    rig.admin.remove_tenant(&bolt, clock::now()).await.unwrap();
    eventually(|| async { (!holds(&rig.stored())).then_some(()) }).await;
}
