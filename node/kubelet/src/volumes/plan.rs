//! What a volume holds: a pure function of the pod and the objects it refers to.
use super::volume_dir;
use crate::env::{Objects, PodFacts, downward};
use client::k8s_openapi::api::core::v1 as core;
use client::k8s_openapi::apimachinery::pkg::api::resource as k8s;
use machinery::quantity::Quantity;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A file of a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub bytes: Vec<u8>,
    pub mode: u32,
}

/// What a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumePlan {
    /// An empty directory of the pod's own; in memory if it says how much of that.
    EmptyDir { memory_bytes: Option<u64> },
    /// A path of this node.
    HostPath { path: String, kind: String },
    /// Files that follow objects of the API; `plugin` names the directory.
    Files { plugin: &'static str, files: BTreeMap<String, File> },
}

/// The mode of files unless said otherwise.
const DEFAULT_MODE: u32 = 0o644;
/// The most one volume may hold: a ConfigMap or Secret has at most 1 MiB, a projected volume a few of them.
const MAX_BYTES: usize = 16 << 20;

/// Names of the ConfigMaps and Secrets the volumes refer to.
pub fn references(pod: &core::Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for v in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        maps.extend(v.config_map.as_ref().map(|c| c.name.clone()));
        secrets.extend(v.secret.as_ref().and_then(|s| s.secret_name.clone()));
        for source in v.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            maps.extend(source.config_map.as_ref().map(|c| c.name.clone()));
            secrets.extend(source.secret.as_ref().map(|s| s.name.clone()));
        }
    }
    (maps, secrets)
}

/// Whether a volume's content follows objects that may change.
pub fn follows_objects(v: &core::Volume) -> bool {
    v.config_map.is_some() || v.secret.is_some() || v.projected.is_some() || v.downward_api.is_some()
}

/// Where a volume lies; `None` for a kind this node cannot make.
pub fn volume_path(root: &Path, uid: &str, v: &core::Volume) -> Option<PathBuf> {
    let plugin = if v.empty_dir.is_some() {
        "empty-dir"
    } else if let Some(h) = &v.host_path {
        return Some(PathBuf::from(&h.path));
    } else if v.config_map.is_some() {
        "configmap"
    } else if v.secret.is_some() {
        "secret"
    } else if v.downward_api.is_some() {
        "downward-api"
    } else if v.projected.is_some() {
        "projected"
    } else {
        return None;
    };
    Some(volume_dir(root, uid, plugin, &v.name))
}

/// Decides what a volume holds. The error is the end of a FailedMount event.
pub fn plan_volume(
    pod: &core::Pod,
    v: &core::Volume,
    objects: &Objects,
    facts: &PodFacts,
) -> Result<VolumePlan, String> {
    let mut files = Files::default();
    if let Some(e) = &v.empty_dir {
        return plan_empty_dir(pod, e, facts);
    }
    if let Some(h) = &v.host_path {
        return Ok(VolumePlan::HostPath { path: h.path.clone(), kind: h.type_.clone().unwrap_or_default() });
    }
    if let Some(c) = &v.config_map {
        let mode = mode(c.default_mode)?;
        files.config_map(objects, &c.name, c.items.as_deref(), c.optional == Some(true), mode)?;
        return files.done("configmap");
    }
    if let Some(s) = &v.secret {
        let mode = mode(s.default_mode)?;
        let name = s.secret_name.as_deref().unwrap_or_default();
        files.secret(objects, name, s.items.as_deref(), s.optional == Some(true), mode)?;
        return files.done("secret");
    }
    if let Some(d) = &v.downward_api {
        files.downward(pod, facts, d.items.as_deref().unwrap_or_default(), mode(d.default_mode)?)?;
        return files.done("downward-api");
    }
    if let Some(p) = &v.projected {
        let mode = mode(p.default_mode)?;
        for source in p.sources.iter().flatten() {
            if let Some(c) = &source.config_map {
                files.config_map(objects, &c.name, c.items.as_deref(), c.optional == Some(true), mode)?;
            } else if let Some(s) = &source.secret {
                files.secret(objects, &s.name, s.items.as_deref(), s.optional == Some(true), mode)?;
            } else if let Some(d) = &source.downward_api {
                files.downward(pod, facts, d.items.as_deref().unwrap_or_default(), mode)?;
            } else {
                return Err("this source of a projected volume is not supported by this node".into());
            }
        }
        return files.done("projected");
    }
    Err("this kind of volume is not supported by this node (emptyDir, hostPath, configMap, secret, downwardAPI \
         and projected are)"
        .into())
}

