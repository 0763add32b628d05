//! `hotcell policy` as a person runs it: offline, and against a real broker.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use hotcell_nats_config::{
    InitOptions, Login, Replicas, TenantSpec,
    testing::{NOW, TestServer},
};
use hotcell_policy::PolicyStore;
use hotcell_schemas::{
    Role,
    records::{AuditAct, AuditRecord},
};
use hotcell_stage::{
    Bus, NatsConfig,
    feed::{Feed, envelope},
    service::Shutdown,
};
use serde_json::{Value, json};
use std::{fs, os::unix::fs::symlink, process::Command, time::Duration};
use tempfile::TempDir;

/// Exit code, what was printed, and the last sentence.
fn hotcell(arguments: &[&str]) -> (i32, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_hotcell")).args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (out.status.code().unwrap(), text(out.stdout), text(out.stderr))
}

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn job(&self, output: &Value) -> String {
        let whole = json!({"inputs": [{"url": "upload:a.mp4"}], "outputs": [output]});
        self.file("job.json", &whole.to_string())
    }
}

const NO_H265: &str = "@id(\"no-h265\")
@allows(\"h264 and vp9\")
forbid (principal, action == Hotcell::Action::\"SubmitTranscode\", resource)
when { context.output.video_codec == \"h265\" };
";

#[test]
fn iam_17_a_file_is_checked_offline_with_lines_and_rules() {
    let files = Files::new();
    let (code, out, _) = hotcell(&["policy", "check", &files.file("good", NO_H265)]);
    assert_eq!((code, out.as_str()), (0, "valid: 1 policy\n"));
    let bad = files.file("bad", &NO_H265.replace("codec", "codek"));
    let (code, out, err) = hotcell(&["policy", "check", &bad]);
    assert_eq!(code, 1);
    assert!(out.starts_with(&format!("{bad}: line 4: policy no-h265: ")), "{out}");
    assert!(out.contains("video_codek"), "{out}");
    assert!(err.contains("is not valid: 1 fault"), "{err}");
    let (code, out, _) = hotcell(&["policy", "check", &bad, "--json"]);
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &told["valid"], &told["faults"][0]["line"]), (1, &json!(false), &json!(4)));
    let guard = files.file("guard", &NO_H265.replace("no-h265", "same-tenant"));
    assert_eq!(hotcell(&["policy", "check", &guard]).0, 0, "a tenant's has a name of its own");
    let (code, out, _) = hotcell(&["policy", "check", &guard, "--platform"]);
    assert!(code == 1 && out.contains("no policy replaces this one"), "{out}");
    assert_eq!(hotcell(&["policy", "check", "/dev/zero"]).0, 2, "not read for ever");
}

/// STEP-04: what a preset's name stands for is not known offline, so nothing is said about it.
#[test]
fn step_04_explain_does_not_pass_a_preset_that_it_cannot_know() {
    let files = Files::new();
    let settled = json!({"outputFormat": "mp4",
        "preset": {"quality": "low", "resolution": "480p"}});
    let explain = |more: Value| {
        let mut job = json!({"inputs": [{"url": "upload:a.mp4"}]});
        job.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let job = files.file("job.json", &job.to_string());
        hotcell(&["policy", "explain", &job, "--as", "submitter"])
    };
    assert_eq!(explain(settled.clone()).0, 0);
    let (code, out, err) = explain(json!({"presetName": "web"}));
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("only the installation knows"), "{err}");
    assert!(err.contains("POST /v1/policy/explain"), "{err}");
    // Nor what only the server writes, as a copy of a record would have it.
    let mut copy = settled;
    copy["presetVersion"] = json!(1);
    let (code, _, err) = explain(copy.clone());
    assert!(code == 1 && err.contains("presetVersion: is set by the server"), "{err}");
    copy["presetName"] = json!("web");
    assert_eq!(explain(copy).0, 1);
}

