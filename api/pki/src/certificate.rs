//! A certificate with its key, and what can be read from a certificate.
use jiff::Timestamp;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why a certificate or key could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no usable PEM block of a {what}")]
    Pem {
        what: &'static str,
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    #[error("a certificate that cannot be parsed: {0}")]
    Parse(String),
    #[error("cannot make a {what}")]
    Make {
        what: &'static str,
        #[source]
        source: rcgen::Error,
    },
    #[error("{0:?} is neither a DNS name nor an IP address")]
    AlternativeName(String),
}

/// A certificate and its private key, both as PEM text.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyedCertificate {
    pub certificate_pem: String,
    pub key_pem: String,
}

impl std::fmt::Debug for KeyedCertificate {
    // Keys do not belong into logs.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyedCertificate")
            .field("certificate_pem", &self.certificate_pem)
            .finish_non_exhaustive()
    }
}

impl KeyedCertificate {
    /// The certificate chain, leaf first.
    pub fn chain(&self) -> Result<Vec<CertificateDer<'static>>, Error> {
        certificates(&self.certificate_pem)
    }
    pub fn private_key(&self) -> Result<PrivateKeyDer<'static>, Error> {
        PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes())
            .map_err(|source| Error::Pem { what: "private key", source })
    }
    /// What the certificate says.
    pub fn facts(&self) -> Result<Facts, Error> {
        Facts::from_pem(&self.certificate_pem)
    }
}

/// Every certificate of a PEM text; at least one.
pub fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>, Error> {
    let all = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|source| Error::Pem { what: "certificate", source })?;
    if all.is_empty() {
        return Err(Error::Pem { what: "certificate", source: rustls_pki_types::pem::Error::NoItemsFound });
    }
    Ok(all)
}

/// The parts of a certificate that decide whether it is still good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub not_before: Timestamp,
    pub not_after: Timestamp,
    pub identity: PeerIdentity,
    /// DNS names and IP addresses, as text.
    pub alternative_names: Vec<String>,
    /// Which key it certifies.
    pub public_key: Vec<u8>,
    pub subject_key_id: Option<Vec<u8>>,
    /// Which key signed it.
    pub authority_key_id: Option<Vec<u8>>,
    /// Whether clients may show it (extended key usage clientAuth).
    pub client_auth: bool,
}

impl Facts {
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        match certificates(pem)?.first() {
            Some(der) => Self::from_der(der),
            None => Err(Error::Parse("nothing in it".to_owned())),
        }
    }

    pub fn from_der(der: &[u8]) -> Result<Self, Error> {
        let (_, cert) = X509Certificate::from_der(der).map_err(|e| Error::Parse(e.to_string()))?;
        let time = |seconds| Timestamp::from_second(seconds).map_err(|e| Error::Parse(e.to_string()));
        let mut facts = Self {
            not_before: time(cert.validity().not_before.timestamp())?,
            not_after: time(cert.validity().not_after.timestamp())?,
            identity: identity_of(&cert),
            alternative_names: Vec::new(),
            public_key: cert.public_key().subject_public_key.data.to_vec(),
            subject_key_id: None,
            authority_key_id: None,
            client_auth: false,
        };
        for extension in cert.extensions() {
            match extension.parsed_extension() {
                ParsedExtension::SubjectAlternativeName(names) => {
                    facts.alternative_names = names.general_names.iter().filter_map(shown_name).collect();
                }
                ParsedExtension::SubjectKeyIdentifier(id) => facts.subject_key_id = Some(id.0.to_vec()),
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    facts.authority_key_id = id.key_identifier.as_ref().map(|k| k.0.to_vec());
                }
                ParsedExtension::ExtendedKeyUsage(usage) => facts.client_auth = usage.client_auth,
                _ => {}
            }
        }
        Ok(facts)
    }

    /// Whether less than a fifth of its life is left. A certificate of a year is renewed with ten weeks to
    /// spare: enough for a machine that is started once a month.
    pub fn needs_renewal(&self, now: Timestamp) -> bool {
        let life = self.not_after.as_second() - self.not_before.as_second();
        now < self.not_before || (self.not_after.as_second() - now.as_second()) * 5 < life
    }
}

fn shown_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(n) => Some((*n).to_owned()),
        GeneralName::IPAddress(b) => match b.len() {
            4 => <[u8; 4]>::try_from(*b).ok().map(|b| std::net::Ipv4Addr::from(b).to_string()),
            16 => <[u8; 16]>::try_from(*b).ok().map(|b| std::net::Ipv6Addr::from(b).to_string()),
            _ => None,
        },
        _ => None,
    }
}

/// Whom a client certificate speaks for: common name = user, organizations = groups (as kube-apiserver reads it).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerIdentity {
    pub common_name: String,
    pub organizations: Vec<String>,
}

/// Reads the identity from a peer's certificate. TLS has verified it before.
pub fn peer_identity(der: &[u8]) -> Result<PeerIdentity, Error> {
    let (_, cert) = X509Certificate::from_der(der).map_err(|e| Error::Parse(e.to_string()))?;
    Ok(identity_of(&cert))
}

fn identity_of(cert: &X509Certificate<'_>) -> PeerIdentity {
    let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().ok().map(str::to_owned);
    PeerIdentity {
        common_name: cert.subject().iter_common_name().find_map(text).unwrap_or_default(),
        organizations: cert.subject().iter_organization().filter_map(text).collect(),
    }
}
