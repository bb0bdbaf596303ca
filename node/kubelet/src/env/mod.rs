//! The environment of a container: a pure function of the pod and the objects it refers to.
pub mod downward;
mod expand;
pub use downward::PodFacts;
pub use expand::expand;

#[cfg(test)]
mod tests;

use client::k8s_openapi::api::core::v1 as core;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// ConfigMaps and Secrets by name, as read for one pod; `None` is "not there".
#[derive(Clone, Debug, Default)]
pub struct Objects {
    pub config_maps: BTreeMap<String, Option<Arc<core::ConfigMap>>>,
    pub secrets: BTreeMap<String, Option<Arc<core::Secret>>>,
}

/// Why an environment could not be made; the text of a `CreateContainerConfigError`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    #[error("{kind} {name:?} not found")]
    Missing { kind: &'static str, name: String },
    #[error("couldn't find key {key} in {kind} {namespace}/{name}")]
    NoKey { kind: &'static str, namespace: String, name: String, key: String },
    #[error("{0} is not text")]
    NotText(String),
    #[error("unsupported fieldPath: {0}")]
    Field(String),
    #[error("{0}")]
    Resource(String),
    #[error("{0} is not supported")]
    Unsupported(&'static str),
}

/// Names of the ConfigMaps and Secrets a container's environment refers to.
pub fn references(c: &core::Container) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for from in c.env_from.iter().flatten() {
        maps.extend(from.config_map_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(from.secret_ref.as_ref().map(|r| r.name.clone()));
    }
    for from in c.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
        maps.extend(from.config_map_key_ref.as_ref().map(|r| r.name.clone()));
        secrets.extend(from.secret_key_ref.as_ref().map(|r| r.name.clone()));
    }
    (maps, secrets)
}

/// The data of a Secret as text.
fn text(bytes: &[u8], what: impl Fn() -> String) -> Result<String, EnvError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| EnvError::NotText(what()))
}

/// Resolves the environment of `c`, in order; a later definition of a name replaces the earlier one in place.
/// `services` come first and may be overridden by anything.
pub fn resolve_env(
    pod: &core::Pod,
    c: &core::Container,
    objects: &Objects,
    facts: &PodFacts,
    services: &[(String, String)],
) -> Result<Vec<(String, String)>, EnvError> {
    let mut env = Ordered::default();
    for (name, value) in services {
        env.set(name, value.clone());
    }
    for from in c.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(r) = &from.config_map_ref {
            match objects.config_maps.get(&r.name).and_then(Option::as_ref) {
                Some(map) => {
                    for (k, v) in map.data.iter().flatten() {
                        env.set(&format!("{prefix}{k}"), v.clone());
                    }
                }
                None if r.optional == Some(true) => {}
                None => return Err(EnvError::Missing { kind: "configmap", name: r.name.clone() }),
            }
        }
        if let Some(r) = &from.secret_ref {
            match objects.secrets.get(&r.name).and_then(Option::as_ref) {
                Some(secret) => {
                    for (k, v) in secret.data.iter().flatten() {
                        env.set(&format!("{prefix}{k}"), text(&v.0, || format!("secret {}/{k}", r.name))?);
                    }
                }
                None if r.optional == Some(true) => {}
                None => return Err(EnvError::Missing { kind: "secret", name: r.name.clone() }),
            }
        }
    }
    for var in c.env.iter().flatten() {
        let value = match &var.value_from {
            None => Some(expand(var.value.as_deref().unwrap_or_default(), |n| env.get(n))),
            Some(from) => value_from(pod, c, from, objects, facts)?,
        };
        if let Some(value) = value {
            env.set(&var.name, value);
        }
    }
    Ok(env.entries)
}

