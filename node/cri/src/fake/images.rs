//! The fake as an image service.
use super::FakeRuntime;
use crate::types::*;
use crate::{ByteStream, Error, ImageService};
use async_trait::async_trait;
use futures::TryStreamExt;

fn name(spec: &Option<ImageSpec>) -> Result<&str, Error> {
    match spec {
        Some(spec) if !spec.image.is_empty() => Ok(&spec.image),
        _ => Err(Error::InvalidArgument("the request names no image".into())),
    }
}

fn image(reference: &str, id: &str) -> Image {
    let by_tag = !reference.contains('@');
    Image {
        id: id.to_string(),
        repo_tags: by_tag.then(|| reference.to_string()).into_iter().collect(),
        repo_digests: (!by_tag).then(|| reference.to_string()).into_iter().collect(),
        size: 1 << 20,
        spec: Some(ImageSpec { image: id.to_string(), ..Default::default() }),
        ..Default::default()
    }
}

#[async_trait]
impl ImageService for FakeRuntime {
    async fn list_images(&self, request: ListImagesRequest) -> Result<ListImagesResponse, Error> {
        self.inner.called("ListImages", "")?;
        let wanted = request.filter.and_then(|f| f.image).map(|i| i.image).filter(|i| !i.is_empty());
        let state = self.inner.state.lock();
        let images = state
            .images
            .iter()
            .filter(|(reference, id)| wanted.as_ref().is_none_or(|w| w == *reference || w == *id))
            .map(|(reference, id)| image(reference, id))
            .collect();
        Ok(ListImagesResponse { images })
    }

    async fn image_status(&self, request: ImageStatusRequest) -> Result<ImageStatusResponse, Error> {
        let name = name(&request.image)?;
        self.inner.called("ImageStatus", name)?;
        let state = self.inner.state.lock();
        let image = state.image(name).map(|(reference, id)| image(reference, id));
        Ok(ImageStatusResponse { image, ..Default::default() })
    }

    async fn pull_image(&self, request: PullImageRequest) -> Result<PullImageResponse, Error> {
        let name = name(&request.image)?;
        self.inner.called("PullImage", name)?;
        let script = self.inner.script_of_image(name);
        tokio::time::sleep(script.pull_takes).await;
        match script.pull_error {
            Some(error) => Err(error),
            None => Ok(PullImageResponse { image_ref: self.inner.state.lock().add_image(name) }),
        }
    }

    async fn remove_image(&self, request: RemoveImageRequest) -> Result<RemoveImageResponse, Error> {
        let name = name(&request.image)?.to_string();
        self.inner.called("RemoveImage", &name)?;
        let mut state = self.inner.state.lock();
        state.images.retain(|reference, id| *reference != name && *id != name);
        Ok(RemoveImageResponse {})
    }

    async fn image_fs_info(&self, _: ImageFsInfoRequest) -> Result<ImageFsInfoResponse, Error> {
        self.inner.called("ImageFsInfo", "")?;
        let used = (self.inner.state.lock().images.len() as u64) << 20;
        let usage = FilesystemUsage {
            timestamp: self.inner.now(),
            fs_id: Some(FilesystemIdentifier { mountpoint: "/fake".into() }),
            used_bytes: Some(UInt64Value { value: used }),
            inodes_used: Some(UInt64Value { value: 1 }),
        };
        Ok(ImageFsInfoResponse { image_filesystems: vec![usage], container_filesystems: Vec::new() })
    }

    async fn import_image(
        &self,
        reference: String,
        mut file: ByteStream,
    ) -> Result<ImportImageResponse, Error> {
        self.inner.called("ImportImage", &reference)?;
        let mut size = 0;
        while let Some(piece) = file.try_next().await? {
            size += piece.len();
        }
        if size == 0 {
            return Err(Error::InvalidArgument(format!("the file for {reference} is empty")));
        }
        let image_ref = self.inner.state.lock().add_image(&reference);
        Ok(ImportImageResponse { image_ref, reference })
    }
}
