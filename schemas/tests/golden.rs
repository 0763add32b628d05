//! The wire, byte for byte. A changed golden file is a wire change: it needs a new version and a
//! reader of the old one. `UPDATE_GOLDEN=1` rewrites the files, and the pages in docs/.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod samples;

use hotcell_schemas::{Envelope, Message, Subject, docs, routes::ROUTES};
use samples::{See, rest::Look};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    env, fmt, fs,
    path::{Path, PathBuf},
};

/// Bytes of one line of a hex file.
const LINE_BYTES: usize = 48;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden")
}

fn updating() -> bool {
    env::var_os("UPDATE_GOLDEN").is_some()
}

/// Fails when the file differs from `text`; with `UPDATE_GOLDEN` writes it.
fn check_file(path: &Path, text: &str) {
    if updating() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let golden = fs::read_to_string(path).unwrap_or_default();
    let changed = golden.lines().zip(text.lines()).find(|(old, new)| old != new);
    assert_eq!(changed, None, "{} changed (old, new); a wire change?", path.display());
    assert!(golden == text, "{} is missing, cut or longer", path.display());
}

type Cases = BTreeMap<String, Vec<u8>>;

fn hex_text(cases: &Cases) -> String {
    let mut text = String::new();
    for (case, bytes) in cases {
        text.push_str(&format!("# {case}\n"));
        for line in bytes.chunks(LINE_BYTES) {
            text.push_str(&format!("{}\n", hex::encode(line)));
        }
    }
    text
}

fn hex_cases(text: &str) -> Cases {
    let mut cases = Cases::new();
    let mut case = None;
    for line in text.lines() {
        match line.strip_prefix("# ") {
            Some(name) => case = Some(name),
            None => cases
                .entry(case.unwrap().to_owned())
                .or_default()
                .extend(hex::decode(line).unwrap()),
        }
    }
    cases
}

/// JSON for people, its fields in the order of their names: whether serde_json keeps another one
/// depends on what else is in the build (the policies' language asks for it).
fn pretty(value: impl Serialize) -> String {
    let mut value = serde_json::to_value(value).unwrap();
    value.sort_all_objects();
    format!("{}\n", serde_json::to_string_pretty(&value).unwrap())
}

/// The bytes for people, read from the bytes alone: they name their own fields.
fn json_text(cases: &Cases) -> String {
    let values: BTreeMap<_, Value> =
        cases.iter().map(|(case, bytes)| (case, rmp_serde::from_slice(bytes).unwrap())).collect();
    pretty(values)
}

/// Collects each sample's bytes by message type.
#[derive(Default)]
struct Bodies(BTreeMap<String, Cases>);

impl See for Bodies {
    fn see<T: Message + PartialEq + fmt::Debug>(&mut self, case: &str, row: &str, value: &T) {
        let name = format!("{}.v{}", T::TYPE, T::VERSION);
        let body = samples::seal(row, value).body;
        let before = self.0.entry(name).or_default().insert(case.to_owned(), body);
        assert_eq!(before, None, "{} has two samples {case}", T::TYPE);
    }
}

/// Decodes what the golden files hold and compares it with the samples.
struct Readers(BTreeMap<String, Cases>);

impl See for Readers {
    fn see<T: Message + PartialEq + fmt::Debug>(&mut self, case: &str, row: &str, value: &T) {
        let body = &self.0[&format!("{}.v{}", T::TYPE, T::VERSION)][case];
        let reply = samples::is_reply::<T>();
        let route = samples::subject(row).route();
        let role = if reply { route.consumers[0] } else { route.publishers[0] };
        let sealed = samples::seal(row, value);
        let golden = samples::resigned(&sealed, body, &samples::key(role), reply);
        assert_eq!(golden, sealed, "{} {case}: signed bytes are as described", T::TYPE);
        assert_eq!(samples::open::<T>(&golden).as_ref(), Ok(value), "{} {case}", T::TYPE);
    }
}

