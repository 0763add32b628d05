//! Who may log in, as a type. Promises: every name here is one subject token. Refuses: names that
//! the broker would expand into wildcards (it puts a worker's name into its subjects unchecked).

use hotcell_schemas::{PoolId, Role, TenantId, WorkerId};
use std::{fmt, str::FromStr};

/// Name of one login of a tenant: `app`, `ci`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LoginName(TenantId);

/// A text that is no login name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a login name must be 1 to 40 characters of a-z, 0-9 and '-', not beginning or ending with '-'"
)]
pub struct LoginNameError;

impl FromStr for LoginName {
    type Err = LoginNameError;
    fn from_str(text: &str) -> Result<Self, LoginNameError> {
        text.parse().map(Self).map_err(|_| LoginNameError)
    }
}

impl fmt::Display for LoginName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One credential file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Login {
    /// A service, or the provisioner: a user of account PIPELINE.
    Service(Role),
    /// A worker: a user of account ENCODERS.
    Worker {
        /// Its name, which the broker puts into its subjects.
        name: WorkerId,
        /// Pools that it may ask for work in.
        pools: Vec<PoolId>,
    },
    /// A tenant's program: a user of the tenant's own account.
    Tenant {
        /// The tenant.
        tenant: TenantId,
        /// Which of its programs.
        user: LoginName,
    },
    /// The operator's user of the system account.
    Sys,
}

impl Login {
    /// The JWT's name: what the broker puts for `{{name()}}`, and the stem of the inbox prefix.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Service(role) => role.as_str().to_owned(),
            Self::Worker { name, .. } => name.to_string(),
            Self::Tenant { user, .. } => user.to_string(),
            Self::Sys => "sys".to_owned(),
        }
    }

    /// The JWT's tags that follow from who it is. A tenant's program has those of its
    /// [`crate::Terms`], too.
    #[must_use]
    pub fn tags(&self) -> Vec<String> {
        match self {
            Self::Worker { pools, .. } => pools.iter().map(|pool| format!("pool:{pool}")).collect(),
            Self::Service(_) | Self::Tenant { .. } | Self::Sys => Vec::new(),
        }
    }

    /// Name of its file in the folder of credentials.
    #[must_use]
    pub fn file_name(&self) -> String {
        match self {
            Self::Service(_) | Self::Sys => format!("{}.creds", self.name()),
            Self::Worker { name, .. } => format!("worker-{name}.creds"),
            Self::Tenant { tenant, user } => format!("tenant-{tenant}-{user}.creds"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_the_broker_would_expand_are_refused() {
        for bad in ["*", ">", "a.b", "", "a b", "w2.*", "{{name()}}"] {
            assert!(bad.parse::<WorkerId>().is_err(), "{bad}");
            assert!(bad.parse::<PoolId>().is_err(), "{bad}");
            assert_eq!(bad.parse::<LoginName>(), Err(LoginNameError), "{bad}");
        }
    }
}
