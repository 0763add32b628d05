//! `hotcell destination add|list|show|rekey|remove`: buckets outside of hotcell's own store where a
//! tenant's outputs may go.
//!
//! Promises: a destination was tried before it is entered, and a key before it takes another's place;
//! each act is in the evidence log before it is done, and a secret is read from a file, sealed, and
//! shown nowhere. Refuses: the installation's own store, a name that is taken, plain text beyond
//! loopback, a key for a record that another process changed meanwhile, and whatever the trial shows to
//! be weaker than the own store. A new key leads nowhere else, so jobs of before go on. The time from which on a destination is used is the broker's: the clock
//! of this machine has no say in which jobs were decided on for it.

mod probe;
mod rekey;

use crate::{
    fail::{Context as _, Fail},
    layout::Layout,
    poison::connect,
    print,
};
use clap::Subcommand;
use hotcell_schemas::{
    DestinationName, TenantId, UnixMs,
    destination::{Addressing, DestinationRecord},
    records::{AuditAct, TenantRecord},
    tenancy::TenantState,
};
use hotcell_signer::presign::{self, Endpoint, PresignKey};
use hotcell_stage::{
    Bus, Outgoing, clock,
    config::{read, read_key},
    kv::{Bucket, Entry, KvError},
    vault::Vault,
};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Later than any job: the end of the year 9999.
const NEVER: UnixMs = UnixMs(253_402_300_799_000);

/// What can be done with destinations.
#[derive(Debug, Subcommand)]
pub(crate) enum DestinationCommand {
    /// Try a bucket, and enter it as a place for a tenant's outputs.
    Add(AddArgs),
    /// List destinations.
    #[command(after_help = "Example:
  hotcell destination list --tenant acme")]
    List {
        /// Only this tenant's.
        #[arg(long)]
        tenant: Option<TenantId>,
    },
    /// Show a destination; its secret is shown by nothing.
    #[command(after_help = "Example:
  hotcell destination show cdn --tenant acme")]
    Show(NameArgs),
    /// Try another access key of a destination's bucket, and put it in place of the one in use: where
    /// it leads stays, and jobs go on.
    Rekey(rekey::RekeyArgs),
    /// Remove a destination: jobs that name it end, and what is in the bucket stays.
    #[command(after_help = "Example:
  hotcell destination remove cdn --tenant acme")]
    Remove(NameArgs),
}

#[derive(Debug, clap::Args)]
pub(crate) struct NameArgs {
    /// Its name.
    name: DestinationName,
    /// Whose it is.
    #[arg(long)]
    tenant: TenantId,
}

/// How a bucket is addressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum AddressingArg {
    /// `https://host/bucket/key`: any server.
    Path,
    /// `https://bucket.host/key`: what AWS prefers.
    Virtual,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The bucket is tried first, with objects below PREFIX/_hotcell/ that stay there: it must keep
create-only writes, the signed size and SHA-256, and answer no stranger. The key needs s3:PutObject
and s3:GetObject below the prefix, and nothing else.

Example:
  hotcell destination add cdn --tenant acme --endpoint https://s3.eu-central-1.amazonaws.com \\
      --region eu-central-1 --bucket acme-media --prefix hotcell --addressing virtual \\
      --access-key-id AKIAIOSFODNN7EXAMPLE --secret-file ./acme.secret"
)]
pub(crate) struct AddArgs {
    /// What requests call it: a-z, 0-9 and '-'.
    name: DestinationName,
    /// Whose it is.
    #[arg(long)]
    tenant: TenantId,
    /// Base URL of its S3 API, without a path.
    #[arg(long, value_name = "URL")]
    endpoint: String,
    /// The bucket.
    #[arg(long)]
    bucket: String,
    /// What the keys of its objects begin with.
    #[arg(long, default_value = "")]
    prefix: String,
    /// Region of its signatures.
    #[arg(long, default_value = "us-east-1")]
    region: String,
    /// How the bucket is addressed.
    #[arg(long, value_enum, default_value_t = AddressingArg::Path)]
    addressing: AddressingArg,
    /// Public half of its access key.
    #[arg(long, value_name = "ID")]
    access_key_id: String,
    /// File with the secret half; read once, and not kept.
    #[arg(long, value_name = "FILE")]
    secret_file: PathBuf,
}

