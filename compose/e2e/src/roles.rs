//! What each role may ask for by HTTP, and what needs a second factor: written by hand, a second time
//! beside the policies, and compared with what is answered. Names neither Cedar nor a policy.

use hotcell_schemas::identity::{Action, RoleName};

/// What each role is for.
pub const ROLES: &[(RoleName, &[Action])] = &[
    (
        RoleName::Viewer,
        &[Action::ReadJob, Action::ReadUsage, Action::ReadPolicy, Action::ReadPresets],
    ),
    (
        RoleName::Submitter,
        &[
            Action::UploadSource,
            Action::SubmitTranscode,
            Action::ReadJob,
            Action::CancelJob,
            Action::ReadOutput,
            Action::ReadPolicy,
            Action::ReadPresets,
            Action::ReadUsage,
            Action::RequestApproval,
        ],
    ),
    (RoleName::Publisher, &[Action::ReadJob, Action::ReadOutput, Action::RequestApproval]),
    (
        RoleName::WebhookAdmin,
        &[
            Action::ReadJob,
            Action::ReadWebhooks,
            Action::ManageWebhooks,
            Action::ReplayWebhook,
            Action::RequestApproval,
        ],
    ),
    (
        RoleName::TenantAdmin,
        &[
            Action::UploadSource,
            Action::SubmitTranscode,
            Action::ReadJob,
            Action::CancelJob,
            Action::ReadOutput,
            Action::ReadWebhooks,
            Action::ManageWebhooks,
            Action::ReplayWebhook,
            Action::ReadPolicy,
            Action::ManagePolicy,
            Action::ReadKeys,
            Action::ManageKeys,
            Action::ReadPresets,
            Action::ManagePresets,
            Action::ReadAudit,
            Action::ExportAudit,
            Action::BlockIdentity,
            Action::UnblockIdentity,
            Action::RequestApproval,
            Action::ApproveRequest,
            Action::ReadUsage,
        ],
    ),
    (
        RoleName::Auditor,
        &[
            Action::ReadJob,
            Action::ReadAudit,
            Action::ExportAudit,
            Action::ReadPolicy,
            Action::ReadUsage,
            Action::RequestApproval,
        ],
    ),
    (
        RoleName::Operator,
        &[
            Action::BlockIdentity,
            Action::UnblockIdentity,
            Action::ReadAudit,
            Action::ExportAudit,
            Action::ReadPolicy,
            Action::ReadUsage,
            Action::RequestApproval,
        ],
    ),
];

/// What a second factor is asked for.
pub const SENSITIVE: &[Action] = &[
    Action::ManageWebhooks,
    Action::ManagePolicy,
    Action::ManageKeys,
    Action::ManagePresets,
    Action::ExportAudit,
    Action::UnblockIdentity,
    Action::ApproveRequest,
];

/// What `role` is for.
///
/// # Panics
/// When the table lacks a role: a test covers that.
#[must_use]
pub fn may(role: RoleName) -> &'static [Action] {
    let row = ROLES.iter().find(|(name, _)| *name == role);
    row.expect("every role has a row").1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iam_05_every_role_has_a_row() {
        for role in RoleName::ALL {
            assert!(!may(role).is_empty(), "{role}");
        }
    }
}
