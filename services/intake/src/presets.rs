//! A tenant's own presets: made, changed, listed, removed, and put into the requests that name one.
//!
//! Promises: what a preset settles is checked as a request's own settings are, when it is stored and
//! when it is used; each change has a number that no other change of the preset ever has, and is
//! recorded before it is in force; what is decided, approved and kept of a job is the request with
//! the settings in it. Refuses: a version that a client names, and settings beside a preset's name.
//! Storing the same settings twice makes two versions.

use crate::{
    app::{App, Call, Reply, store_problem},
    auth::Principal,
    gate, json,
    problem::{Kind, Problem},
    token::WRITES_MAX,
    transcodes, view,
};
use hotcell_schemas::{
    PresetName, TenantId,
    preset::{PresetIndex, PresetMark, PresetRecord, PresetSettings},
    request::{InputRequest, TranscodeRequest},
};
use hotcell_stage::{
    clock,
    kv::{Bucket, KvError},
};
use serde_json::{Value, json};
use std::sync::Arc;

/// Presets of one tenant at most: each is one read of a list.
pub const PRESETS_MAX: usize = 100;

/// Names at most that a tenant ever gives, those of removed presets with them: their numbers go on, so
/// each keeps a record, and all are in one list of 60 KiB, where a message has at most 1 MiB.
const NAMES_MAX: usize = 1000;

/// Stands for the input while settings are checked without one.
const NO_INPUT: &str = "upload:0.mp4";

fn bucket(app: &App) -> Bucket {
    app.bus.bucket("presets")
}

/// Why a change has no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
enum Unnumbered {
    #[error("there is no such preset")]
    Missing,
    #[error("a tenant has at most {PRESETS_MAX} presets; remove one first")]
    Full,
    #[error("{NAMES_MAX} names were given to presets: take one of a removed preset again")]
    Spent,
}

impl From<Unnumbered> for Problem {
    fn from(why: Unnumbered) -> Self {
        let kind = match why {
            Unnumbered::Missing => Kind::NotFound,
            Unnumbered::Full | Unnumbered::Spent => Kind::Unprocessable,
        };
        Self::new(kind, why.to_string())
    }
}

/// What becomes of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Put,
    Remove,
}

/// The number of the next change of `name`. A preset that is being removed stands until it is gone,
/// so that there are never more than stand here.
fn number(index: &mut PresetIndex, name: &PresetName, change: Change) -> Result<u64, Unnumbered> {
    let before = index.names.get(name).copied();
    let stands = before.is_some_and(|mark| mark.stands);
    let standing = index.names.values().filter(|mark| mark.stands).count();
    match change {
        Change::Remove if !stands => return Err(Unnumbered::Missing),
        Change::Put if !stands && standing >= PRESETS_MAX => return Err(Unnumbered::Full),
        Change::Put if before.is_none() && index.names.len() >= NAMES_MAX => {
            return Err(Unnumbered::Spent);
        }
        Change::Put | Change::Remove => {}
    }
    let version = before.map_or(0, |mark| mark.version).saturating_add(1);
    index.names.insert(name.clone(), PresetMark { version, stands: true });
    Ok(version)
}

/// Changes the tenant's index; every change of its presets passes here, so their order is one.
async fn indexed<T>(
    app: &App,
    tenant: &TenantId,
    mut change: impl FnMut(&mut PresetIndex) -> Result<T, Unnumbered>,
) -> Result<T, Problem> {
    let key = PresetIndex::key(tenant);
    for _ in 0..WRITES_MAX {
        let found = bucket(app).look::<PresetIndex>(key).await;
        let (entry, revision) = found.map_err(|error| store_problem(&error))?;
        let mut index = entry.map(|entry| entry.value).unwrap_or_default();
        let made = change(&mut index)?;
        match bucket(app).update(key, &index, revision).await {
            Ok(_) => return Ok(made),
            Err(KvError::Conflict) => {}
            Err(error) => return Err(store_problem(&error)),
        }
    }
    Err(store_problem(&KvError::Conflict))
}

