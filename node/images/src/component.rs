//! What a component in a registry imports and exports, read from its configuration: some kilobytes, nothing is kept.
use crate::manifest::{self, Document};
use crate::registry::{Registries, explain};
use crate::{ComponentInfo, Credential, Error, Limits, Prefer, Reference, RegistryConfig};
use futures::TryStreamExt;
use oci_client::RegistryOperation;
use oci_client::manifest::OciDescriptor;

/// What the artifact's configuration says of its component; `None` if it is no wasm artifact, or does not say.
pub async fn component_of(
    registries: &RegistryConfig,
    reference: &str,
    credential: &Credential,
) -> Result<Option<ComponentInfo>, Error> {
    let reference: Reference = reference.parse()?;
    let name = reference.to_string();
    let limit = Limits::default().document_bytes;
    let client =
        Registries::new(registries.clone()).client(&reference, credential, RegistryOperation::Pull).await?;
    let failed = |e| explain(e, &reference, credential);
    let manifest_of = async |reference: &Reference| {
        let pulled = client.pull_manifest_raw(reference.oci(), &credential.oci(), manifest::ACCEPTED).await;
        let (body, _) = pulled.map_err(failed)?;
        let size = body.len() as u64;
        match size > limit {
            true => Err(Error::TooLarge { what: format!("the manifest of {reference}"), size, limit }),
            false => manifest::parse(&name, &body),
        }
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
    let wanted = OciDescriptor {
        media_type: manifest.config.media_type.clone(),
        digest: manifest.config.digest.clone(),
        size: i64::try_from(size).unwrap_or(i64::MAX),
        ..OciDescriptor::default()
    };
    let mut pieces = client.pull_blob_stream(reference.oci(), &wanted).await.map_err(failed)?;
    let mut config = Vec::new();
    while let Some(piece) = pieces.try_next().await.map_err(Error::io("reading a configuration"))? {
        config.extend_from_slice(&piece);
        if config.len() as u64 > size {
            return Err(Error::TooLarge { what, size: config.len() as u64, limit: size });
        }
    }
    Ok(manifest::component(&config))
}
