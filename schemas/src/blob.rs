//! Object keys, built by one typed builder. Tenant text becomes a path segment only as a
//! [`FileName`], which holds no separator and no dot-segment.

use crate::{
    Digest, JobId, TenantId, UnixMs, UploadId,
    limits::{FILENAME_BYTES_MAX, KEPT_FILENAME_BYTES_MAX},
};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// A file name that is safe as one path segment, one KV key token and one header value.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FileName(String);

/// The text is not a safe file name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a file name must be 1 to {FILENAME_BYTES_MAX} characters of A-Z, a-z, 0-9, '.', '_' and '-', \
     begin with a letter or digit and hold no '..'"
)]
pub struct FileNameError;

impl FileName {
    /// The server's name for an upload: `YYYYMMDD-HHMMSS-<kept>`, where `<kept>` is the client's
    /// last path segment with every other character replaced by `-`. `again` is 0 for the first
    /// try and counts up while the name is taken.
    #[must_use]
    pub fn for_upload(client: &str, at: UnixMs, again: u32) -> Self {
        let last = client.rsplit(['/', '\\']).next().unwrap_or_default();
        let mut kept = String::with_capacity(KEPT_FILENAME_BYTES_MAX);
        for c in last.chars() {
            let c = if c.is_ascii_alphanumeric() || c == '_' || c == '.' { c } else { '-' };
            let follows_word = !kept.is_empty() && !kept.ends_with(['-', '.']);
            if follows_word || !matches!(c, '-' | '.') {
                kept.push(c);
            }
        }
        let excess = kept.len().saturating_sub(KEPT_FILENAME_BYTES_MAX);
        let kept: String = kept.chars().skip(excess).collect();
        let kept = kept.trim_matches(['-', '.', '_']);
        let kept = if kept.is_empty() { "upload" } else { kept };
        let again = if again == 0 { String::new() } else { format!("{again}-") };
        Self(format!("{}-{again}{kept}", at.compact()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FileName {
    type Err = FileNameError;
    fn from_str(text: &str) -> Result<Self, FileNameError> {
        let safe = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let good = text.len() <= FILENAME_BYTES_MAX
            && text.bytes().all(safe)
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
            && !text.ends_with('.')
            && !text.contains("..");
        if good { Ok(Self(text.to_owned())) } else { Err(FileNameError) }
    }
}

impl TryFrom<String> for FileName {
    type Error = FileNameError;
    fn try_from(text: String) -> Result<Self, FileNameError> {
        text.parse()
    }
}

impl From<FileName> for String {
    fn from(name: FileName) -> Self {
        name.0
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The key of one object in the bucket.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BlobKey(String);

/// The text is not a key that the builder makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an object key of hotcell")]
pub struct BlobKeyError;

impl BlobKey {
    /// `<tenant>/uploads/<upload>/<name>`.
    #[must_use]
    pub fn upload(tenant: &TenantId, upload: &UploadId, name: &FileName) -> Self {
        Self(format!("{tenant}/uploads/{upload}/{name}"))
    }

    /// `<tenant>/jobs/<job>/out/<attempt>/<name>`. Keys are create-only, so each attempt has a
    /// folder of its own: a worker that lost its lease cannot occupy its successor's names.
    #[must_use]
    pub fn output(tenant: &TenantId, job: &JobId, attempt: u32, name: &FileName) -> Self {
        Self(format!("{tenant}/jobs/{job}/out/{attempt}/{name}"))
    }

    /// `<tenant>/jobs/<job>/attempts/<attempt>/stderr.zst`.
    #[must_use]
    pub fn stderr(tenant: &TenantId, job: &JobId, attempt: u32) -> Self {
        Self(format!("{tenant}/jobs/{job}/attempts/{attempt}/stderr.zst"))
    }

    /// `<tenant>/uploads/`: the prefix that the reaper lists.
    #[must_use]
    pub fn uploads_prefix(tenant: &TenantId) -> String {
        format!("{tenant}/uploads/")
    }

    /// `<tenant>/jobs/<job>/`: everything of one job.
    #[must_use]
    pub fn job_prefix(tenant: &TenantId, job: &JobId) -> String {
        format!("{tenant}/jobs/{job}/")
    }

    /// Whether the key lies under `tenant`'s own prefix.
    #[must_use]
    pub fn belongs_to(&self, tenant: &TenantId) -> bool {
        self.0.split('/').next() == Some(tenant.as_str())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// SHA-256 of the key: what records name instead of the key itself.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of(self.0.as_bytes())
    }
}

impl FromStr for BlobKey {
    type Err = BlobKeyError;
    fn from_str(text: &str) -> Result<Self, BlobKeyError> {
        let parts: Vec<&str> = text.split('/').collect();
        let id = |s: &str| s.parse::<JobId>().is_ok();
        let number = |s: &str| s.parse::<u32>().is_ok_and(|n| n.to_string() == s);
        let good = match *parts.as_slice() {
            [tenant, "uploads", upload, name] => {
                tenant.parse::<TenantId>().is_ok() && id(upload) && name.parse::<FileName>().is_ok()
            }
            [tenant, "jobs", job, "out", attempt, name] => {
                tenant.parse::<TenantId>().is_ok()
                    && id(job)
                    && number(attempt)
                    && name.parse::<FileName>().is_ok()
            }
            [tenant, "jobs", job, "attempts", attempt, "stderr.zst"] => {
                tenant.parse::<TenantId>().is_ok() && id(job) && number(attempt)
            }
            _ => false,
        };
        if good { Ok(Self(text.to_owned())) } else { Err(BlobKeyError) }
    }
}

impl TryFrom<String> for BlobKey {
    type Error = BlobKeyError;
    fn try_from(text: String) -> Result<Self, BlobKeyError> {
        text.parse()
    }
}

impl From<BlobKey> for String {
    fn from(key: BlobKey) -> Self {
        key.0
    }
}

impl fmt::Display for BlobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for BlobKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_25_client_names_are_neutralised() {
        let at = UnixMs(1_779_460_245_120);
        let check = |client: &str, expect: &str| {
            let name = FileName::for_upload(client, at, 0);
            assert_eq!(name.as_str(), expect, "{client:?}");
            assert_eq!(name.as_str().parse::<FileName>().as_ref(), Ok(&name), "{client:?}");
        };
        check("interview raw.mp4", "20260522-143045-interview-raw.mp4");
        check("../../etc/passwd", "20260522-143045-passwd");
        check("..\\..\\boot.ini", "20260522-143045-boot.ini");
        check("a\0b.mp4", "20260522-143045-a-b.mp4");
        check("видео.mp4", "20260522-143045-mp4");
        check("...", "20260522-143045-upload");
        check("", "20260522-143045-upload");
        check("a..b....mp4", "20260522-143045-a.b.mp4");
        let long = format!("{}.mp4", "x".repeat(300));
        let name = FileName::for_upload(&long, at, 7);
        assert!(name.as_str().len() <= FILENAME_BYTES_MAX && name.as_str().ends_with(".mp4"));
        assert_ne!(FileName::for_upload("a", at, 0), FileName::for_upload("a", at, 1));
    }

    #[test]
    fn only_the_builder_s_shapes_parse() {
        let (tenant, job) = ("acme".parse::<TenantId>().unwrap(), JobId::new(1, [2; 10]));
        let name = "out.mp4".parse::<FileName>().unwrap();
        let key = BlobKey::output(&tenant, &job, 2, &name);
        assert_eq!(key.as_str().parse::<BlobKey>().as_ref(), Ok(&key));
        assert!(key.belongs_to(&tenant) && !key.belongs_to(&"acm".parse().unwrap()));
        for bad in
            ["acme/uploads/../x", "acme//jobs", "/etc/passwd", "acme/jobs/x/out/1/a", "acme/.."]
        {
            assert!(bad.parse::<BlobKey>().is_err(), "{bad}");
        }
    }
}
