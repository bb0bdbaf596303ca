//! The volumes of a pod, made and kept up to date; and the mounts of its containers.
use super::Worker;
use super::apply::SyncError;
use crate::env::{Objects, PodFacts, expand};
use crate::status::Eviction;
use crate::volumes::apply::ensure_volume;
use crate::volumes::plan::{VolumePlan, follows_objects, plan_volume, references, volume_path};
use crate::volumes::size::{exceeded, limited};
use crate::volumes::{pod_dir, subpath};
use client::EventType;
use client::k8s_openapi::api::core::v1 as core;
use jiff::SignedDuration;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// How often volumes that follow objects are looked at again (kubelet `--sync-frequency`: 60 s), plus up to half
/// of it so that pods do not all come at once.
const REFRESH_SECONDS: i64 = 60;

/// How often emptyDirs are measured (the eviction manager's `monitoringInterval`).
const MEASURE_SECONDS: i64 = 10;

/// The most of a container's last words that is shown (kubelet `MaxContainerTerminationMessageLength`: 4 KiB).
const MAX_LAST_WORDS: u64 = 4096;

fn termination_file(root: &Path, uid: &str, container: &str, attempt: u32) -> PathBuf {
    pod_dir(root, uid).join("containers").join(container).join(attempt.to_string())
}

/// What a container left in its file; empty when it left nothing.
pub(super) async fn last_words(root: &Path, uid: &str, container: &str, attempt: u32) -> String {
    let path = termination_file(root, uid, container, attempt);
    let read = crate::blocking::blocking(move || {
        let mut out = Vec::new();
        std::fs::File::open(path)?.take(MAX_LAST_WORDS).read_to_end(&mut out)?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&out).into_owned())
    });
    // A file that cannot be read says nothing.
    read.await.ok().and_then(Result::ok).unwrap_or_default()
}

impl Worker {
    /// What the node knows of the pod, for the downward API.
    pub(super) fn facts(&self) -> PodFacts {
        let sandbox = self.observed.ready_sandbox();
        let pod_ips = match sandbox {
            Some(s) if !s.ip.is_empty() => std::iter::once(&s.ip).chain(&s.more_ips).cloned().collect(),
            _ => vec![self.shared.host_ip.clone()],
        };
        PodFacts {
            pod_ips,
            host_ip: self.shared.host_ip.clone(),
            node_name: self.shared.node_name.clone(),
            allocatable: self.shared.allocatable.clone(),
        }
    }

    async fn volume_objects(&self, refresh: bool) -> Result<Objects, SyncError> {
        let (maps, secrets) = references(&self.pod);
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        Ok(self.shared.objects.read(namespace, maps, secrets, refresh).await?)
    }

    /// Plans the volumes that `wanted` takes.
    fn plan_volumes(
        &self,
        objects: &Objects,
        wanted: impl Fn(&core::Volume) -> bool,
    ) -> Result<Vec<(String, VolumePlan)>, String> {
        let facts = self.facts();
        let volumes = self.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
        volumes
            .filter(|v| wanted(v))
            .map(|v| match plan_volume(&self.pod, v, objects, &facts) {
                Ok(plan) => Ok((v.name.clone(), plan)),
                Err(why) => Err(format!("MountVolume.SetUp failed for volume {:?} : {why}", v.name)),
            })
            .collect()
    }

