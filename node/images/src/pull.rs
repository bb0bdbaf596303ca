//! Pulling an image: manifest, configuration, layers, then the record that makes it an image here.
use crate::artifact::digest_of;
use crate::blobs::Expect;
use crate::error::blocking;
use crate::index::LayerRecord;
use crate::manifest::{self, Descriptor, Document, Manifest, Shape};
use crate::pace::{MIN_BYTES, TooSlow, WINDOW, paced};
use crate::repository::Repository;
use crate::store::{Images, Pins};
use crate::{Credential, Error, ImageRecord, Kind, Progress, ProgressFn, Reference, RunConfig, layer, wasm};
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Which variant of an image to take where there are both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prefer {
    #[default]
    Wasm,
    Linux,
}

/// How to pull.
#[derive(Clone, Default)]
pub struct PullOptions {
    pub credential: Credential,
    pub prefer: Prefer,
    pub progress: Option<ProgressFn>,
    /// The interfaces that this node offers to components ([`machinery::interface::track`]s). An artifact whose
    /// configuration tells of another import is refused before its layer is fetched. `None` looks at no imports.
    pub offers: Option<Arc<[String]>>,
}

/// Counts bytes over all blobs of a pull.
struct Meter {
    done: AtomicU64,
    total: u64,
    progress: Option<ProgressFn>,
}

impl Meter {
    fn add(&self, bytes: u64, phase: &'static str) {
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Some(progress) = &self.progress {
            progress(Progress { done_bytes: done, total_bytes: self.total, phase });
        }
    }
}

/// One pull: whom to ask, and for what.
struct Source<'a> {
    repository: Repository<'a>,
    reference: &'a Reference,
}

impl Images {
    /// Pulls an image. Blobs that are here are not fetched again; blobs that another pull fetches now are waited for.
    pub async fn pull(&self, reference: &str, options: &PullOptions) -> Result<Arc<ImageRecord>, Error> {
        let reference: Reference = reference.parse()?;
        // What a digest names never changes.
        if let Some(record) = reference.digest().and_then(|_| self.get(&reference.key())) {
            return Ok(record);
        }
        let credential = &options.credential;
        let endpoint = self.inner.registries.endpoint(&reference).await?;
        let repository = Repository::new(endpoint, &reference, credential);
        let pulled = self.pull_from(&Source { repository, reference: &reference }, options).await;
        if matches!(
            pulled,
            Err(Error::Unauthorized { .. } | Error::Unreachable { .. } | Error::Registry { .. })
        ) {
            self.inner.registries.forget(&reference);
        }
        pulled
    }

    async fn pull_from(&self, source: &Source<'_>, options: &PullOptions) -> Result<Arc<ImageRecord>, Error> {
        let name = source.reference.to_string();
        let mut pins = self.inner.pins();
        let mut references = BTreeSet::from([source.reference.key()]);
        let mut blobs = BTreeSet::new();

        let (mut body, mut digest) = self.manifest(source, source.reference).await?;
        let mut document = manifest::parse(&name, &body)?;
        if let Document::Index(index) = &document {
            let chosen = source.reference.with_digest(index.choose(&name, options.prefer)?);
            references.insert(source.reference.with_digest(&digest).to_string());
            pins.add(&digest);
            blobs.insert(self.inner.blobs.put(body, "an image index").await?);
            (body, digest) = self.manifest(source, &chosen).await?;
            document = manifest::parse(&name, &body)?;
        }
        let Document::Manifest(manifest) = document else {
            let reason = "its index names another index".to_string();
            return Err(Error::Unsupported { reference: name, reason });
        };
        references.insert(source.reference.with_digest(&digest).to_string());
        pins.add(&digest);
        blobs.insert(self.inner.blobs.put(body, "a manifest").await?);

        if let Some(offers) = options.offers.as_deref().filter(|_| manifest::is_wasm(&manifest)) {
            self.check_imports(source, &manifest, &mut pins, offers).await?;
        }
        self.fetch_all(source, &manifest, &mut pins, &options.progress).await?;
        blobs.insert(manifest.config.digest.clone());
        blobs.extend(manifest.layers.iter().map(|layer| layer.digest.clone()));

        let config = self.inner.blobs.read(&manifest.config.digest, "an image configuration").await?;
        let shape = manifest::shape(&name, &manifest, &config)?;
        let size_bytes = manifest.config.size + manifest.layers.iter().map(|layer| layer.size).sum::<u64>();
        let (kind, config) = match shape {
            Shape::Wasm { layer } => {
                let path = self.inner.blobs.path(&layer.digest);
                let what = name.clone();
                blocking(move || wasm::check_file(&path, &what)).await?;
                (Kind::Wasm { digest: layer.digest }, RunConfig::default())
            }
            Shape::Compat { path } => {
                let digest = self.extract(&name, &manifest, path, &mut pins).await?;
                blobs.insert(digest.clone());
                (Kind::Wasm { digest }, manifest::parse_config(&name, &config)?.run_config())
            }
            Shape::Linux => {
                let config = manifest::parse_config(&name, &config)?;
                let layers = layer_records(&manifest, &config.rootfs.diff_ids);
                for layer in &layers {
                    pins.add(&layer.chain_id);
                }
                (Kind::Linux { layers }, config.run_config())
            }
        };
        let record = ImageRecord { id: digest, references, kind, config, size_bytes, blobs };
        // Not being root is said when a container is to be made of it, not here.
        if matches!(record.kind, Kind::Linux { .. }) && nix::unistd::geteuid().is_root() {
            if let Some(progress) = &options.progress {
                progress(Progress { done_bytes: size_bytes, total_bytes: size_bytes, phase: "unpacking" });
            }
            self.ensure_unpacked(&record).await?;
        }
        self.keep(record).await
    }

