//! What can happen to a job. An event's kind is also the job's state: the last message is the state.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A past-tense fact about a job; the fourth token of its subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// Intake accepted the request.
    Submitted,
    /// The validator checked the input and compiled the plan.
    Validated,
    /// The validator refused the input or the request. Terminal.
    Rejected,
    /// The signer gave one attempt to one worker.
    Assigned,
    /// An attempt ended without outputs; another may follow.
    AttemptFailed,
    /// A worker's report with outputs was accepted.
    Encoded,
    /// The hasher found every output to be as reported. Terminal.
    Completed,
    /// No further attempt will be made. Terminal.
    Failed,
    /// The tenant ended the job. Terminal.
    Cancelled,
    /// A completed job's bytes are gone.
    Expired,
}

impl EventKind {
    /// Every kind, in the order of a job's life.
    pub const ALL: [Self; 10] = [
        Self::Submitted,
        Self::Validated,
        Self::Rejected,
        Self::Assigned,
        Self::AttemptFailed,
        Self::Encoded,
        Self::Completed,
        Self::Failed,
        Self::Cancelled,
        Self::Expired,
    ];

    /// The subject token and the wire name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Submitted => "submitted",
            Self::Validated => "validated",
            Self::Rejected => "rejected",
            Self::Assigned => "assigned",
            Self::AttemptFailed => "attempt_failed",
            Self::Encoded => "encoded",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    /// Whether nothing but `Expired` may follow.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(
            self,
            Self::Rejected | Self::Completed | Self::Failed | Self::Cancelled | Self::Expired
        )
    }

    /// Whether a job in state `self` may move to `next`. The writer checks it before it publishes.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        match next {
            Self::Submitted => false,
            Self::Validated | Self::Rejected => matches!(self, Self::Submitted),
            Self::Assigned => {
                matches!(self, Self::Validated | Self::Assigned | Self::AttemptFailed)
            }
            Self::AttemptFailed | Self::Encoded => matches!(self, Self::Assigned),
            Self::Completed => matches!(self, Self::Encoded),
            Self::Failed => matches!(
                self,
                Self::Validated | Self::Assigned | Self::AttemptFailed | Self::Encoded
            ),
            Self::Cancelled => !self.is_terminal(),
            Self::Expired => matches!(self, Self::Completed),
        }
    }
}

/// The text names no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the name of a job event")]
pub struct UnknownEvent;

impl FromStr for EventKind {
    type Err = UnknownEvent;
    fn from_str(text: &str) -> Result<Self, UnknownEvent> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(UnknownEvent)
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_expiry_follows_a_terminal_event() {
        for from in EventKind::ALL.into_iter().filter(|kind| kind.is_terminal()) {
            for to in EventKind::ALL {
                let allowed = from == EventKind::Completed && to == EventKind::Expired;
                assert_eq!(from.may_become(to), allowed, "{from} to {to}");
            }
        }
    }

    #[test]
    fn every_event_but_the_first_can_be_reached() {
        for to in EventKind::ALL.into_iter().filter(|kind| *kind != EventKind::Submitted) {
            assert!(EventKind::ALL.into_iter().any(|from| from.may_become(to)), "{to}");
        }
    }
}
