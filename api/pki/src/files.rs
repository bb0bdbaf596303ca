//! Certificates and keys in files. A file is written under a temporary name, with its final permissions, and then
//! renamed: a reader sees the old text or the new one, never half of it.
use crate::authority::{Authority, Subject};
use crate::certificate::{Error as CertificateError, KeyedCertificate};
use crate::service_account::ServiceAccountKey;
use jiff::Timestamp;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Why files of keys and certificates could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {doing} {}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} cannot be used; restore it from a backup, or move it away to start a new one (what the old one signed will no longer be accepted)", path.display())]
    Unusable {
        path: PathBuf,
        #[source]
        source: CertificateError,
    },
    #[error("{} is there but its key {} is not; restore the key, or move both away to start anew", certificate.display(), key.display())]
    KeyMissing { certificate: PathBuf, key: PathBuf },
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// Whether a file must survive a power cut. What can be made anew need not: an fsync costs about 4 ms, and a
/// start makes a dozen such files.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Durable {
    Yes,
    No,
}

/// Writes a file that only its owner may read, atomically and durably.
pub fn write_private(path: &Path, text: &str) -> Result<(), Error> {
    write(path, text, 0o600, Durable::Yes)
}

fn write(path: &Path, text: &str, mode: u32, durable: Durable) -> Result<(), Error> {
    let io = |doing: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { doing, path, source }
    };
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io("create", dir))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    // A leftover of a crashed process that had our id may have other permissions.
    match fs::remove_file(&temporary) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io("remove", &temporary)(e)),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)
        .map_err(io("create", &temporary))?;
    let written = file.write_all(text.as_bytes()).and_then(|()| match durable {
        Durable::Yes => file.sync_all(),
        Durable::No => Ok(()),
    });
    if let Err(e) = written.and_then(|()| fs::rename(&temporary, path)) {
        // The error that matters is the first one; a temporary file left over is removed by the next write.
        let _ = fs::remove_file(&temporary);
        return Err(io("write", path)(e));
    }
    if durable == Durable::Yes {
        fs::File::open(dir).and_then(|d| d.sync_all()).map_err(io("sync", dir))?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Option<String>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { doing: "read", path: path.to_owned(), source }),
    }
}

fn pair(dir: &Path, stem: &str) -> (PathBuf, PathBuf) {
    (dir.join(format!("{stem}.crt")), dir.join(format!("{stem}.key")))
}

/// The authority in `<dir>/<stem>.crt` and `.key`: loaded, renewed with its key when near its end, or made.
/// One that cannot be read is never overwritten.
pub fn ensure_authority(dir: &Path, stem: &str, name: &str, now: Timestamp) -> Result<Authority, Error> {
    let (certificate, key) = pair(dir, stem);
    let authority = match (read(&certificate)?, read(&key)?) {
        (Some(c), Some(k)) => {
            let unusable = |source| Error::Unusable { path: certificate.clone(), source };
            let authority = Authority::from_pem(&c, &k).map_err(unusable)?;
            if !authority.facts().needs_renewal(now) {
                return Ok(authority);
            }
            authority.renewed(now)?
        }
        (Some(_), None) => return Err(Error::KeyMissing { certificate, key }),
        // A start that died between the two writes below: the key was never used.
        (None, _) => Authority::generate(name, now)?,
    };
    write(&key, &authority.key_pem(), 0o600, Durable::Yes)?;
    write(&certificate, authority.certificate_pem(), 0o644, Durable::Yes)?;
    Ok(authority)
}

/// The serving certificate in `<dir>/<stem>.crt` and `.key`, good for every one of `names`.
pub fn ensure_serving(
    authority: &Authority,
    dir: &Path,
    stem: &str,
    subject: Subject<'_>,
    names: &[String],
    now: Timestamp,
) -> Result<KeyedCertificate, Error> {
    if let Some(kept) = kept(authority, dir, stem, subject, names, now)? {
        return Ok(kept);
    }
    store(dir, stem, authority.issue_serving(subject, names, now)?)
}

/// The client certificate in `<dir>/<stem>.crt` and `.key`.
pub fn ensure_client(
    authority: &Authority,
    dir: &Path,
    stem: &str,
    subject: Subject<'_>,
    now: Timestamp,
) -> Result<KeyedCertificate, Error> {
    if let Some(kept) = kept(authority, dir, stem, subject, &[], now)? {
        return Ok(kept);
    }
    store(dir, stem, authority.issue_client(subject, now)?)
}

/// The certificate in the files, if it is still what would be made now. A leaf that cannot be read is as good as
/// none: it is made anew.
fn kept(
    authority: &Authority,
    dir: &Path,
    stem: &str,
    subject: Subject<'_>,
    names: &[String],
    now: Timestamp,
) -> Result<Option<KeyedCertificate>, Error> {
    let (certificate, key) = pair(dir, stem);
    let (Some(certificate_pem), Some(key_pem)) = (read(&certificate)?, read(&key)?) else { return Ok(None) };
    let found = KeyedCertificate { certificate_pem, key_pem };
    let Ok(facts) = found.facts() else { return Ok(None) };
    let same_key = rcgen::KeyPair::from_pem(&found.key_pem)
        .is_ok_and(|k| k.public_key_raw() == facts.public_key.as_slice());
    let same_subject = facts.identity.common_name == subject.common_name
        && facts.identity.organizations.iter().map(String::as_str).eq(subject.organization);
    let same_names = names.iter().all(|n| facts.alternative_names.contains(&canonical_name(n)));
    let same_use = facts.client_auth == names.is_empty();
    let good = same_key
        && same_subject
        && same_names
        && same_use
        && authority.signed(&facts)
        && !facts.needs_renewal(now);
    Ok(good.then_some(found))
}

/// A name as [`crate::certificate::Facts`] shows it: addresses in their shortest form.
fn canonical_name(name: &str) -> String {
    name.parse::<std::net::IpAddr>().map_or_else(|_| name.to_owned(), |ip| ip.to_string())
}

fn store(dir: &Path, stem: &str, made: KeyedCertificate) -> Result<KeyedCertificate, Error> {
    let (certificate, key) = pair(dir, stem);
    write(&key, &made.key_pem, 0o600, Durable::No)?;
    write(&certificate, &made.certificate_pem, 0o644, Durable::No)?;
    Ok(made)
}

/// The key that signs service account tokens, in `<dir>/sa.key` and `sa.pub`.
pub fn ensure_service_account_key(dir: &Path) -> Result<ServiceAccountKey, Error> {
    let (private, public) = (dir.join("sa.key"), dir.join("sa.pub"));
    let key = match read(&private)? {
        Some(pem) => ServiceAccountKey::from_pem(&pem)
            .map_err(|source| Error::Unusable { path: private.clone(), source })?,
        None => {
            let key = ServiceAccountKey::generate()?;
            write(&private, &key.private_pem, 0o600, Durable::Yes)?;
            key
        }
    };
    if read(&public)?.as_deref() != Some(key.public_pem.as_str()) {
        write(&public, &key.public_pem, 0o644, Durable::No)?;
    }
    Ok(key)
}