    /// Writes the record: from here on the image is here.
    pub(crate) async fn keep(&self, record: ImageRecord) -> Result<Arc<ImageRecord>, Error> {
        let inner = self.inner.clone();
        blocking(move || inner.state.lock().index.insert(record)).await
    }

    async fn manifest(&self, source: &Source<'_>, reference: &Reference) -> Result<(Vec<u8>, String), Error> {
        let limit = self.inner.config.limits.document_bytes;
        let body = source.repository.manifest(reference, manifest::ACCEPTED, limit).await?;
        let actual = digest_of(&body);
        if let Some(expected) = reference.digest().filter(|expected| *expected != actual) {
            let (what, expected) = (format!("the manifest of {reference}"), expected.to_string());
            return Err(Error::DigestMismatch { what, expected, actual });
        }
        Ok((body, actual))
    }

    /// Reads the configuration of a wasm artifact, and refuses what this node cannot run.
    async fn check_imports(
        &self,
        source: &Source<'_>,
        manifest: &Manifest,
        pins: &mut Pins<'_>,
        offers: &[String],
    ) -> Result<(), Error> {
        let (size, limit) = (manifest.config.size, self.inner.config.limits.document_bytes);
        if size > limit {
            let what = format!("{} of {}", what_is(&manifest.config), source.reference);
            return Err(Error::TooLarge { what, size, limit });
        }
        pins.add(&manifest.config.digest);
        let meter = Meter { done: AtomicU64::new(0), total: size, progress: None };
        self.fetch(source, manifest.config.clone(), &meter).await?;
        let config = self.inner.blobs.read(&manifest.config.digest, "an image configuration").await?;
        let imports = manifest::imports(&config);
        let offers: Vec<&str> = offers.iter().map(String::as_str).collect();
        match machinery::interface::missing(imports.iter().map(String::as_str), &offers) {
            None => Ok(()),
            Some(import) => Err(Error::ImportNotOffered {
                reference: source.reference.to_string(),
                import: import.to_owned(),
            }),
        }
    }

    /// Fetches configuration and layers that are not here, several at a time.
    async fn fetch_all(
        &self,
        source: &Source<'_>,
        manifest: &Manifest,
        pins: &mut Pins<'_>,
        progress: &Option<ProgressFn>,
    ) -> Result<(), Error> {
        let limits = self.inner.config.limits;
        let descriptors: Vec<(Descriptor, u64)> =
            std::iter::once((manifest.config.clone(), limits.document_bytes))
                .chain(manifest.layers.iter().map(|layer| {
                    let tar = manifest::compression(&layer.media_type).is_some();
                    (layer.clone(), if tar { limits.layer_bytes } else { limits.wasm_bytes })
                }))
                .collect();
        for (descriptor, limit) in &descriptors {
            if descriptor.size > *limit {
                let what = format!("{} of {}", what_is(descriptor), source.reference);
                return Err(Error::TooLarge { what, size: descriptor.size, limit: *limit });
            }
            pins.add(&descriptor.digest);
        }
        let total = descriptors.iter().map(|(descriptor, _)| descriptor.size).sum();
        let meter = Meter { done: AtomicU64::new(0), total, progress: progress.clone() };
        meter.add(0, "pulling");
        // Futures made one by one: a closure that borrows would not be Send for every lifetime.
        let mut fetches = Vec::with_capacity(descriptors.len());
        for (descriptor, _) in descriptors {
            fetches.push(self.fetch(source, descriptor, &meter));
        }
        futures::stream::iter(fetches)
            .buffer_unordered(self.inner.config.limits.parallel_blobs.max(1))
            .try_collect::<()>()
            .await
    }