#[test]
fn new_07_explain_says_which_policy_decides_and_what_would_be_allowed() {
    let files = Files::new();
    let h265 = files.job(&json!({"format": "mp4", "video": {"codec": "h265", "height": 720}}));
    let own = files.file("own", NO_H265);
    let explain = |arguments: &[&str]| {
        let all = [&["policy", "explain", h265.as_str(), "--json"], arguments].concat();
        let (code, out, err) = hotcell(&all);
        (code, serde_json::from_str::<Value>(&out).unwrap()["policy"].clone(), err)
    };
    assert_eq!(explain(&[]).1, Value::Null);
    let (code, policy, _) = explain(&["--as", "submitter"]);
    assert_eq!(code, 0);
    let decided = &policy["decisions"];
    assert_eq!(decided[0]["action"], "SubmitTranscode");
    assert_eq!(decided[0]["policies"], json!(["submitter"]));
    assert_eq!(decided[2]["policies"], json!(["submitter-store"]));
    let (code, policy, err) = explain(&["--as", "submitter", "--tenant-policies", &own]);
    assert_eq!((code, &policy["decisions"][0]["policies"]), (1, &json!(["own/no-h265"])));
    assert!(err.contains("own/no-h265: allowed is h264 and vp9"), "{err}");
    let (code, policy, err) = explain(&["--as", "viewer,auditor", "--mfa"]);
    assert_eq!((code, &policy["decisions"][0]["policies"]), (1, &json!([])));
    assert!(err.contains("SubmitTranscode is permitted to the role submitter"), "{err}");
    let arguments = ["-i", "{in0}", "-c:v", "libx264", "-an", "-crf", "21", "{out0}"];
    files.job(&json!({"format": "mp4", "ffmpegArgs": arguments}));
    let (code, policy, _) = explain(&["--as", "submitter"]);
    assert_eq!((code, &policy["decisions"][0]["outcome"]), (1, &json!("step-up")), "STEP-05");
    assert_eq!(explain(&["--as", "submitter", "--mfa"]).0, 0);
    // For people, too.
    let (code, out, _) = hotcell(&["policy", "explain", &h265, "--as", "submitter"]);
    assert!(code == 1 && out.contains("step-up-raw-arguments"), "{out}");
    assert_eq!(hotcell(&["policy", "explain", &h265, "--as", "editor"]).0, 2);
    assert_eq!(hotcell(&["policy", "explain", &h265, "--mfa"]).0, 2);
}

