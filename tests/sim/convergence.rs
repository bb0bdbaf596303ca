//! What must come true when nothing goes wrong any more: each a list of what is still amiss.
use crate::checkers::overcommitted;
use crate::machine::{Machine, POD_UID};
use crate::state::{State, controller, has_ended, is_going, is_true, list, number, split_key, text, uid};
use crate::world::World;
use client::k8s_openapi::api::core::v1::Service;
use client::k8s_openapi::api::discovery::v1::EndpointSlice;
use cri::{ContainerState, PodSandboxState};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

fn name(object: &Value) -> String {
    format!("{}/{}", text(object, "/metadata/namespace"), text(object, "/metadata/name"))
}

/// Everything that is not as it shall be.
pub fn amiss(world: &World) -> Vec<String> {
    let machines: Vec<Arc<Machine>> = world.nodes.lock().values().map(|n| n.machine.clone()).collect();
    world.observer.with(|state| {
        let mut all = Vec::new();
        deleted_things(state, &mut all);
        nodes(state, &machines, &mut all);
        deployments(state, &mut all);
        replica_sets(state, &mut all);
        jobs(state, &mut all);
        functions(state, &mut all);
        revisions(state, &mut all);
        pods(state, &mut all);
        endpoints(state, &mut all);
        owners(state, &mut all);
        promises(state, &mut all);
        for machine in &machines {
            runtime(state, machine, &mut all);
        }
        all
    })
}

/// Pods that wait for a node, in the clear.
pub fn waiting_for_a_node(state: &State) -> usize {
    state
        .of("core/pods")
        .filter(|p| text(p, "/spec/nodeName").is_empty() && !is_going(p) && !has_ended(p))
        .count()
}

fn deleted_things(state: &State, all: &mut Vec<String>) {
    for (key, stored) in &state.objects {
        if is_going(&stored.value) {
            all.push(format!(
                "{key} is still being deleted, finalizers {:?}",
                list(&stored.value, "/metadata/finalizers")
            ));
        }
        if let Some(what) = state.promises.deleted.get(uid(&stored.value)) {
            all.push(format!("{what} was deleted and is there"));
        }
    }
    let namespaces: BTreeSet<&str> = state.of("core/namespaces").map(|n| text(n, "/metadata/name")).collect();
    for key in state.objects.keys() {
        if let Some((_, namespace, _)) = split_key(key)
            && !namespace.is_empty()
            && !namespaces.contains(namespace.as_str())
        {
            all.push(format!("{key} is in a namespace that is gone"));
        }
    }
}

fn nodes(state: &State, machines: &[Arc<Machine>], all: &mut Vec<String>) {
    for machine in machines {
        if state.object("core/nodes", "", &machine.node).is_none() {
            all.push(format!("machine {} is no node", machine.node));
        }
    }
    for node in state.of("core/nodes") {
        let name = text(node, "/metadata/name");
        if !machines.iter().any(|m| m.node == name) {
            all.push(format!("node {name} has no machine"));
        }
        if !is_true(node, "Ready") {
            all.push(format!("node {name} is not ready"));
        }
        if !list(node, "/spec/taints").is_empty() {
            all.push(format!("node {name} is tainted: {:?}", list(node, "/spec/taints")));
        }
        if let Some(how) = overcommitted(state, name, |_| false) {
            all.push(format!("node {name} has too much: {how}"));
        }
    }
}

fn deployments(state: &State, all: &mut Vec<String>) {
    for deployment in state.of("apps/deployments") {
        let wanted = number(deployment, "/spec/replicas").unwrap_or(1);
        let count = |field: &str| number(deployment, &format!("/status/{field}")).unwrap_or(0);
        if number(deployment, "/status/observedGeneration") != number(deployment, "/metadata/generation") {
            all.push(format!("deployment {} was not seen", name(deployment)));
        }
        for field in ["replicas", "updatedReplicas", "readyReplicas", "availableReplicas"] {
            if count(field) != wanted {
                all.push(format!(
                    "deployment {} has {field} {}, wanted {wanted}",
                    name(deployment),
                    count(field)
                ));
            }
        }
        if !is_true(deployment, "Available") {
            all.push(format!("deployment {} is not available", name(deployment)));
        }
    }
}

fn replica_sets(state: &State, all: &mut Vec<String>) {
    for set in state.of("apps/replicasets") {
        let wanted = number(set, "/spec/replicas").unwrap_or(1);
        let own: Vec<_> =
            state.of("core/pods").filter(|p| controller(p, "ReplicaSet") == Some(uid(set))).collect();
        let ready = own.iter().filter(|p| is_true(p, "Ready")).count() as i64;
        if own.iter().filter(|p| !has_ended(p)).count() as i64 != wanted || ready != wanted {
            all.push(format!(
                "replicaset {} has {} pods, {ready} ready, wanted {wanted}",
                name(set),
                own.len()
            ));
        }
        let told =
            (number(set, "/status/replicas").unwrap_or(0), number(set, "/status/readyReplicas").unwrap_or(0));
        if told != (wanted, wanted) {
            all.push(format!("replicaset {} tells of {told:?} pods, wanted {wanted}", name(set)));
        }
    }
}

