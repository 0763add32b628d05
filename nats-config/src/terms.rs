//! What a login is given beside its name: roles, and a life. Promises: a life that a person can ask
//! for is 15 minutes to a day; a role is one of the list, so a tag never holds what the broker would
//! expand. Refuses: to make a tenant's program an operator.

use crate::{claims::UserBody, jwt::Claims};
use hotcell_schemas::{UnixMs, identity::RoleName};
use std::{collections::BTreeSet, fmt, str::FromStr};

/// Shortest life of a login, in seconds: a renewal at two thirds leaves five minutes for a broker
/// or an agent that is down.
pub const LIFE_SECS_MIN: u64 = 15 * 60;

/// Longest life of a login, in seconds: what was copied is of no use tomorrow.
pub const LIFE_SECS_MAX: u64 = 24 * 3600;

/// What a tag begins with that gives a login a role.
pub const ROLE_TAG: &str = "role:";

/// How long a login is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Life(u64);

/// A life that nobody may ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be between 15m and 24h, as 900s, 15m or 1h")]
pub struct LifeError;

impl Life {
    /// A day: of services, whose logins the supervisor or an agent renews.
    pub const DAY: Self = Self(LIFE_SECS_MAX);

    /// An hour.
    pub const HOUR: Self = Self(3600);

    /// A life of `secs` seconds.
    ///
    /// # Errors
    /// [`LifeError`] when it is shorter than 15 minutes or longer than a day.
    pub fn of_secs(secs: u64) -> Result<Self, LifeError> {
        if (LIFE_SECS_MIN..=LIFE_SECS_MAX).contains(&secs) {
            Ok(Self(secs))
        } else {
            Err(LifeError)
        }
    }

    /// The life that a login's token was given; `None` when it does not end.
    #[must_use]
    pub fn of_claims(claims: &Claims<UserBody>) -> Option<Self> {
        let secs = claims.exp?.saturating_sub(claims.iat);
        Some(Self(secs.clamp(LIFE_SECS_MIN, LIFE_SECS_MAX)))
    }

    /// A life of any length: for tests, which cannot wait for 15 minutes.
    pub(crate) const fn unchecked(secs: u64) -> Self {
        Self(secs)
    }

    /// In seconds.
    #[must_use]
    pub const fn secs(self) -> u64 {
        self.0
    }

    /// The end of a login that is issued `now`, in Unix seconds.
    #[must_use]
    pub const fn end(self, now: UnixMs) -> u64 {
        now.0 / 1000 + self.0
    }
}

impl FromStr for Life {
    type Err = LifeError;
    fn from_str(text: &str) -> Result<Self, LifeError> {
        let unit = text.chars().last().ok_or(LifeError)?;
        let factor = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            _ => return Err(LifeError),
        };
        let number = text.strip_suffix(unit).ok_or(LifeError)?;
        if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(LifeError);
        }
        let number: u64 = number.parse().map_err(|_| LifeError)?;
        Self::of_secs(number.checked_mul(factor).ok_or(LifeError)?)
    }
}

impl fmt::Display for Life {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            secs if secs % 3600 == 0 => write!(f, "{}h", secs / 3600),
            secs if secs % 60 == 0 => write!(f, "{}m", secs / 60),
            secs => write!(f, "{secs}s"),
        }
    }
}

/// Roles and life of a tenant's login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// What it is for; without any it opens nothing.
    pub roles: BTreeSet<RoleName>,
    /// How long it lives; `None` does not end by itself.
    pub life: Option<Life>,
}

/// A role that a tenant's program cannot have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("role operator is for the platform's own people, not for a tenant's login")]
pub struct OperatorRole;

impl Default for Terms {
    /// A submitter's, without an end.
    fn default() -> Self {
        Self { roles: BTreeSet::from([RoleName::Submitter]), life: None }
    }
}

impl Terms {
    /// The terms, checked.
    ///
    /// # Errors
    /// [`OperatorRole`].
    pub fn new(
        roles: impl IntoIterator<Item = RoleName>,
        life: Option<Life>,
    ) -> Result<Self, OperatorRole> {
        let roles: BTreeSet<RoleName> = roles.into_iter().collect();
        if roles.contains(&RoleName::Operator) {
            return Err(OperatorRole);
        }
        Ok(Self { roles, life })
    }

    /// The tags of the login's JWT.
    #[must_use]
    pub fn tags(&self) -> Vec<String> {
        self.roles.iter().map(|role| format!("{ROLE_TAG}{role}")).collect()
    }
}

/// The roles that `tags` give; unknown ones give nothing.
#[must_use]
pub fn roles_of(tags: &[String]) -> BTreeSet<RoleName> {
    tags.iter().filter_map(|tag| tag.strip_prefix(ROLE_TAG)?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    // IAM-02: nobody can ask for a login that lives for longer than a day.
    #[test]
    fn lives_are_fifteen_minutes_to_a_day() {
        let check = |text: &str, expect| {
            assert_eq!(text.parse::<Life>().ok().map(Life::secs), expect, "{text}");
        };
        check("15m", Some(900));
        check("900s", Some(900));
        check("1h", Some(3600));
        check("24h", Some(86_400));
        for bad in ["899s", "14m", "25h", "86401s", "1d", "", "h", "-1h", "1.5h", "99999999999999h"]
        {
            check(bad, None);
        }
        assert_eq!(Life::DAY.to_string(), "24h");
        assert_eq!(Life::of_secs(930).unwrap().to_string(), "930s");
    }

    #[test]
    fn roles_are_tags_and_an_operator_is_none_of_them() {
        let terms = Terms::new([RoleName::Viewer, RoleName::Submitter], None).unwrap();
        assert_eq!(terms.tags(), ["role:viewer", "role:submitter"]);
        assert_eq!(roles_of(&terms.tags()), terms.roles);
        assert!(roles_of(&["role:*".to_owned(), "pool:cpu".to_owned()]).is_empty());
        assert_eq!(Terms::new([RoleName::Operator], None), Err(OperatorRole));
    }
}
