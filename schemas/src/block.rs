//! Blocks: a principal that is stopped while people look, whatever credential it shows; or, with a
//! lower risk, is told to policies and stopped by nobody.
//!
//! Promises: a block reaches every key that the blocked made, and each that was rotated from one of
//! its keys, because they are the same person (see [`crate::approval`]); one that is repeated never
//! ends earlier than it did, and none makes another's risk lower. Refuses to grow: a list has a
//! bound, and what has ended leaves it; risks take no room from stops. Pure.

use crate::{BlockId, KeyId, TenantId, UnixMs, job::Actor};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Principals of one tenant that are stopped at most, by its own people and by the operator's each:
/// at their largest, those of one side are with [`RISKS_MAX`] under the broker's 256 KiB.
pub const BLOCKS_MAX: usize = 64;

/// Records of a lower risk at most, of each side. They have a bound of their own: whatever raises
/// risks without end leaves room to stop somebody.
pub const RISKS_MAX: usize = 48;

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

/// How far a principal is trusted while a record stands: 1 to 3 is what policies see as
/// `context.risk`, 4 is a stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct Risk(u8);

impl Risk {
    /// The principal gets nothing. What a record is that does not say.
    pub const STOP: Self = Self(4);

    /// The highest that stops nobody: what is assumed where it cannot be told.
    pub const HIGHEST: Self = Self(3);

    /// Whether it is a stop.
    #[must_use]
    pub fn is_stop(&self) -> bool {
        *self == Self::STOP
    }
}

impl Default for Risk {
    fn default() -> Self {
        Self::STOP
    }
}

impl fmt::Display for Risk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// No risk: it is 1 to 4.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a risk is 1 to 4")]
pub struct NoRisk;

impl TryFrom<u8> for Risk {
    type Error = NoRisk;

    fn try_from(risk: u8) -> Result<Self, NoRisk> {
        if (1..=Self::STOP.0).contains(&risk) { Ok(Self(risk)) } else { Err(NoRisk) }
    }
}

impl From<Risk> for u8 {
    fn from(risk: Risk) -> Self {
        risk.0
    }
}

/// One block, or one risk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlockRecord {
    /// Its id: what whoever is blocked is told.
    pub id: BlockId,
    /// In which tenant.
    pub tenant: TenantId,
    /// Who is blocked.
    pub principal: Actor,
    /// How high its risk is; a stop when absent.
    #[serde(default, skip_serializing_if = "Risk::is_stop")]
    pub risk: Risk,
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

    /// It as one text, for the evidence. What it says of the principal comes last, because that is
    /// the principal's to choose.
    #[must_use]
    pub fn text(&self) -> String {
        let (id, principal) = (&self.id, text_of(&self.principal));
        match self.risk {
            Risk::STOP => format!("{id} {principal}"),
            Risk(risk) => format!("{id} risk {risk} of {principal}"),
        }
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
pub enum Full {
    /// Stops.
    #[error("{BLOCKS_MAX} principals of the tenant are blocked: release some first")]
    Stops,
    /// Lower risks.
    #[error("{RISKS_MAX} risks of the tenant's principals are raised: lift some first")]
    Risks,
}

/// Whether two are the same principal. The name in a login is its owner's to choose, its key is not.
#[must_use]
pub fn same(one: &Actor, other: &Actor) -> bool {
    match (one, other) {
        (Actor::NatsLogin { user, .. }, Actor::NatsLogin { user: other, .. }) => user == other,
        (one, other) => one == other,
    }
}

impl BlockList {
    /// Those that stop somebody now.
    pub fn stops(&self, now: UnixMs) -> impl Iterator<Item = &BlockRecord> {
        self.blocks.iter().filter(move |block| block.risk.is_stop() && block.stands(now))
    }

    /// Those that stand now and stop nobody.
    pub fn risks(&self, now: UnixMs) -> impl Iterator<Item = &BlockRecord> {
        self.blocks.iter().filter(move |block| !block.risk.is_stop() && block.stands(now))
    }

    /// The stop that stands against any of `actors`. Lower risks are none.
    #[must_use]
    pub fn against(&self, actors: &[Actor], now: UnixMs) -> Option<&BlockRecord> {
        self.stops(now).find(|block| actors.iter().any(|actor| same(actor, &block.principal)))
    }

    /// The list with `new`, what has ended left out; and the record as it is then.
    ///
    /// One side, one principal and one risk are one record: repeated, it keeps its id and its
    /// begin, and gets the later end of the two. Another risk of the same principal is another
    /// record beside it, with its own end, and the highest that stands is in force: so a stop for
    /// an hour leaves a risk without end as it was, and is itself over in an hour. Nothing that is
    /// added makes a risk lower, or a record end earlier; whoever wants that lifts it.
    ///
    /// # Errors
    /// [`Full`].
    pub fn with(&self, new: BlockRecord) -> Result<(Self, BlockRecord), Full> {
        let stands = |block: &&BlockRecord| block.stands(new.at);
        let mut blocks: Vec<_> = self.blocks.iter().filter(stands).cloned().collect();
        let own = |block: &BlockRecord| block.by_operator == new.by_operator;
        let known = blocks
            .iter_mut()
            .find(|it| own(it) && it.risk == new.risk && same(&it.principal, &new.principal));
        if let Some(known) = known {
            known.until = known.until.zip(new.until).map(|(one, other)| one.max(other));
            known.reason = new.reason;
            let block = known.clone();
            return Ok((Self { blocks }, block));
        }
        let is_stop = new.risk.is_stop();
        let (most, full) = match is_stop {
            true => (BLOCKS_MAX, Full::Stops),
            false => (RISKS_MAX, Full::Risks),
        };
        let alike = blocks.iter().filter(|it| own(it) && it.risk.is_stop() == is_stop);
        if alike.count() >= most {
            return Err(full);
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
    /// 1 to 3 stops nobody and is told to policies; 4, and when absent, is a stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub risk: Option<u8>,
}

/// What a request for a block must keep; the risk that it asks for.
///
/// # Errors
/// Field and rule.
pub fn check(
    reason: &str,
    expires_in_secs: Option<u64>,
    risk: Option<u8>,
) -> Result<Risk, (&'static str, &'static str)> {
    let chars = reason.chars().count();
    if reason.trim().is_empty() || chars > REASON_CHARS_MAX || reason.chars().any(char::is_control)
    {
        return Err(("reason", "must be 1 to 200 characters, none of control"));
    }
    if expires_in_secs.is_some_and(|secs| !(1..=EXPIRES_SECS_MAX).contains(&secs)) {
        return Err(("expiresInSecs", "must be 1 to 31536000"));
    }
    let risk = risk.map_or(Ok(Risk::STOP), Risk::try_from);
    risk.map_err(|NoRisk| ("risk", "must be 1 to 4, of which 4 stops"))
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
