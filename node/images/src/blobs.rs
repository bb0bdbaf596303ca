//! The content-addressed store: `blobs/sha256/<hex>`.
use crate::Error;
use crate::error::blocking;
use crate::manifest::hex_of;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::AsyncWriteExt;

/// Where blobs lie.
pub(crate) struct Blobs {
    directory: PathBuf,
    temporary: PathBuf,
    counter: AtomicU64,
    /// Who fetches which digest now; the others wait for it and then find the blob.
    flights: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>,
}

/// What a stream must turn out to be.
pub(crate) struct Expect<'a> {
    /// For errors.
    pub(crate) what: &'a str,
    /// `None` takes any content.
    pub(crate) digest: Option<&'a str>,
    pub(crate) limit: u64,
}

/// A temporary file that goes away unless it was kept.
pub(crate) struct Temporary {
    pub(crate) path: PathBuf,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Kept files were renamed: nothing is there then. Left-overs are swept at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The right to fetch one digest.
pub(crate) struct Flight<'a> {
    blobs: &'a Blobs,
    digest: String,
    _guard: tokio::sync::OwnedMutexGuard<()>,
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let mut flights = self.blobs.flights.lock();
        // The map and the guard: nobody waits.
        if flights.get(&self.digest).is_some_and(|flight| Arc::strong_count(flight) <= 2) {
            flights.remove(&self.digest);
        }
    }
}

impl Blobs {
    /// Opens the store below `root`, throwing away what an earlier process left half-done.
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        let (directory, temporary) = (root.join("blobs/sha256"), root.join("tmp"));
        if temporary.exists() {
            std::fs::remove_dir_all(&temporary)
                .map_err(Error::io(format!("emptying {}", temporary.display())))?;
        }
        for directory in [&directory, &temporary] {
            std::fs::create_dir_all(directory)
                .map_err(Error::io(format!("making {}", directory.display())))?;
        }
        Ok(Self { directory, temporary, counter: AtomicU64::new(0), flights: Mutex::default() })
    }

    /// Where a blob lies or would lie. Digests were checked when they were read; anything else finds nothing.
    pub(crate) fn path(&self, digest: &str) -> PathBuf {
        self.directory.join(hex_of(digest).unwrap_or("invalid"))
    }

    pub(crate) fn has(&self, digest: &str) -> bool {
        self.path(digest).is_file()
    }

    /// A path in the temporary directory that nobody else has.
    pub(crate) fn temporary(&self) -> PathBuf {
        self.temporary.join(self.counter.fetch_add(1, Ordering::Relaxed).to_string())
    }

    /// Waits until nobody else fetches `digest`.
    pub(crate) async fn flight(&self, digest: &str) -> Flight<'_> {
        let flight = self.flights.lock().entry(digest.to_string()).or_default().clone();
        let guard = flight.lock_owned().await;
        Flight { blobs: self, digest: digest.to_string(), _guard: guard }
    }

    /// Takes a stream in, checking size and digest on the way; `seen` is told how many bytes came. Gives digest and
    /// size. On any error nothing is left.
    pub(crate) async fn ingest<S>(
        &self,
        mut stream: S,
        expect: Expect<'_>,
        mut seen: impl FnMut(u64),
    ) -> Result<(String, u64), Error>
    where
        S: Stream<Item = Result<Bytes, Error>> + Unpin,
    {
        let writing = || Error::io(format!("writing {}", expect.what));
        // The thread that makes the file removes it, too, if nobody waits for it any more.
        let (temporary, create) = (Temporary { path: self.temporary() }, writing());
        let (temporary, file) = blocking(move || {
            let file = std::fs::File::create(&temporary.path).map_err(create)?;
            Ok((temporary, file))
        })
        .await?;
        let mut file = tokio::fs::File::from_std(file);
        let (mut hash, mut size) = (Sha256::new(), 0u64);
        while let Some(piece) = stream.next().await {
            let piece = piece?;
            size += piece.len() as u64;
            if size > expect.limit {
                return Err(Error::TooLarge { what: expect.what.to_string(), size, limit: expect.limit });
            }
            hash.update(&piece);
            file.write_all(&piece).await.map_err(writing())?;
            seen(piece.len() as u64);
        }
        let actual = format!("sha256:{}", hex::encode(hash.finalize()));
        if let Some(expected) = expect.digest.filter(|expected| *expected != actual) {
            let (what, expected) = (expect.what.to_string(), expected.to_string());
            return Err(Error::DigestMismatch { what, expected, actual });
        }
        // The name promises the content, also on a full disk: only `flush` tells how the last write in the background
        // went, `sync_all` keeps that to itself. And also after a power cut.
        file.flush().await.map_err(writing())?;
        file.sync_all().await.map_err(writing())?;
        drop(file);
        tokio::fs::rename(&temporary.path, self.path(&actual)).await.map_err(writing())?;
        Ok((actual, size))
    }

    /// Takes in bytes at hand.
    pub(crate) async fn put(&self, bytes: Vec<u8>, what: &str) -> Result<String, Error> {
        let digest = crate::artifact::digest_of(&bytes);
        if !self.has(&digest) {
            let limit = bytes.len() as u64;
            let stream = futures::stream::iter([Ok(Bytes::from(bytes))]);
            self.ingest(stream, Expect { what, digest: None, limit }, |_| {}).await?;
        }
        Ok(digest)
    }

    pub(crate) async fn read(&self, digest: &str, what: &str) -> Result<Vec<u8>, Error> {
        tokio::fs::read(self.path(digest)).await.map_err(Error::io(format!("reading {what}")))
    }

    /// The digests of all blobs here.
    pub(crate) fn list(&self) -> io::Result<Vec<String>> {
        let mut digests = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            if let Ok(name) = entry?.file_name().into_string() {
                digests.push(format!("sha256:{name}"));
            }
        }
        Ok(digests)
    }

    pub(crate) fn remove(&self, digest: &str) -> io::Result<()> {
        match std::fs::remove_file(self.path(digest)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_blob_that_the_disk_had_no_room_for_is_not_kept() {
        let directory = tempfile::tempdir().unwrap();
        let blobs = Blobs::open(directory.path()).unwrap();
        // A disk that is always full, where the next temporary file will be.
        std::os::unix::fs::symlink("/dev/full", directory.path().join("tmp/0")).unwrap();
        let error = blobs.put(b"content".to_vec(), "a blob").await.unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        assert!(format!("{error} {source}").contains("No space left"), "{error} {source}");
        assert!(!blobs.has(&crate::artifact::digest_of(b"content")));
    }
}
