//! Principals of every strength, and what they leave in the audit log.

use crate::world::{TOTP_KEY, World, tenant, until};
use hotcell_intake::totp;
use hotcell_nats_config::{key_id_of, testing::NOW};
use hotcell_schemas::{
    BlobKey, Digest, FileName, Role, UploadId,
    identity::RoleName,
    plan::{Container, Sniffed},
    records::{KeyRecord, Pinned, UploadRecord},
};
use hotcell_stage::{clock, vault::Vault};
use serde_json::json;

const SECRET: [u8; totp::SECRET_BYTES] = [0x37; totp::SECRET_BYTES];

impl World {
    /// A key of the operator's making, without a second factor.
    pub(crate) async fn key(&self, of: &str, roles: &[RoleName]) -> String {
        let admin = self.server.admin().await.unwrap();
        admin.add_key(&tenant(of), roles, NOW).await.unwrap().text().to_owned()
    }

    /// The same, with a confirmed second factor.
    pub(crate) async fn enrolled(&self, of: &str, roles: &[RoleName]) -> String {
        let key = self.key(of, roles).await;
        let admin = self.server.admin().await.unwrap();
        let vault = Vault::new(&TOTP_KEY);
        let totp = |record: &KeyRecord| {
            let of = (&record.tenant, &record.id);
            totp::enrolled(&vault, &SECRET, of, clock::random(), (clock::now(), true))
        };
        let id = key_id_of(&key).unwrap();
        assert!(admin.complete_key(&id, roles, totp, clock::now()).await.unwrap());
        key
    }

    /// A token of a key, without its second factor.
    pub(crate) async fn token(&self, key: &str) -> String {
        let (status, body) = self.post("/v1/token", key, &json!({})).await;
        assert_eq!(status, 200, "{body}");
        body["result"]["accessToken"].as_str().unwrap().to_owned()
    }

    /// A token of an enrolled key with its second factor; once for each key.
    pub(crate) async fn stepped_up(&self, key: &str) -> String {
        // A step may end between the code and its arrival.
        let answer = until(async || {
            let code = totp::code(&SECRET, totp::step_of(clock::now()));
            let (status, body) = self.post("/v1/token", key, &json!({ "totp": code })).await;
            (status == 200).then_some(body)
        });
        answer.await["result"]["accessToken"].as_str().unwrap().to_owned()
    }

    /// Records of one kind about a tenant so far.
    pub(crate) async fn audited(&self, of: &str, kind: &str) -> u64 {
        self.stored("JOBS", &format!("audit.{of}.{kind}")).await
    }

    /// A confirmed upload, put straight into the records: what is asked here needs no bytes.
    pub(crate) async fn upload(&self, of: &str, name: &str, protected: bool) -> String {
        let tenant = tenant(of);
        let (name, now): (FileName, _) = (name.parse().unwrap(), clock::now());
        let id = UploadId::new(now.0, clock::random());
        let sniffed = Sniffed {
            container: Container::Mp4,
            content_type: "video/mp4".to_owned(),
            width: Some(1280),
            height: Some(720),
            has_video: Some(true),
            has_audio: Some(true),
            duration_ms: Some(1000),
            protected,
        };
        let record = UploadRecord {
            key: BlobKey::upload(&tenant, &id, &name),
            id,
            content_type: "video/mp4".to_owned(),
            size: 1000,
            created_at: now,
            pinned: Some(Pinned {
                sha256: Digest::of(b"x"),
                etag: "\"e\"".to_owned(),
                at: now,
                sniffed: Some(sniffed),
            }),
            name,
        };
        let bucket = self.bus(Role::Intake).await.bucket("uploads");
        bucket.create(&format!("{tenant}.{}", record.name), &record).await.unwrap();
        record.name.to_string()
    }
}