#[test]
fn every_message_has_its_golden_bytes_and_they_open_to_the_same_value() {
    let mut bodies = Bodies::default();
    samples::each(&mut bodies);
    for (name, cases) in &bodies.0 {
        check_file(&folder().join(format!("{name}.hex")), &hex_text(cases));
        check_file(&folder().join(format!("{name}.json")), &json_text(cases));
    }
    let committed = bodies.0.keys().map(|name| {
        let text = fs::read_to_string(folder().join(format!("{name}.hex"))).unwrap();
        (name.clone(), hex_cases(&text))
    });
    samples::each(&mut Readers(committed.collect()));

    let carried: BTreeSet<_> = ROUTES.iter().map(|route| route.message).collect();
    for message in carried.into_iter().filter(|message| *message != "json") {
        let sampled = bodies.0.keys().any(|name| name.split_once(".v").unwrap().0 == message);
        assert!(sampled, "{message} is in the route table and has no sample");
    }
}

#[test]
fn no_golden_file_is_left_over() {
    let mut bodies = Bodies::default();
    samples::each(&mut bodies);
    let mut expect: BTreeSet<String> =
        ["envelope.v1.json", "records.json", "records.hex", "http.json"].map(str::to_owned).into();
    for name in bodies.0.keys() {
        expect.extend([format!("{name}.hex"), format!("{name}.json")]);
    }
    for entry in fs::read_dir(folder()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            continue; // the command lines' own, checked by tests/argv.rs
        }
        let name = entry.file_name().into_string().unwrap();
        assert!(expect.contains(&name), "golden/{name} belongs to no sample");
    }
}

#[test]
fn the_sealed_envelope_is_as_it_was() {
    let message = samples::seal("job.submitted", &samples::jobs::submitted());
    let reply = samples::seal("lease.done", &hotcell_schemas::work::DoneReply::Accepted);
    let wire = |sealed: &Envelope| {
        let headers: BTreeMap<_, _> = sealed.headers().into();
        serde_json::json!({
            "subject": sealed.subject.as_str(),
            "headers": headers,
            "body": hex::encode(&sealed.body),
        })
    };
    let value = serde_json::json!({ "message": wire(&message), "reply": wire(&reply) });
    let path = folder().join("envelope.v1.json");
    check_file(&path, &pretty(value));

    let golden: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let received = |part: &str| {
        let part = &golden[part];
        let body = hex::decode(part["body"].as_str().unwrap()).unwrap();
        let subject = part["subject"].as_str().unwrap();
        Envelope::received(subject, |name| part["headers"][name].as_str(), &body).unwrap()
    };
    assert_eq!(received("message"), message);
    assert_eq!(received("reply"), reply);
    let job = received("message").open::<hotcell_schemas::Job>(&samples::trust()).unwrap();
    assert_eq!(job.get(), &samples::jobs::submitted());
    assert_eq!(job.subject(), &samples::subject("job.submitted"));
}

/// Collects the JSON of each sample, and checks that both codecs give the value back.
#[derive(Default)]
struct Looks(BTreeMap<String, Value>, Cases);

impl Look for Looks {
    fn look<T: Serialize + DeserializeOwned + PartialEq + fmt::Debug>(
        &mut self,
        name: &str,
        value: &T,
    ) {
        let json = serde_json::to_string(value).unwrap();
        assert_eq!(&serde_json::from_str::<T>(&json).unwrap(), value, "{name}");
        let bytes = rmp_serde::to_vec_named(value).unwrap();
        assert_eq!(&rmp_serde::from_slice::<T>(&bytes).unwrap(), value, "{name}");
        self.0.insert(name.to_owned(), serde_json::from_str(&json).unwrap());
        self.1.insert(name.to_owned(), bytes);
    }
}

#[test]
fn records_at_rest_are_as_they_were() {
    let mut looks = Looks::default();
    samples::rest::at_rest(&mut looks);
    let json = pretty(&looks.0);
    check_file(&folder().join("records.json"), &json);
    check_file(&folder().join("records.hex"), &hex_text(&looks.1));
}

#[test]
fn http_bodies_are_as_they_were() {
    let mut looks = Looks::default();
    samples::rest::http(&mut looks);
    let json = pretty(&looks.0);
    check_file(&folder().join("http.json"), &json);
}

#[test]
fn rendered_pages_are_fresh() {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    check_file(&docs.join("subjects.md"), &docs::subjects_md());
    check_file(&docs.join("rejects.md"), &docs::rejects_md());
}

#[test]
fn a_golden_subject_is_its_constructor_s() {
    let (tenant, job) = (samples::tenant(), samples::job_id());
    let built = Subject::job(&tenant, &job, hotcell_schemas::EventKind::Submitted).unwrap();
    assert_eq!(built, samples::subject("job.submitted"));
}
