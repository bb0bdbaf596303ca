//! Starting one container: its image, its configuration, the container itself.
use super::Worker;
use super::apply::{SyncError, run_hook};
use crate::actions::{Start, failed_start_key};
use crate::container_config::{Parts, container_config, refused_user};
use crate::credentials::credentials_for;
use crate::env::{expand_command, references, resolve_env, service_env};
use crate::status::Waiting;
use client::EventType;
use client::k8s_openapi::api::core::v1 as core;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

/// When a configuration that lacks an object is tried again: someone may be about to make it.
const CONFIG_RETRY: SignedDuration = SignedDuration::from_secs(5);
/// How soon after a failed pull the status turns from ErrImagePull to ImagePullBackOff.
const SHOW_PULL_ERROR: SignedDuration = SignedDuration::from_secs(1);
/// A postStart hook has no limit upstream; an hour keeps a pod from hanging for ever.
const POST_START_LIMIT: Duration = Duration::from_secs(3600);

/// A container that did not start.
struct Failed {
    reason: &'static str,
    message: String,
}

impl Failed {
    fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// What a container's configuration takes from elsewhere.
struct Resolved {
    env: Vec<(String, String)>,
    command: Vec<String>,
    args: Vec<String>,
    mounts: Vec<cri::Mount>,
    sub_paths: Vec<String>,
}

/// Whether a program of this image sees a file system of its own, with a place for its last words. What wasm
/// guests see is only what is mounted, and their last words come from the runtime.
fn has_files(image: &cri::Image) -> bool {
    let kind = image.spec.as_ref().and_then(|s| s.annotations.get(cri::IMAGE_KIND_ANNOTATION));
    kind.is_none_or(|k| k != "wasm")
}

fn image_key(image: &str) -> String {
    format!("image/{image}")
}

impl Worker {
    /// When a container whose image could not be pulled is due again.
    pub(super) fn image_wait(&self, start: &Start, now: Timestamp) -> Option<Timestamp> {
        let image = self.spec_of(&start.name)?.image.as_deref()?;
        let until = self.backoff.failed_until(&image_key(image), now)?;
        let shown = self.waiting.get(&start.name).is_some_and(|w| w.reason == "ErrImagePull");
        match now.checked_add(SHOW_PULL_ERROR) {
            Ok(soon) if shown => Some(soon.min(until)),
            _ => Some(until),
        }
    }

    /// Starts a container; what goes wrong is shown in its status and tried again later. Says whether it made
    /// something.
    pub(super) async fn start_container(&mut self, start: &Start) -> Result<bool, SyncError> {
        let Some(c) = self.spec_of(&start.name).cloned() else { return Ok(false) };
        let known = self.waiting.get(&start.name).cloned();
        match self.try_start(start, &c).await? {
            Ok(()) => {
                self.waiting.remove(&start.name);
                Ok(true)
            }
            Err(failed) => {
                let now = self.shared.ambient.now();
                match failed.reason {
                    // The image's own backoff holds it.
                    "ErrImagePull" | "ImagePullBackOff" => {}
                    "CreateContainerConfigError" | "ErrImageNeverPull" | "InvalidImageName" => {
                        self.backoff.fail_for(&failed_start_key(&start.name), now, CONFIG_RETRY);
                    }
                    _ => self.backoff.fail(&failed_start_key(&start.name), now),
                }
                let event = match failed.reason {
                    "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" => {
                        format!("Error: {}", failed.reason)
                    }
                    _ => format!("Error: {}", failed.message),
                };
                let new =
                    known.as_ref().is_none_or(|k| k.reason != failed.reason || k.message != failed.message);
                if new {
                    self.event(Some((&start.name, start.init)), EventType::Warning, "Failed", &event);
                }
                self.waiting
                    .insert(start.name.clone(), Waiting { reason: failed.reason, message: failed.message });
                Ok(false)
            }
        }
    }

