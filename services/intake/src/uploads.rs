//! Uploads: a presigned PUT for a declared file, then a check of what landed.
//!
//! Promises: nothing is signed before name, type and size were checked; a confirmed upload is the
//! declared size and type, and its SHA-256 and ETag are pinned. Refuses: bytes of media in the API.
//! Both handlers may be repeated: a new URL is a new upload, a confirmed upload stays confirmed.

use crate::{
    app::{App, Call, Reply, store_problem},
    auth::Principal,
    json,
    problem::{Kind, Problem},
    quota,
};
use futures::{StreamExt as _, pin_mut};
use hotcell_schemas::{
    BlobKey, Digest, FileName, RejectCode, Subject, TenantId, UploadId,
    limits::{CLIENT_FILENAME_CHARS_MAX, SERVICE_URL_TTL_SECS, UPLOAD_BYTES_MAX},
    plan::Sniffed,
    records::{AuditAct, Pinned, UploadRecord},
    reject::Failure,
    request::{ConfirmRequest, UploadRequest},
    subject::SignVerb,
    work::{SignRequest, SignedUrl},
};
use hotcell_stage::{
    Outgoing,
    blob::{BlobError, Fetched},
    clock,
    kv::{Entry, KvError},
    service::describe,
};
use hotcell_validator::{Scan, Scanner, accepted_content_type, sniff};
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::timeout;
use tracing::{error, info, warn};

/// Names tried for one upload. Four count up, so that names stay readable; the rest are random, so
/// that a burst of one name within one second does not try them all in turn.
const NAME_TRIES_MAX: u32 = 12;

/// Names that count up before random numbers begin.
const NAMES_COUNTED: u32 = 4;

/// A confirmation waits this long for its turn, in seconds; then the client is told to come again.
const SLOT_SECS: u64 = 20;

/// The key of an upload's record.
#[must_use]
pub fn record_key(tenant: &TenantId, name: &FileName) -> String {
    format!("{tenant}.{name}")
}

/// What must hold before anything is stored or signed.
fn check_upload(request: &UploadRequest) -> Result<(), Problem> {
    let chars = request.filename.chars().count();
    if chars == 0 || chars > CLIENT_FILENAME_CHARS_MAX {
        let rule = format!("must be 1 to {CLIENT_FILENAME_CHARS_MAX} characters");
        return Err(Problem::field(Kind::BadRequest, "filename", rule));
    }
    if !accepted_content_type(&request.content_type) {
        let rule = "must be an accepted video/*, audio/* or image/* type, such as video/mp4";
        return Err(Problem::field(Kind::UnsupportedType, "contentType", rule));
    }
    check_size(request.file_size)
}

fn check_size(size: u64) -> Result<(), Problem> {
    let rule = format!("must be 1 to {UPLOAD_BYTES_MAX} bytes");
    match size {
        0 => Err(Problem::field(Kind::BadRequest, "fileSize", rule)),
        1..=UPLOAD_BYTES_MAX => Ok(()),
        _ => Err(Problem::field(Kind::TooLarge, "fileSize", rule)),
    }
}

/// `POST /v1/upload/presigned-url`.
///
/// # Errors
/// 400, 413, 415 for the request; 503 when the broker or the signer is away.
pub async fn presign(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let request: UploadRequest = json::parse(&call.body)?;
    check_upload(&request)?;
    let tenant = app.auth.tenant(who.tenant()).await;
    let tenant = tenant.map_err(|error| app.refuse("POST /v1/upload/presigned-url", &error))?;
    quota::input(&tenant.quotas, "fileSize", request.file_size)?;
    let record = create(&app, who.tenant(), &request).await?;
    let sign = SignRequest::Upload {
        tenant: who.tenant().clone(),
        key: record.key.clone(),
        size: record.size,
        content_type: record.content_type.clone(),
    };
    let signed = app.sign(Subject::sign(SignVerb::Upload), &sign).await?;
    info!(tenant = %who.tenant(), size_bytes = record.size, "upload url given");
    Ok(Reply::new(200, presigned(&record.name, &signed)))
}

fn presigned(name: &FileName, signed: &SignedUrl) -> serde_json::Value {
    let headers: BTreeMap<&String, &String> =
        signed.headers.iter().map(|(name, value)| (name, value)).collect();
    serde_json::json!({
        "uploadUrl": signed.url.expose(),
        "filename": name,
        "headers": headers,
        "expiresAt": signed.expires_at.rfc3339(),
    })
}