    async fn fetch(&self, source: &Source<'_>, descriptor: Descriptor, meter: &Meter) -> Result<(), Error> {
        let blobs = &self.inner.blobs;
        let _flight = blobs.flight(&descriptor.digest).await;
        if blobs.has(&descriptor.digest) {
            meter.add(descriptor.size, "pulling");
            return Ok(());
        }
        let _slot = self.inner.downloads.acquire().await.map_err(|_| Error::ShuttingDown)?;
        let what = format!("{} {} of {}", what_is(&descriptor), descriptor.digest, source.reference);
        let registry = source.reference.registry();
        let too_slow = || Error::Unreachable {
            registry: registry.to_string(),
            reason: format!(
                "it sent less than {} KiB of {what} in {} seconds",
                MIN_BYTES / 1024,
                WINDOW.as_secs()
            ),
        };
        let broken = |e: reqwest::Error| Error::Unreachable {
            registry: registry.to_string(),
            reason: format!("the connection broke while it sent {what} ({e})"),
        };
        let stream = paced(source.repository.blob(&descriptor.digest).await?).map(|piece| match piece {
            Ok(piece) => piece.map_err(broken),
            Err(TooSlow) => Err(too_slow()),
        });
        // The manifest said how large it is: more would be another blob.
        let expect = Expect { what: &what, digest: Some(&descriptor.digest), limit: descriptor.size };
        blobs.ingest(stream, expect, |bytes| meter.add(bytes, "pulling")).await.map_err(|e| match e {
            Error::TooLarge { what, .. } => Error::Registry {
                registry: registry.to_string(),
                reason: format!("it sent more than the {} bytes announced for {what}", descriptor.size),
            },
            other => other,
        })?;
        Ok(())
    }

    /// Takes the wasm file out of an ordinary image's layers; the highest layer that has it wins.
    async fn extract(
        &self,
        name: &str,
        manifest: &Manifest,
        path: Option<String>,
        pins: &mut Pins<'_>,
    ) -> Result<String, Error> {
        let limit = self.inner.config.limits.wasm_bytes;
        for layer in manifest.layers.iter().rev() {
            let Some(compression) = manifest::compression(&layer.media_type) else { continue };
            let blob = self.inner.blobs.path(&layer.digest);
            let target = crate::blobs::Temporary { path: self.inner.blobs.temporary() };
            let (digest, wanted, to) = (layer.digest.clone(), path.clone(), target.path.clone());
            let found = blocking(move || {
                layer::extract_wasm(&blob, &digest, compression, wanted.as_deref(), &to, limit)
            })
            .await?;
            if !found {
                continue;
            }
            let (what, from) = (name.to_string(), target.path.clone());
            blocking(move || wasm::check_file(&from, &what)).await?;
            let bytes =
                tokio::fs::read(&target.path).await.map_err(Error::io("reading the extracted file"))?;
            pins.add(&digest_of(&bytes));
            return self.inner.blobs.put(bytes, "the extracted file").await;
        }
        let reason = match path {
            Some(path) => format!("it says it is WebAssembly, but holds no file {path}"),
            None => "it says it is WebAssembly, but holds no .wasm file".to_string(),
        };
        Err(Error::Unsupported { reference: name.to_string(), reason })
    }
}

fn what_is(descriptor: &Descriptor) -> &'static str {
    if descriptor.media_type.contains("config") { "configuration" } else { "layer" }
}

/// Layers with their chain ids: the first is its diff id, each next the digest of the chain so far and its own.
fn layer_records(manifest: &Manifest, diff_ids: &[String]) -> Vec<LayerRecord> {
    let mut chain: Option<String> = None;
    let mut records = Vec::with_capacity(diff_ids.len());
    for (layer, diff_id) in manifest.layers.iter().zip(diff_ids) {
        let chain_id = match &chain {
            None => diff_id.clone(),
            Some(below) => digest_of(format!("{below} {diff_id}").as_bytes()),
        };
        chain = Some(chain_id.clone());
        let (media_type, digest) = (layer.media_type.clone(), layer.digest.clone());
        records.push(LayerRecord { media_type, digest, diff_id: diff_id.clone(), chain_id });
    }
    records
}
