//! A tenant's own presets: named settings that its jobs take. The edge puts them into the request
//! before anything is decided, approved or recorded, so all later nodes see what will be done.

use crate::{
    DestinationName, PresetName, TenantId, UnixMs,
    job::Actor,
    request::{Format, OutputRequest, PresetRequest},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a preset settles: `outputFormat` with `preset`, or `outputs`; and where outputs go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct PresetSettings {
    /// The container, with a preset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_format: Option<Format>,
    /// The preset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preset: Option<PresetRequest>,
    /// Explicit outputs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outputs: Vec<OutputRequest>,
    /// Where outputs are put, when the request does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<DestinationName>,
}

/// A preset; bucket `presets`, key `<tenant>.<name>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PresetRecord {
    /// Its name in requests.
    pub name: PresetName,
    /// 1 and up: one more for each change. A removed preset's number goes on when it is made again.
    pub version: u64,
    /// What it settles; nothing once it was removed.
    pub settings: Option<PresetSettings>,
    /// Who changed it last.
    pub changed_by: Actor,
    /// When.
    pub changed_at: UnixMs,
}

impl PresetRecord {
    /// Key of the record.
    #[must_use]
    pub fn key(tenant: &TenantId, name: &PresetName) -> String {
        format!("{tenant}.{name}")
    }
}

/// A tenant's names of presets, and the last number that each was given; bucket `presets`, key
/// `<tenant>`. Every change takes its number here first, by compare-and-set: no number is given
/// twice, and what counts against the bound is what stands here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PresetIndex {
    /// Those that stand, and removed ones whose numbers go on.
    pub names: BTreeMap<PresetName, PresetMark>,
}

/// One name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PresetMark {
    /// The number of its last change; its record follows.
    pub version: u64,
    /// Whether it stands; from before it is written until after it is removed.
    pub stands: bool,
}

impl PresetIndex {
    /// Key of the record: one token, where a preset's has two.
    #[must_use]
    pub fn key(tenant: &TenantId) -> &str {
        tenant.as_str()
    }
}