/// Stores the record under the first free name.
async fn create(
    app: &App,
    tenant: &TenantId,
    request: &UploadRequest,
) -> Result<UploadRecord, Problem> {
    let now = clock::now();
    let id = UploadId::new(now.0, clock::random());
    for index in 0..NAME_TRIES_MAX {
        let again = if index < NAMES_COUNTED { index } else { u32::from_be_bytes(clock::random()) };
        let name = FileName::for_upload(&request.filename, now, again);
        let record = UploadRecord {
            key: BlobKey::upload(tenant, &id, &name),
            id: id.clone(),
            content_type: request.content_type.clone(),
            size: request.file_size,
            created_at: now,
            pinned: None,
            name,
        };
        match app.uploads.create(&record_key(tenant, &record.name), &record).await {
            Ok(_) => return Ok(record),
            Err(KvError::Conflict) => {}
            Err(error) => return Err(store_problem(&error)),
        }
    }
    Err(Problem::unavailable("too many uploads of this name at this moment"))
}

/// `POST /v1/upload/confirm`.
///
/// # Errors
/// 400 for the request; 404 when there is no such upload or nothing landed; 409 when the size is
/// another; 422 with a reject code when it is not the declared media; 503.
pub async fn confirm(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let request: ConfirmRequest = json::parse(&call.body)?;
    check_size(request.file_size)?;
    let key = record_key(who.tenant(), &request.filename);
    let entry = app.uploads.get::<UploadRecord>(&key).await.map_err(|e| store_problem(&e))?;
    let entry = entry.ok_or_else(|| Problem::not_found("there is no upload of this name"))?;
    if entry.value.size != request.file_size {
        return Err(size_conflict());
    }
    if let Some(pinned) = &entry.value.pinned {
        return Ok(confirmed(&entry.value, pinned));
    }
    let pinned = read(&app, who.tenant(), &entry.value).await?;
    pin(&app, &who, entry, pinned).await
}

fn size_conflict() -> Problem {
    let rule = "must be the size that was declared and uploaded";
    Problem::field(Kind::Conflict, "fileSize", rule)
}

fn confirmed(record: &UploadRecord, pinned: &Pinned) -> Reply {
    let result = serde_json::json!({
        "filename": record.name,
        "fileSize": record.size,
        "sha256": pinned.sha256,
        "contentType": record.content_type,
    });
    Reply::new(200, result)
}

/// Reads the object once: size, hash and sniff.
async fn read(app: &App, tenant: &TenantId, record: &UploadRecord) -> Result<Pinned, Problem> {
    let slot = timeout(Duration::from_secs(SLOT_SECS), app.confirms.acquire()).await;
    let slot = slot.map_err(|_| Problem::unavailable("too many uploads are being confirmed"))?;
    let slot = slot.expect("the semaphore is never closed");
    let sign = SignRequest::Read { tenant: tenant.clone(), key: record.key.clone(), job: None };
    let signed = app.sign(Subject::sign(SignVerb::Confirm), &sign).await?;
    let fetched = app.blobs.get(&signed).await.map_err(|error| blob_problem(&error))?;
    let life = Duration::from_secs(u64::from(SERVICE_URL_TTL_SECS));
    let pinned = timeout(life, digest(fetched, record)).await;
    drop(slot);
    pinned.map_err(|_| Problem::unavailable("the object store is too slow"))?
}

async fn digest(fetched: Fetched, record: &UploadRecord) -> Result<Pinned, Problem> {
    if fetched.size.is_some_and(|size| size != record.size) {
        return Err(size_conflict());
    }
    let (etag, chunks) = (fetched.etag.clone(), fetched.stream());
    let (mut hash, mut scanner) = (Sha256::new(), Scanner::new());
    pin_mut!(chunks);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|error| blob_problem(&error))?;
        hash.update(&chunk);
        scanner.feed(&chunk);
        if scanner.length() > record.size {
            return Err(size_conflict());
        }
    }
    let sha256 = Digest::from_bytes(hash.finalize().into());
    let (scan, declared) = (scanner.finish(), record.clone());
    // A hostile header can keep the sniffer busy for some 400 ms.
    let judged = tokio::task::spawn_blocking(move || check_media(&scan, &declared)).await;
    let sniffed = judged.map_err(|cause| {
        error!(error = %describe(&cause), "the sniffer ended early");
        Problem::internal()
    })??;
    Ok(Pinned { sha256, etag, at: clock::now(), sniffed: Some(sniffed) })
}

