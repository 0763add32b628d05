//! `hotcell policy check`: a file of policies, offline.
//!
//! Promises: the check is the one that storing makes. Refuses with exit code 1, after a line for each
//! fault.

use super::read_text;
use crate::{fail::Fail, print};
use hotcell_policy::{Faults, check};
use hotcell_schemas::TenantId;
use serde_json::json;
use std::path::Path;

/// The tenant whose the file would be, where none is named: ids are checked without it.
pub(super) fn nobody() -> TenantId {
    "own".parse().expect("a slug")
}

pub(super) fn run(file: &Path, platform: bool, as_json: bool) -> Result<(), Fail> {
    let text = read_text(file)?;
    let nobody = nobody();
    let found = check(&text, (!platform).then_some(&nobody));
    if as_json {
        let faults = found.as_ref().err().map(|faults| &faults.0);
        let faults: Vec<_> = faults
            .into_iter()
            .flatten()
            .map(|fault| json!({"line": fault.line, "policy": fault.policy, "rule": fault.rule}))
            .collect();
        let policies = found.as_ref().ok();
        print::json(&json!({ "valid": found.is_ok(), "policies": policies, "faults": faults }));
    }
    match found {
        Ok(count) if !as_json => {
            let noun = if count == 1 { "policy" } else { "policies" };
            print::line(format!("valid: {count} {noun}"));
        }
        Ok(_) => {}
        Err(faults) => return Err(refused(file, &faults, as_json)),
    }
    Ok(())
}

/// A line for each fault, then the failure.
pub(super) fn refused(file: &Path, faults: &Faults, as_json: bool) -> Fail {
    if !as_json {
        for fault in &faults.0 {
            print::line(format!("{}: {fault}", file.display()));
        }
    }
    let count = faults.0.len();
    let noun = if count == 1 { "fault" } else { "faults" };
    Fail::failed(format!("{} is not valid: {count} {noun}", file.display()))
}