/// Writes a change. One with a later number may have been quicker: then this one has been replaced.
async fn write(app: &App, tenant: &TenantId, record: &PresetRecord) -> Result<(), Problem> {
    let key = PresetRecord::key(tenant, &record.name);
    for _ in 0..WRITES_MAX {
        let found = bucket(app).look::<PresetRecord>(&key).await;
        let (entry, revision) = found.map_err(|error| store_problem(&error))?;
        if entry.is_some_and(|entry| entry.value.version > record.version) {
            return Ok(());
        }
        match bucket(app).update(&key, record, revision).await {
            Ok(_) => return Ok(()),
            Err(KvError::Conflict) => {}
            Err(error) => return Err(store_problem(&error)),
        }
    }
    Err(store_problem(&KvError::Conflict))
}

/// The preset, if it stands.
async fn find(
    app: &App,
    tenant: &TenantId,
    name: &PresetName,
) -> Result<Option<(PresetRecord, PresetSettings)>, Problem> {
    let found = bucket(app).get::<PresetRecord>(&PresetRecord::key(tenant, name)).await;
    let record = found.map_err(|error| store_problem(&error))?.map(|entry| entry.value);
    Ok(record.and_then(|record| record.settings.clone().map(|settings| (record, settings))))
}

/// The request with the settings of the preset that it names, and with the preset's version: what is
/// decided, approved and recorded. A destination of the request's own goes before the preset's.
///
/// # Errors
/// 422 naming the field: a version, settings beside the name, a name that is no preset's; 503.
pub async fn expand(
    app: &App,
    who: &Principal,
    request: TranscodeRequest,
) -> Result<TranscodeRequest, Problem> {
    let refuse = |field, rule| Err(Problem::field(Kind::Unprocessable, field, rule));
    if request.preset_version.is_some() {
        return refuse("presetVersion", "is set by the server");
    }
    let Some(name) = &request.preset_name else { return Ok(request) };
    if request.output_format.is_some() {
        return refuse("outputFormat", "must not be given with presetName");
    }
    if request.preset.is_some() {
        return refuse("preset", "must not be given with presetName");
    }
    if !request.outputs.is_empty() {
        return refuse("outputs", "must not be given with presetName");
    }
    let Some((record, settings)) = find(app, who.tenant(), name).await? else {
        return refuse("presetName", "must be the name of a preset of the tenant's");
    };
    Ok(TranscodeRequest {
        preset_version: Some(record.version),
        destination: request.destination.clone().or_else(|| settings.destination.clone()),
        ..with(settings, request)
    })
}

fn with(settings: PresetSettings, request: TranscodeRequest) -> TranscodeRequest {
    let PresetSettings { output_format, preset, outputs, destination: _ } = settings;
    TranscodeRequest { output_format, preset, outputs, ..request }
}

/// A preset as its tenant sees it.
fn shown(record: &PresetRecord) -> Value {
    json!({
        "name": record.name,
        "version": record.version,
        "settings": record.settings,
        "changedBy": view::actor(&record.changed_by),
        "changedAt": record.changed_at.rfc3339(),
    })
}

fn none() -> Problem {
    Unnumbered::Missing.into()
}

/// `GET /v1/presets`: those that stand, by their names.
///
/// # Errors
/// 503.
pub async fn list(app: Arc<App>, who: Principal, _: Call) -> Result<Reply, Problem> {
    let index = bucket(&app).get::<PresetIndex>(PresetIndex::key(who.tenant())).await;
    let index = index.map_err(|error| store_problem(&error))?.map(|entry| entry.value);
    let mut presets = Vec::new();
    for (name, _) in index.unwrap_or_default().names.iter().filter(|(_, mark)| mark.stands) {
        let found = find(&app, who.tenant(), name).await?;
        presets.extend(found.map(|(record, _)| shown(&record)));
    }
    Ok(Reply::new(200, json!({ "presets": presets })))
}

/// `GET /v1/presets/{name}`.
///
/// # Errors
/// 404, 503.
pub async fn get(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let name: PresetName = call.id.parse().map_err(|_| none())?;
    let (record, _) = find(&app, who.tenant(), &name).await?.ok_or_else(none)?;
    Ok(Reply::new(200, shown(&record)))
}

/// `PUT /v1/presets/{name}`: makes it, or changes it for the jobs that are submitted from then on.
///
/// # Errors
/// 400 and 422 naming the field; 403 for FFmpeg's own arguments without the right to; 422 with as
/// many presets, or names of presets, as a tenant may have; 409 when too many change them at the same moment; 503.
pub async fn put(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let name: PresetName = call.id.parse().map_err(|error: hotcell_schemas::ids::IdError| {
        Problem::field(Kind::Unprocessable, "name", error.to_string())
    })?;
    let settings: PresetSettings = json::parse(&call.body)?;
    let inputs = vec![InputRequest { url: NO_INPUT.to_owned() }];
    let request = with(settings.clone(), TranscodeRequest { inputs, ..Default::default() });
    transcodes::check(&request, &gate::active(&app, &who).await?)?;
    let record = change(&app, &who, &call, name, Some(settings)).await?;
    Ok(Reply::new(200, shown(&record)))
}

