//! CreateContainer: everything slow and everything that can fail, compiling and mounting included, but no start.
use crate::container::Entry;
use crate::error::{from_disk, from_images, from_shim, no_sandbox};
use crate::log::Log;
use crate::open::{Inner, Runtime};
use crate::output::ContainerOutput;
use crate::pin::pin;
use crate::plan;
use crate::record::{ContainerRecord, MountRecord, SandboxRecord, Survive};
use cri::{ContainerConfig, ContainerEventType, CreateContainerRequest, CreateContainerResponse, Error};
use images::{Content, ImageRecord, Reference};
use shim::{ContainerSpec, ImageContent, ImageKind, Shim};
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use tokio::io::DuplexStream;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// Input that lies between whoever sends it and a container that does not read: a pipe's size.
const INPUT_BYTES: usize = 64 * 1024;

impl Runtime {
    /// Creates in a task of its own. If the caller goes away meanwhile, what was made is removed again.
    pub(crate) async fn create(
        &self,
        request: CreateContainerRequest,
    ) -> Result<CreateContainerResponse, Error> {
        let (answer, wait) = oneshot::channel();
        let runtime = self.clone();
        self.inner.tasks.spawn(async move {
            let mut answer = answer;
            let unwanted = CancellationToken::new();
            let mut creating = pin!(runtime.create_entry(request, &unwanted));
            let created = tokio::select! {
                created = creating.as_mut() => created,
                () = answer.closed() => {
                    unwanted.cancel();
                    creating.await
                }
            };
            if let Err(Ok(id)) = answer.send(created)
                && let Err(error) = runtime.remove(&id).await
            {
                tracing::warn!(container = id, %error, "a container nobody waits for could not be removed");
            }
        });
        let created =
            wait.await.unwrap_or_else(|_| Err(Error::Unavailable("the runtime is shutting down".into())));
        created.map(|container_id| CreateContainerResponse { container_id })
    }

    async fn create_entry(
        &self,
        request: CreateContainerRequest,
        unwanted: &CancellationToken,
    ) -> Result<String, Error> {
        let inner = &self.inner;
        let config = request.config.unwrap_or_default();
        let sandbox = self.ready_sandbox(&request.pod_sandbox_id)?;
        let image_name = config.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
        let (image, _held) = self.hold_image(&image_name)?;
        let kind = Inner::shim_kind(&image.kind);
        let chosen = plan::choose_shim(&sandbox.handler, kind, &image_name, &self.candidates())?;
        let shim = inner.config.shims[chosen].clone();
        let content = inner.images.content(&image).await.map_err(from_images)?;

        let id = self.new_id();
        let record = self.container_record(&id, &sandbox, &config, &image, shim.as_ref())?;
        let log =
            Log::open(&record.log_path, inner.config.clock.clone(), inner.config.log, inner.logs.clone())
                .map_err(from_disk("opening the container's log"))?;
        let log = Arc::new(ContainerOutput::new(log));
        let (input, ours) = match config.stdin {
            true => {
                let (ours, theirs) = tokio::io::duplex(INPUT_BYTES);
                (Some(theirs), Some(ours))
            }
            false => (None, None),
        };
        let mut spec = self.spec(&record, &sandbox, &config, &image, content, input, log.clone())?;
        let sub_paths = plan::compute_sub_paths(&config)?;
        for mount in spec.mounts.iter_mut().filter(|mount| sub_paths.contains(&mount.container_path)) {
            mount.pinned = Some(pin(&mount.host_path)?);
        }
        let saved = inner
            .containers
            .save(&id, &record, Survive::Process)
            .and_then(|()| std::fs::create_dir_all(inner.state_dir(&id)));
        let creating = shim.create(spec);
        let made = match saved {
            // Compiling may take minutes, for nobody. (A Linux container half made has mounts that must be undone.)
            Ok(()) if kind == ImageKind::Wasm => {
                let made = unwanted.run_until_cancelled(creating).await;
                made.unwrap_or_else(|| Err(shim::Error::Unavailable("nobody waits for it any more".into())))
                    .map_err(from_shim)
            }
            Ok(()) => creating.await.map_err(from_shim),
            Err(error) => Err(from_disk("saving the container")(error)),
        };
        let handle = match made {
            Ok(handle) => handle,
            Err(error) => {
                if let Err(error) = inner.containers.remove(&id) {
                    tracing::warn!(container = id, %error, "a record could not be removed");
                }
                return Err(error);
            }
        };
        let entry = Arc::new(Entry::new(record, Some(handle), log, ours, config.stdin_once));
        let still_ready = {
            let mut state = inner.state.lock();
            state.insert_container(entry);
            state.sandboxes.get(&sandbox.id).is_some_and(|sandbox| sandbox.ready)
        };
        self.emit(ContainerEventType::Created, &id, &sandbox.id);
        if !still_ready {
            // The sandbox was stopped while this compiled: whoever stopped it saw no container to end.
            self.remove(&id).await?;
            return Err(Error::FailedPrecondition(format!("sandbox {} was stopped meanwhile", sandbox.id)));
        }
        Ok(id)
    }

    /// An image that stays here until the container that is made of it is known.
    fn hold_image(&self, name: &str) -> Result<(Arc<ImageRecord>, HeldImage), Error> {
        let missing = || Error::NotFound(format!("image {name:?} is not on this node"));
        let mut state = self.inner.state.lock();
        let image = self.inner.images.get(name).ok_or_else(missing)?;
        if !state.hold_image(&image.id) {
            return Err(missing());
        }
        let held = HeldImage { inner: self.inner.clone(), id: image.id.clone() };
        Ok((image, held))
    }

