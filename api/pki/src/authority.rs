//! The cluster's certificate authority: one ECDSA P-256 key that signs every certificate. P-256 because making a
//! key and a signature takes well under a millisecond, and every TLS library knows it.
use crate::certificate::{Error, Facts, KeyedCertificate};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// kubeadm's life of a CA: ten years.
pub const AUTHORITY_LIFE: Duration = Duration::from_secs(DAY.as_secs() * 3650);
/// kubeadm's life of every other certificate: a year.
pub const LEAF_LIFE: Duration = Duration::from_secs(DAY.as_secs() * 365);
/// An authority made with a clock that is far off still gets an end that fits X.509: 2100-01-01.
const LATEST: Timestamp = Timestamp::constant(4_102_444_800, 0);
/// Certificates begin this long before they are made, so that a machine whose clock is a little behind takes them.
const BACKDATE_SECONDS: i64 = 5 * 60;

/// Whom a certificate names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subject<'a> {
    /// The user: `system:node:a`.
    pub common_name: &'a str,
    /// The group: `system:nodes`.
    pub organization: Option<&'a str>,
}

/// A certificate authority, ready to sign.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate_pem: String,
    facts: Facts,
}

impl Authority {
    /// A new authority with a new key.
    pub fn generate(name: &str, now: Timestamp) -> Result<Self, Error> {
        Self::self_signed(name, new_key()?, now)
    }

    /// A new certificate for the same key: what the old one signed stays good.
    pub fn renewed(self, now: Timestamp) -> Result<Self, Error> {
        let name = self.facts.identity.common_name.clone();
        let key = KeyPair::from_pem(&self.key_pem())
            .map_err(|source| Error::Make { what: "certificate authority", source })?;
        Self::self_signed(&name, key, now)
    }

    pub(crate) fn self_signed(name: &str, key: KeyPair, now: Timestamp) -> Result<Self, Error> {
        let make = |source| Error::Make { what: "certificate authority", source };
        let mut params = CertificateParams::default();
        set_validity(&mut params, now, AUTHORITY_LIFE, LATEST);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate_pem = params.self_signed(&key).map_err(make)?.pem();
        Self::with_key(certificate_pem, key)
    }

    /// An authority that was made before.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, Error> {
        let key =
            KeyPair::from_pem(key_pem).map_err(|source| Error::Make { what: "key pair from PEM", source })?;
        Self::with_key(certificate_pem.to_owned(), key)
    }

    fn with_key(certificate_pem: String, key: KeyPair) -> Result<Self, Error> {
        let facts = Facts::from_pem(&certificate_pem)?;
        if facts.public_key != key.public_key_raw() {
            return Err(Error::Parse("the authority's certificate belongs to another key".to_owned()));
        }
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, key)
            .map_err(|source| Error::Make { what: "certificate authority from PEM", source })?;
        Ok(Self { issuer, certificate_pem, facts })
    }

    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Whether this authority's key signed the certificate, told by the key identifiers.
    pub fn signed(&self, leaf: &Facts) -> bool {
        leaf.authority_key_id.is_some() && leaf.authority_key_id == self.facts.subject_key_id
    }

    /// A certificate for a server that is reached under `names` (DNS names and IP addresses).
    pub fn issue_serving(
        &self,
        subject: Subject<'_>,
        names: &[String],
        now: Timestamp,
    ) -> Result<KeyedCertificate, Error> {
        let mut params = leaf_params(subject, now, self.facts.not_after);
        for name in names {
            params.subject_alt_names.push(match name.parse() {
                Ok(ip) => SanType::IpAddress(ip),
                Err(_) => SanType::DnsName(
                    name.as_str().try_into().map_err(|_| Error::AlternativeName(name.clone()))?,
                ),
            });
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        self.issue(params)
    }

    /// A certificate with which a client proves who it is.
    pub fn issue_client(&self, subject: Subject<'_>, now: Timestamp) -> Result<KeyedCertificate, Error> {
        let mut params = leaf_params(subject, now, self.facts.not_after);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(params)
    }

    fn issue(&self, params: CertificateParams) -> Result<KeyedCertificate, Error> {
        let key = new_key()?;
        let certificate = params
            .signed_by(&key, &self.issuer)
            .map_err(|source| Error::Make { what: "certificate", source })?;
        Ok(KeyedCertificate { certificate_pem: certificate.pem(), key_pem: key.serialize_pem() })
    }
}

pub(crate) fn new_key() -> Result<KeyPair, Error> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
        .map_err(|source| Error::Make { what: "key pair", source })
}

fn leaf_params(subject: Subject<'_>, now: Timestamp, authority_end: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::default();
    set_validity(&mut params, now, LEAF_LIFE, authority_end);
    params.distinguished_name = DistinguishedName::new();
    if let Some(organization) = subject.organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    params.distinguished_name.push(DnType::CommonName, subject.common_name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    params
}

/// Good from a little before `now` for `life`, but never beyond `latest`: no certificate outlives its signer.
fn set_validity(params: &mut CertificateParams, now: Timestamp, life: Duration, latest: Timestamp) {
    // rcgen's time type is made from the epoch by adding; no certificate is older than 1970.
    let after_epoch = |seconds: i64| Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let begin = now.as_second() - BACKDATE_SECONDS;
    let end = begin.saturating_add_unsigned(life.as_secs()).min(latest.as_second());
    params.not_before = epoch + after_epoch(begin);
    params.not_after = epoch + after_epoch(end);
}
