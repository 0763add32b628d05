//! Identity providers for `hotcell up`: the `[[oidc]]` tables of a file of the caller's own, which
//! intake's configuration gets. Paths in it are relative to it. What the tables say, intake checks.

use crate::fail::{Context as _, Fail};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Keys of a table that are paths.
const PATHS: [&str; 2] = ["rules", "ca"];

/// What of a file of issuers goes into intake's configuration.
pub(crate) fn read(path: &Path) -> Result<Map<String, Value>, Fail> {
    let wrong = |rule: &str| Fail::config(format!("--oidc {}: {rule}", path.display()));
    let text = std::fs::read_to_string(path).or_fail("cannot read the file of --oidc")?;
    let mut table: Map<String, Value> =
        toml::from_str(&text).map_err(|error| wrong(error.message()))?;
    if table.keys().any(|key| !["oidc", "external_urls"].contains(&key.as_str())) {
        return Err(wrong("holds only [[oidc]] tables and external_urls"));
    }
    let issuers = table.get_mut("oidc").and_then(Value::as_array_mut);
    let issuers = issuers.ok_or_else(|| wrong("holds no [[oidc]] table"))?;
    let absolute = std::path::absolute(path).or_fail("cannot tell where the file of --oidc is")?;
    let folder = absolute.parent().unwrap_or(Path::new("/"));
    for issuer in issuers.iter_mut().filter_map(Value::as_object_mut) {
        for key in PATHS {
            if let Some(Value::String(relative)) = issuer.get_mut(key) {
                *relative = folder.join(&*relative).display().to_string();
            }
        }
    }
    Ok(table)
}

/// Adds what `read` gave to intake's configuration; `own` is the API's own URL.
pub(crate) fn add(config: &mut Map<String, Value>, issuers: Map<String, Value>, own: &str) {
    config.extend(issuers);
    let urls = config.entry("external_urls").or_insert_with(|| json!([]));
    if let Some(urls) = urls.as_array_mut() {
        urls.push(json!(own));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Map<String, Value>, Fail> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("oidc.toml");
        std::fs::write(&path, text).unwrap();
        let found = read(&path);
        found.map(|mut found| {
            let text = Value::Object(found.clone()).to_string();
            let text = text.replace(dir.path().to_str().unwrap(), "DIR");
            found = serde_json::from_str(&text).unwrap();
            found
        })
    }

    #[test]
    fn paths_are_relative_to_the_file() {
        let found = check("[[oidc]]\nissuer = \"a\"\nrules = \"rules.toml\"\nca = \"/etc/ca.pem\"");
        let expect = json!([{ "issuer": "a", "rules": "DIR/rules.toml", "ca": "/etc/ca.pem" }]);
        assert_eq!(found.unwrap()["oidc"], expect);
    }

    #[test]
    fn nothing_else_of_intake_is_changed_by_it() {
        assert!(check("listen = \"0.0.0.0:80\"\n[[oidc]]\nissuer = \"a\"").is_err());
        assert!(check("").is_err());
        assert!(check("oidc = 7").is_err());
        let mut config = Map::new();
        add(&mut config, check("external_urls = [\"b\"]\n[[oidc]]\n").unwrap(), "a");
        assert_eq!(config["external_urls"], json!(["b", "a"]));
    }
}
