//! Making an image of a wasm file, without a registry.
use crate::blobs::Expect;
use crate::error::blocking;
use crate::store::Images;
use crate::{Error, ImageRecord, Kind, Reference, RunConfig, artifact, wasm};
use bytes::Bytes;
use futures::Stream;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl Images {
    /// Takes a wasm file in under `reference`; an empty one becomes `localhost/imported:<digest>`. The same file
    /// under the same name is the same image, however often it comes.
    pub async fn import_wasm<S>(&self, reference: &str, file: S) -> Result<Arc<ImageRecord>, Error>
    where
        S: Stream<Item = Result<Bytes, Error>> + Unpin,
    {
        // A name that cannot be is refused before megabytes are sent.
        let named =
            Some(reference).filter(|name| !name.is_empty()).map(str::parse::<Reference>).transpose()?;
        if let Some(reference) = named.as_ref().filter(|reference| reference.digest().is_some()) {
            let reason = "a file gets a name with a tag, not with a digest".to_string();
            return Err(Error::InvalidReference { reference: reference.to_string(), reason });
        }
        let what = named.as_ref().map_or_else(|| "the file".to_string(), Reference::to_string);
        let limit = self.inner.config.limits.wasm_bytes;
        let mut pins = self.inner.pins();
        let expect = Expect { what: &what, digest: None, limit };
        let (digest, size) = self.inner.blobs.ingest(file, expect, |_| {}).await?;
        pins.add(&digest);
        let (path, name) = (self.inner.blobs.path(&digest), what.clone());
        let form = match blocking(move || wasm::check_file(&path, &name)).await {
            Ok(form) => form,
            Err(error) => {
                drop(pins);
                self.sweep().await?;
                return Err(error);
            }
        };
        let (config, manifest) = artifact::documents(&digest, size, form, None, None, BTreeMap::new())
            .map_err(|e| Error::io("describing the file")(e.into()))?;
        let reference = match named {
            Some(reference) => reference,
            None => format!("localhost/imported:{}", &digest["sha256:".len()..][..12]).parse()?,
        };
        pins.add(&config.digest);
        pins.add(&manifest.digest);
        let config_digest = self.inner.blobs.put(config.bytes, "a configuration").await?;
        let id = self.inner.blobs.put(manifest.bytes, "a manifest").await?;
        let references = BTreeSet::from([reference.key(), reference.with_digest(&id).to_string()]);
        let blobs = BTreeSet::from([digest.clone(), config_digest, id.clone()]);
        let kind = Kind::Wasm { digest };
        self.keep(ImageRecord { id, references, kind, config: RunConfig::default(), size_bytes: size, blobs })
            .await
    }
}
