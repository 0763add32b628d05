//! How a command ends when it does not succeed: one sentence and an exit code.

use crate::print;
use hotcell_stage::service::{EXIT_CONFIG, EXIT_UNREACHABLE};
use std::process::ExitCode;

/// A command's failure.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Fail {
    /// 1 the thing failed, 2 usage, 64 bad configuration, 69 a server is unreachable.
    pub(crate) code: u8,
    /// What to tell the person: what happened, then what to do.
    pub(crate) message: String,
}

impl Fail {
    /// The thing failed.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self { code: 1, message: message.into() }
    }

    /// The command line is wrong in a way that the parser cannot see.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { code: 2, message: message.into() }
    }

    /// A file or a setting is wrong.
    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self { code: EXIT_CONFIG, message: message.into() }
    }

    /// A server does not answer.
    pub(crate) fn unreachable(message: impl Into<String>) -> Self {
        Self { code: EXIT_UNREACHABLE, message: message.into() }
    }
}

/// How the process ends; a failure is printed.
pub(crate) fn exit_code(result: Result<(), Fail>) -> ExitCode {
    match result {
        Ok(()) if print::is_lost() => ExitCode::FAILURE,
        Ok(()) => ExitCode::SUCCESS,
        Err(fail) => {
            print::error(&fail);
            ExitCode::from(fail.code)
        }
    }
}

/// Adds what was being done to an error, with all its causes.
pub(crate) trait Context<T> {
    /// The error as a failure of code 1.
    fn or_fail(self, doing: &str) -> Result<T, Fail>;
}

impl<T, E: std::error::Error> Context<T> for Result<T, E> {
    fn or_fail(self, doing: &str) -> Result<T, Fail> {
        self.map_err(|error| {
            Fail::failed(format!("{doing}: {}", hotcell_stage::service::describe(&error)))
        })
    }
}
