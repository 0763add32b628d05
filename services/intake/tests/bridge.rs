//! SAML by way of Keycloak (IAM-14): what a person's SAML assertion says, through the mappers of
//! `compose/config/keycloak/realm.json`, as the claims of an access token, to tenant and roles by
//! `rules.toml` beside it. Keycloak's own part is modelled from its mappers' configuration; what is
//! ours is the real thing.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use hotcell_intake::{
    claims::{Rules, Unmapped},
    jwt::Object,
    oidc::{IssuerConfig, token::AccessToken, token::Profile},
};
use hotcell_schemas::{UnixMs, identity::RoleName};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::BTreeSet, path::Path};

const NOW: u64 = 1_795_000_000;

fn file(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../compose/config/keycloak");
    std::fs::read_to_string(folder.join(name)).unwrap()
}

fn realm() -> Value {
    serde_json::from_str(&file("realm.json")).unwrap()
}

#[derive(Deserialize)]
struct Intake {
    external_urls: Vec<String>,
    oidc: Vec<IssuerConfig>,
}

fn issuer() -> IssuerConfig {
    let Intake { external_urls, mut oidc } = toml::from_str(&file("intake.toml")).unwrap();
    assert_eq!((external_urls.len(), oidc.len()), (1, 1));
    oidc.remove(0)
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().unwrap()
}

/// The groups that Keycloak puts a person into whose assertion has these values of `memberOf`.
fn groups(realm: &Value, member_of: &[&str]) -> Vec<String> {
    let all: BTreeSet<&str> =
        list(realm, "groups").iter().map(|group| group["name"].as_str().unwrap()).collect();
    let mut found = Vec::new();
    for mapper in list(realm, "identityProviderMappers") {
        assert_eq!(mapper["identityProviderMapper"], "saml-advanced-group-idp-mapper");
        assert_eq!(mapper["identityProviderAlias"], realm["identityProviders"][0]["alias"]);
        let config = &mapper["config"];
        // Without it a person who leaves a group there stays in it here.
        assert_eq!(config["syncMode"], "FORCE");
        assert_eq!(config["are.attribute.values.regex"], "false");
        let group = config["group"].as_str().unwrap().strip_prefix('/').unwrap();
        assert!(all.contains(group), "{group} is no group of the realm");
        let wanted: Value = serde_json::from_str(config["attributes"].as_str().unwrap()).unwrap();
        let has = |it: &Value| {
            it["key"] == "memberOf" && member_of.contains(&it["value"].as_str().unwrap())
        };
        if wanted.as_array().unwrap().iter().all(has) {
            found.push(group.to_owned());
        }
    }
    found
}

/// The access token of a person, or of a service account when `member_of` is nothing.
fn token(client: &str, member_of: Option<&[&str]>, acr: &str) -> Value {
    let realm = realm();
    let own = list(&realm, "clients").iter().find(|it| it["clientId"] == client).unwrap();
    // Off by default, and such tokens are refused: they look like ID tokens.
    assert_eq!(own["attributes"]["access.token.header.type.rfc9068"], "true");
    let levels = realm["attributes"]["acr.loa.map"].as_str().unwrap();
    let levels: Value = serde_json::from_str(levels).unwrap();
    assert!(levels.get(acr).is_some(), "a level of the realm");
    // The built-in scopes `basic`, `acr` and `service_account`.
    let mut claims = json!({
        "iss": issuer().issuer, "sub": "f3c1", "jti": "onrtac:1", "azp": client, "typ": "Bearer",
        "iat": NOW, "exp": NOW + realm["accessTokenLifespan"].as_u64().unwrap(),
        "auth_time": NOW, "acr": acr, "scope": "openid",
    });
    if member_of.is_none() {
        claims["client_id"] = json!(client);
    }
    for mapper in list(own, "protocolMappers") {
        let config = &mapper["config"];
        assert_eq!(config["access.token.claim"], "true");
        match mapper["protocolMapper"].as_str().unwrap() {
            "oidc-audience-mapper" => claims["aud"] = config["included.custom.audience"].clone(),
            "oidc-hardcoded-claim-mapper" => {
                claims[config["claim.name"].as_str().unwrap()] = config["claim.value"].clone();
            }
            "oidc-group-membership-mapper" => {
                assert_eq!(config["full.path"], "false");
                let groups = groups(&realm, member_of.unwrap());
                claims[config["claim.name"].as_str().unwrap()] = json!(groups);
            }
            other => panic!("{other} is not modelled"),
        }
    }
    claims
}

