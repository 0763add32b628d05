//! STEP-18: the example configuration of Envoy asks where intake answers, believes only what intake
//! says of who asks, and refuses when nobody answers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use hotcell_intake::ext_authz::PREFIX;
use std::path::Path;
use yaml_rust2::{Yaml, YamlLoader};

/// By these some upstreams serve another method or path than the one that was asked about.
const OVERRIDES: [&str; 5] = [
    "x-http-method-override",
    "x-http-method",
    "x-method-override",
    "x-original-url",
    "x-rewrite-url",
];

const SAID: [&str; 3] = ["x-hotcell-tenant", "x-hotcell-actor", "x-hotcell-roles"];

fn example() -> Yaml {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../compose/config/envoy.yaml");
    let text = std::fs::read_to_string(path).unwrap();
    YamlLoader::load_from_str(&text).unwrap().remove(0)
}

fn texts<'a>(list: &'a Yaml, field: &str) -> Vec<&'a str> {
    list.as_vec().unwrap().iter().map(|item| item[field].as_str().unwrap()).collect()
}

#[test]
fn step_18_the_example_of_envoy_names_the_endpoint_and_fails_closed() {
    let whole = example();
    let manager = &whole["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0];
    let manager = &manager["typed_config"];
    let filters = texts(&manager["http_filters"], "name");
    assert_eq!(filters, ["envoy.filters.http.ext_authz", "envoy.filters.http.router"]);
    let ask = &manager["http_filters"][0]["typed_config"];
    assert_eq!(ask["failure_mode_allow"].as_bool(), Some(false));
    assert_eq!(ask["with_request_body"]["allow_partial_message"].as_bool(), Some(false));
    assert_eq!(ask["http_service"]["path_prefix"].as_str(), Some(PREFIX));

    let clusters = texts(&whole["static_resources"]["clusters"], "name");
    let cluster = ask["http_service"]["server_uri"]["cluster"].as_str().unwrap();
    assert!(clusters.contains(&cluster), "{cluster} {clusters:?}");

    // What a client says of itself goes, what intake says of it comes, and nothing else does.
    let removed = &manager["early_header_mutation_extensions"][0]["typed_config"]["mutations"];
    assert_eq!(texts(removed, "remove"), [&SAID[..], &OVERRIDES[..]].concat());
    let answer = &ask["http_service"]["authorization_response"];
    assert_eq!(texts(&answer["allowed_upstream_headers"]["patterns"], "exact"), SAID);
    // Refusals arrive whole: a challenge without its header is none.
    let client = texts(&answer["allowed_client_headers"]["patterns"], "exact");
    for header in ["www-authenticate", "content-type", "retry-after"] {
        assert!(client.contains(&header), "{header}");
    }
    // What decides beside the bearer is sent along: proofs, approvals, whence.
    let sent = texts(&ask["allowed_headers"]["patterns"], "exact");
    for header in ["dpop", "hotcell-approval", "x-forwarded-for"] {
        assert!(sent.contains(&header), "{header}");
    }
    assert_eq!(manager["use_remote_address"].as_bool(), Some(true));
}
