//! Kinds as the server describes them: `po`, `pod`, `pods`, `deployments.apps` to a path.
use crate::connect::{Connection, explain};
use anyhow::{Result, bail};
use http::Request;
use serde_json::Value;

/// A resource the server has.
#[derive(Clone, Debug)]
pub(crate) struct Resource {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) namespaced: bool,
}

impl Resource {
    pub(crate) fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }

    /// `deployment.apps/NAME`, as kubectl prints what it did.
    pub(crate) fn name_of(&self, name: &str) -> String {
        if self.group.is_empty() {
            format!("{}/{name}", self.singular)
        } else {
            format!("{}.{}/{name}", self.singular, self.group)
        }
    }

    /// The path of the collection; in all namespaces with `None`.
    pub(crate) fn path(&self, namespace: Option<&str>) -> String {
        let base = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        match namespace {
            Some(namespace) if self.namespaced => format!("{base}/namespaces/{namespace}/{}", self.plural),
            _ => format!("{base}/{}", self.plural),
        }
    }

    fn answers_to(&self, word: &str) -> bool {
        let (word, group) = match word.split_once('.') {
            Some((word, group)) => (word, Some(group)),
            None => (word, None),
        };
        let named = [&self.plural, &self.singular].iter().any(|n| n.eq_ignore_ascii_case(word))
            || self.short_names.iter().any(|n| n == word)
            || self.kind.eq_ignore_ascii_case(word);
        named && group.is_none_or(|g| g == self.group || g == format!("{}.{}", self.version, self.group))
    }
}

const DISCOVERY: &str =
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

/// Everything the server has.
pub(crate) struct Resources(Vec<Resource>);

impl Resources {
    /// Asks the server: two requests (aggregated discovery).
    pub(crate) async fn discover(connection: &Connection) -> Result<Self> {
        let mut all = Vec::new();
        for path in ["/api", "/apis"] {
            let request = Request::get(path).header(http::header::ACCEPT, DISCOVERY).body(Vec::new())?;
            let document: Value = connection.client.request(request).await.map_err(explain)?;
            read(&document, &mut all);
        }
        Ok(Self(all))
    }

    /// The resource a word means.
    pub(crate) fn find(&self, word: &str) -> Result<&Resource> {
        match self.0.iter().find(|r| r.answers_to(word)) {
            Some(resource) => Ok(resource),
            None => bail!(
                "the server doesn't have a resource type {word:?}; `dhow api-resources` lists what it has"
            ),
        }
    }

    /// The resources a word means: `all` and other categories are several, and so are words with commas.
    pub(crate) fn find_many(&self, words: &str) -> Result<Vec<&Resource>> {
        let mut found = Vec::new();
        for word in words.split(',') {
            let category: Vec<_> = self.0.iter().filter(|r| r.categories.iter().any(|c| c == word)).collect();
            if category.is_empty() {
                found.push(self.find(word)?);
            } else {
                found.extend(category);
            }
        }
        Ok(found)
    }

    /// The resource of an object.
    pub(crate) fn of(&self, object: &Value) -> Result<&Resource> {
        let (version, kind) = (object["apiVersion"].as_str(), object["kind"].as_str());
        let (Some(version), Some(kind)) = (version, kind) else {
            bail!("an object must have apiVersion and kind");
        };
        match self.0.iter().find(|r| r.api_version() == version && r.kind == kind) {
            Some(resource) => Ok(resource),
            None => bail!("no matches for kind {kind:?} in version {version:?}"),
        }
    }

    pub(crate) fn all(&self) -> &[Resource] {
        &self.0
    }
}

/// Takes the resources out of an APIGroupDiscoveryList.
fn read(document: &Value, into: &mut Vec<Resource>) {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let texts = |v: &Value| v.as_array().into_iter().flatten().map(&text).collect::<Vec<_>>();
    for group in document["items"].as_array().into_iter().flatten() {
        for version in group["versions"].as_array().into_iter().flatten() {
            for resource in version["resources"].as_array().into_iter().flatten() {
                into.push(Resource {
                    group: text(&group["metadata"]["name"]),
                    version: text(&version["version"]),
                    kind: text(&resource["responseKind"]["kind"]),
                    plural: text(&resource["resource"]),
                    singular: text(&resource["singularResource"]),
                    short_names: texts(&resource["shortNames"]),
                    categories: texts(&resource["categories"]),
                    namespaced: resource["scope"] == "Namespaced",
                });
            }
        }
    }
}

/// A kind and names from words like `pod a b`, `pod/a pod/b`, `deploy`.
pub(crate) fn targets<'a>(
    resources: &'a Resources,
    words: &[String],
) -> Result<Vec<(&'a Resource, Option<String>)>> {
    let Some(first) = words.first() else { bail!("name a resource, for example `pods` or `pod/NAME`") };
    if words.iter().any(|w| w.contains('/')) {
        return words
            .iter()
            .map(|word| match word.split_once('/') {
                Some((kind, name)) => Ok((resources.find(kind)?, Some(name.to_owned()))),
                None => bail!("{word:?} has no slash: name either KIND NAME… or KIND/NAME…"),
            })
            .collect();
    }
    let kinds = resources.find_many(first)?;
    if words.len() == 1 {
        return Ok(kinds.into_iter().map(|r| (r, None)).collect());
    }
    let [kind] = kinds[..] else { bail!("names go with one kind, not with {first:?}") };
    Ok(words[1..].iter().map(|name| (kind, Some(name.clone()))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resources() -> Resources {
        let mut all = Vec::new();
        read(
            &json!({ "items": [
                { "metadata": {}, "versions": [{ "version": "v1", "resources": [
                    { "resource": "pods", "responseKind": { "kind": "Pod" }, "scope": "Namespaced",
                      "singularResource": "pod", "shortNames": ["po"], "categories": ["all"] }] }] },
                { "metadata": { "name": "apps" }, "versions": [{ "version": "v1", "resources": [
                    { "resource": "deployments", "responseKind": { "kind": "Deployment" }, "scope": "Namespaced",
                      "singularResource": "deployment", "shortNames": ["deploy"], "categories": ["all"] }] }] }] }),
            &mut all,
        );
        Resources(all)
    }

    fn found(words: &[&str]) -> Vec<String> {
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        match targets(&resources(), &words) {
            Ok(found) => {
                found.iter().map(|(r, n)| r.path(Some("a")) + "/" + n.as_deref().unwrap_or("*")).collect()
            }
            Err(e) => vec![e.to_string()],
        }
    }

    #[test]
    fn every_way_to_name_a_kind_is_understood() {
        for word in ["po", "pod", "pods", "Pod"] {
            assert_eq!(found(&[word, "x"]), ["/api/v1/namespaces/a/pods/x"]);
        }
        for word in ["deploy/x", "deployment.apps/x", "deployments.v1.apps/x"] {
            assert_eq!(found(&[word]), ["/apis/apps/v1/namespaces/a/deployments/x"]);
        }
        assert_eq!(found(&["all"]).len(), 2);
        assert_eq!(found(&["po,deploy"]).len(), 2);
        assert!(found(&["nonsense"])[0].contains("nonsense"));
        assert!(found(&["po/x", "y"])[0].contains("no slash"));
    }
}
