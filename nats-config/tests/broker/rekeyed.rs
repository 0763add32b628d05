//! Scoped keys that leaked: whoever has an agent's key makes logins of any name, so revoking one
//! login helps nobody; another scoped key does (IAM-02, IAM-03, BRK-84).

use crate::world::*;
use hotcell_nats_config::{
    Admin, AdminError, InitError, Installation, Login, Replicas, TenantSpec, Terms, creds, keys,
    testing::{NOW, TestServer, short_life},
};
use hotcell_schemas::UnixMs;
use nkeys::KeyPair;
use serde_json::json;
use std::fs;

/// A life that has not ended, whenever this runs: what tests have as now is long past.
const LONG_SECS: u64 = 100 * 365 * 86_400;

fn login_of(user: &str) -> Login {
    Login::Tenant { tenant: acme(), user: user.parse().unwrap() }
}

/// A login that a thief makes with a scoped key: another key, a name that nobody gave.
async fn made_by_a_thief(server: &TestServer, scope: &KeyPair, account: &str) -> bool {
    let body = json!({"type": "user", "version": 2, "issuer_account": account,
        "tags": ["role:tenant-admin"], "pub": {}, "sub": {}});
    connect_raw(server, scope, &KeyPair::new_user(), "app", &body).await.is_ok()
}

/// What opens the account under the key of before: the files as they were, and what a thief makes.
struct Leaked {
    scope: KeyPair,
    account: String,
    files: Vec<String>,
}

impl Leaked {
    fn of(server: &TestServer, name: &str, account: &str, logins: &[Login]) -> Self {
        let seed = fs::read_to_string(server.dir().join(format!("keys/{name}.nk"))).unwrap();
        let files = logins.iter().map(|login| server.creds(login).unwrap().text).collect();
        let scope = KeyPair::from_seed(seed.trim()).unwrap();
        Self { scope, account: account.to_owned(), files }
    }

    async fn opens(&self, server: &TestServer) -> Vec<bool> {
        let mut all = vec![made_by_a_thief(server, &self.scope, &self.account).await];
        for text in &self.files {
            let options = async_nats::ConnectOptions::with_credentials(text).unwrap();
            all.push(options.connect(server.url()).await.is_ok());
        }
        all
    }
}

// The attack: revoking the login whose agent was robbed keeps nobody out, and a suspension no longer
// than it lasts. With another scoped key the tenant is served on, under the logins that it had.
#[tokio::test]
async fn a_tenant_s_scoped_key_is_replaced_and_opens_nothing() {
    let (mut server, admin) = with_acme().await;
    let terms = Terms { life: Some(short_life(LONG_SECS)), ..Terms::default() };
    for user in ["ci", "old"] {
        admin.add_program(&acme(), &user.parse().unwrap(), &terms, NOW).await.unwrap();
    }
    let account = admin.tenant(&acme()).await.unwrap().account;
    let (app, ci) = (login_of("app"), login_of("ci"));
    let logins = [app.clone(), ci.clone()];
    let leaked = Leaked::of(&server, "tenant-acme.programs", &account, &logins);
    admin.revoke_program(&acme(), &"old".parse().unwrap(), NOW).await.unwrap();
    admin.suspend_tenant(&acme(), NOW).await.unwrap();
    admin.resume_tenant(&acme(), NOW).await.unwrap();
    assert_eq!(leaked.opens(&server).await, [true, true, true], "the attack");

    let before = server.creds(&app).unwrap().claims;
    let mut live = Watched::connect(&server, &app).await;
    let since = std::time::Instant::now();
    let made = admin.rekey_tenant(&acme(), NOW).await.unwrap();
    println!("cut {:?} after it began", cut(&mut live, since).await);
    assert_eq!(made.logins.len(), 2);
    assert!(made.file.ends_with("keys/tenant-acme.programs.nk"));
    assert_eq!(leaked.opens(&server).await, [false, false, false]);
    let after = server.creds(&app).unwrap().claims;
    assert_eq!((&after.sub, &after.nats, after.exp), (&before.sub, &before.nats, before.exp));
    assert_ne!(after.iss, before.iss);
    server.connect(&app).await.unwrap();
    no_difference(&admin).await;

    // Nothing that is done afterwards brings it back; what is made is made with the new one.
    admin.set_tenant(&TenantSpec { concurrency: 9, ..tenant("acme") }, NOW).await.unwrap();
    admin.suspend_tenant(&acme(), NOW).await.unwrap();
    admin.resume_tenant(&acme(), NOW).await.unwrap();
    server.start_again().await.unwrap();
    let admin = server.admin().await.unwrap();
    assert_eq!(admin.provision(Replicas::One, NOW).await.unwrap(), Vec::<String>::new());
    admin.add_program(&acme(), &"ci".parse().unwrap(), &Terms::default(), NOW).await.unwrap();
    admin.revoke_program(&acme(), &"ci".parse().unwrap(), NOW).await.unwrap();
    assert_eq!(leaked.opens(&server).await, [false, false, false]);
    server.connect(&app).await.unwrap();
    // Again, as after an interruption: another key.
    let again = admin.rekey_tenant(&acme(), NOW).await.unwrap();
    assert_ne!(again.key, made.key);
    server.connect(&app).await.unwrap();
    admin.remove_tenant(&acme(), NOW).await.unwrap();
    assert_eq!(fs::read_dir(server.dir().join("revoked")).unwrap().count(), 0);
}

