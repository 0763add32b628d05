//! Checks of the programs in the cell: what they are, byte for byte, and what is known against
//! them. Each question is put to the program inside a cell.

use super::{
    Check,
    known::{AGE_DAYS_MAX, Entry, List, Verdict, Version},
};
use crate::{fail::Context as _, fail::Fail, layout::make_dir, up};
use hotcell_jail::{
    program::{Program, VersionError},
    root::Root,
};
use hotcell_stage::{clock, service::describe};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// CVE ids in one row; the rest is in `--json`.
const SHOWN_MAX: usize = 4;

/// One day, in milliseconds.
const DAY_MS: u64 = 86_400_000;

/// Checks both programs. `scratch` is a folder of ours.
pub(super) async fn checks(launcher: &Path, scratch: &Path) -> Vec<Check> {
    let mut checks = Vec::new();
    let mut builds = Vec::new();
    for (name, variable) in [("ffmpeg", "HOTCELL_FFMPEG"), ("ffprobe", "HOTCELL_FFPROBE")] {
        match examine(launcher, &scratch.join(name), name, variable).await {
            Ok((found, build)) => {
                checks.extend(found);
                builds.push(build);
            }
            Err(check) => checks.push(check),
        }
    }
    if let [one, other] = builds.as_slice()
        && one != other
    {
        let change = "take both from one build: the prober's weaknesses are not looked up";
        checks.push(Check::warn("one build", "ffmpeg and ffprobe are of two", change));
    }
    checks.push(age(&List::read(), clock::now().0 / DAY_MS));
    checks
}

/// What both programs of a build have in common: version and configuration.
type Build = (String, String);

async fn examine(
    launcher: &Path,
    scratch: &Path,
    name: &'static str,
    variable: &str,
) -> Result<(Vec<Check>, Build), Check> {
    let unusable = |found: String| {
        Check::fail(name, found, format!("install FFmpeg, run `make ffmpeg`, or set {variable}"))
    };
    let path = up::located(variable, name).map_err(|fail| unusable(fail.message))?;
    let (program, root) = prepared(&path, scratch).await.map_err(|fail| unusable(fail.message))?;
    let version = program.version(launcher, &root).await;
    let version = version.map_err(|error| unusable(describe(&error)))?;
    let place = Path::new("/bin").join(name);
    let own = program.parts.iter().find(|part| part.place == place);
    let sha256 = own.map(|part| part.sha256.clone()).unwrap_or_default();
    let libraries = program.parts.len().saturating_sub(1);
    let short = |hash: &str| hash.chars().take(16).collect::<String>();
    let words: Vec<&str> = version.line.split(" Copyright").collect();
    let found = format!("{} at {}", words.first().unwrap_or(&""), path.display());
    let mut check = Check::ok(name, found);
    check.detail = provenance(&path, &program, &sha256, &version);
    let content = format!(
        "sha256 {}, configuration {}, {libraries} libraries, manifest {}",
        short(&sha256),
        short(&version.configuration_sha256),
        short(&program.manifest_digest),
    );
    let title = if name == "ffmpeg" { "ffmpeg content" } else { "ffprobe content" };
    let build = minimal(name, &path, &sha256, libraries);
    let mut checks = vec![check, Check::ok(title, content), build];
    if name == "ffmpeg" {
        checks.push(weaknesses(&program, launcher, &root, &version.line).await);
    }
    let numbers = words.first().map(|text| text.replacen(name, "", 1)).unwrap_or_default();
    Ok((checks, (numbers, version.configuration_sha256)))
}

/// Everything by content (BRK-58).
fn provenance(
    path: &Path,
    program: &Program,
    sha256: &str,
    version: &hotcell_jail::program::Version,
) -> Value {
    let parts = program.parts.iter();
    let parts = parts.map(|part| json!({ "path": part.source, "sha256": part.sha256 }));
    json!({
        "path": path,
        "version": version.line,
        "configuration_sha256": version.configuration_sha256,
        "sha256": sha256,
        "manifest_digest": program.manifest_digest,
        "files": parts.collect::<Vec<_>>(),
    })
}

async fn prepared(path: &Path, scratch: &Path) -> Result<(Program, Root), Fail> {
    let (path, scratch) = (path.to_owned(), scratch.to_owned());
    let work = move || {
        make_dir(&scratch, 0o755)?;
        let program = Program::resolve(&path).or_fail("the program cannot be used")?;
        let root = Root::prepare(&scratch, std::slice::from_ref(&program));
        Ok((program, root.or_fail("the cell's file tree cannot be made")?))
    };
    tokio::task::spawn_blocking(work).await.or_fail("the programs cannot be read")?
}

/// Ours, as its manifest says, or another.
fn minimal(name: &'static str, path: &Path, sha256: &str, libraries: usize) -> Check {
    let title = if name == "ffmpeg" { "ffmpeg build" } else { "ffprobe build" };
    let manifest = path.ancestors().nth(2).map(|dir| dir.join("MANIFEST"));
    let text = manifest.and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
    let line = format!("sha256 {sha256}  {name}");
    if text.lines().any(|found| found == line) {
        return Check::ok(title, "the minimal one of this repository, as its manifest says");
    }
    let found = format!("not the minimal one of this repository; {libraries} libraries");
    Check::warn(title, found, "make ffmpeg builds one with only what plans use")
}