/// IAM-09, STEP-15: where a destination leads is said, and never taken for the store.
#[test]
fn iam_09_explain_is_told_where_a_destination_leads() {
    let files = Files::new();
    let job = files.job(&json!({"format": "mp4", "video": {"codec": "h264", "height": 720}}));
    let explain = |arguments: &[&str]| {
        let (code, out, err) = hotcell(&[&["policy", "explain", job.as_str()], arguments].concat());
        let policy = serde_json::from_str::<Value>(&out).map(|told| told["policy"].clone());
        (code, policy.unwrap_or_default(), err)
    };
    let url = "--destination-url";
    let (code, _, err) =
        explain(&["--json", "--as", "submitter", url, "https://s3.example.com/media"]);
    assert!(code == 2 && err.contains("names no destination"), "{err}");
    let (_, policy, _) = explain(&["--json", "--as", "submitter"]);
    assert_eq!(policy["destination"], "store");

    let mut body: Value = serde_json::from_slice(&fs::read(&job).unwrap()).unwrap();
    body["destination"] = json!("cdn");
    fs::write(&job, body.to_string()).unwrap();
    let (code, out, _) = hotcell(&["policy", "explain", &job]);
    assert!(code == 0 && out.contains("destination"), "{out}");
    let both = ["--json", "--as", "submitter,publisher"];
    let (code, _, err) = explain(&both);
    assert!(code == 2 && err.contains("destination cdn") && err.contains(url), "{err}");
    for bad in [
        "store",
        "https://s3.example.com",
        "https://s3.example.com@evil/media",
        "https://s3.example.com/media/",
        "https://s3.example.com/media/../x",
        "s3.example.com/media",
    ] {
        let (code, _, err) = explain(&[&both[..], &[url, bad]].concat());
        assert!(code == 2 && err.contains("must"), "{bad}: {err}");
    }
    let place = [url, "https://s3.example.com/media/video"];
    let (code, policy, _) = explain(&[&both[..], &place].concat());
    assert_eq!((code, &policy["destination"]), (1, &json!(place[1])));
    assert_eq!(policy["decisions"][2]["policies"], json!(["step-up-external"]));
    let (code, _, err) = explain(&[&both[..], &place, &["--mfa"]].concat());
    assert_eq!(code, 0, "{err}");
    let (code, policy, err) =
        explain(&[&["--json", "--as", "submitter", "--mfa"], &place[..]].concat());
    assert_eq!((code, &policy["decisions"][2]["outcome"]), (1, &json!("refused")), "{err}");
    let own = files.file(
        "places",
        "@id(\"places\") @allows(\"https://s3.example.com/media/\")
        forbid (principal, action == Hotcell::Action::\"PublishOutput\", resource)
        unless { context.destination like \"https://s3.example.com/media/*\" };",
    );
    let own = ["--mfa", "--tenant-policies", own.as_str()];
    assert_eq!(explain(&[&both[..], &place, &own].concat()).0, 0);
    for other in ["https://s3.example.com/media-x/video", "https://s3.example.com.evil.org/media/v"]
    {
        let (code, policy, err) = explain(&[&both[..], &[url, other], &own].concat());
        assert_eq!(
            (code, &policy["decisions"][2]["policies"]),
            (1, &json!(["own/places"])),
            "{err}"
        );
    }
}

/// The folder of an installation whose broker runs.
async fn installation() -> (TestServer, TempDir, String) {
    let options = InitOptions { now: NOW, ..InitOptions::default() };
    let server = TestServer::start(&options).await.unwrap();
    server.admin().await.unwrap().provision(Replicas::One, NOW).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    symlink(server.dir(), folder.path().join("nats")).unwrap();
    fs::write(folder.path().join("dev.env"), format!("export HOTCELL_NATS='{}'\n", server.url()))
        .unwrap();
    let data = folder.path().to_str().unwrap().to_owned();
    (server, folder, data)
}

fn nats(server: &TestServer, role: Role) -> NatsConfig {
    server.config(&Login::Service(role)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn step_16_the_operator_puts_and_lists_policies_and_each_put_is_in_the_log() {
    let (server, _folder, data) = installation().await;
    let files = Files::new();
    let bus = Bus::connect(Role::Provisioner, &nats(&server, Role::Provisioner)).await.unwrap();
    let on = |arguments: &[&str]| hotcell(&[&["--data", &data, "policy"], arguments].concat());
    let platform = files.file("platform", &NO_H265.replace("no-h265", "frozen"));
    let (code, out, err) = on(&["put", &platform, "--platform", "--over", "0"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.starts_with("version 1 of the platform is in force: "), "{out}");
    let (code, _, err) = on(&["put", &platform, "--platform", "--over", "0"]);
    assert!(code == 1 && err.contains("version 1 is in force"), "{err}");
    let stored = PolicyStore::new(&bus).current(None).await.unwrap().unwrap();
    assert_eq!((stored.version, stored.by), (1, None));
    // Neither a tenant that is not there nor a text that is not valid changes anything.
    let (code, _, err) = on(&["put", &platform, "--tenant", "nobody"]);
    assert!(code == 1 && err.contains("there is no tenant nobody"), "{err}");
    let gone = "gone".parse().unwrap();
    let admin = server.admin().await.unwrap();
    let spec = TenantSpec::new("gone".parse().unwrap(), vec!["cpu".parse().unwrap()]);
    admin.add_tenant(&spec, &"app".parse().unwrap(), NOW).await.unwrap();
    admin.remove_tenant(&gone, NOW).await.unwrap();
    let (code, _, err) = on(&["put", &platform, "--tenant", "gone"]);
    assert!(code == 1 && err.contains("there is no tenant gone"), "{err}");
    let (code, out, _) = on(&["put", &files.file("bad", "permit"), "--platform"]);
    assert!(code == 1 && out.contains("line 1"), "{out}");
    assert_eq!(on(&["put", &platform]).0, 2, "whose?");
    let (code, out, _) = on(&["list"]);
    assert!(code == 0 && out.contains("frozen") && out.contains("the operator"), "{out}");
    let (_, out, _) = hotcell(&["--data", &data, "policy", "list", "--json"]);
    let told: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(told["versions"].as_array().unwrap().len(), 1);
    let ids = told["policies"].as_array().unwrap().iter().map(|policy| policy["id"].as_str());
    assert!(ids.flatten().any(|id| id == "same-tenant"));
    // The one that lost was announced, too: the record comes before the act.
    let target = format!("platform {}", stored.digest);
    assert_eq!(puts(&server, 2).await, [target.clone(), target]);
}

/// The targets of the `policy_put` records, as far as the auditor would read them.
async fn puts(server: &TestServer, count: usize) -> Vec<String> {
    let bus = Bus::connect(Role::Auditor, &nats(server, Role::Auditor)).await.unwrap();
    let (mut feed, end) = (Feed::new(&bus, "auditor", 64), Shutdown::new());
    let mut found = Vec::new();
    while found.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(60), feed.next(&end)).await;
        let message = next.expect("the record is in the stream").unwrap().unwrap();
        let opened = envelope(&message).unwrap().open::<AuditRecord>(bus.trust()).unwrap();
        if let AuditAct::Admin { action, target } = opened.into_inner().act
            && action == "policy_put"
        {
            found.push(target);
        }
    }
    found
}
