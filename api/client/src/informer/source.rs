//! What an informer asks the API server for.
use super::{Object, Selection};
use http::HeaderValue;
use http::header::ACCEPT;
use kube::api::{ApiResource, DynamicObject, ListParams, TypeMeta, WatchParams};
use kube::core::{ObjectList, PartialObjectMeta, Request, WatchEvent};
use kube::{Client, Resource};
use std::sync::Arc;

/// Objects in one page of a list: what kube-rs and client-go ask for.
const PAGE: u32 = 500;

/// How long the server keeps one watch open. kube-rs refuses 295 s and more, the read timeout of its sockets.
pub(super) const WATCH_SECONDS: u32 = 290;

/// Asks for metadata alone; a server that cannot answers with whole objects, of which only metadata is read.
const METADATA: HeaderValue = HeaderValue::from_static(
    "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
);
const METADATA_EVENTS: HeaderValue =
    HeaderValue::from_static("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json");

/// Lists and watches one selection of one kind.
pub(super) struct Source<K> {
    path: String,
    selection: Selection,
    metadata_only: bool,
    /// Makes an object what the store holds: without managedFields (they are half of a small object and no
    /// reader of an informer wants them), with its kind, and typed ones as copies. What was read from JSON has room
    /// to spare in every list, four places for a pod's one container; a copy is half as large.
    finish: Arc<dyn Fn(&mut K) + Send + Sync>,
}

impl<K: Object + Resource<DynamicType = ()>> Source<K> {
    pub(super) fn typed(selection: Selection) -> Self {
        Self {
            path: K::url_path(&(), selection.namespace.as_deref()),
            selection,
            metadata_only: false,
            finish: Arc::new(|o| {
                o.meta_mut().managed_fields = None;
                *o = o.clone();
            }),
        }
    }
}

impl Source<DynamicObject> {
    pub(super) fn dynamic(resource: &ApiResource) -> Self {
        let types = types_of(resource);
        Self {
            path: DynamicObject::url_path(resource, None),
            selection: Selection::default(),
            metadata_only: false,
            finish: Arc::new(move |o| {
                o.metadata.managed_fields = None;
                o.types = Some(types.clone());
            }),
        }
    }
}

impl Source<PartialObjectMeta<DynamicObject>> {
    pub(super) fn metadata(resource: &ApiResource) -> Self {
        let types = types_of(resource);
        Self {
            path: DynamicObject::url_path(resource, None),
            selection: Selection::default(),
            metadata_only: true,
            finish: Arc::new(move |o| {
                o.metadata.managed_fields = None;
                o.types = Some(types.clone());
            }),
        }
    }
}

fn types_of(resource: &ApiResource) -> TypeMeta {
    TypeMeta { api_version: resource.api_version.clone(), kind: resource.kind.clone() }
}

impl<K: Object> Source<K> {
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn selection(&self) -> &Selection {
        &self.selection
    }

    /// Every object, page after page, and the resource version they had together.
    pub(super) async fn list(&self, client: &Client) -> Result<(Vec<K>, String), kube::Error> {
        let mut params = ListParams {
            label_selector: self.selection.labels.clone(),
            field_selector: self.selection.fields.clone(),
            limit: Some(PAGE),
            ..ListParams::default()
        };
        let mut items = Vec::new();
        loop {
            let mut request = Request::new(&self.path).list(&params).map_err(kube::Error::BuildRequest)?;
            if self.metadata_only {
                request.headers_mut().insert(ACCEPT, METADATA);
            }
            let page: ObjectList<K> = client.request(request).await?;
            items.extend(page.items.into_iter().map(|mut o| {
                (self.finish)(&mut o);
                o
            }));
            match page.metadata.continue_.filter(|c| !c.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => return Ok((items, page.metadata.resource_version.unwrap_or_default())),
            }
        }
    }

    /// The events after `version`.
    pub(super) async fn watch(
        &self,
        client: &Client,
        version: &str,
    ) -> Result<impl futures::Stream<Item = Result<WatchEvent<K>, kube::Error>> + use<K>, kube::Error> {
        use futures::StreamExt;
        let params = WatchParams {
            label_selector: self.selection.labels.clone(),
            field_selector: self.selection.fields.clone(),
            timeout: Some(WATCH_SECONDS),
            bookmarks: true,
            send_initial_events: false,
        };
        let mut request =
            Request::new(&self.path).watch(&params, version).map_err(kube::Error::BuildRequest)?;
        if self.metadata_only {
            request.headers_mut().insert(ACCEPT, METADATA_EVENTS);
        }
        let finish = self.finish.clone();
        Ok(client.request_events::<K>(request).await?.map(
            move |result: Result<WatchEvent<K>, kube::Error>| {
                result.map(|mut event| {
                    if let WatchEvent::Added(o) | WatchEvent::Modified(o) | WatchEvent::Deleted(o) =
                        &mut event
                    {
                        finish(o);
                    }
                    event
                })
            },
        ))
    }
}
