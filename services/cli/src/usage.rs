//! `hotcell usage`: what the tenant used this month, what its plan holds, how its work stands.

use crate::{api::Api, fail::Fail, print};
use serde_json::Value;
use std::path::Path;

pub(crate) async fn run(data: &Path, json: bool) -> Result<(), Fail> {
    let usage = Api::find(data)?.get("/v1/usage").await?;
    if json {
        print::json(&usage);
    } else {
        print::line(describe(&usage));
    }
    Ok(())
}

fn describe(usage: &Value) -> String {
    let at = |path: &str| match usage.pointer(path) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    };
    let row = |cells: [String; 3]| cells.to_vec();
    let rows = [
        row([at("/month"), "used".to_owned(), format!("plan {}", at("/plan"))]),
        row(["CPU seconds".to_owned(), at("/cpuSecs/used"), at("/cpuSecs/limit")]),
        row([
            "minutes of output".to_owned(),
            at("/outputMinutes/used"),
            at("/outputMinutes/limit"),
        ]),
        row(["encodes at once".to_owned(), at("/running"), at("/concurrency")]),
    ];
    let waiting = |class: &str| at(&format!("/waiting/{class}"));
    format!(
        "{}\nwaiting: {} high, {} normal, {} low\nshare of the workers now: {} (weight {})\n\
         wait for a worker: p50 {} ms, p95 {} ms, of the last {} jobs\n",
        print::table(&rows),
        waiting("high"),
        waiting("normal"),
        waiting("low"),
        at("/share"),
        at("/weight"),
        at("/queueWait/p50Ms"),
        at("/queueWait/p95Ms"),
        at("/queueWait/jobs"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_known_is_a_dash() {
        let usage = json!({
            "month": "2026-11", "plan": "starter", "weight": 10, "concurrency": 16,
            "cpuSecs": { "used": 61.5, "limit": 1000 },
            "outputMinutes": { "used": 2, "limit": 100 },
        });
        let text = describe(&usage);
        assert!(text.contains("61.5") && text.contains("plan starter"), "{text}");
        assert!(text.contains("waiting: - high, - normal, - low"), "{text}");
    }
}
