//! `hotcell audit export`: entries of the evidence log as lines for people who keep records, and
//! `--check`, which makes them again from the log and compares.
//!
//! Promises: an entry is written only after it was proven to be under the signed checkpoint; the
//! manifest beside the file, which is written last, says from which checkpoint, for which question,
//! and with which hash. A file that exists is not overwritten. Refuses: an export of a log that does
//! not verify; URLs, keys and bodies, which lines do not hold.

use crate::{
    audit::Source,
    client::bar,
    fail::{Context as _, Fail},
    print,
};
use clap::ValueEnum;
use hotcell_auditor::{
    checkpoint::Checkpoint,
    evidence::{Filter, GROUP, Reader},
};
use hotcell_schemas::{
    Digest, TenantId, UnixMs,
    evidence::{EvidenceRow, Who},
};
use hotcell_stage::clock;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead as _, BufReader, BufWriter, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

/// The form of lines and manifest; another form is another number.
const FORM: &str = "hotcell-evidence/1";
/// Bytes of the largest manifest: a signed note of at most 64 KiB, and a page of text.
const MANIFEST_BYTES_MAX: u64 = 128 * 1024;
/// Bytes of the longest line that `--check` reads: one of ours is under 32 KiB.
const LINE_BYTES_MAX: usize = 256 * 1024;

/// `hotcell audit export`.
#[derive(Debug, clap::Args)]
pub(crate) struct ExportArgs {
    /// Folder of the log, instead of the installation's own.
    #[arg(long, value_name = "DIR")]
    log: Option<PathBuf>,
    /// Only of this tenant; without it of all, and the platform's own.
    #[arg(long)]
    tenant: Option<TenantId>,
    /// From this time on: RFC 3339, or a date, which is its first moment in UTC.
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<UnixMs>,
    /// Before this time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<UnixMs>,
    /// Only what this one did: `api_key:ID`, `nats_login:NAME`, `user:SUBJECT`, `service:CLIENT` or
    /// `worker:NAME`.
    #[arg(long, value_name = "KIND:ID")]
    actor: Option<Who>,
    /// Form of the lines.
    #[arg(long, value_enum, default_value_t = Form::Jsonl)]
    format: Form,
    /// Where the lines go; without it to the terminal, and without a manifest.
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Check an earlier export and its manifest against the log instead.
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["tenant", "from", "to", "actor", "format", "output"]
    )]
    check: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Form {
    /// One JSON object in each line.
    Jsonl,
    /// Comma-separated (RFC 4180), with a heading.
    Csv,
}

fn time(text: &str) -> Result<UnixMs, &'static str> {
    UnixMs::parse(text).ok_or("must be a time of RFC 3339, or a date")
}

/// What was asked for.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    tenant: Option<TenantId>,
    from: Option<String>,
    to: Option<String>,
    actor: Option<String>,
}

/// What stands beside an export.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Manifest {
    form: String,
    format: Form,
    query: Query,
    entries: u64,
    bytes: u64,
    sha256: Digest,
    exported_at: String,
    log_size: u64,
    verifier_key: String,
    checkpoint: String,
}

