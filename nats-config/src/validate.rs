//! Whether the broker would honour an account's JWT. The broker itself does not say: it answers
//! "jwt updated" to a JWT of a foreign operator and to an import that it will ignore, stores it,
//! and locks the account out at its next start. So this is asked before every push.

use crate::{
    accounts::{EVERY_USER, REVOKED_MAX},
    claims::{AccountBody, ActivationBody, Export, FlowType, Import, Limits, SigningKey, VERSION},
    jwt::{self, Claims, JwtError},
    keys::Keyring,
    permissions::{Permissions, covers},
    revocations::may_be_listed,
};
use nkeys::{KeyPair, KeyPairType};

/// Why an account's JWT is not pushed.
#[derive(Debug, thiserror::Error)]
pub enum AccountRefused {
    /// Not an account JWT, or its signature does not verify.
    #[error("the account's jwt does not read")]
    Jwt(#[source] JwtError),
    /// Signed by another operator.
    #[error("the account was not signed by this operator's signing key")]
    Issuer,
    /// Not an account's public key, not version 2, or it ends by itself.
    #[error("the claims are not those of a lasting account of version 2")]
    Kind,
    /// More than such an account may have.
    #[error("limit {0} is not one of such an account")]
    Limit(&'static str),
    /// A user without stated rights would have some.
    #[error("the default permissions are not 'nothing'")]
    DefaultPermissions,
    /// A revocation that would revoke nobody, or too many of them.
    #[error("the revocations are not a bounded list of users")]
    Revocations,
    /// An unscoped key could make users with any rights.
    #[error("a signing key has no scope")]
    UnscopedKey,
    /// The exporter has no such export, or it is for another account.
    #[error("import {0} matches no export for this account")]
    Import(String),
    /// A private export without a token that opens it.
    #[error("import {0} has no token that opens it")]
    Token(String),
    /// Exports belong to PIPELINE.
    #[error("the account exports {0}")]
    Export(String),
}

/// Reads the JWT of an account other than PIPELINE and SYS, and checks that the broker would
/// honour all of it, beside PIPELINE's `exports`.
///
/// # Errors
/// [`AccountRefused`].
pub fn importer(
    account_jwt: &str,
    keys: &Keyring,
    exports: &[Export],
) -> Result<Claims<AccountBody>, AccountRefused> {
    let claims = own_account(account_jwt, keys)?;
    let body = &claims.nats;
    limits(body)?;
    if body.default_permissions != Permissions::none() {
        return Err(AccountRefused::DefaultPermissions);
    }
    if body.signing_keys.iter().any(|key| matches!(key, SigningKey::Plain(_))) {
        return Err(AccountRefused::UnscopedKey);
    }
    if let Some(export) = body.exports.first() {
        return Err(AccountRefused::Export(export.name.clone()));
    }
    for import in &body.imports {
        check_import(import, &claims.sub, keys, exports)?;
    }
    Ok(claims)
}

/// Reads the JWT of any account of this operator.
///
/// # Errors
/// `Jwt`, `Issuer`, `Kind`, `Revocations`.
pub fn own_account(
    account_jwt: &str,
    keys: &Keyring,
) -> Result<Claims<AccountBody>, AccountRefused> {
    let claims: Claims<AccountBody> = jwt::decode(account_jwt).map_err(AccountRefused::Jwt)?;
    if claims.iss != keys.operator_signing.public_key() {
        return Err(AccountRefused::Issuer);
    }
    let subject = KeyPair::from_public_key(&claims.sub);
    let is_account = subject.is_ok_and(|key| key.key_pair_type() == KeyPairType::Account);
    let body = &claims.nats;
    if !is_account || body.kind != "account" || body.version != VERSION || claims.exp.is_some() {
        return Err(AccountRefused::Kind);
    }
    let listed = &body.revocations;
    // Twice the bound: two folders of one installation may each have filled theirs.
    let may_be = |key: &String| key == EVERY_USER || may_be_listed(key);
    if listed.len() > 2 * REVOKED_MAX || !listed.keys().all(may_be) {
        return Err(AccountRefused::Revocations);
    }
    Ok(claims)
}

fn limits(body: &AccountBody) -> Result<(), AccountRefused> {
    let Limits { payload, imports, conn, .. } = body.limits;
    let wrong = |name| Err(AccountRefused::Limit(name));
    if body.limits.mem_storage != 0 || body.limits.disk_storage != 0 {
        return wrong("mem_storage or disk_storage");
    }
    if body.limits.leaf != 0 {
        return wrong("leaf");
    }
    if body.limits.exports != 0 {
        return wrong("exports");
    }
    if !body.limits.disallow_bearer {
        return wrong("disallow_bearer");
    }
    // None at all is for an account whose users are all revoked.
    if conn < 0 || (conn == 0) != body.revocations.contains_key(EVERY_USER) {
        return wrong("conn");
    }
    if payload <= 0 {
        return wrong("payload");
    }
    if usize::try_from(imports) != Ok(body.imports.len()) {
        return wrong("imports");
    }
    Ok(())
}

fn check_import(
    import: &Import,
    importer: &str,
    keys: &Keyring,
    exports: &[Export],
) -> Result<(), AccountRefused> {
    let refused = || AccountRefused::Import(import.name.clone());
    if import.account != keys.pipeline.public_key()
        || (import.share && import.kind != FlowType::Service)
    {
        return Err(refused());
    }
    let export = exports
        .iter()
        .find(|export| export.kind == import.kind && covers(&export.subject, &import.subject))
        .ok_or_else(refused)?;
    if export.account_token_position > 0 {
        let index = usize::try_from(export.account_token_position - 1).map_err(|_| refused())?;
        if import.subject.split('.').nth(index) != Some(importer) {
            return Err(refused());
        }
    }
    if export.token_req && !token_opens(import, importer, keys) {
        return Err(AccountRefused::Token(import.name.clone()));
    }
    Ok(())
}

fn token_opens(import: &Import, importer: &str, keys: &Keyring) -> bool {
    let Some(token) = &import.token else { return false };
    let Ok(claims) = jwt::decode::<ActivationBody>(token) else { return false };
    claims.iss == keys.pipeline_grants.public_key()
        && claims.sub == importer
        && claims.exp.is_none()
        && claims.nats.issuer_account == keys.pipeline.public_key()
        && claims.nats.flow == import.kind
        && covers(&claims.nats.subject, &import.subject)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{accounts, keys::TenantKeys};
    use hotcell_schemas::{TenantId, UnixMs, tenancy::TenantState};

    const NOW: UnixMs = UnixMs(1_763_757_131_000);

    struct World {
        keys: Keyring,
        tenant_keys: TenantKeys,
        exports: Vec<Export>,
    }

    fn fresh(_name: &str, kind: KeyPairType) -> Result<KeyPair, ()> {
        Ok(KeyPair::new(kind))
    }

    fn world() -> World {
        let keys = Keyring::assemble(fresh).unwrap();
        let tenant: TenantId = "acme".parse().unwrap();
        let tenant_keys = TenantKeys::assemble(&tenant, fresh).unwrap();
        World { keys, tenant_keys, exports: accounts::exports() }
    }

    fn tenant_jwt(world: &World) -> String {
        let (tenant, state) = ("acme".parse().unwrap(), TenantState::Active);
        accounts::tenant(&world.keys, &world.tenant_keys, &tenant, state, NOW).unwrap()
    }

    fn check(change: impl FnOnce(&World, &mut AccountBody)) -> Result<(), AccountRefused> {
        check_jwt(tenant_jwt, change)
    }

    fn check_jwt(
        render: impl FnOnce(&World) -> String,
        change: impl FnOnce(&World, &mut AccountBody),
    ) -> Result<(), AccountRefused> {
        let world = world();
        let mut claims: Claims<AccountBody> = jwt::decode(&render(&world)).unwrap();
        change(&world, &mut claims.nats);
        let signer = &world.keys.operator_signing;
        let jwt = jwt::encode(signer, NOW, &claims.sub, &claims.name, &claims.nats).unwrap();
        importer(&jwt, &world.keys, &world.exports).map(|_| ())
    }

    #[test]
    fn what_the_code_renders_is_honoured() {
        check(|_, _| {}).unwrap();
        check_jwt(|world| accounts::encoders(&world.keys, NOW).unwrap(), |_, _| {}).unwrap();
    }

    #[test]
    fn another_operators_account_is_refused() {
        let (mine, other) = (world(), world());
        let result = importer(&tenant_jwt(&other), &mine.keys, &mine.exports);
        assert!(matches!(result, Err(AccountRefused::Issuer)));
    }

    #[test]
    fn another_tenants_subject_is_refused() {
        let other = KeyPair::new_account().public_key();
        for index in 0..3 {
            let result = check(|world, body| {
                let own = world.tenant_keys.account.public_key();
                let import = &mut body.imports[index];
                import.subject = import.subject.replace(&own, &other);
            });
            assert!(matches!(result, Err(AccountRefused::Import(_))), "{index}");
        }
        let all = check(|_, body| body.imports[0].subject = "tenant.*.submit".to_owned());
        assert!(matches!(all, Err(AccountRefused::Import(_))));
        let private = check(|_, body| body.imports[0].subject = "job.*.*.completed".to_owned());
        assert!(matches!(private, Err(AccountRefused::Import(_))));
    }

    #[test]
    fn a_private_export_needs_its_own_token() {
        let encoders = |world: &World| accounts::encoders(&world.keys, NOW).unwrap();
        let none = check_jwt(encoders, |_, body| body.imports[0].token = None);
        assert!(matches!(none, Err(AccountRefused::Token(_))));
        let swapped = check_jwt(encoders, |_, body| {
            let token = body.imports[1].token.clone();
            body.imports[0].token = token;
        });
        assert!(matches!(swapped, Err(AccountRefused::Token(_))));
        let stolen = check(|world, body| {
            let claims: Claims<AccountBody> = jwt::decode(&encoders(world)).unwrap();
            body.imports[0] = claims.nats.imports[0].clone();
        });
        assert!(matches!(stolen, Err(AccountRefused::Token(_))));
    }

    #[test]
    fn more_than_an_importer_may_have_is_refused() {
        let limit = |change: fn(&mut Limits)| check(move |_, body| change(&mut body.limits));
        let wrong: [fn(&mut Limits); 8] = [
            |limits| limits.disk_storage = -1,
            |limits| limits.mem_storage = 1,
            |limits| limits.leaf = -1,
            |limits| limits.exports = 1,
            |limits| limits.conn = -1,
            |limits| limits.conn = 0,
            |limits| limits.payload = 0,
            |limits| limits.disallow_bearer = false,
        ];
        for change in wrong {
            assert!(matches!(limit(change), Err(AccountRefused::Limit(_))));
        }
        let open = check(|_, body| body.default_permissions = Permissions::default());
        assert!(matches!(open, Err(AccountRefused::DefaultPermissions)));
        for nobody in [KeyPair::new_operator().public_key(), "U".to_owned(), String::new()] {
            let typo = check(|_, body| _ = body.revocations.insert(nobody, u64::MAX));
            assert!(matches!(typo, Err(AccountRefused::Revocations)));
        }
        let key = check(|_, body| {
            body.signing_keys.push(SigningKey::Plain(KeyPair::new_account().public_key()));
        });
        assert!(matches!(key, Err(AccountRefused::UnscopedKey)));
    }
}