    async fn try_start(
        &mut self,
        start: &Start,
        c: &core::Container,
    ) -> Result<Result<(), Failed>, SyncError> {
        let shared = self.shared.clone();
        let about = Some((c.name.as_str(), start.init));
        let id = match &start.existing {
            Some(id) => id.clone(),
            None => {
                let image = match self.ensure_image(start, c).await? {
                    Ok(image) => image,
                    Err(failed) => return Ok(Err(failed)),
                };
                if let Some(why) = refused_user(&self.pod, c, &image) {
                    return Ok(Err(Failed::new("CreateContainerConfigError", why)));
                }
                let Resolved { env, command, args, mut mounts, sub_paths } = match self.resolve(c).await? {
                    Ok(resolved) => resolved,
                    Err(failed) => return Ok(Err(failed)),
                };
                if has_files(&image) {
                    mounts.push(self.termination_log(c, start.attempt).await?);
                }
                let parts = Parts {
                    pod: &self.pod,
                    container: c,
                    start,
                    env,
                    command,
                    args,
                    mounts,
                    sub_paths,
                    image_id: image.id,
                    node_memory: shared.memory_bytes,
                };
                let Some(sandbox) = self.observed.ready_sandbox().map(|s| s.id.clone()) else {
                    return Err(SyncError::Setup("the sandbox is gone".into()));
                };
                // Nothing runs in a sandbox that has not heard what it may reach.
                shared.networks.deliver(&self.pod, &sandbox).await?;
                let attempt = self.observed.sandbox().map_or(0, |s| s.attempt);
                let request = cri::CreateContainerRequest {
                    pod_sandbox_id: sandbox,
                    config: Some(container_config(parts)),
                    sandbox_config: Some(crate::container_config::sandbox_config(
                        &self.pod,
                        attempt,
                        &shared.logs_dir,
                        &shared.dns,
                    )),
                };
                let permit = shared.starts.acquire().await;
                let made = shared.runtime.create_container(request).await;
                drop(permit);
                self.stale = true;
                match made {
                    Ok(answer) => {
                        if let Some(after) = start.after {
                            self.backoff.next(&c.name, after, shared.ambient.now());
                        }
                        answer.container_id
                    }
                    Err(e @ cri::Error::Unavailable(_)) => return Err(e.into()),
                    Err(e) => return Ok(Err(Failed::new("CreateContainerError", e.to_string()))),
                }
            }
        };
        self.event(about, EventType::Normal, "Created", "Container created");
        let permit = shared.starts.acquire().await;
        let started =
            shared.runtime.start_container(cri::StartContainerRequest { container_id: id.clone() }).await;
        drop(permit);
        self.stale = true;
        match started {
            Ok(_) => {}
            Err(e @ cri::Error::Unavailable(_)) => return Err(e.into()),
            Err(e) => return Ok(Err(Failed::new("RunContainerError", e.to_string()))),
        }
        self.event(about, EventType::Normal, "Started", "Container started");
        self.backoff.forget(&failed_start_key(&c.name));
        if let Some(hook) = c.lifecycle.as_ref().and_then(|l| l.post_start.as_ref())
            && let Err(e) = run_hook(hook, &self.target(c, &id), POST_START_LIMIT).await
        {
            self.event(
                about,
                EventType::Warning,
                "FailedPostStartHook",
                &format!("PostStartHook failed: {e}"),
            );
            let kill = crate::actions::Kill {
                id,
                name: c.name.clone(),
                message: "FailedPostStartHook".into(),
                grace_seconds: None,
            };
            self.stop(&kill, None).run().await?;
            return Ok(Err(Failed::new("PostStartHookError", format!("PostStartHook failed: {e}"))));
        }
        Ok(Ok(()))
    }

    /// Resolves environment, command and mounts.
    async fn resolve(&self, c: &core::Container) -> Result<Result<Resolved, Failed>, SyncError> {
        let shared = &self.shared;
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let (maps, secrets) = references(c);
        let objects = shared.objects.read(namespace, maps, secrets, false).await?;
        let services = self.service_variables(namespace);
        let env = match resolve_env(&self.pod, c, &objects, &self.facts(), &services) {
            Ok(env) => env,
            Err(e) => return Ok(Err(Failed::new("CreateContainerConfigError", e.to_string()))),
        };
        let (command, args) = expand_command(c, &env);
        let (mounts, sub_paths) = match self.mounts(c, &env).await {
            Ok(both) => both,
            Err(e) => return Ok(Err(Failed::new("CreateContainerConfigError", e))),
        };
        Ok(Ok(Resolved { env, command, args, mounts, sub_paths }))
    }

    /// The variables that tell of Services: the API server's, and those of the namespace unless the pod wants
    /// none.
    fn service_variables(&self, namespace: &str) -> Vec<(String, String)> {
        let links = self.pod.spec.as_ref().and_then(|s| s.enable_service_links).unwrap_or(true);
        let services = self.shared.services.list_where(|s| {
            let m = &s.metadata;
            let of = m.namespace.as_deref().unwrap_or_default();
            (links && of == namespace) || (of == "default" && m.name.as_deref() == Some("kubernetes"))
        });
        let mut all = Vec::new();
        for s in services {
            let Some(spec) = &s.spec else { continue };
            if let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") {
                let name = s.metadata.name.as_deref().unwrap_or_default();
                all.extend(service_env(name, ip, spec.ports.as_deref().unwrap_or_default()));
            }
        }
        all
    }

