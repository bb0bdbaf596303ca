//! Ending a pod: stop what runs, say how it ended, let go of everything.
use super::apply::SyncError;
use super::{Next, Worker};
use crate::container_config::log_dir_name;
use crate::observed::RunState;
use crate::status::is_terminal;
use crate::volumes::apply::remove_pod_dirs;
use crate::volumes::pod_dir;
use client::k8s_openapi::api::core::v1 as core;
use client::kube::api::{Api, DeleteParams, Preconditions};
use client::{is_conflict, is_not_found};
use std::path::PathBuf;

impl Worker {
    /// One pass towards the end.
    pub(super) async fn end(&mut self) -> Result<Next, SyncError> {
        self.probe_tasks.retain(|_, _| false);
        self.waiting.clear();
        self.observe().await?;
        self.publish();
        if self.observed.running().next().is_some() || self.observed.sandboxes.iter().any(|s| s.ready) {
            let grace = self.grace();
            let mail = self.mail.clone();
            let stopped = {
                let hastened = mail.shorter_grace(grace);
                tokio::select! {
                    biased;
                    done = self.stop_everything("Stopping container") => Some(done),
                    _ = hastened => None,
                }
            };
            match stopped {
                Some(done) => done?,
                None => {
                    // Somebody is in more of a hurry now: stop again, with less patience.
                    self.take_mail();
                    self.stale = true;
                    return Ok(Next::At(self.shared.ambient.now()));
                }
            }
            self.stale = true;
            self.observe().await?;
        }
        self.ended = self.observed.containers.iter().all(|c| c.state != RunState::Running);
        self.publish();

        let deleted = self.gone || self.pod.metadata.deletion_timestamp.is_some();
        if !deleted {
            debug_assert!(self.eviction.is_some() || is_terminal(self.status.phase.as_deref()));
            // Logs and exit codes stay until the pod is deleted; its volumes are no longer needed.
            self.remove_dirs(false).await?;
            return Ok(Next::Mail);
        }
        if !self.gone {
            self.slot.flushed().await;
            self.delete_object().await?;
        }
        self.remove_sandboxes().await?;
        self.remove_dirs(true).await?;
        Ok(Next::Done)
    }

    /// Takes the pod's object out of the API for good; only this very pod.
    async fn delete_object(&mut self) -> Result<(), SyncError> {
        let meta = &self.pod.metadata;
        if meta.finalizers.as_ref().is_some_and(|f| !f.is_empty())
            && meta.deletion_grace_period_seconds == Some(0)
        {
            // It waits for its finalizers, which are not ours.
            return Ok(());
        }
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let api: Api<core::Pod> = Api::namespaced(self.shared.client.clone(), namespace);
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(self.uid.clone()), resource_version: None }),
            ..Default::default()
        };
        match api.delete(meta.name.as_deref().unwrap_or_default(), &params).await {
            Ok(_) => Ok(()),
            Err(e) if is_not_found(&e) || is_conflict(&e) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    async fn remove_sandboxes(&mut self) -> Result<(), SyncError> {
        for id in std::mem::take(&mut self.sandboxes) {
            let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.clone() };
            if let Err(e) = self.shared.runtime.remove_pod_sandbox(request).await {
                self.sandboxes.push(id);
                return Err(e.into());
            }
        }
        Ok(())
    }

    /// Removes the pod's volumes, and its logs too if asked.
    async fn remove_dirs(&self, logs: bool) -> Result<(), SyncError> {
        let meta = &self.pod.metadata;
        let mut dirs: Vec<PathBuf> = vec![pod_dir(&self.shared.root_dir, &self.uid)];
        if logs {
            let (namespace, name) =
                (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default());
            dirs.push(self.shared.logs_dir.join(log_dir_name(namespace, name, &self.uid)));
        }
        let what = dirs[0].display().to_string();
        let removed = crate::blocking::blocking(move || remove_pod_dirs(&dirs)).await;
        match removed {
            Ok(Ok(())) => Ok(()),
            Ok(Err(source)) => Err(SyncError::Io { what: format!("cannot remove {what}"), source }),
            Err(e) => Err(SyncError::Setup(e.to_string())),
        }
    }
}