fn jobs(state: &State, all: &mut Vec<String>) {
    for job in state.of("batch/jobs") {
        let (complete, failed) = (is_true(job, "Complete"), is_true(job, "Failed"));
        if !complete && !failed {
            all.push(format!("job {} has not ended: {}", name(job), job["status"]));
        }
        if complete && number(job, "/status/succeeded") < number(job, "/spec/completions") {
            all.push(format!(
                "job {} is complete with {:?} successes",
                name(job),
                number(job, "/status/succeeded")
            ));
        }
        if number(job, "/status/active").unwrap_or(0) > 0 {
            all.push(format!("job {} has active pods", name(job)));
        }
        if job.pointer("/spec/ttlSecondsAfterFinished").is_some() && (complete || failed) {
            all.push(format!("job {} has outlived its time", name(job)));
        }
    }
}

fn functions(state: &State, all: &mut Vec<String>) {
    for function in state.of("dhow.dev/functions") {
        if !is_true(function, "Ready") {
            all.push(format!("function {} is not ready: {}", name(function), function["status"]));
        }
        if number(function, "/status/readyReplicas") != number(function, "/spec/replicas") {
            all.push(format!(
                "function {} tells of {:?} replicas",
                name(function),
                number(function, "/status/readyReplicas")
            ));
        }
        let namespace = text(function, "/metadata/namespace");
        let image = |o: &Value, at: &str| text(o, at).to_owned();
        let serving = text(function, "/status/traffic/0/revision");
        let deployed = state
            .object("apps/deployments", namespace, serving)
            .map(|d| image(&d.value, "/spec/template/spec/containers/0/image"));
        if deployed != Some(image(function, "/spec/image")) {
            all.push(format!("function {} is deployed as {deployed:?}", name(function)));
        }
    }
}

/// A revision that lost its traffic keeps its pods until what runs has drained.
fn revisions(state: &State, all: &mut Vec<String>) {
    for revision in state.of("dhow.dev/revisions") {
        let inactive = list(revision, "/status/conditions")
            .iter()
            .any(|c| c["type"] == "Active" && c["status"] == "False");
        if inactive && number(revision, "/status/replicas") > Some(0) {
            all.push(format!("revision {} has no traffic and still has pods", name(revision)));
        }
    }
}

fn pods(state: &State, all: &mut Vec<String>) {
    for pod in state.of("core/pods") {
        let node = text(pod, "/spec/nodeName");
        if !node.is_empty() && state.object("core/nodes", "", node).is_none() {
            all.push(format!("pod {} is on {node}, which is gone", name(pod)));
        }
        // One-way pods may end; others run.
        let phase = text(pod, "/status/phase");
        let ends = text(pod, "/spec/restartPolicy") != "Always";
        if !has_ended(pod) && (ends || phase != "Running" || !is_true(pod, "Ready")) {
            let why = list(pod, "/status/containerStatuses").first().map(|s| s["state"].to_string());
            let conditions: Vec<_> = list(pod, "/status/conditions")
                .iter()
                .map(|c| format!("{}={}", c["type"], c["status"]))
                .collect();
            all.push(format!("pod {} on {node:?} is {phase}: {why:?} {conditions:?}", name(pod)));
        }
        let lasting = controller(pod, "ReplicaSet").is_some();
        if lasting && has_ended(pod) && !is_going(pod) && text(pod, "/status/reason").is_empty() {
            all.push(format!("pod {} of a replicaset has ended: {phase}", name(pod)));
        }
    }
}

/// The addresses of ready pods that a Service selects, by the API's own words.
fn selected(state: &State, service: &Value) -> BTreeSet<String> {
    let selector = service.pointer("/spec/selector").and_then(Value::as_object);
    let Some(selector) = selector.filter(|s| !s.is_empty()) else { return BTreeSet::new() };
    state
        .of("core/pods")
        .filter(|p| text(p, "/metadata/namespace") == text(service, "/metadata/namespace"))
        .filter(|p| {
            selector.iter().all(|(k, v)| p.pointer("/metadata/labels").and_then(|l| l.get(k)) == Some(v))
        })
        .filter(|p| is_true(p, "Ready") && !is_going(p) && !has_ended(p))
        .map(|p| text(p, "/status/podIP").to_owned())
        .collect()
}

