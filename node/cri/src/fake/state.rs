//! What the fake holds: plain data and changes to it, no waiting.
use super::{Run, Script};
use crate::Error;
use crate::types::*;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::watch;

#[derive(Default)]
pub(super) struct State {
    /// Ids and addresses given out so far.
    counter: u64,
    pub(super) sandboxes: BTreeMap<String, Sandbox>,
    pub(super) containers: BTreeMap<String, Held>,
    /// Reference → id.
    pub(super) images: BTreeMap<String, String>,
    /// What sandboxes were last told of their network.
    pub(super) rules: BTreeMap<String, Vec<u8>>,
    /// What was last told of Services.
    pub(super) services: Option<UpdateServicesRequest>,
    /// That keep something here beyond their pods.
    pub(super) kept_namespaces: BTreeSet<String>,
}

pub(super) struct Sandbox {
    pub(super) config: PodSandboxConfig,
    pub(super) handler: String,
    pub(super) state: PodSandboxState,
    pub(super) created_at: i64,
    pub(super) ip: String,
}

pub(super) struct Held {
    pub(super) sandbox: String,
    pub(super) config: ContainerConfig,
    pub(super) script: Script,
    pub(super) status: ContainerStatus,
    /// True once it has ended.
    pub(super) ended: watch::Sender<bool>,
}

impl Sandbox {
    pub(super) fn namespace(&self) -> &str {
        self.config.metadata.as_ref().map_or("", |metadata| &metadata.namespace)
    }
}

impl State {
    /// Ids that look like real ones (64 hex digits) and repeat with the same calls.
    pub(super) fn next_id(&mut self) -> String {
        self.counter += 1;
        digest(&format!("fake-{}", self.counter))
    }

    pub(super) fn number_from(&mut self, first: u64) {
        self.counter = first;
    }

    pub(super) fn next_ip(&mut self) -> String {
        self.counter += 1;
        // 127.42.0.0/16, without .0 and .255.
        format!("127.42.{}.{}", (self.counter / 254) % 256, self.counter % 254 + 1)
    }

    pub(super) fn add_image(&mut self, image: &str) -> String {
        let id = format!("sha256:{}", digest(image));
        self.images.insert(image.to_string(), id.clone());
        id
    }

    /// An image by reference or id: its first reference and its id.
    pub(super) fn image(&self, name: &str) -> Option<(&String, &String)> {
        self.images.get_key_value(name).or_else(|| self.images.iter().find(|(_, id)| id.as_str() == name))
    }

    pub(super) fn sandbox(&self, id: &str) -> Result<&Sandbox, Error> {
        self.sandboxes.get(id).ok_or_else(|| Error::NotFound(format!("sandbox {id:?} does not exist")))
    }

    pub(super) fn container(&self, id: &str) -> Result<&Held, Error> {
        self.containers.get(id).ok_or_else(|| Error::NotFound(format!("container {id:?} does not exist")))
    }

    pub(super) fn start(&mut self, id: &str, now: i64) -> Result<(String, Run), Error> {
        let held = self
            .containers
            .get_mut(id)
            .ok_or_else(|| Error::NotFound(format!("container {id:?} does not exist")))?;
        if held.status.state() != ContainerState::Created {
            return Err(Error::FailedPrecondition(format!("container {id} was started before")));
        }
        if let Some(error) = &held.script.start_error {
            let (sandbox, error) = (held.sandbox.clone(), error.clone());
            self.end(id, 128, "StartError", &error.to_string(), now);
            tracing::debug!(sandbox, "scripted start failure");
            return Err(error);
        }
        held.status.set_state(ContainerState::Running);
        held.status.started_at = now;
        Ok((held.sandbox.clone(), held.script.run.clone()))
    }