/// Runs the command.
pub(crate) async fn run(data: &Path, args: &ExportArgs, as_json: bool) -> Result<(), Fail> {
    let source = Source::open(data, args.log.as_deref())?;
    if let Some(file) = &args.check {
        return check(&source, file, as_json).await;
    }
    let filter = Filter {
        tenant: args.tenant.clone(),
        from: args.from,
        to: args.to,
        actor: args.actor.clone(),
    };
    let published = source.store.checkpoint(&source.keys).await.or_fail("the checkpoint")?;
    let (head, note) = published.ok_or_else(|| Fail::failed("the log has no checkpoint yet"))?;
    let Some(path) = &args.output else {
        if let Some(text) = heading(args.format) {
            print::line(text);
        }
        let size = head.size;
        return each(&source, &head, size, &filter, |row| {
            print::line(line(&row, args.format));
            Ok(())
        })
        .await;
    };
    let mut out = Out::new(create(path)?);
    let written = async {
        if let Some(text) = heading(args.format) {
            out.line(&text)?;
        }
        each(&source, &head, head.size, &filter, |row| {
            out.entries += 1;
            out.line(&line(&row, args.format))
        })
        .await?;
        out.end()
    };
    if let Err(fail) = written.await {
        // A part of an export is no export.
        fs::remove_file(path).ok();
        return Err(fail);
    }
    let manifest = Manifest {
        form: FORM.to_owned(),
        format: args.format,
        query: Query {
            tenant: filter.tenant,
            from: filter.from.map(UnixMs::rfc3339),
            to: filter.to.map(UnixMs::rfc3339),
            actor: filter.actor.map(|who| who.to_string()),
        },
        entries: out.entries,
        bytes: out.bytes,
        sha256: Digest::from_bytes(out.hash.finalize().into()),
        exported_at: clock::now().rfc3339(),
        log_size: head.size,
        verifier_key: source.vkey.clone(),
        checkpoint: note,
    };
    keep(&manifest_path(path), &manifest)?;
    told(path, &manifest, as_json, "exported");
    Ok(())
}

fn told(path: &Path, manifest: &Manifest, as_json: bool, done: &str) {
    let beside = manifest_path(path);
    if as_json {
        print::json(&json!({
            done: true, "file": path, "manifest": beside, "entries": manifest.entries,
            "sha256": manifest.sha256, "logSize": manifest.log_size,
        }));
        return;
    }
    let size = manifest.log_size;
    print::line(format!("{done:<10} {}\nmanifest   {}", path.display(), beside.display()));
    print::line(format!("entries    {} of the log's {size}", manifest.entries));
    print::line(format!("sha256     {}", manifest.sha256));
}

/// Every entry that is wanted, oldest first, each proven under `head` and below index `end`.
async fn each(
    source: &Source,
    head: &Checkpoint,
    end: u64,
    filter: &Filter,
    mut take: impl FnMut(EvidenceRow) -> Result<(), Fail>,
) -> Result<(), Fail> {
    let mut reader = Reader::new(&source.store, &source.trust, head);
    let groups = end.div_ceil(GROUP);
    let progress = bar(groups, "verifying");
    for group in 0..groups {
        let found = reader.found(group, 0, filter).await;
        let found =
            found.or_fail("nothing is exported; `hotcell audit verify` names each fault")?;
        for row in found.rows.into_iter().filter(|row| row.index < end) {
            take(row)?;
        }
        progress.inc(1);
    }
    progress.finish_and_clear();
    Ok(())
}

/// `hotcell audit export --check FILE`.
async fn check(source: &Source, path: &Path, as_json: bool) -> Result<(), Fail> {
    let manifest = read_manifest(&manifest_path(path))?;
    let old = Checkpoint::open(manifest.checkpoint.as_bytes(), &source.keys);
    let old = old.or_fail("the manifest's checkpoint is not one of this log")?;
    if old.size != manifest.log_size {
        return Err(Fail::failed("the manifest's checkpoint is of another size than it says"));
    }
    let published = source.store.checkpoint(&source.keys).await.or_fail("the checkpoint")?;
    let (head, _) = published.ok_or_else(|| Fail::failed("the log has no checkpoint"))?;
    let extends = source.store.prove_extends(&old, &head).await;
    extends.or_fail("the log does not extend the one that was exported")?;
    let filter = filter_of(&manifest.query)?;
    let file = File::open(path).or_fail("cannot read the export")?;
    let mut lines = Lines { file: BufReader::new(file), number: 0, bytes: 0, hash: Sha256::new() };
    if let Some(text) = heading(manifest.format) {
        lines.must_be(&text, None)?;
    }
    let mut entries = 0;
    each(source, &head, old.size, &filter, |row| {
        entries += 1;
        lines.must_be(&line(&row, manifest.format), Some(row.index))
    })
    .await?;
    if lines.next()?.is_some() {
        let (number, what) = (lines.number, "the export has lines that the log does not");
        return Err(Fail::failed(format!("line {number}: {what}")));
    }
    let sha256 = Digest::from_bytes(lines.hash.finalize().into());
    if (entries, lines.bytes, sha256) != (manifest.entries, manifest.bytes, manifest.sha256) {
        return Err(Fail::failed("the export is what the log says, its manifest is not"));
    }
    told(path, &manifest, as_json, "verified");
    Ok(())
}

