//! What the tests of presets ask for, and read back.

use crate::world::{DEADLINE, World, answer, tenant};
use hotcell_schemas::{
    Job, Role, TenantId,
    identity::RoleName,
    preset::{PresetIndex, PresetRecord},
    records::{AuditAct, AuditRecord},
};
use hotcell_stage::{
    Shutdown,
    feed::{Feed, envelope},
};
use reqwest::Method;
use serde_json::{Value, json};

pub(crate) const PATH: &str = "/v1/presets";

pub(crate) fn simple(resolution: &str) -> Value {
    json!({ "outputFormat": "mp4", "preset": { "quality": "low", "resolution": resolution } })
}

pub(crate) fn own_arguments(crf: &str) -> Value {
    json!({ "outputs": [{ "format": "mp4",
        "ffmpegArgs": ["-i", "{in0}", "-c:v", "libx264", "-an", "-crf", crf, "{out0}"] }] })
}

pub(crate) fn by_name(filename: &str, preset: &str) -> Value {
    json!({ "inputs": [{ "url": format!("upload:{filename}") }], "presetName": preset })
}

pub(crate) fn kind(problem: &Value) -> &str {
    problem["type"].as_str().unwrap().rsplit(':').next().unwrap()
}

/// The field that a refusal names first, and its rule.
pub(crate) fn fault(problem: &Value) -> (&str, &str) {
    let text = |name: &str| problem["errors"][0][name].as_str().unwrap_or_default();
    (text("field"), text("rule"))
}

impl World {
    pub(crate) async fn strong(&self, of: &str) -> String {
        self.strong_as(of, RoleName::TenantAdmin).await
    }

    pub(crate) async fn strong_as(&self, of: &str, role: RoleName) -> String {
        let key = self.enrolled(of, &[role]).await;
        self.stepped_up(&key).await
    }

    pub(crate) async fn put(&self, key: &str, name: &str, body: &Value) -> (u16, Value) {
        let path = format!("{PATH}/{name}");
        answer(self.send(Method::PUT, &path, Some(key), Some(&body.to_string())).await).await
    }

    pub(crate) async fn remove(&self, key: &str, name: &str) -> (u16, Value) {
        let path = format!("{PATH}/{name}");
        answer(self.send(Method::DELETE, &path, Some(key), None).await).await
    }

    pub(crate) async fn names(&self, key: &str) -> Vec<String> {
        let (status, list) = self.get(PATH, key).await;
        assert_eq!(status, 200, "{list}");
        let list = list["result"]["presets"].as_array().unwrap().clone();
        list.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    }

    pub(crate) async fn submit(
        &self,
        key: &str,
        body: &Value,
        headers: &[(&str, &str)],
    ) -> (u16, Value) {
        let mut request = self.request(Method::POST, "/v1/transcodes").bearer_auth(key);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        answer(request.body(body.to_string()).send().await.unwrap()).await
    }

    pub(crate) async fn job(&self, of: &TenantId, made: &Value) -> Job {
        let id = made["result"]["id"].as_str().unwrap().parse().unwrap();
        let bus = self.bus(Role::Intake).await;
        bus.job(of, &id).await.unwrap().unwrap().message.into_inner()
    }

    pub(crate) async fn record(&self, of: &str, name: &str) -> Option<PresetRecord> {
        let key = PresetRecord::key(&tenant(of), &name.parse().unwrap());
        let bucket = self.bus(Role::Intake).await.bucket("presets");
        bucket.get::<PresetRecord>(&key).await.unwrap().map(|entry| entry.value)
    }

    pub(crate) async fn index(&self, of: &str) -> PresetIndex {
        let bucket = self.bus(Role::Intake).await.bucket("presets");
        let entry = bucket.get::<PresetIndex>(PresetIndex::key(&tenant(of))).await.unwrap();
        entry.map(|entry| entry.value).unwrap_or_default()
    }

    /// What was recorded of so many changes, in order.
    pub(crate) async fn changes(&self, count: usize) -> Vec<(String, String)> {
        let bus = self.bus(Role::Auditor).await;
        let (mut feed, end) = (Feed::new(&bus, "auditor", 64), Shutdown::new());
        let mut found = Vec::new();
        while found.len() < count {
            let message = tokio::time::timeout(DEADLINE, feed.next(&end)).await;
            let message = message.expect("the record is in the stream").unwrap().unwrap();
            let Ok(opened) = envelope(&message).unwrap().open::<AuditRecord>(bus.trust()) else {
                continue;
            };
            if let AuditAct::Changed { what, target, .. } = opened.into_inner().act {
                found.push((what, target));
            }
        }
        found
    }
}

pub(crate) fn said(what: &str, target: &str) -> (String, String) {
    (what.to_owned(), target.to_owned())
}
