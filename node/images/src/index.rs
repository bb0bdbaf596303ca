//! What is known of the images here: records, kept in one small file that is replaced as a whole.
use crate::{Error, Reference};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An image on this node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The digest of its manifest.
    pub id: String,
    /// Its names in their full form, by tag and by digest.
    pub references: BTreeSet<String>,
    pub kind: Kind,
    pub config: RunConfig,
    /// What its blobs and unpacked layers take.
    pub size_bytes: u64,
    /// Every blob that must stay while this image does.
    pub blobs: BTreeSet<String>,
}

/// What an image holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Wasm {
        /// The blob that is the wasm file.
        digest: String,
    },
    Linux {
        /// Lowest first.
        layers: Vec<LayerRecord>,
    },
}

/// A layer of a Linux image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    pub media_type: String,
    pub digest: String,
    /// The digest of the tar within.
    pub diff_id: String,
    /// The digest of this layer on top of those below: where it lies unpacked.
    pub chain_id: String,
}

/// What an image says about how it is run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunConfig {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// `NAME=value`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
}

impl ImageRecord {
    /// Names by tag.
    pub fn tags(&self) -> impl Iterator<Item = &String> {
        self.references.iter().filter(|reference| !reference.contains('@'))
    }

    /// Names by digest.
    pub fn digests(&self) -> impl Iterator<Item = &String> {
        self.references.iter().filter(|reference| reference.contains('@'))
    }
}

/// All records, in memory and on disk.
pub(crate) struct Index {
    path: PathBuf,
    /// By id.
    records: BTreeMap<String, Arc<ImageRecord>>,
}

#[derive(Default, Deserialize)]
struct File {
    images: Vec<ImageRecord>,
}

#[derive(Serialize)]
struct FileRef<'a> {
    images: Vec<&'a ImageRecord>,
}

impl Index {
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        let path = root.join("index.json");
        let file: File = match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|source| Error::DamagedIndex { path: path.clone(), source })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => File::default(),
            Err(e) => return Err(Error::io(format!("reading {}", path.display()))(e)),
        };
        let records = file.images.into_iter().map(|record| (record.id.clone(), Arc::new(record))).collect();
        Ok(Self { path, records })
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = &Arc<ImageRecord>> {
        self.records.values()
    }

    /// Finds an image by id or by any of its names, short ones included.
    pub(crate) fn find(&self, name: &str) -> Option<&Arc<ImageRecord>> {
        if let Some(record) = self.records.get(name) {
            return Some(record);
        }
        let key = name.parse::<Reference>().ok()?.key();
        self.records.values().find(|record| record.references.contains(&key))
    }

    /// Adds a record, or its names to the one there is; a name it has no other image keeps.
    pub(crate) fn insert(&mut self, mut record: ImageRecord) -> Result<Arc<ImageRecord>, Error> {
        let mut records = self.records.clone();
        for other in records.values_mut() {
            if other.id != record.id && !other.references.is_disjoint(&record.references) {
                let mut without = (**other).clone();
                without.references.retain(|reference| !record.references.contains(reference));
                *other = Arc::new(without);
            }
        }
        if let Some(before) = records.get(&record.id) {
            record.references.extend(before.references.iter().cloned());
            record.blobs.extend(before.blobs.iter().cloned());
        }
        let record = Arc::new(record);
        records.insert(record.id.clone(), record.clone());
        self.replace(records)?;
        Ok(record)
    }

    /// Removes an image with all its names.
    pub(crate) fn remove(&mut self, id: &str) -> Result<(), Error> {
        let mut records = self.records.clone();
        if records.remove(id).is_some() {
            self.replace(records)?;
        }
        Ok(())
    }

    /// Disk first: what memory says is what a restart will find.
    fn replace(&mut self, records: BTreeMap<String, Arc<ImageRecord>>) -> Result<(), Error> {
        let file = FileRef { images: records.values().map(AsRef::as_ref).collect() };
        let saving = || Error::io(format!("saving {}", self.path.display()));
        let bytes = serde_json::to_vec(&file).map_err(|e| saving()(e.into()))?;
        let temporary = self.path.with_extension("json.new");
        let write = || -> std::io::Result<()> {
            let mut new = std::fs::File::create(&temporary)?;
            new.write_all(&bytes)?;
            new.sync_all()?;
            std::fs::rename(&temporary, &self.path)
        };
        write().map_err(saving())?;
        self.records = records;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, references: &[&str]) -> ImageRecord {
        ImageRecord {
            id: id.into(),
            references: references.iter().map(|r| r.parse::<Reference>().unwrap().key()).collect(),
            kind: Kind::Wasm { digest: "sha256:w".into() },
            config: RunConfig::default(),
            size_bytes: 1,
            blobs: BTreeSet::from([id.to_string()]),
        }
    }

    #[test]
    fn a_tag_that_moves_leaves_its_old_image_without_that_name() {
        let directory = tempfile::tempdir().unwrap();
        let mut index = Index::open(directory.path()).unwrap();
        index.insert(record("sha256:1", &["app:1", "app:latest"])).unwrap();
        index.insert(record("sha256:2", &["app:latest"])).unwrap();
        assert_eq!(index.find("app").unwrap().id, "sha256:2");
        assert_eq!(index.find("docker.io/library/app:1").unwrap().id, "sha256:1");
        index.insert(record("sha256:2", &["other"])).unwrap();
        let reopened = Index::open(directory.path()).unwrap();
        assert_eq!(reopened.find("app").unwrap().id, "sha256:2");
        assert_eq!(reopened.find("other").unwrap().id, "sha256:2");
        assert_eq!(reopened.find("sha256:1").unwrap().tags().count(), 1);
    }

    #[test]
    fn a_damaged_index_is_refused_and_left_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("index.json");
        std::fs::write(&path, "{\"images\": [").unwrap();
        let error = Index::open(directory.path()).err().expect("an error").to_string();
        assert!(error.contains("damaged") && error.contains("move the image directory"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "{\"images\": [");
    }
}
