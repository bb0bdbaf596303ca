//! What a component in a registry imports and exports, read from its configuration: some kilobytes, nothing is kept.
use crate::manifest::{self, Document};
use crate::registry::Registries;
use crate::repository::Repository;
use crate::{ComponentInfo, Credential, Error, Limits, Prefer, Reference, RegistryConfig};
use futures::TryStreamExt;

/// What the artifact's configuration says of its component; `None` if it is no wasm artifact, or does not say.
pub async fn component_of(
    registries: &RegistryConfig,
    reference: &str,
    credential: &Credential,
) -> Result<Option<ComponentInfo>, Error> {
    let reference: Reference = reference.parse()?;
    let name = reference.to_string();
    let limit = Limits::default().document_bytes;
    let endpoint = Registries::new(registries.clone()).endpoint(&reference).await?;
    let repository = Repository::new(endpoint, &reference, credential);
    let manifest_of = async |reference: &Reference| {
        let body = repository.manifest(reference, manifest::ACCEPTED, limit).await?;
        manifest::parse(&name, &body)
    };
    let mut document = manifest_of(&reference).await?;
    if let Document::Index(index) = &document {
        let chosen = reference.with_digest(index.choose(&name, Prefer::Wasm)?);
        document = manifest_of(&chosen).await?;
    }
    let Document::Manifest(manifest) = document else { return Ok(None) };
    if !manifest::is_wasm(&manifest) {
        return Ok(None);
    }
    let (what, size) = (format!("the configuration of {reference}"), manifest.config.size);
    if size > limit {
        return Err(Error::TooLarge { what, size, limit });
    }
    let mut pieces = repository.blob(&manifest.config.digest).await?;
    let mut config = Vec::new();
    while let Some(piece) = pieces.try_next().await.map_err(|e| repository.broken(e))? {
        config.extend_from_slice(&piece);
        if config.len() as u64 > size {
            return Err(Error::TooLarge { what, size: config.len() as u64, limit: size });
        }
    }
    Ok(manifest::component(&config))
}
