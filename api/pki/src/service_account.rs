//! The key pair that signs service account tokens (upstream's `sa.key` and `sa.pub`). ECDSA P-256: tokens are ES256.
use crate::authority::new_key;
use crate::certificate::Error;
use rcgen::KeyPair;

/// A signing key, as PEM (PKCS #8 and SubjectPublicKeyInfo).
#[derive(Clone, PartialEq, Eq)]
pub struct ServiceAccountKey {
    pub private_pem: String,
    pub public_pem: String,
}

impl std::fmt::Debug for ServiceAccountKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceAccountKey").field("public_pem", &self.public_pem).finish_non_exhaustive()
    }
}

impl ServiceAccountKey {
    pub fn generate() -> Result<Self, Error> {
        Ok(Self::of(&new_key()?))
    }
    pub fn from_pem(private_pem: &str) -> Result<Self, Error> {
        let key = KeyPair::from_pem(private_pem)
            .map_err(|source| Error::Make { what: "service account key from PEM", source })?;
        Ok(Self::of(&key))
    }
    fn of(key: &KeyPair) -> Self {
        Self { private_pem: key.serialize_pem(), public_pem: key.public_key_pem() }
    }
}