fn checked(claims: Value) -> AccessToken {
    let config = issuer();
    let profile = Profile {
        issuer: config.issuer,
        audience: config.audience,
        clock_skew_secs: config.clock_skew_secs,
        lifetime_secs_max: config.lifetime_secs_max,
        mfa_acr: config.mfa_acr,
        mfa_amr: config.mfa_amr,
    };
    let Value::Object(claims) = claims else { panic!("claims are an object") };
    profile.check(Object(claims), UnixMs(NOW * 1000)).unwrap()
}

fn roles(claims: Value) -> Result<Vec<RoleName>, Unmapped> {
    let (token, rules) = (checked(claims), Rules::from_toml(&file("rules.toml")).unwrap());
    let service = token.is_service || rules.is_service(&token.client);
    let client = service.then_some(token.client.as_str());
    let (tenant, roles) = rules.map(&token.claims, client)?;
    assert_eq!(tenant.as_str(), "acme");
    Ok(roles.into_iter().collect())
}

const EDITORS: &str = "CN=Video Editors,OU=Groups,DC=example,DC=com";
const LEADS: &str = "CN=Video Leads,OU=Groups,DC=example,DC=com";
const COMPLIANCE: &str = "CN=Compliance,OU=Groups,DC=example,DC=com";
const PWD: &str = "urn:hotcell:acr:pwd";
const MFA: &str = "urn:hotcell:acr:mfa";

#[test]
fn iam_14_groups_of_a_saml_assertion_become_roles_by_the_bridge() {
    use RoleName::{Auditor, Submitter, TenantAdmin, Viewer};
    let person = |member_of: &[&str]| roles(token("hotcell-web", Some(member_of), PWD));
    assert_eq!(person(&[EDITORS]), Ok(vec![Viewer, Submitter]));
    assert_eq!(person(&[LEADS]), Ok(vec![TenantAdmin]));
    assert_eq!(person(&[COMPLIANCE]), Ok(vec![Auditor]));
    assert_eq!(person(&[EDITORS, COMPLIANCE, "CN=x"]), Ok(vec![Viewer, Submitter, Auditor]));
    assert_eq!(person(&["CN=Sales"]), Err(Unmapped::NoRule));
    assert_eq!(person(&[]), Err(Unmapped::NoRule));
    assert_eq!(roles(token("hotcell-ci", None, PWD)), Ok(vec![Submitter]));
}

#[test]
fn step_09_the_levels_of_the_realm_are_those_of_the_policies() {
    let token = |acr| checked(token("hotcell-web", Some(&[LEADS]), acr));
    assert!(token(MFA).mfa && !token(PWD).mfa);
    assert_eq!(token(MFA).auth_time, Some(UnixMs(NOW * 1000)));
}

#[test]
fn the_bridge_believes_signed_assertions_only_and_its_clients_use_codes_with_pkce() {
    let realm = realm();
    let saml = &realm["identityProviders"][0];
    assert_eq!(saml["providerId"], "saml");
    for wanted in ["validateSignature", "wantAssertionsSigned", "wantAuthnRequestsSigned"] {
        assert_eq!(saml["config"][wanted], "true", "{wanted}");
    }
    assert_eq!(saml["config"]["syncMode"], "FORCE");
    for client in list(&realm, "clients") {
        assert_eq!(client["directAccessGrantsEnabled"], false, "no passwords by API");
        if client["publicClient"] == true {
            assert_eq!(client["attributes"]["pkce.code.challenge.method"], "S256");
        }
    }
}