fn filter_of(query: &Query) -> Result<Filter, Fail> {
    let malformed = || Fail::failed("the manifest's query is malformed");
    let time = |text: &Option<String>| {
        text.as_ref().map(|text| UnixMs::parse(text).ok_or_else(malformed)).transpose()
    };
    let actor = query.actor.as_ref().map(|who| who.parse().map_err(|_| malformed())).transpose();
    let tenant = query.tenant.clone();
    Ok(Filter { tenant, from: time(&query.from)?, to: time(&query.to)?, actor: actor? })
}

/// An export as it is read again.
struct Lines {
    file: BufReader<File>,
    number: u64,
    bytes: u64,
    hash: Sha256,
}

impl Lines {
    fn next(&mut self) -> Result<Option<String>, Fail> {
        let mut found = Vec::new();
        let limit = u64::try_from(LINE_BYTES_MAX).unwrap_or(u64::MAX);
        let mut bounded = io::Read::take(&mut self.file, limit);
        let read = bounded.read_until(b'\n', &mut found).or_fail("cannot read the export")?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        self.bytes += u64::try_from(read).unwrap_or(u64::MAX);
        self.hash.update(&found);
        let text = String::from_utf8(found).ok();
        let text = text.and_then(|text| text.strip_suffix('\n').map(str::to_owned));
        let number = self.number;
        text.map(Some).ok_or_else(|| Fail::failed(format!("line {number} is cut or not a text")))
    }

    fn must_be(&mut self, expect: &str, index: Option<u64>) -> Result<(), Fail> {
        let found = self.next()?;
        if found.as_deref() == Some(expect) {
            return Ok(());
        }
        let which = index.map_or_else(String::new, |index| format!(" for entry {index}"));
        let (number, what) = match found {
            None => (self.number + 1, "is missing"),
            Some(_) => (self.number, "is not what the log says"),
        };
        Err(Fail::failed(format!("line {number}{which} {what}")))
    }
}

/// An export as it is written.
struct Out {
    file: BufWriter<File>,
    hash: Sha256,
    bytes: u64,
    entries: u64,
}

impl Out {
    fn new(file: File) -> Self {
        Self { file: BufWriter::new(file), hash: Sha256::new(), bytes: 0, entries: 0 }
    }

    fn line(&mut self, text: &str) -> Result<(), Fail> {
        for part in [text.as_bytes(), b"\n"] {
            self.file.write_all(part).or_fail("cannot write the export")?;
            self.hash.update(part);
            self.bytes += u64::try_from(part.len()).unwrap_or(u64::MAX);
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), Fail> {
        self.file.flush().or_fail("cannot write the export")?;
        self.file.get_ref().sync_all().or_fail("cannot write the export")
    }
}

/// A new file that only its owner reads.
fn create(path: &Path) -> Result<File, Fail> {
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    file.map_err(|error| Fail::usage(format!("{}: {error}", path.display())))
}

fn manifest_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".manifest.json");
    PathBuf::from(name)
}

fn keep(path: &Path, manifest: &Manifest) -> Result<(), Fail> {
    let mut file = create(path)?;
    let text = serde_json::to_string_pretty(manifest).expect("a manifest holds texts and numbers");
    let written = file.write_all(format!("{text}\n").as_bytes()).and_then(|()| file.sync_all());
    written.or_fail("cannot write the manifest")
}

