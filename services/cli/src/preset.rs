//! `hotcell preset put|list|show|remove`: a tenant's own presets, through the API.
//!
//! Promises: what is sent is the file, as it is; the API says what is wrong with it. Refuses a file
//! that is no JSON, and one that is larger than a request may be.

use crate::{
    api::Api,
    fail::{Context as _, Fail},
    key::Factor,
    print, token,
};
use hotcell_schemas::{PresetName, limits::HTTP_BODY_BYTES_MAX};
use reqwest::Method;
use serde_json::Value;
use std::{
    fs::File,
    io::{Read, stdin},
    path::Path,
};

/// Stands for standard input where a file is named.
const STDIN: &str = "-";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum PresetCommand {
    /// Make a preset, or change it for the jobs that are submitted from then on.
    #[command(after_help = "Examples:
  hotcell preset put web-480p web.json
  echo '{\"outputFormat\": \"mp4\", \"preset\": {\"quality\": \"low\", \"resolution\": \"480p\"}}' |
    hotcell preset put web-480p -
  hotcell transcode clip.mov --preset-name web-480p

The file has what POST /v1/transcodes has, without inputs:
  {\"outputs\": [{\"format\": \"mp4\", \"video\": {\"codec\": \"h264\", \"height\": 720},
    \"audio\": {\"codec\": \"aac\"}}], \"destination\": \"cdn\"}")]
    Put {
        /// Its name: small letters, digits and dashes.
        name: PresetName,
        /// The settings, as JSON; - for standard input.
        #[arg(value_name = "FILE|-")]
        file: String,
        #[command(flatten)]
        factor: Factor,
    },
    /// List the tenant's presets.
    List,
    /// Show what a preset settles.
    Show {
        /// Its name.
        name: PresetName,
    },
    /// Remove a preset. Jobs that were submitted keep its settings.
    Remove {
        /// Its name.
        name: PresetName,
        #[command(flatten)]
        factor: Factor,
    },
}

/// Runs one of them.
pub(crate) async fn run(data: &Path, command: PresetCommand, as_json: bool) -> Result<(), Fail> {
    let (preset, said) = match command {
        PresetCommand::List => return list(&Api::find(data)?, as_json).await,
        PresetCommand::Put { name, file, factor } => {
            let settings = read(&file)?;
            let api = token::for_changes(data, factor.totp.as_deref()).await?;
            let preset = api.call(Method::PUT, &path_of(&name), Some(&settings)).await?;
            let version = text(&preset, "version");
            (preset, format!("preset {name} is version {version}, for jobs from now on"))
        }
        PresetCommand::Show { name } => {
            let preset = Api::find(data)?.get(&path_of(&name)).await?;
            let settings = preset.get("settings").cloned().unwrap_or_default();
            let settings = serde_json::to_string_pretty(&settings);
            let settings = settings.expect("what was read as JSON is written as JSON");
            let (version, at) = (text(&preset, "version"), text(&preset, "changedAt"));
            (preset, format!("preset {name}, version {version} of {at}\n{settings}"))
        }
        PresetCommand::Remove { name, factor } => {
            let api = token::for_changes(data, factor.totp.as_deref()).await?;
            let preset = api.call(Method::DELETE, &path_of(&name), None::<&()>).await?;
            (preset, format!("preset {name} is removed"))
        }
    };
    if as_json {
        print::json(&preset);
    } else {
        print::line(said);
    }
    Ok(())
}

fn path_of(name: &PresetName) -> String {
    format!("/v1/presets/{name}")
}

/// The JSON in a file that ends.
fn read(file: &str) -> Result<Value, Fail> {
    let doing = format!("cannot read {file}");
    let mut bytes = Vec::new();
    let most = HTTP_BODY_BYTES_MAX as u64 + 1;
    let read = if file == STDIN {
        stdin().lock().take(most).read_to_end(&mut bytes)
    } else {
        File::open(file).or_fail(&doing)?.take(most).read_to_end(&mut bytes)
    };
    read.or_fail(&doing)?;
    if bytes.len() > HTTP_BODY_BYTES_MAX {
        return Err(Fail::usage(format!("{file}: larger than {HTTP_BODY_BYTES_MAX} bytes")));
    }
    serde_json::from_slice(&bytes).map_err(|error| Fail::usage(format!("{file}: {error}")))
}

fn text(value: &Value, name: &str) -> String {
    match value.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    }
}

/// What a preset makes, in a few words.
fn makes(preset: &Value) -> String {
    let settings = preset.get("settings").cloned().unwrap_or_default();
    let at = |path: &str| settings.pointer(path).and_then(Value::as_str).map(str::to_owned);
    let words = match at("/outputFormat") {
        Some(format) => vec![Some(format), at("/preset/quality"), at("/preset/resolution")],
        None if settings.pointer("/outputs/0/ffmpegArgs").is_some() => {
            vec![at("/outputs/0/format"), Some("ffmpegArgs".to_owned())]
        }
        None => ["/format", "/video/codec", "/audio/codec"]
            .map(|path| at(&format!("/outputs/0{path}")))
            .to_vec(),
    };
    words.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

async fn list(api: &Api, as_json: bool) -> Result<(), Fail> {
    let answer = api.get("/v1/presets").await?;
    let presets = answer.get("presets").and_then(Value::as_array).cloned().unwrap_or_default();
    if as_json {
        print::json(&presets);
        return Ok(());
    }
    let heading = ["name", "version", "makes", "destination", "changed at"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    rows.extend(presets.iter().map(|preset| {
        let destination = preset.pointer("/settings/destination").and_then(Value::as_str);
        vec![
            text(preset, "name"),
            text(preset, "version"),
            makes(preset),
            destination.unwrap_or("-").to_owned(),
            text(preset, "changedAt"),
        ]
    }));
    print::line(print::table(&rows));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_preset_is_said_in_a_few_words() {
        let check = |settings: Value, expect: &str| {
            assert_eq!(makes(&json!({ "settings": settings })), expect);
        };
        let preset = json!({ "quality": "low", "resolution": "480p" });
        check(json!({ "outputFormat": "mp4", "preset": preset }), "mp4 low 480p");
        let (video, audio) = (json!({ "codec": "vp9" }), json!({ "codec": "opus" }));
        let output = json!({ "format": "webm", "video": video, "audio": audio });
        check(json!({ "outputs": [output] }), "webm vp9 opus");
        let args = json!({ "format": "mkv", "ffmpegArgs": ["-i", "{in0}", "{out0}"] });
        check(json!({ "outputs": [args] }), "mkv ffmpegArgs");
    }
}
