//! Carrying out a claim: adopting an orphan, letting go of what no longer matches.
use crate::error::{Doing, Error};
use crate::owner::{self, Claim};
use client::k8s_openapi::NamespaceResourceScope;
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use client::kube::api::{Api, Patch, PatchParams};
use client::kube::{Client, Resource};
use client::{Object, ObjectKey};
use serde_json::json;
use std::sync::Arc;

/// Who claims.
pub(crate) struct Claimant<'a> {
    pub(crate) meta: &'a ObjectMeta,
    pub(crate) selector: &'a LabelSelector,
    pub(crate) reference: OwnerReference,
}

/// The candidates that `who` controls, after adopting and releasing what has to be. `O` is the owner's kind:
/// before the first adoption it is read afresh, so that an owner that is gone, or another by now, adopts nothing.
pub(crate) async fn claim<O, K>(
    client: &Client,
    who: &Claimant<'_>,
    candidates: Vec<Arc<K>>,
) -> Result<Vec<Arc<K>>, Error>
where
    O: Object + Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    K: Object + Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let mut owned = Vec::new();
    let mut verified = false;
    for candidate in candidates {
        match owner::plan_claim(who.meta, who.selector, candidate.meta()) {
            Claim::Ignore => {}
            Claim::Owned => owned.push(candidate),
            Claim::Adopt => {
                if !verified {
                    verify_owner::<O>(client, who.meta).await?;
                    verified = true;
                }
                let mut references = candidate.meta().owner_references.clone().unwrap_or_default();
                references.push(who.reference.clone());
                if let Some(adopted) = set_references(client, &*candidate, references).await? {
                    owned.push(Arc::new(adopted));
                }
            }
            Claim::Release => {
                let mut references = candidate.meta().owner_references.clone().unwrap_or_default();
                references.retain(|r| r.uid != who.reference.uid);
                set_references(client, &*candidate, references).await?;
            }
        }
    }
    Ok(owned)
}

async fn verify_owner<O>(client: &Client, meta: &ObjectMeta) -> Result<(), Error>
where
    O: Object + Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let key =
        ObjectKey::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default());
    let api: Api<O> = Api::namespaced(client.clone(), &key.namespace);
    let live = api.get(&key.name).await.doing(|| format!("read {key} before adopting"))?;
    if live.meta().uid != meta.uid || live.meta().deletion_timestamp.is_some() {
        return Err(Error::Replaced(key));
    }
    Ok(())
}

/// Writes owner references against the version that was seen; `None` if the object is gone.
async fn set_references<K>(
    client: &Client,
    object: &K,
    references: Vec<OwnerReference>,
) -> Result<Option<K>, Error>
where
    K: Object + Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    let key = ObjectKey::of(object);
    let api: Api<K> = Api::namespaced(client.clone(), &key.namespace);
    let patch = json!({ "metadata": {
        "uid": object.meta().uid,
        "resourceVersion": object.meta().resource_version,
        "ownerReferences": Some(references).filter(|r| !r.is_empty()),
    }});
    match api.patch(&key.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        Ok(patched) => Ok(Some(patched)),
        Err(error) if client::is_not_found(&error) => Ok(None),
        Err(error) => Err(error).doing(|| format!("change the owner of {key}")),
    }
}