fn read_manifest(path: &Path) -> Result<Manifest, Fail> {
    let file = File::open(path).or_fail("cannot read the manifest")?;
    let manifest = serde_json::from_reader(io::Read::take(file, MANIFEST_BYTES_MAX));
    let manifest: Manifest = manifest.or_fail("the manifest is malformed")?;
    if manifest.form != FORM {
        return Err(Fail::failed("the export is of another version of hotcell"));
    }
    Ok(manifest)
}

const COLUMNS: &str = "index,leaf_hash,seq,time,tenant,kind,event,by,actor,roles,mfa,acr,network,\
    session,approval,worker,actions,outcomes,policies,job,target,note";

fn heading(form: Form) -> Option<String> {
    (form == Form::Csv).then(|| COLUMNS.to_owned())
}

fn line(row: &EvidenceRow, form: Form) -> String {
    match form {
        Form::Jsonl => row.json().to_string(),
        Form::Csv => cells(row).iter().map(|text| cell(text)).collect::<Vec<_>>().join(","),
    }
}

fn cells(row: &EvidenceRow) -> [String; 22] {
    fn shown(value: Option<impl ToString>) -> String {
        value.map_or_else(String::new, |value| value.to_string())
    }
    let said = row.authority.as_ref();
    let of_decisions = |of: fn(&hotcell_schemas::identity::Decided) -> String| {
        row.decided.iter().map(of).collect::<Vec<_>>().join(" ")
    };
    let outcome = |decided: &hotcell_schemas::identity::Decided| {
        let name = serde_json::to_value(decided.outcome).unwrap_or_default();
        name.as_str().unwrap_or_default().to_owned()
    };
    [
        row.index.to_string(),
        row.leaf.to_string(),
        row.seq.to_string(),
        row.at.rfc3339(),
        shown(row.tenant.as_ref()),
        row.kind.as_str().to_owned(),
        row.event.clone(),
        shown(row.by),
        shown(row.actor.as_ref().map(Who::of)),
        shown(said.map(|it| it.roles.iter().map(|r| r.as_str()).collect::<Vec<_>>().join(" "))),
        shown(said.map(|it| it.mfa)),
        shown(said.and_then(|it| it.acr.as_ref())),
        shown(said.and_then(|it| it.network)),
        shown(said.and_then(|it| it.session.as_ref())),
        shown(said.and_then(|it| it.approval.as_ref())),
        shown(row.worker.as_ref()),
        of_decisions(|decided| decided.action.to_string()),
        of_decisions(outcome),
        of_decisions(|decided| decided.policies.join("+")),
        shown(row.job.as_ref()),
        shown(row.target.as_ref()),
        shown(row.note.as_ref()),
    ]
}

/// A cell by RFC 4180. A spreadsheet would run what begins like a formula (OWASP, "CSV Injection"),
/// and others wrote parts of these texts: an apostrophe makes it a text.
fn cell(text: &str) -> String {
    let clean: String = text.chars().filter(|c| !c.is_control()).collect();
    let formula = clean.starts_with(['=', '+', '-', '@']);
    let guarded = if formula { format!("'{clean}") } else { clean };
    if guarded.contains([',', '"', '\'']) {
        return format!("\"{}\"", guarded.replace('"', "\"\""));
    }
    guarded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn step_19_a_cell_is_a_text_to_a_spreadsheet() {
        let check = |text: &str, expect: &str| assert_eq!(cell(text), expect);
        check("plain text", "plain text");
        check("a,b", "\"a,b\"");
        check("say \"x\"", "\"say \"\"x\"\"\"");
        check("=HYPERLINK(1)", "\"'=HYPERLINK(1)\"");
        check("@x", "\"'@x\"");
        check("a\r\nb", "ab");
        assert_eq!(COLUMNS.split(',').count(), 22);
    }
}