/// Runs one of the five.
pub(crate) async fn run(
    data: &Path,
    command: DestinationCommand,
    as_json: bool,
) -> Result<(), Fail> {
    match command {
        DestinationCommand::Add(args) => Box::pin(add(data, &args, as_json)).await,
        DestinationCommand::List { tenant } => {
            let found = list(&connect(data).await?, tenant.as_ref()).await?;
            if as_json {
                print::json(&found.iter().map(shown).collect::<Vec<_>>());
            } else if found.is_empty() {
                print::line("there is no destination");
            } else {
                print::line(table(&found));
            }
            Ok(())
        }
        DestinationCommand::Show(args) => {
            let entry = entry(&connect(data).await?, &args).await?;
            say(&entry.value, "", as_json);
            Ok(())
        }
        DestinationCommand::Rekey(args) => Box::pin(rekey::run(data, &args, as_json)).await,
        DestinationCommand::Remove(args) => {
            let bus = connect(data).await?;
            let entry = entry(&bus, &args).await?;
            record(&bus, "destination_removed", &entry.value).await?;
            let removed = bus.bucket("destinations").remove(&entry.key, entry.revision).await;
            removed.or_fail("not removed")?;
            let note = "removed: jobs that name it end with destination_unknown; its objects stay";
            say(&entry.value, note, as_json);
            Ok(())
        }
    }
}

/// A record with the key that opens its bucket.
struct Keyed {
    record: DestinationRecord,
    place: Endpoint,
    key: PresignKey,
}

/// Seals the secret in `file` for `record`, whose form is checked.
fn keyed(layout: &Layout, mut record: DestinationRecord, file: &Path) -> Result<Keyed, Fail> {
    let path = layout.secret("destination.key");
    if !path.exists() {
        return Err(Fail::config(format!(
            "{} is missing: `hotcell up` makes it at its next start, or put 64 random hexadecimal \
             digits there, and into the file of each signer's destination_key",
            path.display()
        )));
    }
    let vault = Vault::new(&read_key("destination_key", &path).or_fail("the sealing key")?);
    let secret = read(file).or_fail("the secret")?;
    let secret = secret.trim();
    record.sealed = vault.seal(secret.as_bytes(), &record.owner(), clock::random());
    check(&record)?;
    let place = Endpoint::try_from(&record);
    let place = place.map_err(|error| Fail::usage(format!("--endpoint: {error}")))?;
    let key = PresignKey::new(&record.access_key_id, secret, &record.region);
    let key = key.map_err(|_| Fail::usage("the secret must be printable ASCII, in one line"))?;
    if is_own_store(layout, &place, &record.bucket)? {
        return Err(Fail::failed(format!("not entered: {}", probe::OWN_STORE)));
    }
    Ok(Keyed { record, place, key })
}

/// `hotcell destination add`.
async fn add(data: &Path, args: &AddArgs, as_json: bool) -> Result<(), Fail> {
    let layout = Layout::open(data)?;
    let Keyed { record, place, key } = keyed(&layout, record_of(args), &args.secret_file)?;

    let bus = connect(data).await?;
    let (destinations, name) = (bus.bucket("destinations"), record_key(&record));
    let revision = free(&bus, &record).await?;
    probe::run(&key, &place, &record).await?;

    self::record(&bus, "destination_added", &record).await?;
    let record = enter(&destinations, &name, record, revision).await?;
    // Whoever removes the tenant from now on finds the record; who did it meanwhile, is found here.
    if let Err(gone) = is_there(&bus, &record.tenant).await {
        self::record(&bus, "destination_removed", &record).await?;
        let (_, left) =
            destinations.look::<DestinationRecord>(&name).await.or_fail("not removed")?;
        destinations.remove(&name, left).await.or_fail("not removed")?;
        return Err(gone);
    }
    let note = format!(
        "added: requests may say \"destination\": \"{}\", and the file with the secret is not \
         needed any more",
        record.name
    );
    say(&record, &note, as_json);
    Ok(())
}

/// Writes the record so that no job may use it, then with the time at which that was stored: jobs of
/// before were not decided on for it, whatever the clock here says.
async fn enter(
    destinations: &Bucket,
    name: &str,
    record: DestinationRecord,
    revision: u64,
) -> Result<DestinationRecord, Fail> {
    let unusable = DestinationRecord { created_at: NEVER, ..record };
    match destinations.update(name, &unusable, revision).await {
        Ok(_) => {}
        Err(KvError::Conflict) => return Err(taken(&unusable)),
        Err(error) => return Err(error).or_fail("not added"),
    }
    let half = "added so that no job can use it: remove it, and add it again";
    let entered = destinations.get::<DestinationRecord>(name).await.or_fail(half)?;
    let entered = entered.ok_or_else(|| Fail::failed(half))?;
    let record = DestinationRecord { created_at: entered.stored_at, ..entered.value };
    destinations.update(name, &record, entered.revision).await.or_fail(half)?;
    Ok(record)
}

