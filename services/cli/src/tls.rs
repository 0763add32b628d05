//! A local authority: the certificates of one installation's servers and clients.
//!
//! Promises: keys are the owner's only and never leave the folder; the authority is made once and
//! kept, certificates are made anew at each run, so that none runs out unseen. Refuses: to vouch
//! for another authority, or for a name that was not given. Where there is a real authority, its
//! files take the place of these; nothing else changes.

use crate::{
    fail::{Context as _, Fail},
    layout::{make_dir, write_owned, write_private},
    print,
};
use hotcell_stage::clock;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// Life of the authority: ten years, in days. Its key stays on this machine.
const AUTHORITY_DAYS: u64 = 3650;

/// Life of a certificate, in days: the most that browsers accept (CA/Browser Forum, 398 days).
const CERTIFICATE_DAYS: u64 = 397;

/// Clocks may differ by this many days when a certificate is new.
const SKEW_DAYS: u64 = 1;

const DAY: Duration = Duration::from_secs(86_400);

/// Certificates that every Debian program trusts.
const SYSTEM_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

#[derive(Debug, clap::Subcommand)]
pub(crate) enum TlsCommand {
    /// Make a local authority, and certificates for these servers and clients.
    #[command(after_help = "Examples:
  hotcell tls init ./tls --server store=store.localhost --server intake=api.example.com,10.0.0.7
  hotcell tls init ./tls --client signer --client worker-1

Writes DIR/ca.pem, DIR/bundle.pem (the system's authorities and this one, for SSL_CERT_FILE), and
NAME.pem with NAME.key for each. The authority is kept when it is there; certificates are made
anew, and running services take them within seconds.")]
    Init {
        /// Where.
        dir: PathBuf,
        /// A server, and the names and addresses that clients know it by; may be repeated.
        #[arg(long = "server", value_name = "NAME=HOST,...", value_parser = server)]
        servers: Vec<(String, Vec<String>)>,
        /// A client; may be repeated.
        #[arg(long = "client", value_name = "NAME", value_parser = file_name)]
        clients: Vec<String>,
    },
}

fn file_name(text: &str) -> Result<String, String> {
    let safe = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let good = !text.is_empty() && text.len() <= 64 && text.bytes().all(safe);
    // The authority's own files.
    if good && !matches!(text, "ca" | "bundle") {
        return Ok(text.to_owned());
    }
    Err("must be 1 to 64 characters of a-z, 0-9 and '-', and not 'ca' or 'bundle'".to_owned())
}

fn server(text: &str) -> Result<(String, Vec<String>), String> {
    let (name, hosts) = text.split_once('=').ok_or("must be NAME=HOST,...")?;
    let hosts: Vec<_> = hosts.split(',').map(ToOwned::to_owned).collect();
    if hosts.iter().any(String::is_empty) {
        return Err("a host is empty".to_owned());
    }
    Ok((file_name(name)?, hosts))
}

/// Runs the command.
pub(crate) fn run(command: TlsCommand, as_json: bool) -> Result<(), Fail> {
    let TlsCommand::Init { dir, servers, clients } = command;
    let mut names: Vec<_> = servers.iter().map(|(name, _)| name).chain(&clients).collect();
    names.sort();
    if let Some([name, _]) = names.array_windows::<2>().find(|[a, b]| a == b) {
        return Err(Fail::usage(format!("{name} is named twice: each name is one certificate")));
    }
    let authority = Authority::open(&dir)?;
    for (name, hosts) in &servers {
        authority.server(name, hosts)?;
    }
    for name in &clients {
        authority.client(name)?;
    }
    let made: Vec<_> = servers.iter().map(|(name, _)| name).chain(&clients).collect();
    if as_json {
        print::json(&json!({ "ca": authority.ca(), "bundle": authority.bundle(), "made": made }));
        return Ok(());
    }
    print::line(format!("authority  {}", authority.ca().display()));
    for name in made {
        print::line(format!("made       {}", dir.join(format!("{name}.pem")).display()));
    }
    Ok(())
}

/// The authority of a folder.
pub(crate) struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

fn params(name: &str, hosts: &[String], days: u64) -> Result<CertificateParams, Fail> {
    let mut params = CertificateParams::new(hosts.to_vec()).or_fail("a host is no name")?;
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    params.distinguished_name = subject;
    let now = date_time_ymd(1970, 1, 1) + Duration::from_millis(clock::now().0);
    params.not_before = now - DAY * u32::try_from(SKEW_DAYS).unwrap_or(1);
    params.not_after = now + DAY * u32::try_from(days).unwrap_or(1);
    Ok(params)
}

fn read(path: &Path) -> Result<String, Fail> {
    fs::read_to_string(path).or_fail(&format!("cannot read {}", path.display()))
}

impl Authority {
    /// The authority in `dir`, made when there is none.
    pub(crate) fn open(dir: &Path) -> Result<Self, Fail> {
        make_dir(dir, 0o700)?;
        let dir = dir.canonicalize().or_fail("the folder of certificates")?;
        let (cert, key) = (dir.join("ca.pem"), dir.join("ca.key"));
        // Of these parameters, certificates repeat the name and the usages: they need no parser of
        // the authority's own.
        let mut params = params("hotcell local authority", &[], AUTHORITY_DAYS)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        if cert.exists() && !key.exists() {
            return Err(Fail::config(format!(
                "{} is there without its key: put ca.key back, or remove ca.pem too",
                cert.display()
            )));
        }
        if !key.exists() {
            let pair = KeyPair::generate().or_fail("no key for the authority")?;
            write_private(&key, &pair.serialize_pem())?;
        }
        let pair = KeyPair::from_pem(&read(&key)?).or_fail("the authority's key is unreadable")?;
        if !cert.exists() {
            let made = params.self_signed(&pair).or_fail("the authority was not made")?;
            write_private(&cert, &made.pem())?;
        }
        let authority = Self { dir, issuer: Issuer::new(params, pair) };
        let system = fs::read_to_string(SYSTEM_BUNDLE).unwrap_or_default();
        write_private(&authority.bundle(), &format!("{system}\n{}", read(&cert)?))?;
        Ok(authority)
    }

