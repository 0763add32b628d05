//! Blocks: a principal that is stopped while people look, whatever credential it shows.
//!
//! Promises: a block reaches every key that the blocked made, and each that was rotated from one of
//! its keys, because they are the same person (see [`crate::approval`]); one that is repeated never
//! ends earlier than it did. Refuses to grow: a list has a bound, and what has ended leaves it. Pure.

use crate::{BlockId, KeyId, TenantId, UnixMs, job::Actor};
use serde::{Deserialize, Serialize};

/// Blocks of one tenant at most, of its own and of the operator's each: at their largest a list is
/// under the broker's 256 KiB.
pub const BLOCKS_MAX: usize = 64;

/// Longest reason, in characters.
pub const REASON_CHARS_MAX: usize = 200;

/// Longest issuer, subject or client, in bytes: OpenID Connect Core 1.0 §2 has 255 for a subject.
pub const NAME_BYTES_MAX: usize = 255;

/// Longest life of a block that ends by itself, in seconds: a year.
pub const EXPIRES_SECS_MAX: u64 = 31_536_000;

/// Characters of a login's public key: 35 bytes in base 32.
const LOGIN_CHARS: usize = 56;

/// Key of the operator's blocks of `tenant` in bucket `platform`, which no running service writes.
#[must_use]
pub fn operators_key(tenant: &TenantId) -> String {
    format!("blocks.{tenant}")
}

/// One block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockRecord {
    /// Its id: what whoever is blocked is told.
    pub id: BlockId,
    /// In which tenant.
    pub tenant: TenantId,
    /// Who is blocked.
    pub principal: Actor,
    /// Why, for who administers the tenant.
    pub reason: String,
    /// Who blocked; the operator's command line when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Actor>,
    /// Whether the platform's own people did: then they alone release.
    #[serde(default)]
    pub by_operator: bool,
    /// Since when.
    pub at: UnixMs,
    /// When it ends by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<UnixMs>,
}

impl BlockRecord {
    /// Whether it has not ended.
    #[must_use]
    pub fn stands(&self, now: UnixMs) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

/// Blocks of one tenant: bucket `blocks`, key `<tenant>`, by whoever may in the API; bucket
/// `platform`, key [`operators_key`], by the operator's command line.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockList {
    /// Oldest first.
    pub blocks: Vec<BlockRecord>,
}

/// As many stand as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{BLOCKS_MAX} principals of the tenant are blocked: release some first")]
pub struct Full;

/// Whether two are the same principal. The name in a login is its owner's to choose, its key is not.
#[must_use]
pub fn same(one: &Actor, other: &Actor) -> bool {
    match (one, other) {
        (Actor::NatsLogin { user, .. }, Actor::NatsLogin { user: other, .. }) => user == other,
        (one, other) => one == other,
    }
}

impl BlockList {
    /// The block that stands against any of `actors`.
    #[must_use]
    pub fn against(&self, actors: &[Actor], now: UnixMs) -> Option<&BlockRecord> {
        let hits = |block: &&BlockRecord| {
            block.stands(now) && actors.iter().any(|actor| same(actor, &block.principal))
        };
        self.blocks.iter().find(hits)
    }

    /// The list with `new`, what has ended left out; and the block as it is then. Where the same side
    /// has blocked that principal already, its block stays, with the later end of the two.
    ///
    /// # Errors
    /// [`Full`].
    pub fn with(&self, new: BlockRecord) -> Result<(Self, BlockRecord), Full> {
        let stands = |block: &&BlockRecord| block.stands(new.at);
        let mut blocks: Vec<_> = self.blocks.iter().filter(stands).cloned().collect();
        let own = |block: &BlockRecord| block.by_operator == new.by_operator;
        let known = blocks.iter_mut().find(|it| own(it) && same(&it.principal, &new.principal));
        if let Some(known) = known {
            known.until = known.until.zip(new.until).map(|(one, other)| one.max(other));
            known.reason = new.reason;
            let block = known.clone();
            return Ok((Self { blocks }, block));
        }
        if blocks.iter().filter(|block| own(block)).count() >= BLOCKS_MAX {
            return Err(Full);
        }
        blocks.push(new.clone());
        Ok((Self { blocks }, new))
    }

    /// The list without the block `id`.
    #[must_use]
    pub fn without(&self, id: &BlockId) -> Self {
        Self { blocks: self.blocks.iter().filter(|block| block.id != *id).cloned().collect() }
    }
}

