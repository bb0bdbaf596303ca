//! The runtime as CRI's ImageService.
use crate::error::{from_images, from_shim};
use crate::open::{Inner, Runtime};
use ::images::{Content, Credential, ImageRecord, Kind, Prefer, PullOptions};
use async_trait::async_trait;
use cri::*;
use futures::StreamExt;
use shim::{ImageContent, ImageKind};
use std::sync::Arc;

/// Who compiles in advance: people, not a namespace. No namespace has such a name.
const PRECOMPILE_TENANT: &str = "*pull";

fn name(spec: Option<ImageSpec>) -> Result<(String, String), Error> {
    match spec {
        Some(spec) if !spec.image.is_empty() => Ok((spec.image, spec.runtime_handler)),
        _ => Err(Error::InvalidArgument("the request names no image".into())),
    }
}

fn image(record: &ImageRecord) -> Image {
    let kind = match record.kind {
        Kind::Wasm { .. } => "wasm",
        Kind::Linux { .. } => "linux",
    };
    let user = record.config.user.split(':').next().unwrap_or_default();
    let uid = user.parse().ok().map(|value| Int64Value { value });
    Image {
        id: record.id.clone(),
        repo_tags: record.tags().cloned().collect(),
        repo_digests: record.digests().cloned().collect(),
        size: record.size_bytes,
        username: if uid.is_none() { user.to_string() } else { String::new() },
        uid,
        spec: Some(ImageSpec {
            image: record.id.clone(),
            annotations: [(IMAGE_KIND_ANNOTATION.to_string(), kind.to_string())].into(),
            ..Default::default()
        }),
        pinned: false,
    }
}

/// Credentials as the kubelet hands them on from an imagePullSecret.
fn credential(auth: Option<AuthConfig>) -> Result<Credential, Error> {
    let Some(auth) = auth else { return Ok(Credential::Anonymous) };
    if !auth.registry_token.is_empty() {
        return Ok(Credential::Token(auth.registry_token));
    }
    if !auth.username.is_empty() {
        return Ok(Credential::Basic { username: auth.username, password: auth.password });
    }
    if !auth.auth.is_empty() {
        return Credential::from_basic_auth(&auth.auth).map_err(Error::InvalidArgument);
    }
    match auth.identity_token.is_empty() {
        true => Ok(Credential::Anonymous),
        false => Err(Error::InvalidArgument(
            "identity tokens are not supported: use a password or an access token".into(),
        )),
    }
}

/// An image that is being removed, until this is dropped.
struct DoomedImage {
    inner: Arc<Inner>,
    id: String,
}

impl Drop for DoomedImage {
    fn drop(&mut self) {
        self.inner.state.lock().undoom_image(&self.id);
    }
}

impl Runtime {
    async fn precompile(&self, record: &ImageRecord) -> Result<(), Error> {
        let kind = Inner::shim_kind(&record.kind);
        let Some(shim) = self.inner.config.shims.iter().find(|shim| shim.image_kind() == kind) else {
            return Ok(());
        };
        let content = match self.inner.images.content(record).await.map_err(from_images)? {
            Content::Wasm { path, digest } => ImageContent::Wasm { path, digest },
            Content::Linux { layers } => ImageContent::Linux { layers },
        };
        shim.prepare(&content, PRECOMPILE_TENANT).await.map_err(from_shim)
    }
}

#[async_trait]
impl ImageService for Runtime {
    async fn list_images(&self, request: ListImagesRequest) -> Result<ListImagesResponse, Error> {
        let wanted =
            request.filter.and_then(|filter| filter.image).map(|spec| spec.image).filter(|i| !i.is_empty());
        let records = match wanted {
            Some(name) => self.inner.images.get(&name).into_iter().collect(),
            None => self.inner.images.list(),
        };
        Ok(ListImagesResponse { images: records.iter().map(|record| image(record)).collect() })
    }

    async fn image_status(&self, request: ImageStatusRequest) -> Result<ImageStatusResponse, Error> {
        let (name, _) = name(request.image)?;
        let image = self.inner.images.get(&name).map(|record| image(&record));
        if image.is_none() {
            // What can name no image never will be here: the kubelet need not try to pull it.
            name.parse::<::images::Reference>().map_err(from_images)?;
        }
        Ok(ImageStatusResponse { image, info: Default::default() })
    }

    async fn pull_image(&self, request: PullImageRequest) -> Result<PullImageResponse, Error> {
        let wants_precompile =
            request.image.as_ref().is_some_and(|image| image.annotations.contains_key(PRECOMPILE_ANNOTATION));
        let (name, handler) = name(request.image)?;
        let shim = self.inner.config.shims.iter().find(|shim| shim.handler() == handler);
        let prefer = match shim.map(|shim| shim.image_kind()) {
            Some(ImageKind::Linux) => Prefer::Linux,
            Some(ImageKind::Wasm) | None => Prefer::Wasm,
        };
        let offers = self.inner.config.shims.iter().flat_map(|shim| shim.offers()).collect();
        let options = PullOptions {
            credential: credential(request.auth)?,
            prefer,
            progress: None,
            offers: Some(offers),
        };
        let record = self.inner.images.pull(&name, &options).await.map_err(from_images)?;
        if wants_precompile {
            self.precompile(&record).await?;
        }
        Ok(PullImageResponse { image_ref: record.id.clone() })
    }

    async fn remove_image(&self, request: RemoveImageRequest) -> Result<RemoveImageResponse, Error> {
        let (name, _) = name(request.image)?;
        let Some(record) = self.inner.images.get(&name) else { return Ok(RemoveImageResponse {}) };
        self.inner
            .state
            .lock()
            .doom_image(&record.id)
            .map_err(|who| Error::FailedPrecondition(format!("image {name} is in use by {who}")))?;
        let doomed = DoomedImage { inner: self.inner.clone(), id: record.id.clone() };
        self.detached(async move {
            doomed.inner.images.remove(&doomed.id).await.map_err(from_images)?;
            Ok(RemoveImageResponse {})
        })
        .await
    }

    async fn image_fs_info(&self, _: ImageFsInfoRequest) -> Result<ImageFsInfoResponse, Error> {
        let usage = self.inner.images.usage().await.map_err(from_images)?;
        let mountpoint = self.inner.images.root_dir().display().to_string();
        let usage = FilesystemUsage {
            timestamp: self.now(),
            fs_id: Some(FilesystemIdentifier { mountpoint }),
            used_bytes: Some(UInt64Value { value: usage.bytes }),
            inodes_used: Some(UInt64Value { value: usage.files }),
        };
        Ok(ImageFsInfoResponse { image_filesystems: vec![usage.clone()], container_filesystems: vec![usage] })
    }

    async fn import_image(&self, reference: String, file: ByteStream) -> Result<ImportImageResponse, Error> {
        let file = file.map(|piece| {
            piece.map_err(|error| ::images::Error::Io {
                what: "receiving the file".to_string(),
                source: std::io::Error::other(error.to_string()),
            })
        });
        let record = self.inner.images.import_wasm(&reference, file).await.map_err(from_images)?;
        // An empty reference was given a name.
        let full = match reference.is_empty() {
            true => record.tags().next().cloned().unwrap_or_default(),
            false => reference.parse::<::images::Reference>().map_err(from_images)?.to_string(),
        };
        Ok(ImportImageResponse { image_ref: record.id.clone(), reference: full })
    }
}
