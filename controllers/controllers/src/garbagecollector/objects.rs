//! Reading and changing objects of any kind by their metadata, at the server.
use super::graph::{GroupKind, Node};
use crate::discovery::Served;
use crate::error::{Doing, Error};
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use client::kube::Client;
use client::kube::api::{
    Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy,
};
use serde_json::json;
use std::collections::HashMap;

/// The kinds the server serves, and a way to reach their objects.
pub(crate) struct Objects {
    client: Client,
    kinds: HashMap<GroupKind, Served>,
}

impl Objects {
    pub(crate) fn new(client: Client, served: &[Served]) -> Self {
        let kinds = served
            .iter()
            .map(|s| (GroupKind::of(&s.resource.api_version, &s.resource.kind), s.clone()))
            .collect();
        Self { client, kinds }
    }

    fn kind(&self, kind: &GroupKind) -> Result<&Served, Error> {
        self.kinds
            .get(kind)
            .ok_or_else(|| Error::UnknownKind { api_version: kind.group.clone(), kind: kind.kind.clone() })
    }

    pub(crate) fn is_namespaced(&self, kind: &GroupKind) -> Result<bool, Error> {
        Ok(self.kind(kind)?.namespaced)
    }

    fn api(&self, kind: &GroupKind, namespace: &str) -> Result<Api<DynamicObject>, Error> {
        let served = self.kind(kind)?;
        Ok(if served.namespaced {
            Api::namespaced_with(self.client.clone(), namespace, &served.resource)
        } else {
            Api::all_with(self.client.clone(), &served.resource)
        })
    }

    /// The live metadata; `None` if there is no such object.
    pub(crate) async fn read(
        &self,
        kind: &GroupKind,
        namespace: &str,
        name: &str,
    ) -> Result<Option<ObjectMeta>, Error> {
        let found = self.api(kind, namespace)?.get_opt(name).await;
        Ok(found.doing(|| format!("read {} {namespace}/{name}", kind.kind))?.map(|o| o.metadata))
    }

    /// Deletes the very object that was read.
    pub(crate) async fn delete(
        &self,
        node: &Node,
        live: &ObjectMeta,
        policy: PropagationPolicy,
    ) -> Result<(), Error> {
        let params = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(Preconditions {
                uid: live.uid.clone(),
                resource_version: live.resource_version.clone(),
            }),
            ..DeleteParams::default()
        };
        match self.api(&node.kind, &node.namespace)?.delete(&node.name, &params).await {
            Ok(_) => Ok(()),
            Err(error) if client::is_not_found(&error) => Ok(()),
            Err(error) => {
                Err(error).doing(|| format!("delete {} {}/{}", node.kind.kind, node.namespace, node.name))
            }
        }
    }

    pub(crate) async fn set_owners(
        &self,
        node: &Node,
        live: &ObjectMeta,
        owners: &[OwnerReference],
    ) -> Result<Option<ObjectMeta>, Error> {
        self.patch(node, live, json!({ "ownerReferences": Some(owners).filter(|o| !o.is_empty()) })).await
    }

    pub(crate) async fn drop_finalizer(
        &self,
        node: &Node,
        live: &ObjectMeta,
        finalizer: &str,
    ) -> Result<(), Error> {
        let all = live.finalizers.clone().unwrap_or_default();
        if !all.iter().any(|f| f == finalizer) {
            return Ok(());
        }
        let left: Vec<&String> = all.iter().filter(|f| *f != finalizer).collect();
        self.patch(node, live, json!({ "finalizers": Some(left).filter(|l| !l.is_empty()) }))
            .await
            .map(|_| ())
    }

    /// Merges metadata into the version that was read; `None` if the object is gone.
    async fn patch(
        &self,
        node: &Node,
        live: &ObjectMeta,
        mut metadata: serde_json::Value,
    ) -> Result<Option<ObjectMeta>, Error> {
        metadata["uid"] = json!(live.uid);
        metadata["resourceVersion"] = json!(live.resource_version);
        let patch = Patch::Merge(json!({ "metadata": metadata }));
        match self.api(&node.kind, &node.namespace)?.patch(&node.name, &PatchParams::default(), &patch).await
        {
            Ok(object) => Ok(Some(object.metadata)),
            Err(error) if client::is_not_found(&error) => Ok(None),
            Err(error) => {
                Err(error).doing(|| format!("change {} {}/{}", node.kind.kind, node.namespace, node.name))
            }
        }
    }
}
