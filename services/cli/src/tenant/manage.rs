//! `hotcell tenant list|show|set|suspend|resume|remove|creds|revoke|rekey` and `hotcell plan`.

use super::args::{CredsArgs, PlanCommand, SetArgs, Switch, TenantCommand};
use crate::{
    fail::{Context as _, Fail},
    layout::{Layout, write_private},
    print,
};
use hotcell_nats_config::{
    Admin, Installation, Plan, PoolWork, Rekeyed, RevokedLogin, TenantSpec, Terms,
};
use hotcell_schemas::{TenantId, UnixMs, records::TenantRecord, tenancy::TenantState};
use hotcell_stage::clock;
use serde_json::{Value, json};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

/// The running installation's operator.
pub(crate) async fn admin(data: &Path) -> Result<Admin, Fail> {
    let layout = Layout::open(data)?;
    let installation = Installation::open(&layout.nats()).or_fail("the installation's keys")?;
    installation.renew_operator(clock::now()).or_fail("the operator's logins")?;
    let url = layout.nats_url()?;
    Admin::connect(installation, &url).await.map_err(|error| {
        let why = hotcell_stage::service::describe(&error);
        Fail::unreachable(format!("the broker at {url} refuses ({why}): is `hotcell up` running?"))
    })
}

/// Runs one of the commands on tenants.
pub(crate) async fn run(data: &Path, command: TenantCommand, as_json: bool) -> Result<(), Fail> {
    if let TenantCommand::Add(args) = command {
        return Box::pin(super::add(data, &args, as_json)).await;
    }
    let admin = admin(data).await?;
    match command {
        TenantCommand::Add(_) => Ok(()),
        TenantCommand::List => list(&admin, as_json).await,
        TenantCommand::Show { name } => show(&admin, &name, as_json).await,
        TenantCommand::Set(args) => set(&admin, &args, as_json).await,
        TenantCommand::Suspend { name } => {
            let record =
                admin.suspend_tenant(&name, clock::now()).await.or_fail("not suspended")?;
            said(
                &record,
                "suspended: its connections are cut, and nothing of it is served",
                as_json,
            );
            Ok(())
        }
        TenantCommand::Resume { name } => {
            let record = admin.resume_tenant(&name, clock::now()).await.or_fail("not resumed")?;
            said(&record, "served again", as_json);
            Ok(())
        }
        TenantCommand::Remove { name, yes } => remove(&admin, &name, yes, as_json).await,
        TenantCommand::Creds(args) => creds(&admin, &args, as_json).await,
        TenantCommand::Revoke { name, user } => {
            let now = clock::now();
            let done = admin.revoke_program(&name, &user, now).await;
            let what = format!("login {user} of tenant {name}");
            revoked(&what, &done.or_fail("not revoked in full")?, now, as_json);
            Ok(())
        }
        TenantCommand::Rekey { name } => {
            let done = admin.rekey_tenant(&name, clock::now()).await;
            let done = done.or_fail("not done in full")?;
            rekeyed(&format!("tenant {name} has"), &done, as_json);
            Ok(())
        }
    }
}

/// Runs one of the commands on plans.
pub(crate) fn plans(command: &PlanCommand, as_json: bool) -> Result<(), Fail> {
    match command {
        PlanCommand::List if as_json => print::json(&Plan::built_in()),
        PlanCommand::List => print::line(plan_table()),
        PlanCommand::Show { name } => {
            let plan = Plan::named(name).map_err(|error| Fail::usage(error.to_string()))?;
            match Plan::text_of(name) {
                Some(text) if !as_json => print::line(text.trim_end()),
                Some(_) | None => print::json(&plan),
            }
        }
    }
    Ok(())
}

