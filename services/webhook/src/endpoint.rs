//! One endpoint: what a change makes of it, which secrets sign for it, and what may be seen of it.
//! Pure, but for the line that says that an old secret is unusable.

use crate::{
    breaker,
    signature::Secret,
    vault::{Vault, VaultError},
};
use hotcell_schemas::{
    UnixMs,
    hook::{DisabledFor, EndpointRecord, EndpointView},
    request::WebhookChange,
};
use tracing::error;

/// The endpoint after a change. Enabling one that is disabled forgets its failures; one that is
/// enabled keeps them, so that enabling again and again does not get around the breaker.
pub(crate) fn applied(
    record: EndpointRecord,
    asked: &WebhookChange,
    now: UnixMs,
) -> EndpointRecord {
    let mut next = record;
    if let Some(url) = asked.url.as_ref().filter(|url| **url != next.url) {
        // What failed was the URL before.
        next = EndpointRecord { url: url.clone(), ..breaker::forgiven(next) };
    }
    if let Some(events) = &asked.events {
        next.events.clone_from(events);
    }
    match (asked.enabled, next.disabled_at) {
        (Some(true), Some(_)) => {
            (next.disabled_at, next.disabled_for) = (None, None);
            breaker::forgiven(next)
        }
        (Some(false), None) => {
            (next.disabled_at, next.disabled_for) = (Some(now), Some(DisabledFor::Request));
            next
        }
        _ => next,
    }
}

/// When an id was made: its first digits are the time.
pub(crate) fn begun(id: &str) -> UnixMs {
    UnixMs(id.get(..12).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0))
}

/// The record without a secret that signs no more.
pub(crate) fn tidied(record: EndpointRecord, now: UnixMs) -> EndpointRecord {
    EndpointRecord { old_secret: record.old_secret.filter(|old| old.until > now), ..record }
}

/// The secrets that sign at `now`, the present one first. An old one that cannot be opened is left
/// out: the present one is enough for a delivery.
pub(crate) fn signing(
    vault: &Vault,
    endpoint: &EndpointRecord,
    now: UnixMs,
) -> Result<Vec<Secret>, VaultError> {
    let open = |sealed: &str| vault.open(sealed, &endpoint.tenant, &endpoint.id);
    let mut secrets = vec![open(&endpoint.secret_sealed)?];
    if let Some(old) = endpoint.old_secret.as_ref().filter(|old| old.until > now) {
        match open(&old.sealed) {
            Ok(secret) => secrets.push(secret),
            Err(error) => error!(endpoint = %endpoint.id, %error, "the old secret does not sign"),
        }
    }
    Ok(secrets)
}

/// An endpoint as intake may see it.
pub(crate) fn view(record: EndpointRecord, now: UnixMs) -> EndpointView {
    let record = tidied(record, now);
    EndpointView {
        id: record.id,
        url: record.url,
        events: record.events,
        created_at: record.created_at,
        failures: record.failures,
        last_failure: record.failing.last().cloned(),
        disabled_at: record.disabled_at,
        disabled_for: record.disabled_for,
        old_secret_until: record.old_secret.map(|old| old.until),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::endpoint;
    use hotcell_schemas::hook::OldSecret;

    #[test]
    fn brk_51_enabling_forgets_failures_only_of_what_is_disabled() {
        let on = WebhookChange { enabled: Some(true), ..WebhookChange::default() };
        let off = WebhookChange { enabled: Some(false), ..WebhookChange::default() };
        let failing = EndpointRecord { failures: 9, ..endpoint() };
        assert_eq!(applied(failing.clone(), &on, UnixMs(7)), failing);
        let stopped = applied(failing, &off, UnixMs(7));
        assert_eq!(stopped.disabled_for, Some(DisabledFor::Request));
        assert_eq!(applied(stopped.clone(), &off, UnixMs(8)), stopped);
        assert_eq!(applied(stopped, &on, UnixMs(9)), endpoint());
        let tripped = EndpointRecord {
            disabled_at: Some(UnixMs(5)),
            disabled_for: Some(DisabledFor::Failures),
            failures: 10,
            ..endpoint()
        };
        assert_eq!(applied(tripped.clone(), &off, UnixMs(7)), tripped, "why it is stays known");
        let moved = WebhookChange { url: Some("https://b.example/".to_owned()), ..off };
        let moved = applied(tripped, &moved, UnixMs(7));
        assert_eq!((moved.failures, moved.disabled_at), (0, Some(UnixMs(5))));
    }

    #[test]
    fn brk_43_an_old_secret_signs_until_its_time_and_then_is_gone() {
        let (vault, old, new) = (Vault::new(&[1; 32]), Secret::new([2; 32]), Secret::new([3; 32]));
        let mut endpoint = endpoint();
        let seal = |secret: &Secret, nonce: u8| {
            vault.seal(secret, &endpoint.tenant, &endpoint.id, [nonce; 12])
        };
        let (sealed, present) = (seal(&old, 1), seal(&new, 2));
        endpoint.secret_sealed = present;
        endpoint.old_secret = Some(OldSecret { sealed, until: UnixMs(1000) });
        let at = |now: u64| signing(&vault, &endpoint, UnixMs(now)).unwrap();
        assert_eq!(at(999), [new.clone(), old]);
        assert_eq!(at(1000), [new]);
        assert_eq!(tidied(endpoint.clone(), UnixMs(999)), endpoint);
        assert_eq!(tidied(endpoint, UnixMs(1000)).old_secret, None);
    }
}