fn endpoints(state: &State, all: &mut Vec<String>) {
    let typed = |o: &Arc<Value>| serde_json::from_value((**o).clone());
    let services: Vec<Arc<Service>> =
        state.of("core/services").filter_map(|o| typed(o).ok().map(Arc::new)).collect();
    let slices: Vec<Arc<EndpointSlice>> = state
        .of("discovery.k8s.io/endpointslices")
        .filter_map(|o| serde_json::from_value((**o).clone()).ok().map(Arc::new))
        .collect();
    let rules = kube_proxy::rules::rules(&services, &slices, &[]);
    for service in state.of("core/services") {
        if service.pointer("/spec/selector").and_then(Value::as_object).is_none_or(|s| s.is_empty()) {
            continue;
        }
        let wanted = selected(state, service);
        let mut shown: BTreeMap<String, u32> = BTreeMap::new();
        for slice in state.of("discovery.k8s.io/endpointslices") {
            let owner = slice.pointer("/metadata/labels").and_then(|l| l.get("kubernetes.io/service-name"));
            if text(slice, "/metadata/namespace") != text(service, "/metadata/namespace")
                || owner.and_then(Value::as_str) != Some(text(service, "/metadata/name"))
            {
                continue;
            }
            for endpoint in list(slice, "/endpoints").iter().filter(|e| e["conditions"]["ready"] == true) {
                *shown.entry(text(endpoint, "/addresses/0").to_owned()).or_default() += 1;
            }
        }
        if let Some((twice, _)) = shown.iter().find(|(_, n)| **n > 1) {
            all.push(format!("service {} shows {twice} twice", name(service)));
        }
        let shown: BTreeSet<String> = shown.into_keys().collect();
        if shown != wanted {
            all.push(format!("service {} shows {shown:?}, ready are {wanted:?}", name(service)));
        }
        let leads: BTreeSet<String> = rules
            .frontends
            .values()
            .filter(|f| {
                f.namespace == text(service, "/metadata/namespace")
                    && f.service == text(service, "/metadata/name")
            })
            .flat_map(|f| f.backends.iter().map(|b| b.ip().to_string()))
            .collect();
        // A headless Service has no address, so there is nothing that leads anywhere.
        let headless = text(service, "/spec/clusterIP") == "None";
        if leads != if headless { BTreeSet::new() } else { wanted.clone() } {
            all.push(format!(
                "kube-proxy leads service {} to {leads:?}, ready are {wanted:?}",
                name(service)
            ));
        }
    }
}

fn owners(state: &State, all: &mut Vec<String>) {
    let uids: BTreeSet<&str> = state.objects.values().map(|o| uid(&o.value)).collect();
    for (key, stored) in &state.objects {
        let owners = list(&stored.value, "/metadata/ownerReferences");
        if !owners.is_empty() && !owners.iter().any(|r| r["uid"].as_str().is_some_and(|u| uids.contains(u))) {
            all.push(format!("{key} has outlived its owner {}", owners[0]["name"]));
        }
    }
}

fn promises(state: &State, all: &mut Vec<String>) {
    for (key, (id, wanted)) in &state.promises.wanted {
        // What went with its namespace or its time is checked elsewhere.
        let Some(stored) = state.objects.get(key).filter(|o| uid(&o.value) == id) else { continue };
        let kept = ["apps/deployments", "dhow.dev/functions", "core/configmaps", "core/services"];
        let resource = split_key(key).map(|k| k.0).unwrap_or_default();
        if kept.contains(&resource.as_str()) && crate::answers::wanted(&stored.value) != *wanted {
            all.push(format!(
                "{key} is not as its user left it:\n  left {wanted}\n  is   {}",
                crate::answers::wanted(&stored.value)
            ));
        }
    }
}

fn runtime(state: &State, machine: &Machine, all: &mut Vec<String>) {
    let pods: BTreeMap<&str, &Arc<Value>> = state
        .of("core/pods")
        .filter(|p| text(p, "/spec/nodeName") == machine.node)
        .map(|p| (uid(p), p))
        .collect();
    let label = |labels: &BTreeMap<String, String>| labels.get(POD_UID).cloned().unwrap_or_default();
    for sandbox in machine.sandboxes().unwrap_or_default() {
        let pod = label(&sandbox.labels);
        match pods.get(pod.as_str()) {
            None => all.push(format!(
                "sandbox {} on {} is of pod {pod}, which is gone",
                &sandbox.id[..12],
                machine.node
            )),
            Some(p) if has_ended(p) && sandbox.state == PodSandboxState::Ready as i32 => {
                all.push(format!(
                    "sandbox {} on {} is ready, its pod {} has ended",
                    &sandbox.id[..12],
                    machine.node,
                    name(p)
                ));
            }
            Some(_) => {}
        }
    }
    let running = machine.containers(Some(ContainerState::Running)).unwrap_or_default();
    let running: BTreeSet<String> = running.iter().map(|c| label(&c.labels)).collect();
    for (id, pod) in pods {
        let runs = text(pod, "/status/phase") == "Running";
        if runs != running.contains(id) {
            all.push(format!(
                "pod {} is {}, on {} it runs: {}",
                name(pod),
                text(pod, "/status/phase"),
                machine.node,
                !runs
            ));
        }
    }
}