    /// Gives the sandbox if this changed something.
    pub(super) fn end(
        &mut self,
        id: &str,
        code: i32,
        reason: &str,
        message: &str,
        now: i64,
    ) -> Option<String> {
        let held = self.containers.get_mut(id)?;
        if held.status.state() == ContainerState::Exited {
            return None;
        }
        held.status.set_state(ContainerState::Exited);
        held.status.exit_code = code;
        held.status.reason = reason.to_string();
        held.status.message = message.to_string();
        held.status.finished_at = now;
        held.ended.send_replace(true);
        Some(held.sandbox.clone())
    }

    pub(super) fn running(&self) -> Vec<String> {
        let runs = |held: &&Held| held.status.state() == ContainerState::Running;
        self.containers.values().filter(runs).map(|held| held.status.id.clone()).collect()
    }

    pub(super) fn of_sandbox(&self, sandbox: &str) -> Vec<String> {
        let inside = |held: &&Held| held.sandbox == sandbox;
        self.containers.values().filter(inside).map(|held| held.status.id.clone()).collect()
    }

    pub(super) fn stop_all_sandboxes(&mut self) {
        for sandbox in self.sandboxes.values_mut() {
            sandbox.state = PodSandboxState::NotReady;
            sandbox.ip.clear();
        }
    }

    pub(super) fn sandbox_status(&self, id: &str) -> Result<PodSandboxStatus, Error> {
        let sandbox = self.sandbox(id)?;
        Ok(PodSandboxStatus {
            id: id.to_string(),
            metadata: sandbox.config.metadata.clone(),
            state: sandbox.state as i32,
            created_at: sandbox.created_at,
            network: Some(PodSandboxNetworkStatus { ip: sandbox.ip.clone(), additional_ips: Vec::new() }),
            linux: None,
            labels: sandbox.config.labels.clone(),
            annotations: sandbox.config.annotations.clone(),
            runtime_handler: sandbox.handler.clone(),
        })
    }

    pub(super) fn stats(&self, id: &str, now: i64) -> Result<ContainerStats, Error> {
        let held = self.container(id)?;
        let value = |value| Some(UInt64Value { value });
        Ok(ContainerStats {
            attributes: Some(ContainerAttributes {
                id: id.to_string(),
                metadata: held.config.metadata.clone(),
                labels: held.config.labels.clone(),
                annotations: held.config.annotations.clone(),
            }),
            cpu: Some(CpuUsage {
                timestamp: now,
                usage_core_nano_seconds: value(held.script.cpu_nanoseconds),
                usage_nano_cores: None,
            }),
            memory: Some(MemoryUsage {
                timestamp: now,
                working_set_bytes: value(held.script.memory_bytes),
                ..Default::default()
            }),
            ..Default::default()
        })
    }
}

impl State {
    pub(super) fn sandbox_stats(&self, id: &str, now: i64) -> Result<PodSandboxStats, Error> {
        let status = self.sandbox_status(id)?;
        let running = |h: &&Held| h.sandbox == id && h.status.state() == ContainerState::Running;
        let containers: Vec<ContainerStats> = self
            .containers
            .values()
            .filter(running)
            .map(|h| self.stats(&h.status.id, now))
            .collect::<Result<_, _>>()?;
        Ok(PodSandboxStats {
            attributes: Some(PodSandboxAttributes {
                id: status.id,
                metadata: status.metadata,
                labels: status.labels,
                annotations: status.annotations,
            }),
            linux: Some(LinuxPodSandboxStats::of(containers, now)),
        })
    }
}

/// 64 hex digits that depend on the text alone. Not a cryptographic digest: it need only differ.
fn digest(text: &str) -> String {
    let mut out = String::with_capacity(64);
    for salt in 0..4u64 {
        // FNV-1a with a salted start, then a final mix so that near texts differ in all digits.
        let mut hash = 0xcbf2_9ce4_8422_2325 ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        for byte in text.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        out.push_str(&format!("{:016x}", hash ^ (hash >> 33)));
    }
    out
}
