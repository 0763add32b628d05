//! IAM-06, STEP-10, ZT-04, ZT-13: who steals a service's login and speaks to the broker past the edge. Each
//! node refuses by itself what policy forbids and what is not signed by the right role; each attack
//! is first shown to reach its node when nothing forbids it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use anyhow::{Context as _, Result, ensure};
use async_nats::Client;
use futures::StreamExt as _;
use hotcell_e2e::{
    api::{Api, text},
    media,
    thief::{creds, headers, publish, service, unbounded},
    up::Up,
};
use hotcell_nats_config::Login;
use hotcell_schemas::{
    Digest, Envelope, EventKind, Job, JobId, Role, Subject, TenantId,
    identity::RoleName,
    job::{Actor, Stamp},
    limits::{LEASE_SECS, NEXT_POLL_MS},
    work::{NextReply, OrderInput, SecretUrl, SignedUrl, WorkOrder},
};
use hotcell_stage::{Bus, Outgoing, clock, request::RequestInfo};
use nkeys::KeyPair;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, time::Duration};
use tokio::time::Instant;

const PATIENCE: Duration = Duration::from_secs(120);

/// What the tenant has forbidden itself.
const HOUSE: &str = r#"
@id("codec") @about("one codec") @allows("h264")
forbid (principal, action == Hotcell::Action::"SubmitTranscode", resource)
when { context.output.video_codec != "h264" };
@id("rate") @about("a ceiling of the rate") @allows("at most 4 Mbit/s, or crf 20 and above")
forbid (principal, action == Hotcell::Action::"SubmitTranscode", resource)
when { context.output.video_bitrate > 4000000 && context.output.crf < 20 };
@id("height") @about("a ceiling of the height") @allows("at most 720 lines")
forbid (principal, action == Hotcell::Action::"SubmitTranscode", resource)
when { context.output.height > 720 };
@id("filters") @about("no mirrors") @allows("any filter but hflip")
forbid (principal, action == Hotcell::Action::"SubmitTranscode", resource)
when { context.output.filters.contains("hflip") };
"#;

struct Scene {
    up: Up,
    api: Api,
    tenant: TenantId,
    /// What the edge published for an honest request.
    honest: Job,
    /// Stolen.
    intake: Bus,
    /// Stolen.
    validator: Bus,
}