/// A principal as requests name it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, tag = "kind", rename_all = "camelCase")]
pub enum PrincipalRequest {
    /// An API key, by its public half.
    ApiKey {
        /// The key's id.
        id: KeyId,
    },
    /// A login in the tenant's own broker account.
    NatsLogin {
        /// The login's public nkey.
        user: String,
        /// Its name, which is not looked at.
        #[serde(default)]
        name: String,
    },
    /// A person of an identity provider.
    User {
        /// The provider: `iss`.
        issuer: String,
        /// The person: `sub`.
        subject: String,
    },
    /// A program of an identity provider.
    Service {
        /// The provider: `iss`.
        issuer: String,
        /// The client: `client_id`.
        client: String,
    },
}

impl PrincipalRequest {
    /// The principal.
    ///
    /// # Errors
    /// Field and rule.
    pub fn actor(self) -> Result<Actor, (&'static str, &'static str)> {
        let named = |text: &String| {
            let held = !text.is_empty() && text.len() <= NAME_BYTES_MAX;
            held && !text.chars().any(char::is_control)
        };
        let rule = "must be 1 to 255 bytes without control characters";
        match self {
            Self::ApiKey { id } => Ok(Actor::ApiKey { id }),
            Self::NatsLogin { user, .. } => {
                let held = |b: u8| b.is_ascii_uppercase() || (b'2'..=b'7').contains(&b);
                if user.len() != LOGIN_CHARS || !user.starts_with('U') || !user.bytes().all(held) {
                    return Err(("principal.user", "must be a login's public key: U and 55 more"));
                }
                Ok(Actor::NatsLogin { user, name: String::new() })
            }
            Self::User { issuer, .. } | Self::Service { issuer, .. } if !named(&issuer) => {
                Err(("principal.issuer", rule))
            }
            Self::User { subject, .. } if !named(&subject) => Err(("principal.subject", rule)),
            Self::Service { client, .. } if !named(&client) => Err(("principal.client", rule)),
            Self::User { issuer, subject } => Ok(Actor::User { issuer, subject }),
            Self::Service { issuer, client } => Ok(Actor::Service { issuer, client }),
        }
    }
}

/// `POST /v1/blocks`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct BlockRequest {
    /// Who.
    pub principal: PrincipalRequest,
    /// Why.
    pub reason: String,
    /// It ends by itself after this long; it stands until it is lifted when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_secs: Option<u64>,
}

/// What a request for a block must keep.
///
/// # Errors
/// Field and rule.
pub fn check(
    reason: &str,
    expires_in_secs: Option<u64>,
) -> Result<(), (&'static str, &'static str)> {
    let chars = reason.chars().count();
    if reason.trim().is_empty() || chars > REASON_CHARS_MAX || reason.chars().any(char::is_control)
    {
        return Err(("reason", "must be 1 to 200 characters, none of control"));
    }
    if expires_in_secs.is_some_and(|secs| !(1..=EXPIRES_SECS_MAX).contains(&secs)) {
        return Err(("expiresInSecs", "must be 1 to 31536000"));
    }
    Ok(())
}

