//! TLS settings. One crypto provider, aws-lc-rs, named here and not left to a process-wide default.
use crate::certificate::{Error as CertificateError, KeyedCertificate, certificates};
use rustls::crypto::CryptoProvider;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::sync::Arc;

/// Why a TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the certificate for TLS cannot be used")]
    Certificate(#[from] CertificateError),
    #[error("the TLS settings do not fit together")]
    Settings(#[from] rustls::Error),
    #[error("client certificates cannot be verified against this authority")]
    Verifier(#[from] VerifierBuilderError),
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn roots(authority_pem: &str) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(authority_pem)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

/// For a server: HTTP/2 and HTTP/1.1; a client certificate is asked for but not demanded, and one that is shown
/// must be signed by `authority_pem`.
pub fn server_config(authority_pem: &str, own: &KeyedCertificate) -> Result<Arc<ServerConfig>, Error> {
    let provider = provider();
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(authority_pem)?), provider.clone())
            .allow_unauthenticated()
            .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(own.chain()?, own.private_key()?)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// For a client that trusts only `authority_pem` and, with `own`, shows who it is. ALPN is left empty: hyper's
/// and kube's connectors set it themselves and refuse a configuration that already has it.
pub fn client_config(authority_pem: &str, own: Option<&KeyedCertificate>) -> Result<ClientConfig, Error> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(authority_pem)?);
    Ok(match own {
        Some(own) => builder.with_client_auth_cert(own.chain()?, own.private_key()?)?,
        None => builder.with_no_client_auth(),
    })
}
