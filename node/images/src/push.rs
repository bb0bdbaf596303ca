//! Pushing a wasm file to a registry as a CNCF wasm artifact.
use crate::artifact::{self, ComponentInfo, Document, digest_of};
use crate::manifest::OCI_MANIFEST;
use crate::registry::{Registries, explain};
use crate::{Credential, Error, Form, Progress, ProgressFn, Reference, RegistryConfig};
use bytes::Bytes;
use futures::StreamExt;
use oci_client::client::Client;
use oci_client::errors::OciDistributionError;
use std::collections::BTreeMap;

/// How to push.
#[derive(Clone, Default)]
pub struct PushOptions {
    pub credential: Credential,
    /// What the component wants and gives, if it is one and somebody looked.
    pub component: Option<ComponentInfo>,
    /// RFC 3339; left out, the same file gives the same artifact.
    pub created: Option<String>,
    pub annotations: BTreeMap<String, String>,
    pub progress: Option<ProgressFn>,
}

/// What was pushed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    pub reference: Reference,
    /// The digest of the manifest: the image's id on every node.
    pub digest: String,
    pub form: Form,
}

/// Pieces in which progress is told.
const PIECE: usize = 256 * 1024;

/// Pushes `wasm` to `reference`. Blobs the registry has are not sent again.
pub async fn push_wasm(
    registries: &RegistryConfig,
    reference: &str,
    wasm: Bytes,
    options: &PushOptions,
) -> Result<Pushed, Error> {
    let reference: Reference = reference.parse()?;
    if reference.digest().is_some() {
        let reason = "push to a tag: the digest follows from the content".to_string();
        return Err(Error::InvalidReference { reference: reference.to_string(), reason });
    }
    let form =
        Form::of_bytes(&wasm).map_err(|reason| Error::NotWasm { what: "the file".to_string(), reason })?;
    let layer = digest_of(&wasm);
    let size = wasm.len() as u64;
    let (created, annotations) = (options.created.as_deref(), options.annotations.clone());
    let (config, manifest) =
        artifact::documents(&layer, size, form, options.component.as_ref(), created, annotations)
            .map_err(|e| Error::io("describing the file")(e.into()))?;

    let registries = Registries::new(registries.clone());
    let client = registries.client(&reference, &options.credential).await?;
    let push = Push { client, reference: &reference, options };
    push.blob(Document { bytes: wasm.to_vec(), digest: layer }, true).await?;
    push.blob(config, false).await?;
    let digest = manifest.digest.clone();
    push.manifest(manifest).await?;
    Ok(Pushed { reference, digest, form })
}

struct Push<'a> {
    client: Client,
    reference: &'a Reference,
    options: &'a PushOptions,
}

impl Push<'_> {
    fn explain(&self, error: OciDistributionError) -> Error {
        explain(error, self.reference, &self.options.credential)
    }

    async fn blob(&self, blob: Document, tell: bool) -> Result<(), Error> {
        let total = blob.bytes.len() as u64;
        let progress = self.options.progress.clone().filter(|_| tell);
        let tell = move |done_bytes| {
            if let Some(progress) = &progress {
                progress(Progress { done_bytes, total_bytes: total, phase: "pushing" });
            }
        };
        let reference = self.reference.oci();
        if self.client.blob_exists(reference, &blob.digest).await.map_err(|e| self.explain(e))? {
            tell(total);
            return Ok(());
        }
        tell(0);
        let mut bytes = Bytes::from(blob.bytes);
        let pieces =
            std::iter::from_fn(move || (!bytes.is_empty()).then(|| bytes.split_to(bytes.len().min(PIECE))));
        let mut sent = 0;
        let pieces = futures::stream::iter(pieces).map(move |piece| {
            sent += piece.len() as u64;
            tell(sent);
            Ok(piece)
        });
        self.client
            .push_blob_stream(reference, pieces, &blob.digest, Some(total))
            .await
            .map_err(|e| self.explain(e))?;
        Ok(())
    }

    async fn manifest(&self, manifest: Document) -> Result<(), Error> {
        let content_type = http::HeaderValue::from_static(OCI_MANIFEST);
        self.client
            .push_manifest_raw(self.reference.oci(), manifest.bytes, content_type)
            .await
            .map_err(|e| self.explain(e))?;
        Ok(())
    }
}
