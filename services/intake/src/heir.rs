//! Keys whose makers can be followed.
//!
//! Promises: no key is made behind which nobody could find its makers: a block on any of them would
//! then have to stop it ([`hotcell_policy::block::LINEAGE_MAX`]).

use crate::{
    app::{App, store_problem},
    problem::{Kind, Problem},
};
use hotcell_policy::{Lineage, block::LINEAGE_MAX, lineage};
use hotcell_schemas::{job::Actor, records::KeyRecord};

/// Whether the key that `record` is to be can be followed to its makers.
///
/// # Errors
/// 409, when it was rotated too often; 503.
pub(crate) async fn can_be_followed(app: &App, record: &KeyRecord) -> Result<(), Problem> {
    let mut all: Vec<Actor> = Vec::new();
    for maker in record.makers() {
        let found = lineage(&maker, &app.auth).await.map_err(|error| store_problem(&error))?;
        let Lineage::All(makers) = found else { return Err(too_old()) };
        all.extend(makers);
    }
    all.sort_by_cached_key(|actor| format!("{actor:?}"));
    all.dedup();
    // The key itself is one of them.
    if all.len() < LINEAGE_MAX { Ok(()) } else { Err(too_old()) }
}

fn too_old() -> Problem {
    let detail = format!(
        "keys rotated one from another, and their makers, are {LINEAGE_MAX} at most: have a person \
         make a new key"
    );
    Problem::new(Kind::Conflict, detail)
}
