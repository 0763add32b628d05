//! The gate's edges against a real broker: other gateways, the operator's own agent, and whence a
//! request comes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

#[path = "support/people.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod people;
#[path = "support/world.rs"]
#[allow(dead_code, reason = "each test file needs a part of it")]
mod world;

use hotcell_schemas::identity::RoleName;
use reqwest::Method;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use tokio::task::JoinSet;
use world::{World, answer, transcode, until};

/// STEP-18: another gateway asks the same policy, and is told who asks; what a client says of that
/// itself is not believed.
#[tokio::test]
async fn step_18_a_gateway_gets_the_answer_that_the_api_would_give() {
    let rules = "ext_authz = { rules = [{ prefix = \"/studio/keys/\", method = \"*\", action = \
                 \"ManageKeys\" }, { prefix = \"/studio/\", method = \"GET\", action = \"ReadJob\" }] }";
    let world = World::start_with(rules).await;
    let admin = world.enrolled("acme", &[RoleName::TenantAdmin]).await;
    let strong = world.stepped_up(&admin).await;
    let viewer = world.key("acme", &[RoleName::Viewer]).await;
    let publisher = world.key("acme", &[RoleName::Publisher]).await;
    let ask = async |method: Method, path: &str, key: Option<&str>, body: &str| {
        let mut request = world.request(method, &format!("/ext-authz{path}"));
        for (name, lie) in [
            ("x-hotcell-tenant", "bolt"),
            ("x-hotcell-actor", "root"),
            ("x-hotcell-roles", "operator"),
        ] {
            request = request.header(name, lie);
        }
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        request.body(body.to_owned()).send().await.unwrap()
    };
    // Permitted: who asks is said.
    let response = ask(Method::GET, "/v1/transcodes?limit=2", Some(&viewer), "").await;
    assert_eq!(response.status(), 200);
    let id = viewer.split('_').nth(1).unwrap();
    let headers = response.headers().clone();
    let said = |name: &str| {
        let all: Vec<_> = headers.get_all(name).iter().collect();
        assert_eq!(all.len(), 1, "{name}");
        all[0].to_str().unwrap().to_owned()
    };
    assert_eq!(said("x-hotcell-tenant"), "acme");
    assert_eq!(said("x-hotcell-actor"), format!("api-key/{id}"));
    assert_eq!(said("x-hotcell-roles"), "viewer");

    let file = world.upload("acme", "a.mp4", false).await;
    let job = transcode(&file).to_string();
    let hook = json!({ "url": "https://hooks.example/in" }).to_string();
    let key = Some;
    for (method, path, bearer, body, status, problem) in [
        (Method::GET, "/v1/transcodes", None, "", 401, "unauthorized"),
        (Method::GET, "/v1/transcodes", key("hck_x"), "", 401, "unauthorized"),
        (Method::GET, "/v1/keys", key(viewer.as_str()), "", 403, "forbidden"),
        (Method::POST, "/v1/webhooks", key(&admin), &hook, 401, "step-up-required"),
        (Method::POST, "/v1/webhooks", key(&strong), &hook, 200, ""),
        (Method::POST, "/v1/webhooks", key(&strong), "", 400, "bad-request"),
        (Method::POST, "/v1/transcodes", key(&admin), &job, 200, ""),
        (Method::POST, "/v1/transcodes", key(&publisher), &job, 403, "forbidden"),
        (Method::POST, "/v1/transcodes", key(&admin), "", 400, "bad-request"),
        (Method::GET, "/v1/transcodes?api_key=x", key(&viewer), "", 401, "unauthorized"),
        (Method::GET, "/studio/a", key(&viewer), "", 200, ""),
        (Method::POST, "/studio/a", key(&admin), "", 403, "forbidden"),
        (Method::POST, "/studio/keys/1", key(&viewer), "", 403, "forbidden"),
        (Method::POST, "/studio/keys/1", key(&admin), "", 401, "step-up-required"),
        (Method::POST, "/studio/keys/1", key(&strong), "", 200, ""),
        (Method::GET, "/elsewhere", key(&strong), "", 403, "forbidden"),
        (Method::GET, "/v1/nothing", key(&strong), "", 403, "forbidden"),
        (Method::GET, "/studio//keys/1", key(&strong), "", 403, "forbidden"),
        (Method::GET, "/studio/%6beys/1", key(&strong), "", 403, "forbidden"),
    ] {
        let response = ask(method.clone(), path, bearer, body).await;
        let headers = response.headers().clone();
        let (found, told) = answer(response).await;
        let told = told["type"].as_str().unwrap_or_default().to_owned();
        assert_eq!(found, status, "{method} {path} {told}");
        assert!(problem.is_empty() || told.ends_with(problem), "{method} {path} {told}");
        assert_eq!(headers.contains_key("x-hotcell-tenant"), status == 200, "{path}");
        assert_eq!(headers.contains_key("www-authenticate"), status == 401, "{path}");
    }
    // A probe is nobody's.
    assert_eq!(ask(Method::GET, "/livez", None, "").await.status(), 200);
    // Nothing was done by any of it.
    assert_eq!(world.stored("JOBS", "job.>").await, 0);
    assert_eq!(world.audited("acme", "change").await, 0);
}

