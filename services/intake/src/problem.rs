//! Errors of the API as RFC 9457 problem details.
//!
//! Promises: a client learns which field broke which rule, and nothing of our inside: no cause, no
//! subject, no URL, no other tenant's existence.

use hotcell_schemas::{RejectCode, reject::Failure};
use serde::Serialize;
use serde_json::{Map, Value};

/// Media type of a problem (RFC 9457 §3).
pub const CONTENT_TYPE: &str = "application/problem+json";

/// Longest rule that is sent back, in characters: rules quote what the client wrote.
const RULE_CHARS_MAX: usize = 300;

/// What went wrong, as a class. Each has one status, one type and one title for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// 400: the request's form.
    BadRequest,
    /// 401: no credential that we believe.
    Unauthorized,
    /// 401: the caller may, once it shows more of itself (RFC 9470).
    StepUp,
    /// 403: the caller is known, and may not.
    Forbidden,
    /// 403: the caller may, once others have approved exactly this.
    ApprovalRequired,
    /// 403: the approval that was shown is for another request.
    ApprovalMismatch,
    /// 403: the approval that was shown is not there, not given, at its end, or used.
    ApprovalUnusable,
    /// 403: whoever asked, or has spoken, speaks for it again.
    SelfApproval,
    /// 403: the tenant is suspended or removed.
    TenantInactive,
    /// 403: people have stopped this principal.
    IdentityBlocked,
    /// 402: the plan's share of this month, or of this kind of thing, is used up.
    PlanExceeded,
    /// 404: nothing there, or not the caller's.
    NotFound,
    /// 405: the path knows other methods.
    MethodNotAllowed,
    /// 408: the body did not arrive in time.
    Timeout,
    /// 409: not in this state.
    Conflict,
    /// 413: over a size limit.
    TooLarge,
    /// 415: not a type of media that hotcell takes.
    UnsupportedType,
    /// 422: well formed, but breaks a rule.
    Unprocessable,
    /// 429: too often, or too much at once.
    QuotaExceeded,
    /// 500: a fault of ours.
    Internal,
    /// 503: something of ours does less than it should at the moment.
    ReducedCapacity,
    /// 503: something of ours is not there now.
    Unavailable,
}

impl Kind {
    const fn row(self) -> (u16, &'static str, &'static str) {
        match self {
            Self::BadRequest => {
                (400, "urn:hotcell:problem:bad-request", "The request is malformed")
            }
            Self::Unauthorized => {
                (401, "urn:hotcell:problem:unauthorized", "A valid credential is needed")
            }
            Self::StepUp => {
                (401, "urn:hotcell:problem:step-up-required", "Stronger authentication is needed")
            }
            Self::ApprovalRequired => {
                (403, "urn:hotcell:problem:approval-required", "Another person must approve this")
            }
            Self::ApprovalMismatch => {
                (403, "urn:hotcell:problem:approval-mismatch", "Another request was approved")
            }
            Self::ApprovalUnusable => {
                (403, "urn:hotcell:problem:approval-unusable", "The approval cannot be used")
            }
            Self::SelfApproval => {
                (403, "urn:hotcell:problem:self-approval", "Another person must approve this")
            }
            Self::TenantInactive => {
                (403, "urn:hotcell:problem:tenant-inactive", "The tenant is not served")
            }
            Self::IdentityBlocked => {
                (403, "urn:hotcell:problem:identity-blocked", "The principal is blocked")
            }
            Self::Forbidden => (403, "urn:hotcell:problem:forbidden", "Not permitted"),
            Self::PlanExceeded => {
                (402, "urn:hotcell:problem:plan-exceeded", "The plan does not hold more of this")
            }
            Self::NotFound => (404, "urn:hotcell:problem:not-found", "There is no such thing"),
            Self::MethodNotAllowed => {
                (405, "urn:hotcell:problem:method", "The path does not know this method")
            }
            Self::Timeout => (408, "urn:hotcell:problem:timeout", "The request took too long"),
            Self::Conflict => (409, "urn:hotcell:problem:conflict", "Not possible in this state"),
            Self::TooLarge => (413, "urn:hotcell:problem:too-large", "Over a size limit"),
            Self::UnsupportedType => {
                (415, "urn:hotcell:problem:media-type", "The media type is not accepted")
            }
            Self::Unprocessable => (422, "urn:hotcell:problem:rule", "The request breaks a rule"),
            // The types of draft-ietf-httpapi-ratelimit-headers-11, §6.
            Self::QuotaExceeded => {
                (429, "urn:hotcell:problem:quota-exceeded", "A quota is exceeded")
            }
            Self::ReducedCapacity => {
                let kind = "urn:hotcell:problem:temporary-reduced-capacity";
                (503, kind, "Less than usual can be taken at the moment")
            }
            Self::Internal => (500, "urn:hotcell:problem:internal", "A fault of ours"),
            Self::Unavailable => {
                (503, "urn:hotcell:problem:unavailable", "Not available at the moment")
            }
        }
    }
}