#[tokio::test]
async fn the_workers_scoped_key_is_replaced_and_opens_nothing() {
    let (mut server, admin) = provisioned().await;
    let w2 =
        admin.add_worker(&"w2".parse().unwrap(), &["cpu".parse().unwrap()], NOW).await.unwrap();
    let account = server.installation().unwrap().keys().encoders.public_key();
    let leaked = Leaked::of(&server, "encoders.workers", &account, &[worker("w1"), worker("w2")]);
    assert_eq!(leaked.opens(&server).await, [true, true, true], "the attack");
    let rendered = server.dir().join("accounts/ENCODERS.jwt");
    let preloaded = fs::read(&rendered).unwrap();
    let made = admin.rekey_workers(NOW).await.unwrap();
    assert_eq!(made.logins.len(), 2);
    assert_eq!(leaked.opens(&server).await, [false, false, false]);
    let mut renewed = Watched::connect(&server, &worker("w1")).await;
    renewed.publish_denied("lease.w2.done").await;
    assert!(creds::read(&w2).unwrap().claims.iss == made.key);
    no_difference(&server.admin().await.unwrap()).await;

    server.kill().unwrap();
    server.start_again().await.unwrap();
    let admin = server.admin().await.unwrap();
    assert_eq!(admin.provision(Replicas::One, NOW).await.unwrap(), Vec::<String>::new());
    assert_eq!(leaked.opens(&server).await, [false, false, false]);
    server.connect(&worker("w2")).await.unwrap();

    // A configuration that `nats init` wrote before preloads the account of then: the server has a newer.
    server.kill().unwrap();
    fs::write(&rendered, preloaded).unwrap();
    server.start_again().await.unwrap();
    assert_eq!(leaked.opens(&server).await, [false, false, false]);
    server.connect(&worker("w2")).await.unwrap();
}

// Commands of another machine, whose copy of the folder has the key of before, say so.
#[tokio::test]
async fn an_older_copy_of_the_folder_brings_no_scoped_key_back() {
    let (server, admin) = with_acme().await;
    let copy = copied(&server);
    let account = admin.tenant(&acme()).await.unwrap().account;
    let leaked = Leaked::of(&server, "tenant-acme.programs", &account, &[login_of("app")]);
    let encoders = server.installation().unwrap().keys().encoders.public_key();
    let workers = Leaked::of(&server, "encoders.workers", &encoders, &[worker("w1")]);
    admin.rekey_tenant(&acme(), NOW).await.unwrap();
    admin.rekey_workers(NOW).await.unwrap();
    let other = Installation::open(copy.path()).unwrap();
    let other = Admin::connect(other, &server.url()).await.unwrap();
    let more = TenantSpec { concurrency: 9, ..tenant("acme") };
    let set = other.set_tenant(&more, NOW).await.map(|_| ());
    let provision = other.provision(Replicas::One, NOW).await.map(|_| ());
    for refused in [set, provision] {
        let told = matches!(refused, Err(AdminError::Installation(InitError::Replaced(_))));
        assert!(told, "{refused:?}");
    }
    assert_eq!(leaked.opens(&server).await, [false, false]);
    assert_eq!(workers.opens(&server).await, [false, false]);
    // With the files of the new ones it goes on.
    for name in ["tenant-acme.programs.nk", "encoders.workers.nk"] {
        fs::copy(server.dir().join("keys").join(name), copy.path().join("keys").join(name))
            .unwrap();
    }
    let other = Installation::open(copy.path()).unwrap();
    let other = Admin::connect(other, &server.url()).await.unwrap();
    other.set_tenant(&more, NOW).await.unwrap();
    other.provision(Replicas::One, NOW).await.unwrap();
    assert_eq!(leaked.opens(&server).await, [false, false]);
    assert_eq!(workers.opens(&server).await, [false, false]);
}