/// An agent that says what a test wants, and remembers what it was asked.
async fn agent(says: Arc<Mutex<&'static str>>) -> (String, Arc<Mutex<Vec<Value>>>, JoinSet<()>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1/data/hotcell/allow", listener.local_addr().unwrap());
    let seen = Arc::clone(&asked);
    let serve = async move |body: axum::Json<Value>| {
        seen.lock().unwrap().push(body.0);
        *says.lock().unwrap()
    };
    let router = axum::Router::new().route("/v1/data/hotcell/allow", axum::routing::post(serve));
    let mut parts = JoinSet::new();
    parts.spawn(async move { axum::serve(listener, router).await.unwrap() });
    (url, asked, parts)
}

/// STEP-17: an agent of the operator's own can refuse what Cedar permits, and silence is a refusal.
#[tokio::test]
async fn step_17_an_agent_refuses_what_cedar_permits_and_never_the_other_way_round() {
    let says = Arc::new(Mutex::new(r#"{"result":true}"#));
    let (url, asked, mut parts) = agent(Arc::clone(&says)).await;
    let world = World::start_with(&format!("opa = {{ url = {url:?} }}")).await;
    let viewer = world.key("acme", &[RoleName::Viewer]).await;
    let path = "/v1/transcodes";
    // Half a second is what an agent has, which a machine that stands still may take from it.
    until(async || (world.get(path, &viewer).await.0 == 200).then_some(())).await;
    let input = asked.lock().unwrap().pop().unwrap()["input"].clone();
    asked.lock().unwrap().clear();
    assert_eq!((&input["tenant"], &input["action"]), (&json!("acme"), &json!("ReadJob")));
    assert_eq!(input["decided"]["policies"], json!(["viewer"]));
    assert!(!input.to_string().contains("hck_"), "no credential leaves");
    // What Cedar refuses is not asked.
    assert_eq!(world.get("/v1/keys", &viewer).await.0, 403);
    assert!(asked.lock().unwrap().is_empty());
    *says.lock().unwrap() = r#"{"result":false}"#;
    let (status, problem) = world.get(path, &viewer).await;
    assert_eq!((status, &problem["policies"]), (403, &json!(["opa"])), "{problem}");
    parts.shutdown().await;
    let (status, problem) = world.get(path, &viewer).await;
    assert_eq!((status, &problem["policies"]), (403, &json!(["opa"])), "{problem}");
    until(async || (world.audited("acme", "decision").await >= 3).then_some(())).await;
}

/// STEP-11: where a request comes from flips the result; a header does not.
#[tokio::test]
async fn step_11_a_policy_on_networks_reads_the_socket_or_a_named_proxy() {
    let text = "@id(\"office\")\n@allows(\"requests from 203.0.113.0/24\")\nforbid (principal, \
                action == Hotcell::Action::\"ReadJob\", resource)\nunless { context has network && \
                context.network.isInRange(ip(\"203.0.113.0/24\")) };";
    let from = async |world: &World, forwarded: &str| {
        let request = world.request(Method::GET, "/v1/transcodes").bearer_auth(&world.acme);
        let request = request.header("x-forwarded-for", forwarded);
        answer(request.send().await.unwrap()).await.0
    };
    for (configuration, behind_proxy) in
        [("", false), ("trusted_proxies = [\"127.0.0.0/8\"]", true)]
    {
        let world = World::start_with(configuration).await;
        let admin = world.enrolled("acme", &[RoleName::TenantAdmin]).await;
        let strong = world.stepped_up(&admin).await;
        assert_eq!(from(&world, "203.0.113.9").await, 200, "no policy yet");
        let body = json!({ "text": text }).to_string();
        let put = world.send(Method::PUT, "/v1/policy", Some(&strong), Some(&body)).await;
        let (status, told) = answer(put).await;
        assert_eq!(status, 200, "{told}");
        until(async || (from(&world, "198.51.100.7").await == 403).then_some(())).await;
        let inside = from(&world, "203.0.113.9").await;
        assert_eq!(inside == 200, behind_proxy, "{configuration}");
        assert_eq!(from(&world, "203.0.113.9, 198.51.100.7").await, 403, "{configuration}");
        assert_eq!(from(&world, "nonsense").await, 403, "{configuration}");
    }
}

/// IAM-05, STEP-16: what the signer would not let a job store is refused at the door, before anything
/// is encoded; and what a second factor would let it store asks for that there.
#[tokio::test]
async fn iam_05_a_job_that_could_not_be_stored_is_refused_at_the_door() {
    let world = World::start().await;
    let submitter = world.enrolled("acme", &[RoleName::Submitter]).await;
    let admin = world.enrolled("acme", &[RoleName::TenantAdmin]).await;
    let strong = world.stepped_up(&admin).await;
    let file = world.upload("acme", "a.mp4", false).await;
    let submit = async |by: &str| world.post("/v1/transcodes", by, &transcode(&file)).await;
    let put = async |annotations: &str, unless: &str| {
        let text = format!(
            "@id(\"keeps\")\n{annotations}\nforbid (principal in Hotcell::Role::\"submitter\", \
             action == Hotcell::Action::\"PublishOutput\", resource){unless};"
        );
        let body = json!({ "text": text }).to_string();
        let put = world.send(Method::PUT, "/v1/policy", Some(&strong), Some(&body)).await;
        assert_eq!(put.status(), 200);
    };
    put("@allows(\"jobs of others\")", "").await;
    let problem = until(async || {
        let (status, problem) = submit(&submitter).await;
        (status == 403).then_some(problem)
    })
    .await;
    assert_eq!(problem["action"], "PublishOutput", "{problem}");
    assert_eq!(problem["policies"], json!(["acme/keeps"]), "{problem}");
    let before = world.stored("JOBS", "job.>").await;
    assert_eq!(submit(&submitter).await.0, 403);
    assert_eq!(world.stored("JOBS", "job.>").await, before, "nothing was submitted");

    put(
        "@about(\"outputs\")\n@step_up(\"mfa\")\n@acr_values(\"urn:hotcell:acr:mfa\")\n@max_age(\"300\")",
        "\nunless { context.mfa && context.auth_age_s <= 300 }",
    )
    .await;
    let problem = until(async || {
        let (status, problem) = submit(&submitter).await;
        (status == 401).then_some(problem)
    })
    .await;
    assert_eq!(problem["policy"], json!(["acme/keeps"]), "{problem}");
    let fresh = world.stepped_up(&submitter).await;
    let (status, made) = submit(&fresh).await;
    assert_eq!(status, 202, "{made}");
}