fn plan_table() -> String {
    let mut rows = vec![
        [
            "plan",
            "weight",
            "concurrent",
            "queue",
            "req/s",
            "jobs/min",
            "input MiB",
            "out min/mo",
            "cpu s/mo",
            "keep h",
            "store GiB",
            "hooks",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    rows.extend(Plan::built_in().into_iter().map(|plan| {
        vec![
            plan.name,
            plan.weight.to_string(),
            plan.concurrency.to_string(),
            plan.queue_depth.to_string(),
            plan.requests_per_sec.to_string(),
            plan.jobs_per_min.to_string(),
            (plan.input_bytes_max >> 20).to_string(),
            plan.output_minutes_per_month.to_string(),
            plan.cpu_secs_per_month.to_string(),
            (plan.retention_secs / 3600).to_string(),
            (plan.stored_bytes_max >> 30).to_string(),
            plan.webhooks_max.to_string(),
        ]
    }));
    print::table(&rows)
}

/// The plan that `text` names: one that is compiled in, else a file.
pub(crate) fn plan(text: &str) -> Result<Plan, Fail> {
    if let Ok(plan) = Plan::named(text) {
        return Ok(plan);
    }
    let file = fs::read_to_string(text).map_err(|_| {
        Fail::usage(format!("{text} is neither free, starter or pro nor a file that can be read"))
    })?;
    let plan = Plan::read(&file).map_err(|error| Fail::config(format!("{text}: {error}")))?;
    // Tables and records show the name alone.
    if Plan::named(&plan.name).is_ok_and(|ours| ours != plan) {
        let rule = "is that of a plan that is compiled in, with other values: give yours its own";
        return Err(Fail::config(format!("{text}: name of the plan {rule}")));
    }
    Ok(plan)
}

/// The name of a state, for people.
fn state(state: TenantState) -> &'static str {
    match state {
        TenantState::Active => "active",
        TenantState::Suspended => "suspended",
        TenantState::Removed => "removed",
    }
}

fn pools(record: &TenantRecord) -> String {
    record.pools.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

fn said(record: &TenantRecord, what: &str, as_json: bool) {
    if as_json {
        print::json(record);
    } else {
        print::line(format!("tenant {} is {what}", record.id));
    }
}

async fn list(admin: &Admin, as_json: bool) -> Result<(), Fail> {
    let records = admin.tenants().await.or_fail("tenants not listed")?;
    if as_json {
        print::json(&records);
        return Ok(());
    }
    let heading = ["tenant", "state", "plan", "pools", "concurrent", "raw", "since"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(records.iter().map(|record| {
        vec![
            record.id.to_string(),
            state(record.state).to_owned(),
            record.quotas.plan.clone(),
            pools(record),
            record.concurrency.to_string(),
            if record.raw_arguments { "yes" } else { "no" }.to_owned(),
            record.created_at.to_string(),
        ]
    }));
    print::line(print::table(&rows));
    Ok(())
}

async fn show(admin: &Admin, name: &TenantId, as_json: bool) -> Result<(), Fail> {
    let record = admin.tenant(name).await.or_fail("not shown")?;
    let now = clock::now();
    let keys = admin.keys().await.or_fail("keys not listed")?;
    let live = |key: &&hotcell_schemas::records::KeyRecord| {
        key.tenant == *name
            && key.revoked_at.is_none()
            && key.expires_at.is_none_or(|end| end.0 > now.0)
    };
    let keys = keys.iter().filter(live).count();
    let work = if record.state == TenantState::Removed {
        Vec::new()
    } else {
        admin.work_of(&record).await.or_fail("consumers not read")?
    };
    let connections = admin.connections(&record.account).await.or_fail("connections not read")?;
    let work_json: Vec<Value> = work
        .iter()
        .map(|PoolWork { pool, waiting, running }| {
            json!({ "pool": pool, "waiting": waiting, "running": running })
        })
        .collect();
    if as_json {
        print::json(&json!({
            "record": record, "keys": keys, "connections": connections, "work": work_json,
        }));
        return Ok(());
    }
    let quotas = &record.quotas;
    let mut rows = vec![
        ("tenant", record.id.to_string()),
        ("state", state(record.state).to_owned()),
        ("plan", format!("{} (weight {})", quotas.plan, quotas.weight)),
        ("account", record.account.clone()),
        ("since", record.created_at.to_string()),
        ("raw arguments", if record.raw_arguments { "yes" } else { "no" }.to_owned()),
        ("concurrent", record.concurrency.to_string()),
        ("may wait", format!("{} jobs", quotas.queue_depth)),
        ("requests", format!("{}/s, {} jobs/min", quotas.requests_per_sec, quotas.jobs_per_min)),
        ("largest input", format!("{} bytes", quotas.input_bytes_max)),
        (
            "each month",
            format!(
                "{} min of output, {} CPU s",
                quotas.output_minutes_per_month, quotas.cpu_secs_per_month
            ),
        ),
        ("kept", format!("{} s, {} bytes at most", record.retention_secs, record.stored_bytes_max)),
        ("webhooks", format!("{} at most", quotas.webhooks_max)),
        ("API keys", keys.to_string()),
        ("connections", connections.to_string()),
    ];
    rows.extend(work.iter().map(|work| {
        ("work", format!("pool {}: {} waiting, {} running", work.pool, work.waiting, work.running))
    }));
    let rows: Vec<Vec<String>> =
        rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    print::line(print::table(&rows));
    Ok(())
}

async fn set(admin: &Admin, args: &SetArgs, as_json: bool) -> Result<(), Fail> {
    if args.plan.is_none() && args.raw_arguments.is_none() && args.pools.is_empty() {
        return Err(Fail::usage("nothing to set: name --plan, --raw-arguments or --pool"));
    }
    let record = admin.tenant(&args.name).await.or_fail("not changed")?;
    let before = TenantSpec::of(&record);
    let mut spec = match &args.plan {
        Some(text) => TenantSpec { pools: before.pools.clone(), ..plan(text)?.spec(record.id) },
        None => before.clone(),
    };
    spec.raw_arguments =
        args.raw_arguments.map_or(before.raw_arguments, |switch| switch == Switch::On);
    if !args.pools.is_empty() {
        spec.pools.clone_from(&args.pools);
    }
    let record = admin.set_tenant(&spec, clock::now()).await.or_fail("not changed")?;
    said(&record, "changed", as_json);
    Ok(())
}

async fn remove(admin: &Admin, name: &TenantId, yes: bool, as_json: bool) -> Result<(), Fail> {
    // A name that nobody has is said before a person types it again.
    admin.tenant(name).await.or_fail("not removed")?;
    if !yes {
        print::note(format!(
            "Everything that tenant {name} stored will be erased. Type its name to go on:"
        ));
        let mut typed = String::new();
        io::stdin().read_line(&mut typed).or_fail("nothing typed")?;
        if typed.trim() != name.as_str() {
            return Err(Fail::failed("another name was typed; nothing is removed"));
        }
    }
    let removed = admin.remove_tenant(name, clock::now()).await.or_fail("not removed in full")?;
    if as_json {
        print::json(&json!({
            "record": removed.record, "jobs_cancelled": removed.jobs_cancelled,
            "keys_revoked": removed.keys_revoked,
        }));
        return Ok(());
    }
    print::line(format!(
        "tenant {name} is removed: {} open jobs cancelled, {} keys revoked.\nThe signer erases its \
         bytes within its next round; the evidence stays.",
        removed.jobs_cancelled, removed.keys_revoked
    ));
    Ok(())
}

async fn creds(admin: &Admin, args: &CredsArgs, as_json: bool) -> Result<(), Fail> {
    let terms = Terms::new(args.roles.iter().copied(), Some(args.expires));
    let terms = terms.map_err(|error| Fail::usage(error.to_string()))?;
    let made = admin.add_program(&args.name, &args.user, &terms, clock::now()).await;
    hand_over(&made.or_fail("no login made")?, args.out.as_deref(), as_json)
}

/// Says that a login is revoked, or was before: then another of its name may be alive elsewhere.
pub(crate) fn revoked(what: &str, login: &RevokedLogin, now: UnixMs, as_json: bool) {
    if as_json {
        print::json(&json!({
            "login": login.name, "key": login.key, "revoked_at": login.revoked_at,
            "expires_at": login.ends_at,
        }));
    } else if login.revoked_at < now {
        print::line(format!(
            "{what} was revoked at {}: its key {} opens nothing. There is no other login of that name \
             here; where one was made since and its file is gone, `rekey` ends it.",
            login.revoked_at, login.key
        ));
    } else {
        print::line(format!(
            "{what} is revoked: its connections are cut, and key {} opens nothing.\nStop the agent \
             that renews it, if there is one: it renews a dead login.",
            login.key
        ));
    }
}

/// Says what is to be handed out after a scoped key was replaced.
pub(crate) fn rekeyed(who_has: &str, made: &Rekeyed, as_json: bool) {
    if as_json {
        let logins = made.logins.iter();
        let logins = logins.map(|found| json!({ "login": found.claims.name, "creds": found.path }));
        print::json(&json!({
            "key": made.key, "file": made.file, "logins": logins.collect::<Vec<_>>(),
        }));
        return;
    }
    let row = |name: &str, path: &Path| vec![name.to_owned(), path.display().to_string()];
    let mut rows: Vec<_> = made.logins.iter().map(|found| row("login", &found.path)).collect();
    rows.push(row("agents' key", &made.file));
    print::line(format!(
        "{who_has} another scoped key: what the one before signed is cut and opens nothing.\nHand these \
         out again:\n{}",
        print::table(&rows)
    ));
}

/// Says where a credential file is, or puts a copy where it was asked for.
pub(crate) fn hand_over(path: &Path, out: Option<&Path>, as_json: bool) -> Result<(), Fail> {
    let read = hotcell_nats_config::creds::read(path).or_fail("the login that was made")?;
    let shown: PathBuf = match out {
        Some(out) => {
            write_private(out, &read.text)?;
            out.to_owned()
        }
        None => path.to_owned(),
    };
    let claims = &read.claims;
    if as_json {
        print::json(&json!({
            "creds": shown, "user": claims.sub, "expires_at": claims.exp, "tags": claims.nats.tags,
        }));
    } else {
        print::line(shown.display().to_string());
    }
    Ok(())
}
