//! The images of this node: opening, looking up, unpacking, removing.
use crate::blobs::Blobs;
use crate::error::blocking;
use crate::index::Index;
use crate::layer::{self, LayerLimits};
use crate::manifest;
use crate::registry::Registries;
use crate::{Error, ImageRecord, Kind, RegistryConfig};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// How images are kept.
#[derive(Clone, Debug)]
pub struct Config {
    pub root_dir: PathBuf,
    pub registries: RegistryConfig,
    pub limits: Limits,
}

impl Config {
    pub fn new(root_dir: impl Into<PathBuf>) -> Self {
        Self { root_dir: root_dir.into(), registries: RegistryConfig::default(), limits: Limits::default() }
    }
}

/// What an image may be at most.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// A manifest or a configuration. Registries themselves take 4 MiB.
    pub document_bytes: u64,
    /// A wasm file. Compiling needs many times its size: Python components have 18 MB, the largest seen 60 MB.
    pub wasm_bytes: u64,
    /// A compressed layer. Images with models in them reach 10 GB.
    pub layer_bytes: u64,
    /// What a layer unpacks to.
    pub unpacked_bytes: u64,
    /// Files in a layer; full distributions have some 300,000.
    pub layer_entries: u64,
    /// Blobs fetched at the same time, over all images. Docker fetches 3 for each pull.
    pub parallel_blobs: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            document_bytes: 4 << 20,
            wasm_bytes: 256 << 20,
            layer_bytes: 16 << 30,
            unpacked_bytes: 64 << 30,
            layer_entries: 1_000_000,
            parallel_blobs: 6,
        }
    }
}

/// Where an image's content lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    Wasm {
        path: PathBuf,
        digest: String,
    },
    Linux {
        /// Lowest first.
        layers: Vec<PathBuf>,
    },
}

/// The room images take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub bytes: u64,
    pub files: u64,
}

/// The images of this node. Clones are the same store.
#[derive(Clone)]
pub struct Images {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) blobs: Blobs,
    pub(crate) registries: Registries,
    pub(crate) downloads: Semaphore,
    pub(crate) state: Mutex<State>,
    /// One unpacking of a chain at a time; the next then finds it.
    unpacking: tokio::sync::Mutex<()>,
}

pub(crate) struct State {
    pub(crate) index: Index,
    /// Blobs and layers of pulls under way, with how many want each: no sweep takes them.
    pinned: BTreeMap<String, usize>,
}

/// Keeps blobs from being swept until their record is written.
pub(crate) struct Pins<'a> {
    inner: &'a Inner,
    names: Vec<String>,
}

impl Pins<'_> {
    pub(crate) fn add(&mut self, name: &str) {
        *self.inner.state.lock().pinned.entry(name.to_string()).or_default() += 1;
        self.names.push(name.to_string());
    }
}

impl Drop for Pins<'_> {
    fn drop(&mut self) {
        let mut state = self.inner.state.lock();
        for name in &self.names {
            if let Some(count) = state.pinned.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    state.pinned.remove(name);
                }
            }
        }
    }
}

impl Inner {
    pub(crate) fn pins(&self) -> Pins<'_> {
        Pins { inner: self, names: Vec::new() }
    }

    fn layers_dir(&self) -> PathBuf {
        self.config.root_dir.join("layers")
    }

    fn layer_path(&self, chain_id: &str) -> PathBuf {
        self.layers_dir().join(manifest::hex_of(chain_id).unwrap_or("invalid"))
    }
}