/// One field and the rule that it breaks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The field's path, as `inputs[0].url`.
    pub field: String,
    /// The rule.
    pub rule: String,
}

/// A request that is not served, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    kind: Kind,
    detail: String,
    errors: Vec<Violation>,
    code: Option<RejectCode>,
    /// Boxed: every handler's result has a problem's size.
    more: Box<More>,
}

/// What only some problems have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct More {
    members: Map<String, Value>,
    headers: Vec<(&'static str, String)>,
}

#[derive(Serialize)]
struct Wire<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [Violation],
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<RejectCode>,
    #[serde(flatten)]
    members: &'a Map<String, Value>,
}

impl Problem {
    /// A problem with one sentence for people.
    #[must_use]
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), errors: Vec::new(), code: None, more: Box::default() }
    }

    /// A problem with one field of the request.
    #[must_use]
    pub fn field(kind: Kind, field: impl Into<String>, rule: impl AsRef<str>) -> Self {
        let field = field.into();
        let rule: String = rule.as_ref().chars().take(RULE_CHARS_MAX).collect();
        let detail = format!("{field}: {rule}");
        Self { errors: vec![Violation { field, rule }], ..Self::new(kind, detail) }
    }

    /// Media that is refused, with its stable code.
    #[must_use]
    pub fn rejected(field: &str, failure: &Failure) -> Self {
        let problem = Self::field(Kind::Unprocessable, field, &failure.message);
        Self { code: Some(failure.code), ..problem }
    }

    /// What the caller may not ask for, with its stable code.
    #[must_use]
    pub fn forbidden(field: &str, failure: &Failure) -> Self {
        Self { kind: Kind::Forbidden, ..Self::rejected(field, failure) }
    }

    /// Media that is not there, with its stable code.
    #[must_use]
    pub fn missing(field: &str, failure: &Failure) -> Self {
        Self { kind: Kind::NotFound, ..Self::rejected(field, failure) }
    }

    /// The answer to whatever the caller has no right to know of.
    #[must_use]
    pub fn not_found(detail: &'static str) -> Self {
        Self::new(Kind::NotFound, detail)
    }

    /// Something of ours does not answer; trying again can help.
    #[must_use]
    pub fn unavailable(detail: &'static str) -> Self {
        Self::new(Kind::Unavailable, detail)
    }

    /// A fault of ours; its cause is in the log.
    #[must_use]
    pub fn internal() -> Self {
        Self::new(Kind::Internal, "the cause is in the service's log")
    }

    /// The same with an extension member (RFC 9457 §3.2). The problem's own members stay.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        const OWN: [&str; 6] = ["type", "title", "status", "detail", "errors", "code"];
        if !OWN.contains(&name) {
            self.more.members.insert(name.to_owned(), value.into());
        }
        self
    }

    /// The same with a header, where the door has headers.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.more.headers.push((name, value.into()));
        self
    }

    /// Its headers, beside those that every problem of its kind has.
    #[must_use]
    pub fn headers(&self) -> &[(&'static str, String)] {
        &self.more.headers
    }

    /// The class.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.kind.row().0
    }

    /// The fields at fault.
    #[must_use]
    pub fn errors(&self) -> &[Violation] {
        &self.errors
    }

    /// The body: JSON of [`CONTENT_TYPE`].
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let (status, kind, title) = self.kind.row();
        let wire = Wire {
            kind,
            title,
            status,
            detail: &self.detail,
            errors: &self.errors,
            code: self.code,
            members: &self.more.members,
        };
        serde_json::to_vec(&wire).expect("strings and numbers encode as JSON")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_body_is_rfc_9457_with_fields_and_rules() {
        let problem = Problem::field(Kind::Unprocessable, "inputs[0].url", "must be an upload");
        let body: Value = serde_json::from_slice(&problem.body()).unwrap();
        let expect = serde_json::json!({
            "type": "urn:hotcell:problem:rule",
            "title": "The request breaks a rule",
            "status": 422,
            "detail": "inputs[0].url: must be an upload",
            "errors": [{ "field": "inputs[0].url", "rule": "must be an upload" }],
        });
        assert_eq!(body, expect);
    }

    #[test]
    fn rejected_media_names_its_stable_code() {
        let failure = Failure::new(RejectCode::InputNotMedia, "no media format is known here");
        let body = Problem::rejected("filename", &failure).body();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["code"], "input_not_media");
        assert_eq!(body["status"], 422);
    }

    #[test]
    fn what_the_client_wrote_is_quoted_within_a_bound() {
        let problem = Problem::field(Kind::BadRequest, "preset", "x".repeat(10_000));
        assert!(problem.body().len() < 1000);
    }
}