    /// Its certificate.
    pub(crate) fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The system's authorities and this one, in one file.
    pub(crate) fn bundle(&self) -> PathBuf {
        self.dir.join("bundle.pem")
    }

    /// The certificate and the key of `name`, when they were made.
    pub(crate) fn files(&self, name: &str) -> (PathBuf, PathBuf) {
        (self.dir.join(format!("{name}.pem")), self.dir.join(format!("{name}.key")))
    }

    /// Makes the certificate of a server.
    pub(crate) fn server(&self, name: &str, hosts: &[String]) -> Result<(), Fail> {
        self.issue(name, hosts, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// Makes the certificate of a client.
    pub(crate) fn client(&self, name: &str) -> Result<(), Fail> {
        self.issue(name, &[], ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn issue(
        &self,
        name: &str,
        hosts: &[String],
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<(), Fail> {
        let pair = KeyPair::generate().or_fail("no key for a certificate")?;
        let mut params = params(name, hosts, CERTIFICATE_DAYS)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        let made = params.signed_by(&pair, &self.issuer).or_fail("a certificate was not made")?;
        let (cert, key) = self.files(name);
        // The key first: a server that looks in between meets a pair that does not fit, keeps the
        // old one, and looks again.
        write_owned(&key, pair.serialize_pem().as_bytes(), 0o600, |_| Ok(()))?;
        write_owned(&cert, made.pem().as_bytes(), 0o600, |_| Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_certificate_takes_a_name_of_the_authority_s_own_files() {
        for bad in ["ca", "bundle", "", "A", "a/b"] {
            assert!(file_name(bad).is_err(), "{bad}");
        }
        assert_eq!(file_name("worker-1").as_deref(), Ok("worker-1"));
    }
}
