//! What the server serves, in the one version of each group it prefers.
use crate::error::{Doing, Error};
use client::kube::Client;
use client::kube::api::ApiResource;

/// One kind of object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Served {
    pub(crate) resource: ApiResource,
    pub(crate) namespaced: bool,
    pub(crate) verbs: Vec<String>,
}

impl Served {
    pub(crate) fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
}

/// Every kind, subresources left out; sorted by group and kind, so that whoever walks them does so in the same
/// order each time.
pub(crate) async fn served(client: &Client) -> Result<Vec<Served>, Error> {
    let mut all = Vec::new();
    let groups = client.list_api_groups().await.doing(|| "discover API groups".into())?;
    let core = client.list_core_api_resources("v1").await.doing(|| "discover the core API".into())?;
    let mut lists = vec![("v1".to_owned(), core)];
    for group in groups.groups {
        let preferred = group.preferred_version.as_ref().or_else(|| group.versions.first());
        let Some(version) = preferred.map(|v| v.group_version.clone()) else { continue };
        let list = client
            .list_api_group_resources(&version)
            .await
            .doing(|| format!("discover the API group {version}"))?;
        lists.push((version, list));
    }
    for (group_version, list) in lists {
        let (group, version) = group_version.split_once('/').unwrap_or(("", &group_version));
        for r in list.resources.into_iter().filter(|r| !r.name.contains('/')) {
            all.push(Served {
                resource: ApiResource {
                    group: group.to_owned(),
                    version: version.to_owned(),
                    api_version: group_version.clone(),
                    kind: r.kind,
                    plural: r.name,
                },
                namespaced: r.namespaced,
                verbs: r.verbs,
            });
        }
    }
    all.sort_by(|a, b| (&a.resource.group, &a.resource.kind).cmp(&(&b.resource.group, &b.resource.kind)));
    Ok(all)
}
