//! A principal and a question, with little to write.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]
#![allow(clippy::unwrap_used, reason = "tests")]

use hotcell_policy::{Decision, Engine, Facts, OutputFacts, PolicyError, Question, Verdict, Who};
use hotcell_schemas::{
    TenantId, UnixMs,
    identity::{Action, Authority, RoleName},
    job::Actor,
};

/// Sunday 22 November 2026, 12:34:56 UTC.
pub const NOW: UnixMs = UnixMs(1_795_350_896_000);

pub fn tenant(name: &str) -> TenantId {
    name.parse().unwrap()
}

/// Someone, doing something.
#[derive(Debug, Clone)]
pub struct Ask {
    pub tenant: TenantId,
    pub owner: TenantId,
    pub actor: Actor,
    pub authority: Authority,
    pub action: Action,
    pub facts: Facts,
    pub now: UnixMs,
}

pub fn user(subject: &str) -> Actor {
    Actor::User { issuer: "https://id.example".to_owned(), subject: subject.to_owned() }
}

/// A person of `acme` with these roles; the job makes one plain H.264 file in the store.
pub fn ask(roles: &[RoleName], action: Action) -> Ask {
    Ask {
        tenant: tenant("acme"),
        owner: tenant("acme"),
        actor: user("ann"),
        authority: Authority { roles: roles.iter().copied().collect(), ..Authority::default() },
        action,
        facts: Facts {
            outputs: vec![output()],
            destination: "store".to_owned(),
            ..Facts::default()
        },
        now: NOW,
    }
}

pub fn output() -> OutputFacts {
    OutputFacts {
        format: "mp4".to_owned(),
        video_codec: "h264".to_owned(),
        audio_codec: "aac".to_owned(),
        height: 720,
        crf: 23,
        duration_secs: 60,
        filters: vec!["scale".to_owned(), "setsar".to_owned()],
        ..OutputFacts::default()
    }
}

impl Ask {
    /// With a second factor shown so many seconds ago.
    #[must_use]
    pub fn fresh(mut self, secs: u64) -> Self {
        self.authority.mfa = true;
        self.authority.auth_time = Some(UnixMs(self.now.0 - secs * 1000));
        self
    }

    #[must_use]
    pub fn of(mut self, owner: &str) -> Self {
        self.owner = tenant(owner);
        self
    }

    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub fn question(&self) -> Question<'_> {
        Question {
            who: Who { tenant: &self.tenant, actor: &self.actor, authority: &self.authority },
            action: self.action,
            owner: &self.owner,
            facts: &self.facts,
            now: self.now,
        }
    }

    pub fn by(&self, engine: &Engine) -> Result<Decision, PolicyError> {
        engine.decide(&self.question())
    }

    /// By what is compiled in.
    pub fn decide(&self) -> Decision {
        self.by(&Engine::defaults()).unwrap()
    }
}

/// `allow`, `step-up` or `deny`, and the policies.
pub fn told(decision: &Decision) -> (&'static str, Vec<&str>) {
    let verdict = match decision.verdict {
        Verdict::Allow => "allow",
        Verdict::StepUp(_) => "step-up",
        Verdict::Deny => "deny",
    };
    (verdict, decision.policies.iter().map(String::as_str).collect())
}