/// The revision that the record's write must name: there is the tenant, and nothing of this name.
async fn free(bus: &Bus, record: &DestinationRecord) -> Result<u64, Fail> {
    is_there(bus, &record.tenant).await?;
    let found = bus.bucket("destinations").look::<DestinationRecord>(&record_key(record)).await;
    let (there, revision) = found.or_fail("the destinations")?;
    if there.is_some() { Err(taken(record)) } else { Ok(revision) }
}

/// Refuses a tenant that is removed, or never was.
async fn is_there(bus: &Bus, tenant: &TenantId) -> Result<(), Fail> {
    let found = bus.bucket("tenants").get::<TenantRecord>(tenant.as_str()).await;
    let found = found.or_fail("the tenant's record")?.map(|entry| entry.value.state);
    if found.is_some_and(|state| state != TenantState::Removed) {
        return Ok(());
    }
    Err(Fail::failed(format!("there is no tenant {tenant}")))
}

fn taken(record: &DestinationRecord) -> Fail {
    let DestinationRecord { tenant, name, .. } = record;
    Fail::failed(format!(
        "{tenant} has a destination {name} already: remove it first, or take another name"
    ))
}

/// What is asked for, without its secret.
fn record_of(args: &AddArgs) -> DestinationRecord {
    DestinationRecord {
        tenant: args.tenant.clone(),
        name: args.name.clone(),
        endpoint: args.endpoint.clone(),
        region: args.region.clone(),
        bucket: args.bucket.clone(),
        prefix: args.prefix.clone(),
        addressing: match args.addressing {
            AddressingArg::Path => Addressing::Path,
            AddressingArg::Virtual => Addressing::Virtual,
        },
        access_key_id: args.access_key_id.clone(),
        sealed: Vec::new(),
        created_at: clock::now(),
    }
}

fn check(record: &DestinationRecord) -> Result<(), Fail> {
    record.check().map_err(|error| {
        let option = match error.field {
            "name" => "the name".to_owned(),
            "sealed" => "what --secret-file holds".to_owned(),
            field => format!("--{}", field.replace('_', "-")),
        };
        Fail::usage(format!("{option} {}", error.rule))
    })
}

/// Whether that is the bucket of this installation, by what its last `up` wrote. Where it is known
/// by another name the trial finds out, and the signer looks once more.
fn is_own_store(layout: &Layout, place: &Endpoint, bucket: &str) -> Result<bool, Fail> {
    let own = Endpoint::parse(&layout.env_value("HOTCELL_S3")?, presign::Addressing::Path);
    let config = std::fs::read_to_string(layout.config("signer.toml")).unwrap_or_default();
    let config: toml::Table = config.parse().unwrap_or_default();
    let named = config.get("storage").and_then(|storage| storage.get("bucket")?.as_str());
    Ok(own.is_ok_and(|own| own.is_same(place)) && named.is_none_or(|named| named == bucket))
}

fn record_key(record: &DestinationRecord) -> String {
    DestinationRecord::key(&record.tenant, &record.name)
}

/// Puts the act into the evidence log, which comes before the act.
async fn record(bus: &Bus, action: &str, record: &DestinationRecord) -> Result<(), Fail> {
    // Without the scheme: exports for others withhold what looks like a URL.
    let location = record.location();
    let place = location.split_once("://").map_or(location.as_str(), |(_, place)| place);
    let target = format!("{} {place}", record.name);
    let act = AuditAct::Admin { action: action.to_owned(), target };
    let id = format!("admin-{}", hex::encode(clock::random::<16>()));
    let sent = bus.publish(&Outgoing::audit(Some(&record.tenant), act, id)).await;
    sent.or_fail("nothing changed, because the log does not take the record").map(|_| ())
}

