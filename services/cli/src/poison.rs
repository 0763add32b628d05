//! `hotcell poison list|release`: inputs that killed their cells.
//!
//! Promises: a release is in the evidence log before it has any effect. Refuses a part of a hash
//! that is not that of one file.

use crate::{
    args::PoisonCommand,
    fail::{Context as _, Fail},
    layout::Layout,
    print,
};
use hotcell_nats_config::{Installation, Login};
use hotcell_schemas::{Role, TenantId, poison::PoisonRecord, records::AuditAct};
use hotcell_stage::{
    Bus, NatsConfig, Outgoing, clock,
    kv::{Bucket, Entry},
    service::describe,
    tls::ClientTls,
};
use serde_json::{Value, json};
use std::path::Path;

/// Characters of a hash in the table, and the fewest that name one to release: 48 bits, so two of a
/// million files are alike once in five hundred installations.
const HASH_CHARS_MIN: usize = 12;

/// Writes of a release that lose to a strike before the command gives up.
const TRIES_MAX: u32 = 5;

/// Runs one of the two.
pub(crate) async fn run(data: &Path, command: PoisonCommand, as_json: bool) -> Result<(), Fail> {
    let bus = connect(data).await?;
    let bucket = bus.bucket("poison");
    let found = bucket.scan::<PoisonRecord>("").await.or_fail("cannot read the quarantine")?;
    match command {
        PoisonCommand::List => {
            let records = found.iter().map(|entry| &entry.value);
            if as_json {
                print::json(&records.map(shown).collect::<Vec<_>>());
            } else if found.is_empty() {
                print::line("no input has killed a cell");
            } else {
                let rows: Vec<_> = [heading()].into_iter().chain(records.map(row)).collect();
                print::line(print::table(&rows));
            }
            Ok(())
        }
        PoisonCommand::Release { sha256, tenant } => {
            let chosen = choose(&found, &sha256.to_lowercase(), tenant.as_ref())?;
            for entry in &chosen {
                release(&bus, &bucket, entry).await?;
            }
            let released: Vec<_> = chosen.iter().map(|entry| shown(&entry.value)).collect();
            if as_json {
                print::json(&json!({ "released": released }));
            } else {
                for entry in chosen {
                    let whom = whom(&entry.value);
                    print::line(format!("released {} for {whom}", entry.value.sha256));
                }
            }
            Ok(())
        }
    }
}

/// The operator's own connection.
pub(crate) async fn connect(data: &Path) -> Result<Bus, Fail> {
    let layout = Layout::open(data)?;
    let installation = Installation::open(&layout.nats()).or_fail("the installation's keys")?;
    installation.renew_operator(clock::now()).or_fail("the operator's logins")?;
    let url = layout.nats_url()?;
    // The login below waits for a broker that comes back; a person does not.
    let at = url.split_once("://").map_or(url.as_str(), |(_, at)| at);
    if std::net::TcpStream::connect(at).is_err() {
        return Err(Fail::unreachable(format!("{url} does not answer: start `hotcell up` first")));
    }
    let login = Login::Service(Role::Provisioner);
    let (creds, trust) = (installation.creds_path(&login), installation.trust_path());
    let tls = url.starts_with("tls://").then(|| installation.tls(login.name().as_str()));
    let tls = tls.map(|files| ClientTls { ca: files.ca, cert: files.cert, key: files.key });
    let config = NatsConfig { url: url.clone(), creds, trust, tls };
    Bus::connect(Role::Provisioner, &config).await.map_err(|error| {
        let why = describe(&error);
        Fail::unreachable(format!("the broker at {url} refuses ({why}): is `hotcell up` running?"))
    })
}

/// The records that a release means: of one file, for the named tenant, or for all whom it counts
/// against.
fn choose<'a>(
    found: &'a [Entry<PoisonRecord>],
    sha256: &str,
    tenant: Option<&TenantId>,
) -> Result<Vec<&'a Entry<PoisonRecord>>, Fail> {
    if sha256.len() < HASH_CHARS_MIN || !sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let rule = "give the file's SHA-256, or at least its first";
        return Err(Fail::usage(format!("{rule} {HASH_CHARS_MIN} characters")));
    }
    let chosen: Vec<_> = found
        .iter()
        .filter(|entry| entry.value.sha256.to_string().starts_with(sha256))
        .filter(|entry| tenant.is_none() || entry.value.tenant.as_ref() == tenant)
        .collect();
    let Some(first) = chosen.first() else {
        return Err(Fail::failed("nothing is held against such a file: see `hotcell poison list`"));
    };
    if chosen.iter().any(|entry| entry.value.sha256 != first.value.sha256) {
        return Err(Fail::usage(format!("{sha256} begins more than one hash: give more of it")));
    }
    Ok(chosen)
}