/// `DELETE /v1/presets/{name}`. Its number goes on when it is made again.
///
/// # Errors
/// 404; 409 when too many change them at the same moment; 503.
pub async fn remove(app: Arc<App>, who: Principal, call: Call) -> Result<Reply, Problem> {
    let name: PresetName = call.id.parse().map_err(|_| none())?;
    let record = change(&app, &who, &call, name, None).await?;
    // What was put in the meantime stands.
    indexed(&app, who.tenant(), |index| {
        let mark = index.names.get_mut(&record.name);
        if let Some(mark) = mark.filter(|mark| mark.version == record.version) {
            mark.stands = false;
        }
        Ok(())
    })
    .await?;
    Ok(Reply::new(200, shown(&record)))
}

/// Numbers the change, records it, and does it. What is cut off between these steps leaves a number
/// that nothing has, and a place that is free again once the preset is removed.
async fn change(
    app: &App,
    who: &Principal,
    call: &Call,
    name: PresetName,
    settings: Option<PresetSettings>,
) -> Result<PresetRecord, Problem> {
    let (to, what) = match settings {
        Some(_) => (Change::Put, "preset_put"),
        None => (Change::Remove, "preset_removed"),
    };
    let version = indexed(app, who.tenant(), |index| number(index, &name, to)).await?;
    gate::change(app, who, call, what, &format!("{name} version {version}")).await?;
    let (changed_by, changed_at) = (who.actor().clone(), clock::now());
    let record = PresetRecord { name, version, settings, changed_by, changed_at };
    write(app, who.tenant(), &record).await?;
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> PresetName {
        text.parse().unwrap()
    }

    fn gone(index: &mut PresetIndex, of: &str) {
        number(index, &name(of), Change::Remove).unwrap();
        index.names.get_mut(&name(of)).unwrap().stands = false;
    }

    #[test]
    fn step_04_every_change_of_a_preset_has_the_next_number() {
        let mut index = PresetIndex::default();
        let mut put = |of: &str| number(&mut index, &name(of), Change::Put);
        assert_eq!([put("a"), put("a"), put("b")], [Ok(1), Ok(2), Ok(1)]);
        assert_eq!(number(&mut index, &name("c"), Change::Remove), Err(Unnumbered::Missing));
        gone(&mut index, "a");
        assert_eq!(number(&mut index, &name("a"), Change::Remove), Err(Unnumbered::Missing));
        assert_eq!(number(&mut index, &name("a"), Change::Put), Ok(4));
    }

    #[test]
    fn step_04_the_bound_counts_what_stands_and_what_is_being_removed() {
        let mut index = PresetIndex::default();
        for n in 0..PRESETS_MAX {
            number(&mut index, &name(&format!("p{n}")), Change::Put).unwrap();
        }
        assert_eq!(number(&mut index, &name("more"), Change::Put), Err(Unnumbered::Full));
        assert_eq!(number(&mut index, &name("p7"), Change::Put), Ok(2), "no further place");
        number(&mut index, &name("p7"), Change::Remove).unwrap();
        assert_eq!(number(&mut index, &name("more"), Change::Put), Err(Unnumbered::Full));
        gone(&mut index, "p8");
        assert_eq!(number(&mut index, &name("more"), Change::Put), Ok(1));
        assert_eq!(number(&mut index, &name("p8"), Change::Put), Err(Unnumbered::Full));
    }

    #[test]
    fn step_04_what_is_kept_of_names_has_an_end() {
        let mut index = PresetIndex::default();
        for n in 0..NAMES_MAX {
            let of = format!("p{n}");
            number(&mut index, &name(&of), Change::Put).unwrap();
            gone(&mut index, &of);
        }
        assert_eq!(number(&mut index, &name("more"), Change::Put), Err(Unnumbered::Spent));
        assert_eq!(index.names.len(), NAMES_MAX);
        assert_eq!(number(&mut index, &name("p7"), Change::Put), Ok(3), "its numbers go on");
    }
}