/// A principal as one text, for people and for the evidence.
#[must_use]
pub fn text_of(actor: &Actor) -> String {
    match actor {
        Actor::ApiKey { id } => format!("key {id}"),
        Actor::NatsLogin { user, .. } => format!("login {user}"),
        Actor::User { issuer, subject } => format!("person {subject} of {issuer}"),
        Actor::Service { issuer, client } => format!("program {client} of {issuer}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMs = UnixMs(1_000_000);

    fn ana() -> Actor {
        Actor::User { issuer: "https://id.example".to_owned(), subject: "ana".to_owned() }
    }

    fn key(n: u8) -> Actor {
        Actor::ApiKey { id: KeyId::new(1, [n; 10]) }
    }

    fn block(n: u8, principal: Actor, until: Option<u64>) -> BlockRecord {
        BlockRecord {
            id: BlockId::new(1, [n; 10]),
            tenant: "acme".parse().unwrap(),
            principal,
            reason: "why".to_owned(),
            by: None,
            by_operator: false,
            at: NOW,
            until: until.map(UnixMs),
        }
    }

    #[test]
    fn iam_21_a_block_stands_until_its_end_and_against_that_principal_alone() {
        let list = BlockList { blocks: vec![block(1, ana(), Some(NOW.0 + 10))] };
        let at = |actors: &[Actor], ms: u64| list.against(actors, UnixMs(NOW.0 + ms)).is_some();
        assert!(at(&[ana()], 0) && at(&[key(1), ana()], 9));
        assert!(!at(&[ana()], 10), "it has ended");
        assert!(!at(&[key(1)], 0) && !at(&[], 0));
        let other = Actor::User { issuer: "https://id.other".to_owned(), subject: "ana".into() };
        let program = Actor::Service { issuer: "https://id.example".into(), client: "ana".into() };
        assert!(!at(&[other, program], 0), "a name of another kind or issuer is another's");
        let login =
            |user: &str, name: &str| Actor::NatsLogin { user: user.into(), name: name.into() };
        assert!(
            same(&login("U1", "a"), &login("U1", "b"))
                && !same(&login("U1", "a"), &login("U2", "a"))
        );
    }

    #[test]
    fn iam_21_repeating_a_block_never_shortens_it_and_the_list_is_bounded() {
        let list = BlockList { blocks: vec![block(1, ana(), Some(NOW.0 + 50))] };
        let ends = |list: &BlockList, until: Option<u64>| {
            let (list, block) = list.with(block(2, ana(), until)).unwrap();
            assert_eq!((list.blocks.len(), &block.id), (1, &BlockId::new(1, [1; 10])));
            (list, block.until.map(|until| until.0))
        };
        assert_eq!(ends(&list, Some(NOW.0 + 1)).1, Some(NOW.0 + 50));
        assert_eq!(ends(&list, Some(NOW.0 + 99)).1, Some(NOW.0 + 99));
        let (forever, end) = ends(&list, None);
        assert_eq!(end, None);
        assert_eq!(ends(&forever, Some(NOW.0 + 1)).1, None);
        // The operator's is another, and lifting one leaves the other.
        let operators = BlockRecord { by_operator: true, ..block(3, ana(), None) };
        let (both, _) = list.with(operators).unwrap();
        assert_eq!(both.blocks.len(), 2);
        let rest = both.without(&BlockId::new(1, [1; 10]));
        assert!(rest.against(&[ana()], NOW).unwrap().by_operator);
        // A full list takes one more when one has ended, and what is in it can still be repeated.
        let many = (0..BLOCKS_MAX)
            .map(|n| block(u8::try_from(n).unwrap(), key(u8::try_from(n).unwrap()), None));
        let mut full = BlockList { blocks: many.collect() };
        assert_eq!(full.with(block(99, ana(), None)), Err(Full));
        assert!(full.with(block(99, key(7), None)).is_ok());
        full.blocks[0].until = Some(NOW);
        let (after, _) = full.with(block(99, ana(), None)).unwrap();
        assert_eq!(after.blocks.len(), BLOCKS_MAX);
        assert!(after.against(&[key(0)], NOW).is_none());
    }

    #[test]
    fn what_names_nobody_is_refused() {
        let check = |request: PrincipalRequest, field: &str| {
            assert_eq!(request.actor().unwrap_err().0, field);
        };
        let user = |issuer: &str, subject: &str| PrincipalRequest::User {
            issuer: issuer.to_owned(),
            subject: subject.to_owned(),
        };
        check(user("", "ana"), "principal.issuer");
        check(user("https://id.example", "a\nb"), "principal.subject");
        check(user("https://id.example", &"x".repeat(256)), "principal.subject");
        for bad in ["", "UX", &"U".repeat(57), &format!("A{}", "A".repeat(55))] {
            let login = PrincipalRequest::NatsLogin { user: bad.to_owned(), name: String::new() };
            check(login, "principal.user");
        }
        assert_eq!(user("https://id.example", "ana").actor(), Ok(ana()));
        let rule = |reason: &str, secs| super::check(reason, secs).map_err(|it| it.0);
        assert_eq!(rule("token stolen", None), Ok(()));
        for bad in ["", "  ", "a\u{1b}[2J", &"x".repeat(201)] {
            assert_eq!(rule(bad, None), Err("reason"));
        }
        for bad in [0, EXPIRES_SECS_MAX + 1] {
            assert_eq!(rule("x", Some(bad)), Err("expiresInSecs"));
        }
    }
}