    async fn apply_volumes(&self, plans: Vec<(String, VolumePlan)>) -> Result<(), String> {
        let (root, uid) = (self.shared.root_dir.clone(), self.uid.clone());
        let made = crate::blocking::blocking(move || {
            plans.iter().try_for_each(|(name, plan)| ensure_volume(&root, &uid, name, plan).map(drop))
        });
        match made.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(client::error_chain(&e)),
            Err(e) => Err(e.to_string()),
        }
    }

    /// Makes every volume of the pod.
    pub(super) async fn ensure_volumes(&mut self) -> Result<(), SyncError> {
        if self.pod.spec.as_ref().is_none_or(|s| s.volumes.as_ref().is_none_or(Vec::is_empty)) {
            return Ok(());
        }
        let objects = self.volume_objects(false).await?;
        let made = match self.plan_volumes(&objects, |_| true) {
            Ok(plans) => self.apply_volumes(plans).await,
            Err(e) => Err(e),
        };
        made.map_err(|text| {
            self.event(None, EventType::Warning, "FailedMount", &text);
            SyncError::Setup(text)
        })
    }

    /// Brings volumes that follow objects up to date, when they are due.
    pub(super) async fn refresh_volumes(&mut self) {
        let volumes = self.pod.spec.as_ref().and_then(|s| s.volumes.as_ref());
        if !volumes.is_some_and(|v| v.iter().any(follows_objects)) {
            return;
        }
        let now = self.shared.ambient.now();
        if self.volumes_due.is_some_and(|due| due > now) {
            return;
        }
        let spread = (self.shared.ambient.random() % (REFRESH_SECONDS as u64 / 2)) as i64;
        let first = self.volumes_due.is_none();
        self.volumes_due = now.checked_add(SignedDuration::from_secs(REFRESH_SECONDS + spread)).ok();
        if first {
            // Made a moment ago, or by the process before this one: no hurry.
            return;
        }
        let refreshed = match self.volume_objects(true).await {
            Ok(objects) => match self.plan_volumes(&objects, follows_objects) {
                Ok(plans) => self.apply_volumes(plans).await,
                Err(e) => Err(e),
            },
            Err(e) => Err(e.to_string()),
        };
        if let Err(error) = refreshed {
            // An object that was deleted leaves its files as they were.
            tracing::debug!(pod = self.name(), error, "volumes were not refreshed");
        }
    }

    /// Measures emptyDirs that have a limit, when it is time; a pod that has too much in one is evicted.
    pub(super) async fn check_sizes(&mut self) {
        let limited = limited(&self.pod);
        let now = self.shared.ambient.now();
        if limited.is_empty() || self.sizes_due.is_some_and(|due| due > now) {
            return;
        }
        self.sizes_due = now.checked_add(SignedDuration::from_secs(MEASURE_SECONDS)).ok();
        let (root, uid) = (self.shared.root_dir.clone(), self.uid.clone());
        let measured = crate::blocking::blocking(move || exceeded(&root, &uid, &limited)).await;
        if let Ok(Some(message)) = measured {
            self.event(None, EventType::Warning, "Evicted", &message);
            self.eviction = Some(Eviction { reason: "Evicted".into(), message });
        }
    }

    /// The file for a container's last words, mounted at its `terminationMessagePath`.
    pub(super) async fn termination_log(
        &self,
        c: &core::Container,
        attempt: u32,
    ) -> Result<cri::Mount, SyncError> {
        let file = termination_file(&self.shared.root_dir, &self.uid, &c.name, attempt);
        let path = file.clone();
        let made = crate::blocking::blocking(move || {
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir)?;
            }
            std::fs::File::create(&path)?;
            // Whoever the container runs as may write.
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666))
        });
        let made = made.await.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        made.map_err(|source| SyncError::Io { what: format!("cannot make {}", file.display()), source })?;
        Ok(cri::Mount {
            container_path: absolute(c.termination_message_path.as_deref().unwrap_or("/dev/termination-log")),
            host_path: file.to_string_lossy().into_owned(),
            ..Default::default()
        })
    }

    /// The mounts of a container, and the container paths of those that are a subPath.
    pub(super) async fn mounts(
        &self,
        c: &core::Container,
        env: &[(String, String)],
    ) -> Result<(Vec<cri::Mount>, Vec<String>), String> {
        let volumes = self.pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
        let (mut mounts, mut sub_paths) = (Vec::new(), Vec::new());
        for m in c.volume_mounts.iter().flatten() {
            let volume = volumes.iter().find(|v| v.name == m.name);
            let path = volume.and_then(|v| volume_path(&self.shared.root_dir, &self.uid, v));
            let Some(mut path) = path else {
                return Err(format!("cannot find volume {:?} to mount into container {:?}", m.name, c.name));
            };
            let sub = match &m.sub_path_expr {
                Some(e) => Some(expand(e, |n| env.iter().find(|(k, _)| k == n).map(|(_, v)| v.clone()))),
                None => m.sub_path.clone(),
            };
            if let Some(sub) = sub.filter(|s| !s.is_empty()) {
                let resolved = crate::blocking::blocking(move || subpath::resolve(&path, &sub)).await;
                path = match resolved {
                    Ok(Ok(path)) => path,
                    Ok(Err(e)) => {
                        return Err(format!(
                            "failed to prepare subPath for volumeMount {:?} of container {:?}: {e}",
                            m.name, c.name
                        ));
                    }
                    Err(e) => return Err(e.to_string()),
                };
                sub_paths.push(absolute(&m.mount_path));
            }
            mounts.push(cri::Mount {
                container_path: absolute(&m.mount_path),
                host_path: path.to_string_lossy().into_owned(),
                readonly: m.read_only.unwrap_or(false) || volume.is_some_and(is_read_only),
                propagation: match m.mount_propagation.as_deref() {
                    Some("HostToContainer") => cri::MountPropagation::HostToContainer as i32,
                    Some("Bidirectional") => cri::MountPropagation::Bidirectional as i32,
                    _ => cri::MountPropagation::Private as i32,
                },
                ..Default::default()
            });
        }
        Ok((mounts, sub_paths))
    }
}

/// Files that follow objects are not to be written by containers.
fn is_read_only(v: &core::Volume) -> bool {
    follows_objects(v)
}

fn absolute(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}
