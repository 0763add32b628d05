//! Who asks, how strongly that was shown, and what policy said of it.
//!
//! Promises: an [`Authority`] without roles may do nothing, so a message of before policies, or one
//! that was stripped, is refused and not trusted. Refuses unknown roles and actions.

use crate::{Digest, Role, UnixMs};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeSet, fmt, net::IpAddr, str::FromStr};

/// The authentication context class of a second factor, as tokens of ours say it (RFC 9470 §3).
pub const ACR_MFA: &str = "urn:hotcell:acr:mfa";

/// A text that is not the name of a role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be viewer, submitter, publisher, webhook-admin, tenant-admin, auditor or operator")]
pub struct UnknownRole;

/// What a principal is for; what each may do is policy (services/policy/policies/roles.cedar).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RoleName {
    /// Reads jobs and usage.
    Viewer,
    /// Uploads, submits, cancels, reads.
    Submitter,
    /// Reads outputs, and so makes them public.
    Publisher,
    /// Makes and changes webhooks.
    WebhookAdmin,
    /// Keys, policies, approvals, and all of the above.
    TenantAdmin,
    /// Reads evidence.
    Auditor,
    /// The platform's own people.
    Operator,
}

impl RoleName {
    /// Every role.
    pub const ALL: [Self; 7] = [
        Self::Viewer,
        Self::Submitter,
        Self::Publisher,
        Self::WebhookAdmin,
        Self::TenantAdmin,
        Self::Auditor,
        Self::Operator,
    ];

    /// The wire name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Submitter => "submitter",
            Self::Publisher => "publisher",
            Self::WebhookAdmin => "webhook-admin",
            Self::TenantAdmin => "tenant-admin",
            Self::Auditor => "auditor",
            Self::Operator => "operator",
        }
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for RoleName {
    type Err = UnknownRole;
    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(UnknownRole)
    }
}

macro_rules! actions {
    ($($(#[doc = $doc:literal])+ $name:ident;)*) => {
        /// What a principal can ask for; the names are the policies' own.
        #[derive(
            Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        pub enum Action {
            $($(#[doc = $doc])+ $name,)*
        }

        impl Action {
            /// Every action.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name in policies.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }

            /// What it is, for people.
            #[must_use]
            pub const fn about(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+)),* }
            }
        }
    };
}

actions! {
    /// Upload a source and confirm it.
    UploadSource;
    /// Have a source read by a job: decided per job, with what the source is.
    ReadSource;
    /// Submit a job.
    SubmitTranscode;
    /// Read or list jobs.
    ReadJob;
    /// Cancel a job.
    CancelJob;
    /// Read an output: get a download URL.
    ReadOutput;
    /// Have outputs stored where they outlive the job: decided per job at the door, and at the signer before PUT URLs.
    PublishOutput;
    /// Read webhooks and what was delivered to them. Their URLs may open something, so a viewer does not.
    ReadWebhooks;
    /// Make, change or remove webhooks.
    ManageWebhooks;
    /// Replay deliveries, and send tests.
    ReplayWebhook;
    /// Read policies, and ask what they would say.
    ReadPolicy;
    /// Change the tenant's policies.
    ManagePolicy;
    /// List API keys.
    ReadKeys;
    /// Make, rotate and revoke API keys.
    ManageKeys;
    /// Read presets and destinations.
    ReadPresets;
    /// Change presets of pipelines.
    ManagePresets;
    /// Read a job's evidence.
    ReadAudit;
    /// Export evidence in bulk.
    ExportAudit;
    /// Stop a principal of the tenant, and list who is stopped.
    BlockIdentity;
    /// Release what was blocked.
    UnblockIdentity;
    /// Ask others to approve a request.
    RequestApproval;
    /// Approve or reject what another asked for.
    ApproveRequest;
    /// Read usage and shares.
    ReadUsage;
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How strongly a principal was shown, as the edge saw it; travels with the job, so that later
/// nodes can decide again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authority {
    /// What it is for. Without any it may do nothing.
    pub roles: BTreeSet<RoleName>,
    /// Whether a second factor was shown.
    #[serde(default)]
    pub mfa: bool,
    /// The authentication context class of its token, as the issuer said it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acr: Option<String>,
    /// When a person last authenticated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth_time: Option<UnixMs>,
    /// Whence the request came, where the edge can tell.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "address")]
    pub network: Option<IpAddr>,
    /// The session: the token's `jti`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Whether the token is bound to a key that the sender has shown (RFC 9449).
    #[serde(default)]
    pub bound: bool,
    /// The approval that the request used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<crate::ApprovalId>,
}

/// An address as text on every wire. Left to itself serde writes bytes in binary formats, which it
/// then cannot read back inside a tagged enum such as [`crate::records::AuditAct`].
mod address {
    use super::IpAddr;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    #[expect(clippy::ref_option, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(
        address: &Option<IpAddr>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match address {
            Some(address) => serializer.collect_str(address),
            None => serializer.serialize_none(),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<IpAddr>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}

/// The outcome of one decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Permitted.
    Allowed,
    /// Would be permitted with stronger authentication.
    StepUp,
    /// Would be permitted with another person's approval.
    ApprovalRequired,
    /// Refused.
    Denied,
}

/// One decision of one node, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decided {
    /// Which node decided.
    pub node: Role,
    /// What was asked for.
    pub action: Action,
    /// What came of it.
    pub outcome: Outcome,
    /// Ids of the policies that decided; none when no policy permits.
    pub policies: Vec<String>,
    /// SHA-256 of the policy set in force.
    pub digest: Digest,
    /// When.
    pub at: UnixMs,
}
