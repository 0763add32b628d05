//! Style that the compiler does not check, over every Rust file that git tracks. Each rule is a
//! function of one file, so that the rule itself can be tried on text that breaks it.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use hotcell_schemas::routes::{ROUTES, Token};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const FILE_LINES_MAX: usize = 500;
const MAIN_LINES_MAX: usize = 40;

/// Names that say nothing of what is inside.
const EMPTY_NAMES: [&str; 8] =
    ["common", "util", "utils", "utility", "helper", "helpers", "misc", "shared"];

/// Where FFmpeg may be started: the sandbox, and what makes clips to test with.
const FFMPEG_FOLDERS: [&str; 3] = ["services/jail/", "loadtest/", "compose/e2e/"];

/// Found when the rules were written, as large as they were; each goes when its owner comes by.
/// Nothing is added.
const LONG_KNOWN: [(&str, usize); 1] = [("services/signer/src/presign.rs", 546)];
const SUBJECTS_KNOWN: [(&str, &str); 1] = [("services/stage/src/publish.rs", "events")];

/// A file of the repository.
struct File {
    /// Relative to the repository, with `/`.
    path: String,
    text: String,
}

impl File {
    fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    fn is_test(&self) -> bool {
        let folders = ["/tests/", "/benches/"];
        folders.iter().any(|folder| self.path.contains(folder)) || self.path.ends_with("_tests.rs")
    }