fn check_media(scan: &Scan, record: &UploadRecord) -> Result<Sniffed, Problem> {
    if scan.length() != record.size {
        return Err(size_conflict());
    }
    sniff(scan, &record.content_type).map_err(|failure| {
        let field =
            if failure.code == RejectCode::InputTypeMismatch { "contentType" } else { "filename" };
        Problem::rejected(field, &failure)
    })
}

fn blob_problem(error: &BlobError) -> Problem {
    match error {
        BlobError::Missing => {
            let failure = Failure::new(RejectCode::InputMissing, "nothing was uploaded yet");
            Problem::missing("filename", &failure)
        }
        BlobError::Denied(_)
        | BlobError::Exists
        | BlobError::Refused(_)
        | BlobError::Unreachable(_) => {
            warn!(error = %describe(error), "an upload cannot be read");
            Problem::unavailable("the object store does not answer")
        }
    }
}

/// Records the confirmation in the audit log, then pins it: no record, no action.
async fn pin(
    app: &App,
    who: &Principal,
    entry: Entry<UploadRecord>,
    pinned: Pinned,
) -> Result<Reply, Problem> {
    let record = UploadRecord { pinned: Some(pinned.clone()), ..entry.value };
    let act = AuditAct::Confirmed {
        actor: who.actor().clone(),
        name: record.name.clone(),
        key_digest: record.key.digest(),
        size: record.size,
        sha256: pinned.sha256,
    };
    // With the hash: should the bytes be others the second time, that is another act.
    let id = format!("confirmed.{}.{}", record.id, pinned.sha256);
    app.bus.publish(&Outgoing::audit(Some(who.tenant()), act, id)).await.map_err(|error| {
        warn!(error = %describe(&error), "a confirmation cannot be recorded");
        Problem::unavailable("the message broker does not answer; nothing was confirmed")
    })?;
    match app.uploads.update(&entry.key, &record, entry.revision).await {
        Ok(_) => {
            info!(tenant = %who.tenant(), size_bytes = record.size, "upload confirmed");
            Ok(confirmed(&record, &pinned))
        }
        // A second confirmation of the same upload at the same moment; both read the same bytes.
        Err(KvError::Conflict) => again(app, &entry.key, &pinned).await,
        Err(error) => Err(store_problem(&error)),
    }
}

async fn again(app: &App, key: &str, seen: &Pinned) -> Result<Reply, Problem> {
    let entry = app.uploads.get::<UploadRecord>(key).await.map_err(|e| store_problem(&e))?;
    let record = entry.map(|entry| entry.value);
    let pinned = record.as_ref().and_then(|record| record.pinned.as_ref());
    match (&record, pinned) {
        (Some(record), Some(pinned)) if pinned.sha256 == seen.sha256 => {
            Ok(confirmed(record, pinned))
        }
        _ => Err(Problem::new(Kind::Conflict, "the upload changed while it was confirmed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(filename: &str, content_type: &str, file_size: u64, expect: Option<(u16, &str)>) {
        let request = UploadRequest {
            filename: filename.to_owned(),
            content_type: content_type.to_owned(),
            file_size,
        };
        let problem = check_upload(&request).err();
        let found =
            problem.as_ref().map(|problem| (problem.status(), problem.errors()[0].field.as_str()));
        assert_eq!(found, expect, "{filename:.20} {content_type} {file_size}");
    }

    #[test]
    fn api_15_16_17_name_type_and_size_are_checked_first() {
        check("a.mp4", "video/mp4", 1, None);
        check("a.aac", "audio/aac", UPLOAD_BYTES_MAX, None);
        check("../x\0é.png", "image/png", 7, None);
        check("a", "video/mp4", UPLOAD_BYTES_MAX + 1, Some((413, "fileSize")));
        check("a", "video/mp4", 0, Some((400, "fileSize")));
        check("", "video/mp4", 1, Some((400, "filename")));
        check(&"x".repeat(256), "video/mp4", 1, Some((400, "filename")));
        check(&"é".repeat(255), "video/mp4", 1, None);
        for bad in ["text/html", "application/x-mpegURL", "application/octet-stream"] {
            check("a", bad, 1, Some((415, "contentType")));
        }
        for bad in ["video/../x", "", "video", "video/mp4\r\nx: y"] {
            check("a", bad, 1, Some((415, "contentType")));
        }
    }
}
