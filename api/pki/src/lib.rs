//! Who is who: the cluster's certificate authority, the certificates it signs, and the TLS settings made of them.
//!
//! Purpose: the only crate that makes keys and certificates. Everyone else asks for a [`KeyedCertificate`] or for
//! a rustls configuration.
//!
//! Invariant: `ensure_*` may be called at any time and any number of times: what is there and good is kept, what
//! is missing, foreign or about to expire is made anew, and a private key is never readable by anyone else, not
//! even for a moment. Time comes in as an argument.
//!
//! ```text
//!   ensure_authority ──► Authority ──► ensure_serving / ensure_client ──► KeyedCertificate (PEM)
//!        ca.crt ca.key                     <stem>.crt <stem>.key               │
//!                                                                              ▼
//!   peer_identity(DER) ──► CN = user, O = groups             server_config / client_config · kubeconfig
//! ```
pub mod authority;
pub mod certificate;
pub mod files;
pub mod kubeconfig;
pub mod service_account;
pub mod tls;

pub use authority::{Authority, Subject};
pub use certificate::{Error as CertificateError, KeyedCertificate, PeerIdentity, peer_identity};
pub use files::{
    Error, ensure_authority, ensure_client, ensure_service_account_key, ensure_serving, write_private,
};
pub use kubeconfig::kubeconfig;
pub use service_account::ServiceAccountKey;
pub use tls::{client_config, server_config};