    /// The text without the unit tests, which close a file, and without comments.
    fn code(&self) -> String {
        let end = self.text.find("\n#[cfg(test)]\n").unwrap_or(self.text.len());
        let code = self.text.get(..end).unwrap();
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        lines.collect::<Vec<_>>().join("\n")
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Every tracked file whose name ends with `suffix`. A file that was just removed is skipped.
fn tracked(suffix: &str) -> Vec<File> {
    let listed = Command::new("git").arg("-C").arg(root()).args(["ls-files", "-z"]).output();
    let listed = listed.expect("git runs");
    assert!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).unwrap();
    let names = names.split('\0').filter(|name| name.ends_with(suffix));
    let files: Vec<File> = names
        .filter_map(|name| Some(File::new(name, &fs::read_to_string(root().join(name)).ok()?)))
        .collect();
    assert!(!files.is_empty(), "git tracks no {suffix}: is this a checkout?");
    files
}

/// Fails with every complaint of `rule` over the tracked Rust files.
fn check(rule: impl Fn(&File) -> Option<String>) {
    let files = tracked(".rs");
    let complaints: Vec<String> = files
        .iter()
        .filter_map(|file| rule(file).map(|complaint| format!("{}: {complaint}", file.path)))
        .collect();
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

fn too_long(file: &File) -> Option<String> {
    let lines = file.text.lines().count();
    let is_main = file.path.starts_with("services/") && file.path.ends_with("/src/main.rs");
    let max = if is_main { MAIN_LINES_MAX } else { FILE_LINES_MAX };
    let known = LONG_KNOWN.iter().find(|(path, _)| *path == file.path);
    let max = known.map_or(max, |(_, lines)| *lines);
    (lines > max).then(|| format!("{lines} lines, {max} are allowed"))
}

fn empty_name(file: &File) -> Option<String> {
    let mut parts = file.path.trim_end_matches(".rs").split('/');
    let found = parts.find(|part| EMPTY_NAMES.contains(part))?;
    Some(format!("`{found}` says nothing"))
}

/// ZT-20. Outside the sandbox's folder and the tests, a file may name FFmpeg's programs (a
/// configuration does) or start programs, but not both: so no indirection by a constant helps.
fn starts_ffmpeg(file: &File) -> Option<String> {
    if file.is_test() || FFMPEG_FOLDERS.iter().any(|folder| file.path.starts_with(folder)) {
        return None;
    }
    let code = file.code();
    let starts = ["Command::new", "posix_spawn", "execve", "execv(", "fork("];
    if !starts.iter().any(|start| code.contains(start)) {
        return None;
    }
    let literals = code.split('"').skip(1).step_by(2);
    let named = |text: &str| {
        let program = text.rsplit('/').next().unwrap_or_default();
        matches!(program, "ffmpeg" | "ffprobe" | "ffplay")
    };
    let found = literals.filter(|text| named(text)).collect::<Vec<_>>();
    (!found.is_empty()).then(|| format!("starts programs and names {found:?}"))
}

/// The first words of all subjects.
fn subject_words() -> BTreeSet<&'static str> {
    let words = ROUTES.iter().filter_map(|route| match route.tokens.first() {
        Some(Token::Lit(word)) => Some(*word),
        _ => None,
    });
    words.collect()
}

/// A subject is built by `Subject`'s constructors; permissions are rendered by nats-config.
fn formats_a_subject(file: &File) -> Option<String> {
    let allowed = file.path == "schemas/src/subject.rs" || file.path.starts_with("nats-config/");
    if allowed || file.is_test() {
        return None;
    }
    // White space between the bracket and the text is the formatter's.
    let code: String = file.code().split_whitespace().collect();
    let known = |word: &str| SUBJECTS_KNOWN.contains(&(file.path.as_str(), word));
    let found = subject_words().into_iter().filter(|word| !known(word)).find(|word| {
        ["format!(", "concat!(", "write!(f,"]
            .iter()
            .any(|call| code.contains(&format!("{call}\"{word}.")))
    })?;
    Some(format!("builds a `{found}.` subject from text"))
}

fn opens_without_a_promise(file: &File) -> Option<String> {
    let in_src = file.path.contains("/src/");
    (in_src && !file.text.starts_with("//!")).then(|| "does not open with `//!`".to_owned())
}

#[test]
fn files_are_short() {
    check(too_long);
}

#[test]
fn names_say_something() {
    check(empty_name);
}

#[test]
fn zt_20_only_the_jail_starts_ffmpeg() {
    check(starts_ffmpeg);
}

#[test]
fn subjects_are_built_from_types() {
    check(formats_a_subject);
}

#[test]
fn files_open_with_their_promise() {
    check(opens_without_a_promise);
}

/// schemas has no runtime and does no I/O: it can be used, and fuzzed, anywhere.
#[test]
fn schemas_is_pure() {
    let manifest = fs::read_to_string(root().join("schemas/Cargo.toml")).unwrap();
    for name in ["tokio", "async-nats", "object_store", "reqwest", "axum", "hyper", "getrandom"] {
        assert!(!manifest.contains(name), "schemas depends on {name}");
    }
    for file in tracked(".rs").iter().filter(|file| file.path.starts_with("schemas/src/")) {
        let code = file.code();
        let acts = ["std::fs", "std::net", "std::process", "std::env", "std::thread", "::now()"];
        for act in acts {
            assert!(!code.contains(act), "{} uses {act}", file.path);
        }
    }
}

/// The repository stands alone: it names no folder of the machine that it was written on.
#[test]
fn nothing_names_the_author_s_machine() {
    let folder = ["/work", "/shared"].concat();
    for file in tracked("") {
        assert!(!file.text.contains(&folder), "{} names {folder}", file.path);
    }
}

#[test]
fn the_rules_find_what_they_forbid() {
    let main = File::new("services/x/src/main.rs", &"//!\n".repeat(41));
    assert!(too_long(&main).is_some());
    assert!(too_long(&File::new("services/x/src/run.rs", &"//!\n".repeat(500))).is_none());
    assert!(too_long(&File::new("services/x/src/run.rs", &"//!\n".repeat(501))).is_some());

    for bad in ["services/x/src/util.rs", "services/common/src/lib.rs", "x/tests/helpers/mod.rs"] {
        assert!(empty_name(&File::new(bad, "")).is_some(), "{bad}");
    }
    assert!(empty_name(&File::new("services/x/src/utility_pole.rs", "")).is_none());

    let starts = |path, text| starts_ffmpeg(&File::new(path, text)).is_some();
    let direct = "Command::new(\"ffmpeg\")";
    assert!(starts("services/encoder/src/stage.rs", direct));
    assert!(starts("services/encoder/src/stage.rs", "Command::new(\n    \"/usr/bin/ffprobe\",\n)"));
    let indirect = "const P: &str = \"/opt/bin/ffmpeg\";\nfn f() { Command::new(P); }";
    assert!(starts("services/cli/src/demo.rs", indirect));
    assert!(!starts("services/jail/src/run.rs", direct));
    assert!(!starts("services/encoder/tests/clip.rs", direct));
    assert!(!starts("services/encoder/src/config.rs", "ffmpeg: \"/usr/bin/ffmpeg\""));
    assert!(!starts("services/encoder/src/a.rs", "// Command::new(\"ffmpeg\")\nfn f() {}"));
    let unit_test = "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    Command::new(\"ffmpeg\");\n}\n";
    assert!(!starts("services/encoder/src/a.rs", unit_test));

    let formats = |path, text| formats_a_subject(&File::new(path, text)).is_some();
    let built = "format!(\n    \"job.{tenant}.>\"\n)";
    assert!(formats("services/intake/src/stage.rs", built));
    assert!(formats("services/intake/src/stage.rs", "format!(\"audit.{x}\")"));
    assert!(!formats("nats-config/src/permissions.rs", built));
    assert!(!formats("services/intake/tests/zero_trust.rs", built));
    assert!(!formats("services/intake/src/stage.rs", "format!(\"jobs.{x}\")"));

    assert!(opens_without_a_promise(&File::new("a/src/b.rs", "use std::fs;")).is_some());
}
