//! Amounts of resources: what pods ask for and nodes have.
use client::k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use client::k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::collections::BTreeMap;

/// What a container without a request is counted as in scores, so that many of them do not all land on one
/// node (upstream's `DefaultMilliCPURequest`, `DefaultMemoryRequest`).
const UNSTATED_MILLI_CPU: i64 = 100;
const UNSTATED_MEMORY: i64 = 200 * 1024 * 1024;

/// An amount of each resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub milli_cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Bytes.
    pub ephemeral_storage: i64,
    /// Everything else by name: hugepages, extended resources. `pods` is not among them.
    pub scalar: BTreeMap<String, i64>,
}

type Quantities = BTreeMap<String, Quantity>;

impl Resources {
    /// Reads a list of quantities. One that cannot be read counts as nothing; the API server accepts none.
    pub fn of(quantities: Option<&Quantities>) -> Self {
        let mut sum = Self::default();
        for (name, quantity) in quantities.into_iter().flatten() {
            let Ok(q) = machinery::quantity::Quantity::parse(&quantity.0) else { continue };
            match name.as_str() {
                "cpu" => sum.milli_cpu = q.milli_value(),
                "memory" => sum.memory = q.value(),
                "ephemeral-storage" => sum.ephemeral_storage = q.value(),
                "pods" => {}
                _ => {
                    sum.scalar.insert(name.clone(), q.value());
                }
            }
        }
        sum
    }

    pub fn add(&mut self, other: &Self) {
        self.milli_cpu = self.milli_cpu.saturating_add(other.milli_cpu);
        self.memory = self.memory.saturating_add(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.saturating_add(other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            let held = self.scalar.entry(name.clone()).or_default();
            *held = held.saturating_add(*amount);
        }
    }

    pub fn subtract(&mut self, other: &Self) {
        self.milli_cpu = self.milli_cpu.saturating_sub(other.milli_cpu);
        self.memory = self.memory.saturating_sub(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.saturating_sub(other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            if let Some(held) = self.scalar.get_mut(name) {
                *held = held.saturating_sub(*amount);
                if *held == 0 {
                    self.scalar.remove(name);
                }
            }
        }
    }

    fn raise_to(&mut self, other: &Self) {
        self.milli_cpu = self.milli_cpu.max(other.milli_cpu);
        self.memory = self.memory.max(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.max(other.ephemeral_storage);
        for (name, amount) in &other.scalar {
            let held = self.scalar.entry(name.clone()).or_default();
            *held = (*held).max(*amount);
        }
    }

    /// What the pod needs at once: the greater of what its containers need together and what its init
    /// containers need one after another, sidecars (restartable init containers) running on from where they
    /// start; requests of the whole pod take the place of its containers'; then the overhead of its runtime.
    pub fn requested_by(spec: &PodSpec) -> Self {
        Self::of_pod(spec, Self::of_container)
    }

    /// The same for scores: cpu and memory that are not stated count a little.
    pub fn scored_for(spec: &PodSpec) -> Self {
        Self::of_pod(spec, |requirements| {
            let mut r = Self::of_container(requirements);
            let stated = |name| requests(requirements).is_some_and(|q| q.contains_key(name));
            if !stated("cpu") {
                r.milli_cpu = UNSTATED_MILLI_CPU;
            }
            if !stated("memory") {
                r.memory = UNSTATED_MEMORY;
            }
            r
        })
    }

    fn of_container(requirements: Option<&ResourceRequirements>) -> Self {
        Self::of(requests(requirements))
    }

    fn of_pod(spec: &PodSpec, of: impl Fn(Option<&ResourceRequirements>) -> Self) -> Self {
        let mut running = Self::default();
        for container in &spec.containers {
            running.add(&of(container.resources.as_ref()));
        }
        let mut sidecars = Self::default();
        let mut starting = Self::default();
        for container in spec.init_containers.iter().flatten() {
            let mut step = of(container.resources.as_ref());
            if is_sidecar(container) {
                sidecars.add(&step);
                step = sidecars.clone();
            } else {
                step.add(&sidecars);
            }
            starting.raise_to(&step);
        }
        running.add(&sidecars);
        running.raise_to(&starting);
        if let Some(whole) = requests(spec.resources.as_ref()) {
            let stated = Self::of(Some(whole));
            if whole.contains_key("cpu") {
                running.milli_cpu = stated.milli_cpu;
            }
            if whole.contains_key("memory") {
                running.memory = stated.memory;
            }
        }
        running.add(&Self::of(spec.overhead.as_ref()));
        running
    }
}

fn requests(requirements: Option<&ResourceRequirements>) -> Option<&Quantities> {
    requirements.and_then(|r| r.requests.as_ref())
}

/// Whether an init container keeps running beside the others.
pub fn is_sidecar(container: &Container) -> bool {
    container.restart_policy.as_deref() == Some("Always")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(v: serde_json::Value) -> Resources {
        Resources::requested_by(&serde_json::from_value(v).unwrap())
    }

    fn asks(cpu: &str, memory: &str) -> serde_json::Value {
        json!({ "name": "c", "resources": { "requests": { "cpu": cpu, "memory": memory } } })
    }

    #[test]
    fn a_pod_needs_the_greater_of_its_containers_and_its_init_containers_and_its_overhead() {
        let mut sidecar = asks("50m", "10Mi");
        sidecar["restartPolicy"] = json!("Always");
        let r = pod(json!({
            "containers": [asks("100m", "64Mi"), asks("250m", "64Mi")],
            "initContainers": [asks("1", "16Mi"), sidecar, asks("1", "16Mi")],
            "overhead": { "cpu": "5m", "memory": "1Mi" },
        }));
        // The last init container runs beside the sidecar; the containers need more memory.
        assert_eq!((r.milli_cpu, r.memory), (1055, (64 + 64 + 10 + 1) << 20));
    }

    #[test]
    fn requests_of_the_whole_pod_replace_those_of_its_containers() {
        let r = pod(json!({ "containers": [asks("1", "1Gi")], "resources": { "requests": { "cpu": "2" } } }));
        assert_eq!((r.milli_cpu, r.memory), (2000, 1 << 30));
    }

    #[test]
    fn unstated_requests_count_in_scores_only() {
        let spec: PodSpec =
            serde_json::from_value(json!({ "containers": [{ "name": "a" }, { "name": "b" }] })).unwrap();
        assert_eq!(Resources::requested_by(&spec), Resources::default());
        let scored = Resources::scored_for(&spec);
        assert_eq!((scored.milli_cpu, scored.memory), (200, 400 << 20));
    }
}
