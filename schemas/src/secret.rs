//! Texts that open something. They travel and are used; they are never shown.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! secret {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            /// Wraps a text.
            #[must_use]
            pub fn new(text: String) -> Self {
                Self(text)
            }
            /// The text itself, for the one call that uses it.
            #[must_use]
            pub fn expose(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("[redacted]")
            }
        }
    )*};
}

secret! {
    /// A presigned URL. A credential: its `Debug` says nothing.
    SecretUrl;
    /// A webhook's signing secret as its owner keeps it. Its `Debug` says nothing.
    WebhookSecret;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{EndpointId, hook::HookReply, request::WebhookCreated};

    #[test]
    fn an_answer_that_holds_a_secret_does_not_show_it() {
        let created = WebhookCreated {
            id: EndpointId::new(1, [1; 10]),
            url: "https://example.com/".to_owned(),
            events: Vec::new(),
            secret: WebhookSecret::new("whsec_CANARY".to_owned()),
        };
        let reply = HookReply::Created { created };
        assert!(!format!("{reply:?} {reply:#?}").contains("CANARY"));
        assert!(serde_json::to_string(&reply).unwrap().contains("whsec_CANARY"));
        let url = SecretUrl::new("https://store/?X-Amz-Signature=CANARY".to_owned());
        assert!(!format!("{url:?}").contains("CANARY"));
    }
}