async fn weaknesses(program: &Program, launcher: &Path, root: &Root, line: &str) -> Check {
    let name = "known CVEs";
    let Some(version) = Version::parse(line) else {
        let change = "this is no release: compare it with ffmpeg.org/security.html by hand";
        return Check::warn(name, "unknown: the version cannot be compared", change);
    };
    let list = List::read();
    match components(program, launcher, root, list.wanted(&version)).await {
        Ok(components) => judged(&list.judge(&version, &components)),
        Err(error) => Check::warn(
            name,
            describe(&error),
            "it does not say which components it has: is it an FFmpeg?",
        ),
    }
}

fn judged(verdict: &Verdict) -> Check {
    let name = "known CVEs";
    let (present, far, absent) =
        (verdict.present.len(), verdict.out_of_reach.len(), verdict.not_built.len());
    let rest = format!("{absent} in code that is not built in");
    let mut check = if present > 0 {
        let ids = verdict.present.iter().take(SHOWN_MAX).map(|entry| entry.id.as_str());
        let ids = ids.collect::<Vec<_>>().join(", ");
        let more = present.saturating_sub(SHOWN_MAX);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let change = "install a repaired version, or build the minimal one (make ffmpeg); --json \
                      lists them with their sources";
        Check::fail(name, format!("{present} in it: {ids}{more}; {rest}"), change)
    } else if far > 0 {
        let found = format!("{far} in code that no plan reaches; {rest}");
        Check::warn(name, found, "nothing yet; --json says why, and where it is published")
    } else {
        Check::ok(name, format!("none in the list; {rest}"))
    };
    let rows = |entries: &[Entry]| -> Vec<Value> {
        let row = |entry: &Entry| {
            json!({ "id": entry.id, "what": entry.what, "why": entry.out_of_reach,
                "source": entry.source })
        };
        entries.iter().map(row).collect()
    };
    check.detail = json!({
        "present": rows(&verdict.present),
        "out_of_reach": rows(&verdict.out_of_reach),
        "not_built": rows(&verdict.not_built),
    });
    check
}

fn age(list: &List, today: u64) -> Check {
    let (name, days) = ("list of CVEs", list.age_days(today));
    let found = format!("of {}, {} entries", list.date, list.entries.len());
    if days <= AGE_DAYS_MAX {
        return Check::ok(name, found);
    }
    let change = format!("it is {days} days old: update hotcell, or tools/ffmpeg-cves.json");
    Check::warn(name, found, change)
}

/// Which of `wanted`, as `decoder:h264`, the program has. Asked one by one: a whole listing is
/// sorted, for which the C library asks for the machine's memory, and cells may not.
async fn components(
    program: &Program,
    launcher: &Path,
    root: &Root,
    wanted: BTreeSet<String>,
) -> Result<BTreeSet<String>, VersionError> {
    let mut there = BTreeSet::new();
    for component in wanted {
        let about = component.replacen(':', "=", 1);
        let options = ["-hide_banner".to_owned(), "-h".to_owned(), about];
        if has(&component, &program.answer(launcher, root, &options).await?) {
            there.insert(component);
        }
    }
    Ok(there)
}

/// Whether the answer to `-h KIND=NAME` describes it; else it says that there is none.
fn has(component: &str, answer: &str) -> bool {
    let title = match component.split_once(':').map_or(component, |(kind, _)| kind) {
        "demuxer" => "Demuxer ",
        "decoder" => "Decoder ",
        "encoder" => "Encoder ",
        "muxer" => "Muxer ",
        "filter" => "Filter ",
        "bsf" => "Bit stream filter ",
        // Unknown kinds count as there: the list's own test refuses them.
        _ => return true,
    };
    answer.starts_with(title)
}

/// A folder for the cells' file trees, which their users can enter.
pub(super) fn scratch() -> PathBuf {
    std::env::temp_dir().join(format!("hotcell-doctor-{}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::State;

    #[test]
    fn a_component_is_there_when_it_is_described() {
        assert!(has("decoder:magicyuv", "Decoder magicyuv [MagicYUV video]:\n"));
        assert!(has("bsf:dovi_rpu", "Bit stream filter dovi_rpu\n"));
        let known = "Codec 'magicyuv' is known to FFmpeg, but no decoders for it are available.\n";
        assert!(!has("decoder:magicyuv", known));
        assert!(!has("demuxer:hls", "Unknown format 'hls'.\n") && !has("filter:pan", ""));
    }

    #[test]
    fn a_known_weakness_fails_the_check_and_an_old_list_warns() {
        let list = List::read();
        let entry = || list.entries.first().cloned().into_iter().collect::<Vec<_>>();
        let with = |present, out_of_reach, not_built| {
            judged(&Verdict { present, out_of_reach, not_built }).state
        };
        assert_eq!(with(entry(), Vec::new(), Vec::new()), State::Fail);
        assert_eq!(with(Vec::new(), entry(), Vec::new()), State::Warn);
        assert_eq!(with(Vec::new(), Vec::new(), entry()), State::Ok);
        let made = (0..).find(|day| list.age_days(*day) > 0).unwrap() - 1;
        assert_eq!(age(&list, made + AGE_DAYS_MAX).state, State::Ok);
        assert_eq!(age(&list, made + AGE_DAYS_MAX + 1).state, State::Warn);
    }
}
