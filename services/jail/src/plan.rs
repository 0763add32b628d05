//! The launcher's command line, both ways: the supervisor renders a [`Plan`], the launcher parses it.
//!
//! Promises: what was rendered parses to the same plan. Refuses unknown flags, missing values, more inputs than there
//! are mount points, and a payload that is not named by an absolute path. Reads no environment and no file.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use thiserror::Error;

use crate::layers::Layer;
use crate::limits::{CellLimits, INPUTS_MAX};
use crate::profile::Profile;

/// The user and group that the payload has on the host. Never root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// User id, not 0.
    pub uid: u32,
    /// Group id, not 0.
    pub gid: u32,
}

impl Identity {
    /// Debian's and the kernel's `nobody`.
    pub const NOBODY: Self = Self { uid: 65534, gid: 65534 };

    /// Whether this process can give a cell another user than its own: it is root. `nobody` may be its own, too.
    #[must_use]
    pub fn can_be_chosen() -> bool {
        rustix::process::geteuid().is_root()
    }

    /// This process's own identity, or `nobody` when it is root's.
    #[must_use]
    pub fn for_this_process() -> Self {
        let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
        if uid.is_root() { Self::NOBODY } else { Self { uid: uid.as_raw(), gid: gid.as_raw() } }
    }
}

/// Everything that the launcher needs to know about one cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) root: PathBuf,
    pub(crate) profile: Profile,
    pub(crate) inputs: Vec<PathBuf>,
    pub(crate) out_dir: Option<PathBuf>,
    pub(crate) identity: Identity,
    pub(crate) limits: CellLimits,
    /// A version 2 control group, for process 1 to be born into.
    pub(crate) cgroup: Option<PathBuf>,
    pub(crate) layers_off: Vec<Layer>,
    pub(crate) degraded: bool,
    /// The payload's path inside the cell, then its arguments.
    pub(crate) argv: Vec<OsString>,
}

/// Why a command line is not a plan.
#[derive(Debug, Error)]
pub(crate) enum PlanError {
    #[error("unknown flag {0:?}: remove it")]
    UnknownFlag(OsString),
    #[error("{0} needs a value")]
    NoValue(&'static str),
    #[error("{0} needs another value: a number, or one of the documented names")]
    BadValue(&'static str),
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("more than {INPUTS_MAX} inputs: pass fewer --in")]
    TooManyInputs,
    #[error("the payload must be an absolute path inside the cell, after --")]
    Payload,
}

impl Plan {
    /// The launcher's arguments.
    pub(crate) fn render(&self) -> Vec<OsString> {
        let mut args: Vec<OsString> = Vec::new();
        let mut flag = |name: &str, value: &OsStr| args.extend([name.into(), value.into()]);
        flag("--root", self.root.as_os_str());
        flag("--profile", self.profile.name().as_ref());
        self.inputs.iter().for_each(|input| flag("--in", input.as_os_str()));
        self.out_dir.iter().for_each(|out| flag("--out", out.as_os_str()));
        self.cgroup.iter().for_each(|group| flag("--cgroup", group.as_os_str()));
        let identity = [("--uid", self.identity.uid.into()), ("--gid", self.identity.gid.into())];
        for (name, value) in self.limits.flags().into_iter().chain(identity) {
            flag(name, value.to_string().as_ref());
        }
        self.layers_off.iter().for_each(|layer| flag("--layer-off", layer.name().as_ref()));
        if self.degraded {
            args.push("--degraded".into());
        }
        args.push("--".into());
        args.extend(self.argv.iter().cloned());
        args
    }