/// The record of the act, then the act.
async fn release(bus: &Bus, bucket: &Bucket, entry: &Entry<PoisonRecord>) -> Result<(), Fail> {
    let record = &entry.value;
    let act =
        AuditAct::Admin { action: "poison_released".to_owned(), target: record.sha256.to_string() };
    let id = format!("admin-{}", hex::encode(clock::random::<16>()));
    let out = Outgoing::audit(record.tenant.as_ref(), act, id);
    bus.publish(&out).await.or_fail("not released, because the log does not take the record")?;
    let mut tries = 0;
    loop {
        tries += 1;
        let (still, revision) =
            bucket.look::<PoisonRecord>(&entry.key).await.or_fail("not released")?;
        if still.is_none() {
            return Ok(());
        }
        match bucket.remove(&entry.key, revision).await {
            Ok(_) => return Ok(()),
            Err(hotcell_stage::kv::KvError::Conflict) if tries < TRIES_MAX => {}
            Err(error) => return Err(error).or_fail("not released"),
        }
    }
}

fn whom(record: &PoisonRecord) -> &str {
    record.tenant.as_ref().map_or("every tenant", TenantId::as_str)
}

fn state(record: &PoisonRecord) -> &'static str {
    if record.is_quarantined() { "quarantined" } else { "watched" }
}

fn shown(record: &PoisonRecord) -> Value {
    json!({
        "sha256": record.sha256,
        "tenant": record.tenant,
        "state": state(record),
        "strikes": record.strikes.iter().map(|strike| json!({
            "tenant": strike.tenant,
            "job": strike.job,
            "attempt": strike.attempt,
            "worker": strike.worker,
            "code": strike.code,
            "at": strike.at.rfc3339(),
        })).collect::<Vec<_>>(),
    })
}

fn heading() -> Vec<String> {
    let names = ["sha256", "for", "state", "count", "code", "first job", "last job", "last"];
    names.map(String::from).to_vec()
}

fn row(record: &PoisonRecord) -> Vec<String> {
    let (first, last) = (record.strikes.first(), record.strikes.last());
    let of = |strike: Option<&hotcell_schemas::poison::Strike>| {
        strike.map_or_else(String::new, |strike| strike.job.to_string())
    };
    vec![
        record.sha256.to_string().chars().take(HASH_CHARS_MIN).collect(),
        whom(record).to_owned(),
        state(record).to_owned(),
        record.strikes.len().to_string(),
        last.map_or("", |strike| strike.code.as_str()).to_owned(),
        of(first),
        of(last),
        last.map_or_else(String::new, |strike| strike.at.rfc3339()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use hotcell_schemas::{Digest, JobId, RejectCode, UnixMs, poison::Strike};

    fn entry(bytes: &[u8], tenant: Option<&str>, strikes: u32) -> Entry<PoisonRecord> {
        let tenant: Option<TenantId> = tenant.map(|tenant| tenant.parse().unwrap());
        let mut value = PoisonRecord::new(Digest::of(bytes), tenant.clone());
        for attempt in 1..=strikes {
            value.strike(Strike {
                tenant: "acme".parse().unwrap(),
                job: JobId::new(1, [7; 10]),
                attempt,
                worker: "w1".parse().unwrap(),
                code: RejectCode::CellCrashed,
                at: UnixMs(1_779_460_245_120),
            });
        }
        let key = PoisonRecord::key(value.sha256, tenant.as_ref());
        Entry { key, value, revision: 1, stored_at: UnixMs(1) }
    }

    #[test]
    fn new_13_a_release_names_one_file_and_all_or_one_whom_it_counts_against() {
        let found = [entry(b"a", None, 2), entry(b"a", Some("acme"), 2), entry(b"b", None, 1)];
        let (a, c) = (Digest::of(b"a").to_string(), Digest::of(b"c").to_string());
        let acme: TenantId = "acme".parse().unwrap();
        let check = |hash: &str, tenant: Option<&TenantId>, expect: Result<usize, u8>| {
            let got = choose(&found, hash, tenant).map(|chosen| chosen.len());
            assert_eq!(got.map_err(|fail| fail.code), expect, "{hash}");
        };
        let begin = |count: usize| a.chars().take(count).collect::<String>();
        check(&a, None, Ok(2));
        check(&begin(12), None, Ok(2));
        check(&a, Some(&acme), Ok(1));
        check(&c, None, Err(1));
        check(&begin(11), None, Err(2));
        check("", None, Err(2));
        check("../../../../x", None, Err(2));
    }

    #[test]
    fn the_table_lines_up() {
        let rows = [entry(b"a", None, 2), entry(b"b", Some("acme"), 1)];
        let rows: Vec<_> =
            [heading()].into_iter().chain(rows.iter().map(|entry| row(&entry.value))).collect();
        let table = print::table(&rows);
        let lines: Vec<_> = table.lines().collect();
        for word in ["quarantined", "watched"] {
            let line = lines.iter().find(|line| line.contains(word)).unwrap();
            assert_eq!(line.find(word), lines[0].find("state"), "{table}");
        }
        assert!(lines[1].starts_with("ca978112ca1b  every tenant  quarantined  2 "), "{table}");
        assert!(lines.iter().all(|line| line.len() < 160), "{table}");
    }
}