    fn ready_sandbox(&self, id: &str) -> Result<SandboxRecord, Error> {
        let state = self.inner.state.lock();
        let sandbox = state.sandboxes.get(id).ok_or_else(|| no_sandbox(id))?;
        match sandbox.ready {
            true => Ok(sandbox.clone()),
            false => Err(Error::FailedPrecondition(format!("sandbox {id} is stopped"))),
        }
    }

    fn container_record(
        &self,
        id: &str,
        sandbox: &SandboxRecord,
        config: &ContainerConfig,
        image: &ImageRecord,
        shim: &dyn Shim,
    ) -> Result<ContainerRecord, Error> {
        let metadata = config
            .metadata
            .clone()
            .ok_or_else(|| Error::InvalidArgument("the container has no metadata".into()))?;
        let log_path = match (sandbox.log_directory.as_str(), config.log_path.as_str()) {
            ("", _) | (_, "") => String::new(),
            (directory, file) => format!("{}/{file}", directory.trim_end_matches('/')),
        };
        let mount = |mount: &cri::Mount| MountRecord {
            container_path: mount.container_path.clone(),
            host_path: mount.host_path.clone(),
            readonly: mount.readonly,
        };
        Ok(ContainerRecord {
            id: id.to_string(),
            sandbox: sandbox.id.clone(),
            name: metadata.name,
            attempt: metadata.attempt,
            image: config.image.as_ref().map(|image| image.image.clone()).unwrap_or_default(),
            image_ref: image.digests().next().unwrap_or(&image.id).clone(),
            image_id: image.id.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.iter().map(mount).collect(),
            log_path,
            shim: shim.handler().to_string(),
            stop_signal: plan::compute_stop_signal(config, &image.config),
            created_at: self.now(),
            started_at: 0,
            exit: None,
        })
    }

    #[allow(clippy::too_many_arguments)] // One call, and each argument is a thing of its own.
    fn spec(
        &self,
        record: &ContainerRecord,
        sandbox: &SandboxRecord,
        config: &ContainerConfig,
        image: &ImageRecord,
        content: Content,
        input: Option<DuplexStream>,
        log: Arc<ContainerOutput>,
    ) -> Result<ContainerSpec, Error> {
        let kind = Inner::shim_kind(&image.kind);
        let linux = config.linux.clone().unwrap_or_default();
        let context = linux.security_context.unwrap_or_default();
        let attachment = sandbox.attachment.as_ref();
        let mut mounts = plan::compute_mounts(&config.mounts)?;
        if kind == ImageKind::Linux {
            mounts.extend(self.resolv_conf(sandbox, &mounts));
        }
        let working_dir =
            Some(&config.working_dir).filter(|dir| !dir.is_empty()).unwrap_or(&image.config.working_dir);
        Ok(ContainerSpec {
            id: record.id.clone(),
            display_name: format!("{}/{}/{}", sandbox.namespace, sandbox.name, record.name),
            image: match content {
                Content::Wasm { path, digest } => ImageContent::Wasm { path, digest },
                Content::Linux { layers } => ImageContent::Linux { layers },
            },
            args: plan::compute_args(config, &image.config, kind, &program_name(image))?,
            env: plan::compute_env(config, &image.config),
            cwd: working_dir.clone(),
            user: plan::compute_user(config, &image.config),
            supplemental_groups: context
                .supplemental_groups
                .iter()
                .filter_map(|g| u32::try_from(*g).ok())
                .collect(),
            mounts,
            read_only_root: context.readonly_rootfs,
            privileged: context.privileged,
            seccomp: plan::compute_seccomp(&context)?,
            resources: plan::compute_resources(linux.resources.as_ref()),
            pod_ip: attachment.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |attachment| attachment.ip),
            hostname: sandbox.hostname.clone(),
            ports: plan::compute_ports(config)?,
            network: self.inner.networks.of(&sandbox.id, &sandbox.namespace),
            network_namespace: attachment.and_then(|attachment| attachment.namespace.clone()),
            cgroup_parent: sandbox.cgroup_parent.clone(),
            annotations: plan::compute_annotations(&sandbox.annotations, &config.annotations),
            state_dir: self.inner.state_dir(&record.id),
            stdin: input.map(|input| Box::new(input) as shim::Input),
            terminal: config.tty,
            output: log,
        })
    }

    /// The pod's resolv.conf, or the node's, unless the pod mounts one itself.
    fn resolv_conf(&self, sandbox: &SandboxRecord, mounts: &[shim::Mount]) -> Option<shim::Mount> {
        const PATH: &str = "/etc/resolv.conf";
        if mounts.iter().any(|mount| mount.container_path == PATH) {
            return None;
        }
        let own = self.inner.sandboxes.directory(&sandbox.id).join("resolv.conf");
        let host_path = [own, PathBuf::from(PATH)].into_iter().find(|path| path.exists())?;
        Some(shim::Mount { host_path, container_path: PATH.to_string(), read_only: true, pinned: None })
    }
}

/// An image a container is being made of.
struct HeldImage {
    inner: Arc<Inner>,
    id: String,
}

impl Drop for HeldImage {
    fn drop(&mut self) {
        self.inner.state.lock().release_image(&self.id);
    }
}

/// What a wasm file without an entrypoint is called.
fn program_name(image: &ImageRecord) -> String {
    let reference = image.references.iter().find_map(|name| name.parse::<Reference>().ok());
    reference.map_or_else(|| "main".to_string(), |reference| reference.name().to_string())
}