    /// Parses what comes after the launcher's own name.
    pub(crate) fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, PlanError> {
        let mut args = args.into_iter();
        let (mut root, mut profile, mut uid, mut gid) = (None, None, None, None);
        let (mut inputs, mut out_dir, mut layers_off) = (Vec::new(), None, Vec::new());
        let mut cgroup = None;
        let (mut degraded, mut set) = (false, Vec::new());
        while let Some(arg) = args.next() {
            let name = known(&arg)?;
            let mut value = || args.next().ok_or(PlanError::NoValue(name));
            match name {
                "--" => break,
                "--degraded" => degraded = true,
                "--root" => root = Some(PathBuf::from(value()?)),
                "--in" => inputs.push(PathBuf::from(value()?)),
                "--out" => out_dir = Some(PathBuf::from(value()?)),
                "--cgroup" => cgroup = Some(PathBuf::from(value()?)),
                "--profile" => profile = Some(by_name(name, &value()?, Profile::named)?),
                "--layer-off" => layers_off.push(by_name(name, &value()?, Layer::named)?),
                "--uid" => uid = Some(by_name(name, &value()?, |text| text.parse().ok())?),
                "--gid" => gid = Some(by_name(name, &value()?, |text| text.parse().ok())?),
                limit => set.push((limit, by_name(limit, &value()?, |text| text.parse().ok())?)),
            }
        }
        if inputs.len() > INPUTS_MAX {
            return Err(PlanError::TooManyInputs);
        }
        let profile = profile.ok_or(PlanError::Missing("--profile"))?;
        let mut limits = CellLimits::of(profile);
        for (limit, value) in set {
            *limits.by_flag(limit).ok_or(PlanError::BadValue(limit))? = value;
        }
        let own = Identity::for_this_process();
        let identity = Identity { uid: uid.unwrap_or(own.uid), gid: gid.unwrap_or(own.gid) };
        let argv: Vec<OsString> = args.collect();
        if !argv.first().is_some_and(|path| path.as_encoded_bytes().starts_with(b"/")) {
            return Err(PlanError::Payload);
        }
        let root = root.ok_or(PlanError::Missing("--root"))?;
        Ok(Self {
            root,
            profile,
            inputs,
            out_dir,
            identity,
            limits,
            cgroup,
            layers_off,
            degraded,
            argv,
        })
    }
}

/// The flag as a constant, so that errors can name it.
fn known(arg: &OsStr) -> Result<&'static str, PlanError> {
    const FLAGS: [&str; 10] = [
        "--",
        "--root",
        "--profile",
        "--in",
        "--out",
        "--cgroup",
        "--uid",
        "--gid",
        "--layer-off",
        "--degraded",
    ];
    let limits = CellLimits::PROBE.flags().map(|(name, _)| name);
    let found = FLAGS.into_iter().chain(limits).find(|name| arg == *name);
    found.ok_or_else(|| PlanError::UnknownFlag(arg.to_owned()))
}

fn by_name<T>(
    flag: &'static str,
    value: &OsStr,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<T, PlanError> {
    value.to_str().and_then(parse).ok_or(PlanError::BadValue(flag))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::{Identity, Plan, PlanError};
    use crate::layers::Layer;
    use crate::limits::CellLimits;
    use crate::profile::Profile;

    fn parse(line: &str) -> Result<Plan, PlanError> {
        Plan::parse(line.split_whitespace().map(OsString::from))
    }

    #[test]
    fn rendering_and_parsing_agree() {
        let plan = Plan {
            root: "/root dir".into(),
            profile: Profile::Transcode,
            inputs: vec!["/a b".into(), "--out".into()],
            out_dir: Some("/o".into()),
            identity: Identity { uid: 7, gid: 8 },
            limits: CellLimits {
                nofile: 3,
                tmp_bytes: 9,
                // The supervisor's own, which the launcher is not told.
                stall_secs: CellLimits::TRANSCODE.stall_secs,
                ..CellLimits::PROBE
            },
            cgroup: Some("/sys/fs/cgroup/a b".into()),
            layers_off: vec![Layer::Mdwe, Layer::Seccomp],
            degraded: true,
            argv: ["/bin/ffmpeg", "--", "-i", ""].map(OsString::from).to_vec(),
        };
        assert_eq!(Plan::parse(plan.render()).unwrap(), plan);
        let bare = Plan {
            inputs: vec![],
            out_dir: None,
            cgroup: None,
            layers_off: vec![],
            degraded: false,
            ..plan
        };
        assert_eq!(Plan::parse(bare.render()).unwrap(), bare);
    }

    #[test]
    fn a_profile_brings_its_limits() {
        let plan = parse("--root /r --profile probe --cpu-secs 3 -- /bin/x").unwrap();
        assert_eq!(plan.limits, CellLimits { cpu_secs: 3, ..CellLimits::PROBE });
    }

    #[test]
    fn anything_else_is_refused() {
        let bad = [
            "",
            "--root /r -- /bin/x",
            "--profile probe -- /bin/x",
            "--root /r --profile probe",
            "--root /r --profile probe -- bin/x",
            "--root /r --profile none -- /bin/x",
            "--root /r --profile probe --uid -1 -- /bin/x",
            "--root /r --profile probe --layer-off all -- /bin/x",
            "--root /r --profile probe --cpu-secs",
            "--root /r --profile probe --bind /:/ -- /bin/x",
            "--root /r --profile probe --in a --in b --in c --in d --in e -- /bin/x",
        ];
        for line in bad {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
