//! A certificate with its key, checked and ready to be shown.
use client::k8s_openapi::api::core::v1::Secret;
use rustls::InconsistentKeys;
use rustls::crypto::CryptoProvider;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::sync::Arc;

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";

/// Why a certificate cannot be shown. Nothing of a key goes into a message.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("it has no {0}")]
    Missing(&'static str),
    #[error("its {CERTIFICATE} holds no certificate in PEM form")]
    NoCertificate,
    #[error("its {KEY} holds no private key in PEM form")]
    NoKey,
    #[error("its {KEY} is not the key of its {CERTIFICATE}")]
    OtherKey,
    #[error("its certificate or key cannot be used")]
    Unusable(#[source] rustls::Error),
}

/// The one provider of the workspace.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// A certificate chain (the server's own first) and its key, both PEM.
pub(crate) fn certified(
    chain_pem: &[u8],
    key_pem: &[u8],
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, Error> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain_pem)
        .collect::<Result<_, _>>()
        .map_err(|_| Error::NoCertificate)?;
    if chain.is_empty() {
        return Err(Error::NoCertificate);
    }
    let key = PrivateKeyDer::from_pem_slice(key_pem).map_err(|_| Error::NoKey)?;
    match CertifiedKey::from_der(chain, key, provider) {
        Ok(certified) => Ok(Arc::new(certified)),
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => Err(Error::OtherKey),
        Err(error) => Err(Error::Unusable(error)),
    }
}

/// The certificate that a Secret holds.
pub(crate) fn of_secret(secret: &Secret, provider: &CryptoProvider) -> Result<Arc<CertifiedKey>, Error> {
    let part = |name: &'static str| {
        let bytes = secret.data.as_ref().and_then(|data| data.get(name)).map(|bytes| bytes.0.as_slice());
        bytes.filter(|bytes| !bytes.is_empty()).ok_or(Error::Missing(name))
    };
    certified(part(CERTIFICATE)?, part(KEY)?, provider)
}