/// The value a reference gives; `None` when it is optional and not there.
fn value_from(
    pod: &core::Pod,
    c: &core::Container,
    from: &core::EnvVarSource,
    objects: &Objects,
    facts: &PodFacts,
) -> Result<Option<String>, EnvError> {
    let namespace = || pod.metadata.namespace.clone().unwrap_or_default();
    if let Some(r) = &from.field_ref {
        return downward::field(pod, facts, &r.field_path)
            .map(Some)
            .ok_or_else(|| EnvError::Field(r.field_path.clone()));
    }
    if let Some(r) = &from.resource_field_ref {
        return downward::resource(pod, Some(c), facts, r).map(Some).map_err(EnvError::Resource);
    }
    if let Some(r) = &from.config_map_key_ref {
        let optional = r.optional == Some(true);
        return match objects.config_maps.get(&r.name).and_then(Option::as_ref) {
            None if optional => Ok(None),
            None => Err(EnvError::Missing { kind: "configmap", name: r.name.clone() }),
            Some(map) => match map.data.as_ref().and_then(|d| d.get(&r.key)) {
                Some(v) => Ok(Some(v.clone())),
                None if optional => Ok(None),
                None => Err(EnvError::NoKey {
                    kind: "ConfigMap",
                    namespace: namespace(),
                    name: r.name.clone(),
                    key: r.key.clone(),
                }),
            },
        };
    }
    if let Some(r) = &from.secret_key_ref {
        let optional = r.optional == Some(true);
        return match objects.secrets.get(&r.name).and_then(Option::as_ref) {
            None if optional => Ok(None),
            None => Err(EnvError::Missing { kind: "secret", name: r.name.clone() }),
            Some(secret) => match secret.data.as_ref().and_then(|d| d.get(&r.key)) {
                Some(v) => text(&v.0, || format!("secret {}/{}", r.name, r.key)).map(Some),
                None if optional => Ok(None),
                None => Err(EnvError::NoKey {
                    kind: "Secret",
                    namespace: namespace(),
                    name: r.name.clone(),
                    key: r.key.clone(),
                }),
            },
        };
    }
    Err(EnvError::Unsupported("this source of a variable"))
}

/// Variables in the order in which their names first came.
#[derive(Default)]
struct Ordered {
    entries: Vec<(String, String)>,
    index: BTreeMap<String, usize>,
}

impl Ordered {
    fn set(&mut self, name: &str, value: String) {
        match self.index.get(name) {
            Some(i) => self.entries[*i].1 = value,
            None => {
                self.index.insert(name.to_owned(), self.entries.len());
                self.entries.push((name.to_owned(), value));
            }
        }
    }
    fn get(&self, name: &str) -> Option<String> {
        self.index.get(name).map(|i| self.entries[*i].1.clone())
    }
}

/// `command` and `args` of a container with `$(NAME)` replaced from its environment.
pub fn expand_command(c: &core::Container, env: &[(String, String)]) -> (Vec<String>, Vec<String>) {
    let get = |n: &str| env.iter().find(|(k, _)| k == n).map(|(_, v)| v.clone());
    let all = |list: &Option<Vec<String>>| list.iter().flatten().map(|t| expand(t, get)).collect();
    (all(&c.command), all(&c.args))
}

/// The variables that tell a pod where the API server's Service is, as upstream sets them for `kubernetes` in
/// the default namespace.
pub fn service_env(name: &str, cluster_ip: &str, ports: &[core::ServicePort]) -> Vec<(String, String)> {
    let Some(first) = ports.first() else { return Vec::new() };
    let upper = name.to_ascii_uppercase().replace('-', "_");
    let protocol = |p: &core::ServicePort| p.protocol.clone().unwrap_or_else(|| "TCP".into());
    let url =
        |p: &core::ServicePort| format!("{}://{cluster_ip}:{}", protocol(p).to_ascii_lowercase(), p.port);
    let mut all = vec![
        (format!("{upper}_SERVICE_HOST"), cluster_ip.to_owned()),
        (format!("{upper}_SERVICE_PORT"), first.port.to_string()),
    ];
    for p in ports {
        if let Some(n) = &p.name {
            let n = n.to_ascii_uppercase().replace('-', "_");
            all.push((format!("{upper}_SERVICE_PORT_{n}"), p.port.to_string()));
        }
    }
    all.push((format!("{upper}_PORT"), url(first)));
    for p in ports {
        let prefix = format!("{upper}_PORT_{}_{}", p.port, protocol(p));
        all.push((prefix.clone(), url(p)));
        all.push((format!("{prefix}_PROTO"), protocol(p).to_ascii_lowercase()));
        all.push((format!("{prefix}_PORT"), p.port.to_string()));
        all.push((format!("{prefix}_ADDR"), cluster_ip.to_owned()));
    }
    all
}
