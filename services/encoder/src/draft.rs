//! The report of an attempt while it grows.

use crate::{
    cell::Ran,
    store::{self, Packed},
};
use hotcell_jail::cell::End;
use hotcell_schemas::{
    Report,
    reject::Failure,
    report::{CellUse, Probe, ProducedFile, Provenance, Steps},
};
use tracing::{error, warn};

/// What will be in the report.
#[derive(Debug)]
pub(crate) struct Draft {
    /// Which programs ran.
    pub(crate) provenance: Provenance,
    /// When each step began.
    pub(crate) steps: Steps,
    /// The input's probe.
    pub(crate) probe: Option<CellUse>,
    /// The encode.
    pub(crate) encode: Option<CellUse>,
    /// The output's probe.
    pub(crate) verify: Option<CellUse>,
    /// What the prober said of the input.
    pub(crate) input: Option<Probe>,
    /// What the prober said of the output.
    pub(crate) output: Option<Probe>,
    /// Files taken from the cell.
    pub(crate) files: Vec<ProducedFile>,
    /// Standard error of the last cell.
    pub(crate) stderr: Option<Packed>,
    /// The first thing that failed.
    pub(crate) failure: Option<Failure>,
    /// The signer has answered the report.
    pub(crate) reported: bool,
}

impl Draft {
    /// Nothing done yet.
    pub(crate) fn new(provenance: Provenance) -> Self {
        Self {
            provenance,
            steps: Steps::default(),
            probe: None,
            encode: None,
            verify: None,
            input: None,
            output: None,
            files: Vec::new(),
            stderr: None,
            failure: None,
            reported: false,
        }
    }

    /// Notes what a cell said besides its result: the rules in force, and standard error.
    pub(crate) fn note(&mut self, ran: &Ran) {
        if let Ok(digest) = ran.outcome.profile_hash.parse() {
            self.provenance.profile_digest = digest;
        }
        for layer in &ran.outcome.degraded {
            let name = layer.name().to_owned();
            if !self.provenance.degraded.contains(&name) {
                self.provenance.degraded.push(name);
            }
        }
        match store::pack(&ran.outcome.stderr) {
            Ok(packed) => self.stderr = packed,
            Err(error) => warn!(%error, "stderr not compressed"),
        }
        if let End::LauncherRefused(reason) = &ran.outcome.end {
            error!(%reason, "the launcher refuses to start a cell");
        }
    }

    /// The report, as of now.
    pub(crate) fn report(&self) -> Report {
        Report {
            provenance: self.provenance.clone(),
            steps: self.steps,
            probe: self.probe.clone(),
            encode: self.encode.clone(),
            verify: self.verify.clone(),
            input: self.input.clone(),
            output: self.output.clone(),
            files: self.files.clone(),
            stderr: self.stderr.as_ref().map(|packed| packed.file.clone()),
            failure: self.failure.clone(),
        }
    }

    /// Takes a failure: no file is reported, and the first failure stands.
    pub(crate) fn fail(&mut self, failure: Failure) {
        self.files.clear();
        self.failure.get_or_insert(failure);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hotcell_schemas::{Digest, RejectCode};

    #[test]
    fn a_failed_attempt_reports_no_files_and_its_first_failure() {
        let digest = Digest::of(b"");
        let mut draft = Draft::new(Provenance {
            ffmpeg: String::new(),
            configuration_digest: digest,
            root_digest: digest,
            image_digest: digest,
            profile_digest: digest,
            degraded: Vec::new(),
            cell: "ffmpeg".to_owned(),
        });
        draft.files.push(ProducedFile {
            name: "a.mp4".parse().unwrap(),
            size: 1,
            content_type: "video/mp4".to_owned(),
            sha256: digest,
        });
        draft.fail(Failure::new(RejectCode::EncodeFailed, "first"));
        draft.fail(Failure::new(RejectCode::UploadFailed, "second"));
        let report = draft.report();
        assert!(report.files.is_empty());
        assert_eq!(report.failure.unwrap().code, RejectCode::EncodeFailed);
    }
}