impl Images {
    /// Opens the store below `config.root_dir`; the caller sees to it that nobody else does.
    pub fn open(config: Config) -> Result<Self, Error> {
        let root = config.root_dir.clone();
        std::fs::create_dir_all(root.join("layers"))
            .map_err(Error::io(format!("making {}", root.display())))?;
        // Layers hold set-user-id programs of whoever made the image: no other user may reach them.
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&root, private)
            .map_err(Error::io(format!("protecting {}", root.display())))?;
        let state = State { index: Index::open(&root)?, pinned: BTreeMap::new() };
        let inner = Inner {
            blobs: Blobs::open(&root)?,
            registries: Registries::new(config.registries.clone()),
            downloads: Semaphore::new(config.limits.parallel_blobs.max(1)),
            state: Mutex::new(state),
            unpacking: tokio::sync::Mutex::default(),
            config,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// An image by id, or by a name in short or full form.
    pub fn get(&self, name: &str) -> Option<Arc<ImageRecord>> {
        self.inner.state.lock().index.find(name).cloned()
    }

    /// All images, by id.
    pub fn list(&self) -> Vec<Arc<ImageRecord>> {
        self.inner.state.lock().index.records().cloned().collect()
    }

    /// Where an image's content lies; unpacks layers that are not unpacked yet (for which one must be root).
    pub async fn content(&self, record: &ImageRecord) -> Result<Content, Error> {
        match &record.kind {
            Kind::Wasm { digest } => {
                let path = self.inner.blobs.path(digest);
                if !path.is_file() {
                    return Err(Error::NotHere(record.id.clone()));
                }
                Ok(Content::Wasm { path, digest: digest.clone() })
            }
            Kind::Linux { .. } => Ok(Content::Linux { layers: self.ensure_unpacked(record).await? }),
        }
    }

    /// Unpacks what is not unpacked. Gives the directories, lowest first.
    pub(crate) async fn ensure_unpacked(&self, record: &ImageRecord) -> Result<Vec<PathBuf>, Error> {
        let Kind::Linux { layers } = &record.kind else { return Ok(Vec::new()) };
        let paths: Vec<PathBuf> = layers.iter().map(|layer| self.inner.layer_path(&layer.chain_id)).collect();
        if paths.iter().all(|path| path.is_dir()) {
            return Ok(paths);
        }
        let _one = self.inner.unpacking.lock().await;
        let limits = LayerLimits {
            bytes: self.inner.config.limits.unpacked_bytes,
            entries: self.inner.config.limits.layer_entries,
        };
        for (i, layer) in layers.iter().enumerate() {
            if paths[i].is_dir() {
                continue;
            }
            let Some(compression) = manifest::compression(&layer.media_type) else {
                let reason = format!("the media type {:?} is unknown", layer.media_type);
                return Err(Error::BadLayer { digest: layer.digest.clone(), reason });
            };
            let (inner, layer, lower, path) =
                (self.inner.clone(), layer.clone(), paths[..i].to_vec(), paths[i].clone());
            blocking(move || {
                let temporary = inner.blobs.temporary();
                let blob = inner.blobs.path(&layer.digest);
                let unpacked = layer::unpack(
                    &blob,
                    &layer.digest,
                    &layer.diff_id,
                    compression,
                    &temporary,
                    &lower,
                    limits,
                );
                let kept = unpacked.and_then(|_| keep_directory(&temporary, &path));
                if kept.is_err() {
                    // The error that matters is the first one; what is left is swept at the next start.
                    let _ = std::fs::remove_dir_all(&temporary);
                }
                kept
            })
            .await?;
        }
        Ok(paths)
    }

    /// Removes an image with all its names, then everything nothing refers to. Says whether it was here.
    pub async fn remove(&self, name: &str) -> Result<bool, Error> {
        let inner = self.inner.clone();
        let name = name.to_string();
        let removed = blocking(move || {
            let mut state = inner.state.lock();
            let Some(id) = state.index.find(&name).map(|record| record.id.clone()) else { return Ok(false) };
            state.index.remove(&id)?;
            Ok(true)
        })
        .await?;
        if removed {
            self.sweep().await?;
        }
        Ok(removed)
    }

    /// Removes blobs and layers that no record refers to and no pull wants.
    pub async fn sweep(&self) -> Result<(), Error> {
        let inner = self.inner.clone();
        blocking(move || {
            let sweeping = || Error::io("sweeping unreferenced blobs");
            let mut doomed = Vec::new();
            {
                // Under the lock nobody can pin what is being taken away.
                let state = inner.state.lock();
                let keep = plan_keep(state.index.records().map(AsRef::as_ref), state.pinned.keys());
                for digest in inner.blobs.list().map_err(sweeping())? {
                    if !keep.contains(&digest) {
                        inner.blobs.remove(&digest).map_err(sweeping())?;
                    }
                }
                for entry in std::fs::read_dir(inner.layers_dir()).map_err(sweeping())? {
                    let entry = entry.map_err(sweeping())?;
                    let chain = format!("sha256:{}", entry.file_name().to_string_lossy());
                    if !keep.contains(&chain) {
                        let away = inner.blobs.temporary();
                        std::fs::rename(entry.path(), &away).map_err(sweeping())?;
                        doomed.push(away);
                    }
                }
            }
            // Deleting many files takes long: without the lock.
            for directory in doomed {
                std::fs::remove_dir_all(&directory).map_err(sweeping())?;
            }
            Ok(())
        })
        .await
    }

    /// The room taken: the blobs as they are on disk, and unpacked layers by the size of what they were unpacked from
    /// (walking hundreds of thousands of files for an exact figure would cost more than it tells).
    pub async fn usage(&self) -> Result<Usage, Error> {
        let inner = self.inner.clone();
        blocking(move || {
            let mut usage = Usage::default();
            for digest in inner.blobs.list().map_err(Error::io("listing blobs"))? {
                if let Ok(meta) = std::fs::metadata(inner.blobs.path(&digest)) {
                    usage.bytes += meta.len();
                    usage.files += 1;
                }
            }
            let state = inner.state.lock();
            let linux = state.index.records().filter(|record| matches!(record.kind, Kind::Linux { .. }));
            usage.bytes += linux.map(|record| record.size_bytes).sum::<u64>();
            Ok(usage)
        })
        .await
    }

    pub fn root_dir(&self) -> &Path {
        &self.inner.config.root_dir
    }
}

/// What must stay: everything a record names and everything pinned. Pure.
fn plan_keep<'a>(
    records: impl Iterator<Item = &'a ImageRecord>,
    pinned: impl Iterator<Item = &'a String>,
) -> BTreeSet<String> {
    let mut keep: BTreeSet<String> = pinned.cloned().collect();
    for record in records {
        keep.extend(record.blobs.iter().cloned());
        match &record.kind {
            Kind::Wasm { digest } => {
                keep.insert(digest.clone());
            }
            Kind::Linux { layers } => keep.extend(layers.iter().map(|layer| layer.chain_id.clone())),
        }
    }
    keep
}

/// Makes a finished directory visible: its content reaches the disk before its name does.
fn keep_directory(temporary: &Path, path: &Path) -> Result<(), Error> {
    let keep = || -> std::io::Result<()> {
        nix::unistd::syncfs(std::fs::File::open(temporary)?)?;
        std::fs::rename(temporary, path)
    };
    keep().map_err(Error::io("keeping an unpacked layer"))
}