// Dropped at any of its steps, as a command that is killed: what is there works on, and the same
// words complete it.
#[tokio::test]
async fn an_interrupted_replacement_is_completed_by_the_same_words() {
    let (server, admin) = with_acme().await;
    let account = admin.tenant(&acme()).await.unwrap().account;
    let leaked = Leaked::of(&server, "tenant-acme.programs", &account, &[login_of("app")]);
    for looks in 1..1000_usize {
        let tenant = acme();
        if dropped_after(looks, admin.rekey_tenant(&tenant, NOW)).await {
            assert!(looks > 3, "it was never interrupted");
            return;
        }
        by_hand(&server).await.flush().await.unwrap();
        admin.provision(Replicas::One, UnixMs(NOW.0 + 1)).await.unwrap();
        admin.suspend_tenant(&tenant, NOW).await.unwrap();
        admin.resume_tenant(&tenant, NOW).await.unwrap();
        admin.rekey_tenant(&tenant, NOW).await.unwrap();
        assert_eq!(leaked.opens(&server).await, [false, false], "after {looks} looks");
        server.connect(&login_of("app")).await.unwrap();
        no_difference(&admin).await;
    }
    panic!("never done");
}

// The same of a revocation: written down or not, never half, and never taken back.
#[tokio::test]
async fn a_revocation_that_is_dropped_at_any_step_is_completed() {
    let (server, admin) = with_acme().await;
    let (tenant, ci) = (acme(), "ci".parse().unwrap());
    for looks in 1..1000_usize {
        admin.add_program(&tenant, &ci, &Terms::default(), NOW).await.unwrap();
        let leaked = Leaked::of(&server, "tenant-acme.programs", "", &[login_of("ci")]);
        let done = dropped_after(looks, admin.revoke_program(&tenant, &ci, NOW)).await;
        by_hand(&server).await.flush().await.unwrap();
        let key = &creds_of(&leaked.files[0]);
        let written = server.installation().unwrap().revoked().unwrap();
        // Once it is written down, whatever comes next makes it so.
        if written.iter().any(|login| login.key == *key) {
            admin.provision(Replicas::One, UnixMs(NOW.0 + 1)).await.unwrap();
            assert!(!leaked.opens(&server).await[1], "after {looks} looks");
        }
        if done {
            return;
        }
        admin.revoke_program(&tenant, &ci, NOW).await.unwrap();
        assert!(!leaked.opens(&server).await[1], "after {looks} looks");
        assert!(!server.installation().unwrap().creds_path(&login_of("ci")).exists());
        no_difference(&admin).await;
    }
    panic!("never done");
}

fn creds_of(text: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.creds");
    fs::write(&path, text).unwrap();
    creds::read(&path).unwrap().claims.sub
}

// An agent's key is found by the key that signed its login: after a replacement by neither.
#[tokio::test]
async fn an_agent_with_the_key_of_before_renews_nothing_that_is_taken() {
    let (server, admin) = with_acme().await;
    let copy = copied(&server);
    admin.rekey_tenant(&acme(), NOW).await.unwrap();
    let path = Installation::open(copy.path()).unwrap().creds_path(&login_of("app"));
    let iss = creds::read(&path).unwrap().claims.iss;
    let scope = keys::scope_of(&copy.path().join("keys"), &iss).unwrap();
    let text = creds::renew(&path, &scope, short_life(LONG_SECS), NOW).unwrap().text;
    let options = async_nats::ConnectOptions::with_credentials(&text).unwrap();
    assert!(options.connect(server.url()).await.is_err());
    let foreign = keys::scope_of(&server.dir().join("keys"), &iss).err().unwrap();
    assert!(matches!(foreign, keys::KeyError::Foreign(_)), "{foreign:?}");
}