    /// Makes sure the image is here, pulling it if the policy says so.
    async fn ensure_image(
        &mut self,
        start: &Start,
        c: &core::Container,
    ) -> Result<Result<cri::Image, Failed>, SyncError> {
        let shared = self.shared.clone();
        let about = Some((c.name.as_str(), start.init));
        let reference = c.image.clone().unwrap_or_default();
        if reference.is_empty() {
            return Ok(Err(Failed::new(
                "InvalidImageName",
                "Failed to apply default image tag \"\": no image",
            )));
        }
        let runtime_handler = self.handler().await?.unwrap_or_default();
        let spec = cri::ImageSpec { image: reference.clone(), runtime_handler, ..Default::default() };
        let status =
            |spec: &cri::ImageSpec| cri::ImageStatusRequest { image: Some(spec.clone()), verbose: false };
        let here = match shared.images.image_status(status(&spec)).await {
            Ok(answer) => answer.image,
            Err(cri::Error::InvalidArgument(e)) => return Ok(Err(Failed::new("InvalidImageName", e))),
            Err(e) => return Err(e.into()),
        };
        let policy = c.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
        match (policy, here) {
            ("Never", None) => {
                let text = format!("Container image {reference:?} is not present with pull policy of Never");
                if self.waiting.get(&c.name).is_none_or(|w| w.reason != "ErrImageNeverPull") {
                    self.event(about, EventType::Warning, "ErrImageNeverPull", &text);
                }
                return Ok(Err(Failed::new("ErrImageNeverPull", text)));
            }
            ("Never" | "IfNotPresent", Some(image)) => {
                let text = format!("Container image {reference:?} already present on machine");
                self.event(about, EventType::Normal, "Pulled", &text);
                return Ok(Ok(image));
            }
            _ => {}
        }
        let key = image_key(&reference);
        if self.backoff.failed_until(&key, shared.ambient.now()).is_some() {
            let text = format!("Back-off pulling image {reference:?}");
            let known = self.waiting.get(&c.name);
            if known.is_some_and(|w| w.reason == "ImagePullBackOff") {
                // Nothing new.
                let message = known.map(|w| w.message.clone()).unwrap_or_default();
                return Ok(Err(Failed::new("ImagePullBackOff", message)));
            }
            let message = match known {
                Some(w) if w.reason == "ErrImagePull" => format!("{text}: ErrImagePull: {}", w.message),
                _ => text.clone(),
            };
            self.event(about, EventType::Normal, "BackOff", &text);
            return Ok(Err(Failed::new("ImagePullBackOff", message)));
        }
        self.event(about, EventType::Normal, "Pulling", &format!("Pulling image {reference:?}"));
        let began = Instant::now();
        match self.pull(&spec).await? {
            Ok(()) => {}
            Err(e) => {
                self.backoff.fail(&key, shared.ambient.now());
                self.event(
                    about,
                    EventType::Warning,
                    "Failed",
                    &format!("Failed to pull image {reference:?}: {e}"),
                );
                return Ok(Err(Failed::new("ErrImagePull", e.to_string())));
            }
        }
        self.backoff.forget(&key);
        let took = began.elapsed();
        let image = shared
            .images
            .image_status(status(&spec))
            .await?
            .image
            .unwrap_or_else(|| cri::Image { id: reference.clone(), ..Default::default() });
        let took = go_precise(took);
        self.event(
            about,
            EventType::Normal,
            "Pulled",
            &format!(
                "Successfully pulled image {reference:?} in {took} ({took} including waiting). Image size: {} bytes.",
                image.size
            ),
        );
        Ok(Ok(image))
    }

    /// Pulls with each credential that fits, in order; without any when none does.
    async fn pull(&self, spec: &cri::ImageSpec) -> Result<Result<(), cri::Error>, SyncError> {
        let pod_spec = self.pod.spec.as_ref();
        let names: BTreeSet<String> = pod_spec
            .iter()
            .flat_map(|s| s.image_pull_secrets.iter().flatten())
            .map(|r| r.name.clone())
            .collect();
        let namespace = self.pod.metadata.namespace.as_deref().unwrap_or_default();
        let secrets = if names.is_empty() {
            Vec::new()
        } else {
            let objects = self.shared.objects.read(namespace, BTreeSet::new(), names, false).await?;
            objects.secrets.into_values().flatten().collect()
        };
        let refs: Vec<&core::Secret> = secrets.iter().map(|s| &**s).collect();
        let mut credentials: Vec<Option<cri::AuthConfig>> =
            credentials_for(&spec.image, &refs).into_iter().map(Some).collect();
        if credentials.is_empty() {
            credentials.push(None);
        }
        let mut last = Ok(());
        for auth in credentials {
            let request = cri::PullImageRequest { image: Some(spec.clone()), auth, sandbox_config: None };
            match self.shared.images.pull_image(request).await {
                Ok(_) => return Ok(Ok(())),
                Err(e) => last = Err(e),
            }
        }
        Ok(last)
    }
}

/// A duration as Go prints it: `12ms`, `1.234s`.
fn go_precise(d: Duration) -> String {
    if d < Duration::from_secs(1) {
        format!("{}ms", d.as_millis())
    } else {
        format!("{:.3}s", d.as_secs_f64())
    }
}