/// What is asked for, each in a way of its own.
fn requests(name: &str) -> [(&'static str, Value); 5] {
    let input = json!([{ "url": format!("upload:{name}") }]);
    let one = |output: Value| json!({ "inputs": input, "outputs": [output] });
    let video = |codec: &str, bitrate: u32| json!({"format": "mp4", "video": {"codec": codec, "bitrate": bitrate, "height": 240}});
    let arguments =
        ["-i", "{in0}", "-vf", "hflip,scale=-2:240", "-c:v", "libx264", "-c:a", "aac", "{out0}"];
    [
        ("codec", one(video("h265", 500_000))),
        ("rate", one(video("h264", 9_000_000))),
        (
            "height",
            json!({"inputs": input, "outputFormat": "mp4",
            "preset": {"quality": "low", "resolution": "1080p"}}),
        ),
        ("filters", one(json!({"format": "mp4", "ffmpegArgs": arguments}))),
        (
            "fine",
            json!({"inputs": input, "outputFormat": "mp4",
            "preset": {"quality": "low", "resolution": "240p"}}),
        ),
    ]
}

impl Scene {
    async fn start() -> Result<Self> {
        Self::start_with("1").await
    }

    async fn start_with(encoders: &str) -> Result<Self> {
        let up = Up::start(&["--encoders", encoders, "--cell", "noop"])?;
        let api = Api::new(up.env("HOTCELL_API"), up.env("HOTCELL_KEY"));
        let name = api.upload("a.mp4", "video/mp4", media::clip(1, 320, 240)?).await?;
        let id = api.submit(&name).await?;
        api.ended(&id, PATIENCE).await?;
        let tenant: TenantId = "demo".parse()?;
        let intake = service(&up, Role::Intake).await?;
        let stored = intake.submission(&tenant, &id.parse()?).await?.context("a submission")?;
        let honest = stored.message.into_inner();
        let validator = service(&up, Role::Validator).await?;
        Ok(Self { up, api, tenant, honest, intake, validator })
    }

    fn name(&self) -> &str {
        self.honest.inputs[0].name.as_str()
    }

    /// The honest job as another one, of now, as whoever stole the edge's login writes it: with a
    /// second factor of this moment, if the key has one.
    fn forged(&self, request: &Value) -> Result<Job> {
        let now = clock::now();
        let mut job = self.honest.clone();
        job.id = JobId::new(now.0, clock::random());
        job.request = serde_json::from_value(request.clone())?;
        job.authority.mfa = true;
        job.authority.auth_time = Some(now);
        job.decisions.clear();
        job.stamps = vec![Stamp { event: EventKind::Submitted, at: now }];
        Ok(job)
    }

    /// Publishes past the edge, and waits for the job's end.
    async fn submit(&self, job: &Job) -> Result<Job> {
        self.intake.publish(&Outgoing::job(job.clone(), 0)).await?;
        self.ended(&job.id).await
    }

    async fn last(&self, id: &JobId) -> Result<(Job, u64)> {
        let stored = self.intake.job(&self.tenant, id).await?.context("a job")?;
        Ok((stored.message.into_inner(), stored.seq))
    }

    async fn ended(&self, id: &JobId) -> Result<Job> {
        use EventKind::{Completed, Failed, Rejected};
        let until = Instant::now() + PATIENCE;
        loop {
            let (job, _) = self.last(id).await?;
            if [Completed, Failed, Rejected].contains(&job.state) {
                return Ok(job);
            }
            ensure!(Instant::now() < until, "{id} is still {}", job.state);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The tenant's own policies, in force at each node: the record of an honest job says which set
    /// each of them asked.
    async fn policies(&self, text: &str) -> Result<()> {
        let file = self.up.dir().join("house.cedar");
        fs::write(&file, text)?;
        let file = file.to_str().context("text")?;
        self.up.json(&["policy", "put", file, "--tenant", "demo"])?;
        let listed = self.up.json(&["policy", "list", "--tenant", "demo"])?;
        let digest = listed["digest"].as_str().context("a digest")?.parse()?;
        let until = Instant::now() + PATIENCE;
        loop {
            let job = self.ended(&self.api.submit(self.name()).await?.parse()?).await?;
            let asks = |node| job.decisions.iter().any(|it| it.node == node && it.digest == digest);
            if [Role::Intake, Role::Validator, Role::Signer].into_iter().all(asks) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "not in force: {:?}", job.decisions);
        }
    }

    /// Waits until the log of `process` says all of `words` in one line.
    async fn logged(&self, process: &str, words: &[&str]) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let log = self.up.log(process);
            if log.lines().any(|line| words.iter().all(|word| line.contains(word))) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "{process} never said {words:?}:\n{log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn refused(job: &Job, state: EventKind, words: &str) -> Result<()> {
    let failure = job.failure.as_ref().with_context(|| format!("{words}: {}", job.state))?;
    ensure!(job.state == state, "{words}: {} {failure:?}", job.state);
    ensure!(failure.code.as_str() == "policy_denied", "{words}: {failure:?}");
    ensure!(failure.message.contains(words), "{words}: {failure:?}");
    Ok(())
}

/// (a) A stolen login of intake: what it submits reaches the validator, which decides by itself on
/// what it compiled; and what it says of a key is compared with the key's record.
#[tokio::test(flavor = "multi_thread")]
async fn iam_06_a_stolen_intake_login_gets_nothing_past_the_validator() -> Result<()> {
    let scene = Scene::start().await?;
    scene.up.json(&["tenant", "set", "demo", "--raw-arguments", "on"])?;
    let requests = requests(scene.name());
    // Nothing forbids it: the bypass works, for this login is the edge's.
    for (name, request) in &requests {
        let ended = scene.submit(&scene.forged(request)?).await?;
        ensure!(ended.state == EventKind::Completed, "{name}: {:?}", ended.failure);
    }
    scene.policies(HOUSE).await?;
    for (name, request) in &requests {
        let ended = scene.submit(&scene.forged(request)?).await?;
        if *name == "fine" {
            ensure!(ended.state == EventKind::Completed, "{:?}", ended.failure);
            continue;
        }
        ensure!(ended.plan.is_none() && ended.attempts.is_empty(), "{name}: it went on");
        refused(&ended, EventKind::Rejected, &format!("demo/{name}"))?;
        let said = ended.decisions.last().context("a decision")?;
        ensure!(said.node == Role::Validator && said.policies == [format!("demo/{name}")]);
        let id = ended.id.to_string();
        scene.logged("validator", &[&id, "policy_denied", &format!("demo/{name}")]).await?;
        // What the tenant sees.
        let shown = scene.api.get(&format!("/v1/transcodes/{id}")).await?;
        ensure!(shown.to_string().contains("policy_denied"), "{shown}");
    }
    // Forged roles: a viewer's key with the role of a submitter.
    let key = scene.up.json(&["key", "create", "--roles", "viewer"])?;
    let fine = &requests[4].1;
    let mut forged = scene.forged(fine)?;
    forged.actor = Actor::ApiKey { id: text(&key, "id")?.parse()? };
    forged.authority.mfa = false;
    let ended = scene.submit(&forged).await?;
    refused(&ended, EventKind::Rejected, "roles that its key does not have")?;
    let mut forged = Job { id: JobId::new(clock::now().0, clock::random()), ..forged };
    forged.authority.roles = [RoleName::Viewer].into();
    forged.stamps[0].at = clock::now();
    refused(&scene.submit(&forged).await?, EventKind::Rejected, "no policy permits")?;
    // A key that was revoked meanwhile, and a submission that is dated back before that.
    let id = text(&key, "id")?;
    scene.up.json(&["key", "revoke", &id])?;
    for (back_ms, words) in [(0, "revoked before"), (3_600_000, "time of submission")] {
        let mut late = Job { id: JobId::new(clock::now().0, clock::random()), ..forged.clone() };
        late.stamps[0].at.0 = clock::now().0 - back_ms;
        refused(&scene.submit(&late).await?, EventKind::Rejected, words)?;
    }
    scene.up.stop()?;
    Ok(())
}

/// (b) A stolen login of the validator: the signer gives out only what the edge submitted, and only
/// plans that policy permits.
#[tokio::test(flavor = "multi_thread")]
async fn iam_06_a_stolen_validator_login_gets_no_plan_to_a_worker() -> Result<()> {
    let scene = Scene::start().await?;
    let requests = requests(scene.name());
    let costly = scene.submit(&scene.forged(&requests[0].1)?).await?;
    ensure!(costly.state == EventKind::Completed, "{:?}", costly.failure);
    let attempts = |job: &Job| job.attempts.len();
    let key = creds(&scene.up, &Login::Service(Role::Validator))?.key;
    // Past the stage library too, which would not make such a transition.
    let send = async |job: &Job| -> Result<u64> {
        let subject = Subject::validated(&job.tenant, &job.id, &job.pool);
        publish(scene.validator.client(), subject, &key, job).await
    };
    // A job of its own each time: the broker drops a repeat of a job's event.
    let again = async |change: &dyn Fn(&mut Job)| -> Result<Job> {
        let id: JobId = scene.api.submit(scene.name()).await?.parse()?;
        let mut job = scene.ended(&id).await?;
        ensure!(job.state == EventKind::Completed, "{:?}", job.failure);
        change(&mut job);
        job.outputs.clear();
        let seq = send(&job.moved(EventKind::Validated, clock::now())).await?;
        let until = Instant::now() + PATIENCE;
        while scene.last(&id).await?.1 <= seq {
            ensure!(Instant::now() < until, "nobody took it");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        scene.ended(&id).await
    };
    let plan = costly.plan.clone().context("a plan")?;
    // Nothing forbids it: the plan of another request is run.
    let ended = again(&|job| job.plan = Some(plan.clone())).await?;
    ensure!(ended.state == EventKind::Completed && attempts(&ended) == 2, "{:?}", ended.failure);
    scene.policies(HOUSE).await?;
    let ended = again(&|job| job.plan = Some(plan.clone())).await?;
    refused(&ended, EventKind::Failed, "demo/codec")?;
    ensure!(attempts(&ended) == 1, "a worker got it");
    let id = ended.id.to_string();
    scene.logged("signer", &[&id, "policy_denied"]).await?;
    // Another principal, and a job that nobody submitted.
    let ended = again(&|job| job.authority.mfa = !job.authority.mfa).await?;
    refused(&ended, EventKind::Failed, "not the one that was submitted")?;
    let (mut invented, _) = scene.last(&costly.id).await?;
    invented.id = JobId::new(clock::now().0, clock::random());
    (invented.attempts, invented.outputs) = (Vec::new(), Vec::new());
    let invented = invented.moved(EventKind::Validated, clock::now());
    send(&invented).await?;
    refused(&scene.ended(&invented.id).await?, EventKind::Failed, "nobody submitted")?;
    scene.logged("signer", &["refused", "nobody submitted"]).await?;
    // The honest one still goes.
    let ended = again(&|_| {}).await?;
    ensure!(ended.state == EventKind::Completed, "{:?}", ended.failure);
    scene.up.stop()?;
    Ok(())
}

fn thieves(scene: &Scene) -> Result<Vec<(String, KeyPair)>> {
    let services = Role::PIPELINE.into_iter().map(Login::Service);
    let worker = Login::Worker { name: "worker-1".parse()?, pools: vec!["cpu".parse()?] };
    let program = Login::Tenant { tenant: "demo".parse()?, user: "app".parse()? };
    let logins = services.chain([worker, program, Login::Sys]);
    let named = logins.map(|login| Ok((format!("{login:?}"), creds(&scene.up, &login)?.key)));
    named.chain([Ok(("nobody".to_owned(), KeyPair::new_user()))]).collect()
}

/// (c) Every other login: the broker refuses its subject (see zero_trust.rs and stolen.rs); with the
/// broker's permissions off, the node that reads the message refuses its signature, says so, and
/// the record of it is in the stream.
#[tokio::test(flavor = "multi_thread")]
async fn zt_04_without_the_brokers_permissions_signatures_still_refuse() -> Result<()> {
    let scene = Scene::start().await?;
    let client = unbounded(&scene.up).await?;
    let requests = requests(scene.name());
    let fine = &requests[4].1;
    let plan = scene.last(&scene.honest.id).await?.0.plan;
    let mut refused = Vec::new();
    for (name, key) in thieves(&scene)? {
        let job = scene.forged(fine)?;
        let subject =
            Subject::job(&job.tenant, &job.id, EventKind::Submitted).context("a subject")?;
        let right = name.contains("Intake");
        publish(&client, subject.clone(), &key, &job).await?;
        if right {
            // The one whose word it is: the same message is believed.
            ensure!(scene.ended(&job.id).await?.state == EventKind::Completed);
        } else {
            scene.logged("validator", &["message refused", subject.as_str()]).await?;
            recorded(&client, subject.as_str(), Role::Validator).await?;
            refused.push(job.id);
        }
        if name.contains("Validator") {
            continue;
        }
        let mut ready = scene.forged(fine)?.moved(EventKind::Validated, clock::now());
        ready.plan.clone_from(&plan);
        let subject = Subject::validated(&ready.tenant, &ready.id, &ready.pool);
        publish(&client, subject.clone(), &key, &ready).await?;
        scene.logged("signer", &["refused", subject.as_str()]).await?;
        recorded(&client, subject.as_str(), Role::Signer).await?;
        refused.push(ready.id);
    }
    // Nothing of it moved: a message of the thieves is the only one of its job.
    let histories = histories(&client).await?;
    for id in refused {
        let states = histories.get(id.as_str()).context("a refused message")?;
        ensure!(states.len() == 1, "{id}: {states:?}");
    }
    scene.up.stop()?;
    Ok(())
}

/// Every message of the stream: subject and body.
async fn messages(client: &Client) -> Result<Vec<(String, Vec<u8>)>> {
    let stream = async_nats::jetstream::new(client.clone()).get_stream("JOBS").await?;
    let mut found = Vec::new();
    for seq in 1..=stream.cached_info().state.last_sequence {
        let message = stream.direct_get(seq).await?;
        found.push((message.subject.to_string(), message.payload.to_vec()));
    }
    Ok(found)
}

/// That `by` recorded its refusal of `subject`.
async fn recorded(client: &Client, subject: &str, by: Role) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    let holds =
        |body: &[u8], word: &str| body.windows(word.len()).any(|part| part == word.as_bytes());
    loop {
        let all = messages(client).await?;
        let mut refusals = all.iter().filter(|(on, _)| on.ends_with(".refused"));
        if refusals.any(|(_, body)| holds(body, subject) && holds(body, by.as_str())) {
            return Ok(());
        }
        ensure!(Instant::now() < until, "{by} did not record its refusal of {subject}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn histories(client: &Client) -> Result<BTreeMap<String, Vec<String>>> {
    let mut jobs = BTreeMap::<String, Vec<String>>::new();
    for (subject, _) in messages(client).await? {
        let words: Vec<&str> = subject.split('.').collect();
        if let ["job", _, id, event, ..] = words.as_slice() {
            jobs.entry((*id).to_owned()).or_default().push((*event).to_owned());
        }
    }
    Ok(jobs)
}

/// (d) A worker that is answered by somebody else before the signer answers: it runs nothing.
#[tokio::test(flavor = "multi_thread")]
async fn iam_06_a_worker_obeys_no_order_but_the_signers() -> Result<()> {
    // Several, because one that was lied to asks less and less often.
    let scene = Scene::start_with("4").await?;
    let client = unbounded(&scene.up).await?;
    let plan = scene.last(&scene.honest.id).await?.0.plan.context("a plan")?;
    let mut asked = client.subscribe("next.*.*").await?;
    let patience = Duration::from_millis(2 * NEXT_POLL_MS);
    let mut lies = 0;
    for (name, key) in thieves(&scene)?.into_iter().filter(|(name, _)| !name.contains("Signer")) {
        lies += 1;
        let question = tokio::time::timeout(patience, asked.next()).await?.context("a question")?;
        let header = |name: &'static str| Some(question.headers.as_ref()?.get(name)?.as_str());
        let request = Envelope::received(&question.subject, header, &question.payload)?;
        let info: RequestInfo = serde_json::from_str(header("Nats-Request-Info").context("info")?)?;
        let nonce = request.msg_id.clone();
        let worker = info.name_tag;
        let get = SignedUrl {
            url: SecretUrl::new(format!("{}/x", scene.up.env("HOTCELL_S3"))),
            headers: Vec::new(),
            expires_at: clock::now().plus_ms(60_000),
        };
        let order = WorkOrder {
            nonce,
            worker: worker.parse()?,
            pool: "cpu".parse()?,
            job: JobId::new(clock::now().0, clock::random()),
            attempt: 1,
            plan: plan.clone(),
            probe_limits: plan.limits,
            inputs: vec![OrderInput { get, size: 1, sha256: Digest::of(b"x") }],
            lease: "stolen".to_owned(),
            lease_until: clock::now().plus_ms(u64::from(LEASE_SECS) * 1000),
        };
        let id = order.job.to_string();
        let before = scene.up.log(&worker).matches("no work").count();
        let reply = NextReply::Order { order: Box::new(order) };
        let (subject, msg_id) = (request.subject, request.msg_id);
        let sealed = Envelope::seal_reply(subject, msg_id, clock::now(), &key, &reply)?;
        let inbox = question.reply.context("a reply subject")?;
        #[expect(clippy::disallowed_methods, reason = "the thief's answer")]
        client.publish_with_headers(inbox, headers(&sealed), sealed.body.into()).await?;
        client.flush().await?;
        let until = Instant::now() + patience;
        while scene.up.log(&worker).matches("no work").count() == before {
            ensure!(Instant::now() < until, "{name}: {}", scene.up.log(&worker));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        ensure!(!scene.up.log(&worker).contains(&id), "{name}: the worker took it");
    }
    drop(asked);
    // They are still at work for the one whose orders they obey. It gives a job to each question
    // that a thief answered first, too; those jobs come back when their leases lapse.
    let mut ids = Vec::new();
    for _ in 0..=lies {
        ids.push(scene.api.submit(scene.name()).await?.parse::<JobId>()?);
    }
    let until = Instant::now() + PATIENCE;
    'work: loop {
        for id in &ids {
            if scene.last(id).await?.0.state == EventKind::Completed {
                break 'work;
            }
        }
        ensure!(Instant::now() < until, "no worker works");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    scene.up.stop()?;
    Ok(())
}