async fn entry(bus: &Bus, args: &NameArgs) -> Result<Entry<DestinationRecord>, Fail> {
    let key = DestinationRecord::key(&args.tenant, &args.name);
    let found = bus.bucket("destinations").get::<DestinationRecord>(&key).await;
    found.or_fail("the destination's record")?.ok_or_else(|| {
        Fail::failed(format!(
            "{} has no destination {}: see `hotcell destination list`",
            args.tenant, args.name
        ))
    })
}

async fn list(bus: &Bus, tenant: Option<&TenantId>) -> Result<Vec<DestinationRecord>, Fail> {
    let prefix = tenant.map_or_else(String::new, |tenant| format!("{tenant}."));
    let found = bus.bucket("destinations").scan::<DestinationRecord>(&prefix).await;
    let found = found.or_fail("the destinations are not listed")?;
    let mut records: Vec<_> = found.into_iter().map(|entry| entry.value).collect();
    records.sort_by_key(record_key);
    Ok(records)
}

/// Everything but the secret, sealed as it is.
fn shown(record: &DestinationRecord) -> Value {
    json!({
        "tenant": record.tenant,
        "name": record.name,
        "location": record.location(),
        "endpoint": record.endpoint,
        "region": record.region,
        "bucket": record.bucket,
        "prefix": record.prefix,
        "addressing": record.addressing,
        "access_key_id": record.access_key_id,
        "created_at": record.created_at.rfc3339(),
    })
}

fn say(record: &DestinationRecord, note: &str, as_json: bool) {
    if as_json {
        print::json(&shown(record));
        return;
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let shown = shown(record);
    let rows: Vec<_> = shown
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| vec![name.replace('_', " "), text(value)])
        .collect();
    print::line(print::table(&rows));
    if !note.is_empty() {
        print::line(format!("\n{note}"));
    }
}

fn table(records: &[DestinationRecord]) -> String {
    let heading = ["tenant", "name", "location", "access key", "since"];
    let rows = records.iter().map(|record| {
        vec![
            record.tenant.to_string(),
            record.name.to_string(),
            record.location(),
            record.access_key_id.clone(),
            record.created_at.rfc3339(),
        ]
    });
    let rows: Vec<_> = [heading.map(str::to_owned).to_vec()].into_iter().chain(rows).collect();
    print::table(&rows)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use hotcell_nats_config::{InitOptions, Login, Replicas, testing::TestServer};
    use hotcell_schemas::Role;

    /// A broker, and the operator's connection to it.
    pub(crate) async fn provisioner() -> (TestServer, Bus) {
        let now = clock::now();
        let options = InitOptions { now, ..InitOptions::default() };
        let server = TestServer::start(&options).await.unwrap();
        server.admin().await.unwrap().provision(Replicas::One, now).await.unwrap();
        let config = server.config(&Login::Service(Role::Provisioner)).unwrap();
        let bus = Bus::connect(Role::Provisioner, &config).await.unwrap();
        (server, bus)
    }

    /// A destination of acme.
    pub(crate) fn record(name: &str, created_at: UnixMs) -> DestinationRecord {
        DestinationRecord {
            tenant: "acme".parse().unwrap(),
            name: name.parse().unwrap(),
            endpoint: "https://s3.example.com".to_owned(),
            region: "eu-central-1".to_owned(),
            bucket: "media".to_owned(),
            prefix: String::new(),
            addressing: Addressing::Path,
            access_key_id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            sealed: vec![1; 60],
            created_at,
        }
    }

    /// IAM-09: a clock that is behind would lead jobs of before to a bucket that took another's name;
    /// one that is ahead would refuse jobs of now.
    #[tokio::test(flavor = "multi_thread")]
    async fn iam_09_a_destination_begins_by_the_broker_s_clock() {
        let now = clock::now();
        let (_server, bus) = provisioner().await;
        let bucket = bus.bucket("destinations");
        for (name, here) in [("slow", UnixMs(1)), ("fast", now.plus_ms(3_600_000))] {
            let key = format!("acme.{name}");
            let made = enter(&bucket, &key, record(name, here), 0).await.unwrap();
            assert!((now.0..=clock::now().0).contains(&made.created_at.0), "{name} {made:?}");
            let kept = bucket.get::<DestinationRecord>(&key).await.unwrap().unwrap();
            assert_eq!(kept.value, made, "{name}");
            assert!(made.created_at <= kept.stored_at);
            let again = enter(&bucket, &key, record(name, here), 0).await.unwrap_err();
            assert!(again.message.contains("already"), "{again}");
        }
    }
}