/// One in memory has as much as its limit, the pod's own, or the node allows, whichever is least.
fn plan_empty_dir(
    pod: &core::Pod,
    source: &core::EmptyDirVolumeSource,
    facts: &PodFacts,
) -> Result<VolumePlan, String> {
    let parse = |text: &str| Quantity::parse(text).ok().and_then(|q| u64::try_from(q.value()).ok());
    let bytes = |q: &k8s::Quantity| parse(&q.0);
    match source.medium.as_deref().unwrap_or_default() {
        "" => Ok(VolumePlan::EmptyDir { memory_bytes: None }),
        "Memory" => {
            let containers = pod.spec.iter().flat_map(|s| &s.containers);
            let of_container =
                |c: &core::Container| c.resources.as_ref()?.limits.as_ref()?.get("memory").and_then(bytes);
            // Without a limit for each container the pod has none.
            let of_pod =
                containers.map(of_container).try_fold(0u64, |sum, limit| Some(sum.saturating_add(limit?)));
            let of_node = facts.allocatable.get("memory").and_then(|text| parse(text));
            let limits = [source.size_limit.as_ref().and_then(bytes), of_pod, of_node];
            let least = limits.into_iter().flatten().filter(|bytes| *bytes > 0).min();
            // Where nothing says how much, as much as a tmpfs takes of itself on a machine of 8 GiB.
            Ok(VolumePlan::EmptyDir { memory_bytes: Some(least.unwrap_or(4 << 30)) })
        }
        other => Err(format!(
            "an emptyDir of medium {other:?} is not supported by this node (the disk and \"Memory\" are)"
        )),
    }
}

fn mode(mode: Option<i32>) -> Result<u32, String> {
    match mode {
        None => Ok(DEFAULT_MODE),
        Some(m) => {
            u32::try_from(m).ok().filter(|m| *m <= 0o777).ok_or_else(|| format!("mode {m} is not one"))
        }
    }
}

#[derive(Default)]
struct Files {
    files: BTreeMap<String, File>,
    bytes: usize,
}

impl Files {
    fn done(self, plugin: &'static str) -> Result<VolumePlan, String> {
        Ok(VolumePlan::Files { plugin, files: self.files })
    }

    fn put(&mut self, path: &str, bytes: Vec<u8>, mode: u32) -> Result<(), String> {
        let bad = path.is_empty()
            || path.starts_with('/')
            || path.split('/').any(|p| p == ".." || p == "." || p.is_empty())
            || path.starts_with("..");
        if bad {
            return Err(format!("invalid path {path:?} in a volume"));
        }
        self.bytes += bytes.len();
        if self.bytes > MAX_BYTES {
            return Err(format!("a volume of files may hold {MAX_BYTES} bytes"));
        }
        self.files.insert(path.to_owned(), File { bytes, mode });
        Ok(())
    }

    /// The files of a ConfigMap or Secret, whose content is `data` if it exists.
    fn keyed(
        &mut self,
        what: &str,
        name: &str,
        data: Option<BTreeMap<String, Vec<u8>>>,
        items: Option<&[core::KeyToPath]>,
        optional: bool,
        default_mode: u32,
    ) -> Result<(), String> {
        let Some(data) = data else {
            return if optional { Ok(()) } else { Err(format!("{what} {name:?} not found")) };
        };
        let Some(items) = items.filter(|i| !i.is_empty()) else {
            for (key, bytes) in data {
                self.put(&key, bytes, default_mode)?;
            }
            return Ok(());
        };
        for item in items {
            match data.get(&item.key) {
                Some(bytes) => {
                    let mode = item.mode.map_or(Ok(default_mode), |m| mode(Some(m)))?;
                    self.put(&item.path, bytes.clone(), mode)?;
                }
                None if optional => {}
                None => return Err(format!("{what} references non-existent {what} key: {}", item.key)),
            }
        }
        Ok(())
    }

    fn config_map(
        &mut self,
        objects: &Objects,
        name: &str,
        items: Option<&[core::KeyToPath]>,
        optional: bool,
        mode: u32,
    ) -> Result<(), String> {
        let data = objects.config_maps.get(name).and_then(Option::as_ref).map(|map| {
            let text = map.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
            let binary = map.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()));
            text.chain(binary).collect()
        });
        self.keyed("configmap", name, data, items, optional, mode)
    }

    fn secret(
        &mut self,
        objects: &Objects,
        name: &str,
        items: Option<&[core::KeyToPath]>,
        optional: bool,
        mode: u32,
    ) -> Result<(), String> {
        let data = objects
            .secrets
            .get(name)
            .and_then(Option::as_ref)
            .map(|secret| secret.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect());
        self.keyed("secret", name, data, items, optional, mode)
    }

    fn downward(
        &mut self,
        pod: &core::Pod,
        facts: &PodFacts,
        items: &[core::DownwardAPIVolumeFile],
        default_mode: u32,
    ) -> Result<(), String> {
        for item in items {
            let text = if let Some(f) = &item.field_ref {
                downward::field(pod, facts, &f.field_path)
                    .ok_or_else(|| format!("unsupported fieldPath: {}", f.field_path))?
            } else if let Some(r) = &item.resource_field_ref {
                downward::resource(pod, None, facts, r)?
            } else {
                String::new()
            };
            let mode = item.mode.map_or(Ok(default_mode), |m| mode(Some(m)))?;
            self.put(&item.path, text.into_bytes(), mode)?;
        }
        Ok(())
    }
}
