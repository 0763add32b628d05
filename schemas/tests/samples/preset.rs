//! Tenants' own presets, and jobs that name one.

use super::{T0, jobs, key_id, rest::Look};
use hotcell_schemas::{
    job::Actor,
    preset::{PresetIndex, PresetMark, PresetRecord, PresetSettings},
    request::TranscodeRequest,
};

fn simple() -> PresetSettings {
    let TranscodeRequest { output_format, preset, .. } = jobs::preset_request();
    PresetSettings { output_format, preset, ..PresetSettings::default() }
}

fn explicit() -> PresetSettings {
    let outputs = jobs::explicit_request().outputs;
    let destination = Some("cdn".parse().unwrap());
    PresetSettings { outputs, destination, ..PresetSettings::default() }
}

/// The records.
pub(crate) fn at_rest(eye: &mut impl Look) {
    let record = PresetRecord {
        name: "web-480p".parse().unwrap(),
        version: 1,
        settings: Some(simple()),
        changed_by: Actor::ApiKey { id: key_id() },
        changed_at: T0,
    };
    eye.look("preset", &record);
    let explicit = Some(explicit());
    eye.look("preset.explicit", &PresetRecord { settings: explicit, version: 2, ..record.clone() });
    eye.look("preset.removed", &PresetRecord { settings: None, version: 3, ..record.clone() });
    let marks = [("old", 7, false), (record.name.as_str(), 3, true)];
    let mark = |(name, version, stands): (&str, u64, bool)| {
        (name.parse().unwrap(), PresetMark { version, stands })
    };
    eye.look("preset.index", &PresetIndex { names: marks.map(mark).into() });
}

/// The bodies.
pub(crate) fn http(eye: &mut impl Look) {
    eye.look("preset", &simple());
    eye.look("preset.explicit", &explicit());
    let whole = jobs::preset_request();
    let name = Some("web-480p".parse().unwrap());
    let asked = TranscodeRequest { preset_name: name, output_format: None, preset: None, ..whole };
    eye.look("transcode.preset_name", &asked);
    let TranscodeRequest { output_format, preset, .. } = jobs::preset_request();
    let expanded = TranscodeRequest { preset_version: Some(3), output_format, preset, ..asked };
    eye.look("transcode.preset_version", &expanded);
}
