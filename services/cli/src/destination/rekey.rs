//! `hotcell destination rekey`: another access key for a bucket that is entered.
//!
//! Promises: the key was tried as by `add` before anything is stored; where the name leads and since
//! when stays, so jobs of before go on. Refuses: to write over a record that is not the one that was
//! tried.

use super::{Keyed, NameArgs, entry, keyed, probe, record, say};
use crate::{
    fail::{Context as _, Fail},
    layout::Layout,
    poison::connect,
};
use hotcell_schemas::destination::DestinationRecord;
use hotcell_stage::Bus;
use std::path::{Path, PathBuf};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "The key is tried as by `add`, at the same bucket. From then on no URL is signed with the one before,
and those that were live for an hour at most: a worker whose URL dies meanwhile asks for another.
So enter the new key here first, and take the right from the old one at the bucket afterwards.

Example:
  hotcell destination rekey cdn --tenant acme --access-key-id AKIAI44QH8DHBEXAMPLE \\
      --secret-file ./acme.secret"
)]
pub(crate) struct RekeyArgs {
    #[command(flatten)]
    which: NameArgs,
    /// Public half of the new access key; the one in use, where only its secret is another.
    #[arg(long, value_name = "ID")]
    access_key_id: String,
    /// File with the secret half; read once, and not kept.
    #[arg(long, value_name = "FILE")]
    secret_file: PathBuf,
}

/// `hotcell destination rekey`.
pub(crate) async fn run(data: &Path, args: &RekeyArgs, as_json: bool) -> Result<(), Fail> {
    let (layout, bus) = (Layout::open(data)?, connect(data).await?);
    let entry = entry(&bus, &args.which).await?;
    let before = entry.value.access_key_id.clone();
    let id = args.access_key_id.clone();
    let record = DestinationRecord { access_key_id: id, ..entry.value };
    let Keyed { record, place, key } = keyed(&layout, record, &args.secret_file)?;
    probe::run(&key, &place, &record).await?;
    replace(&bus, &entry.key, entry.revision, &record).await?;
    let note = format!(
        "rekeyed: URLs are signed with it from now on; those of {before} live for an hour at most, \
         and the file with the secret is not needed any more"
    );
    say(&record, &note, as_json);
    Ok(())
}

/// Puts `record` in the place of the one at `revision`: one that was removed, made anew or rekeyed
/// meanwhile is not the one that was tried.
async fn replace(
    bus: &Bus,
    key: &str,
    revision: u64,
    record: &DestinationRecord,
) -> Result<(), Fail> {
    self::record(bus, "destination_rekeyed", record).await?;
    let put = bus.bucket("destinations").update(key, record, revision).await;
    put.or_fail("not rekeyed").map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::tests::{provisioner, record};
    use hotcell_schemas::UnixMs;

    /// IAM-09: a new key never brings back what was removed, nor undoes what another operator did.
    #[tokio::test(flavor = "multi_thread")]
    async fn iam_09_a_key_takes_the_place_of_no_record_but_the_one_that_was_tried() {
        let (_server, bus) = provisioner().await;
        let (bucket, key) = (bus.bucket("destinations"), "acme.cdn");
        let stored = async || bucket.get::<DestinationRecord>(key).await.unwrap();
        let (first, now) = (record("cdn", UnixMs(7)), record("cdn", UnixMs(7)));
        let next = DestinationRecord { access_key_id: "NEXT".to_owned(), ..now.clone() };
        let revision = bucket.create(key, &first).await.unwrap();
        replace(&bus, key, revision, &next).await.unwrap();
        let after = stored().await.unwrap();
        assert_eq!(after.value, next);

        let late = DestinationRecord { access_key_id: "LATE".to_owned(), ..now };
        let refused = replace(&bus, key, revision, &late).await.unwrap_err();
        assert!(refused.message.contains("not rekeyed"), "{refused}");
        assert_eq!(stored().await.unwrap().value, next, "it was rekeyed meanwhile");
        bucket.remove(key, after.revision).await.unwrap();
        replace(&bus, key, after.revision, &late).await.unwrap_err();
        assert!(stored().await.is_none(), "it was removed meanwhile");
    }
}
