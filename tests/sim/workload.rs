//! What a user does: objects made, changed and deleted under few names, so that names come again.
use crate::answers::{forget_promise, place};
use crate::door::Door;
use crate::gate::Gate;
use crate::state::text;
use crate::world::World;
use apiserver::UserInfo;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceExt;

const NAMESPACES: &[&str] = &["default", "a", "b"];
/// Images that run until stopped, each in its own manner; `flaky` cannot be pulled before the faults are over.
pub const SERVING: &[&str] = &[
    "registry.example/app:1",
    "registry.example/app:2",
    "registry.example/slow-stop:1",
    "registry.example/stubborn:1",
    "registry.example/flaky:1",
];
const ENDING: &[&str] = &[
    "registry.example/exit-0:1",
    "registry.example/exit-0-after-5:1",
    "registry.example/exit-0-after-30:1",
    "registry.example/exit-1-after-3:1",
];

pub struct User {
    world: Arc<World>,
    door: Door,
}

/// What came of a request: the code and the object, or nothing at all.
pub type Answer = Option<(u16, Value)>;

impl User {
    pub fn new(world: &Arc<World>) -> Self {
        let gate = Gate::open("user", world.journal.clone());
        Self { world: world.clone(), door: world.door(UserInfo::admin(), &gate, Arc::default()) }
    }

    pub async fn ask(&self, method: Method, path: &str, kind: &str, body: &Value) -> Answer {
        let bytes = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header("content-type", kind)
            .body(Full::new(bytes))
            .expect("a request");
        let answer = match self.door.clone().oneshot(request).await {
            Ok(response) => {
                let code = response.status().as_u16();
                let body = response.into_body().collect().await.ok().map(|b| b.to_bytes());
                body.map(|b| (code, serde_json::from_slice(&b).unwrap_or_default()))
            }
            Err(_) => None,
        };
        if answer.as_ref().is_none_or(|(code, _)| *code >= 500)
            && method != Method::GET
            && let Some(place) = place(path)
        {
            let name = if place.name.is_empty() { text(body, "/metadata/name") } else { &place.name };
            forget_promise(&self.world.observer, &place.resource, &place.namespace, name);
        }
        answer
    }

    async fn create(&self, path: &str, object: &Value) -> Answer {
        self.ask(Method::POST, path, "application/json", object).await
    }
    async fn merge(&self, path: &str, patch: &Value) -> Answer {
        self.ask(Method::PATCH, path, "application/merge-patch+json", patch).await
    }
    async fn delete(&self, path: &str, options: &Value) -> Answer {
        self.ask(Method::DELETE, path, "application/json", options).await
    }

    /// One thing a user does, chosen by chance.
    pub async fn act(&self) {
        let rng = &self.world.rng;
        let namespace = *rng.pick(NAMESPACES);
        match rng.below(100) {
            0..30 => self.deployment(namespace).await,
            30..45 => self.job(namespace).await,
            45..55 => self.function(namespace).await,
            55..68 => self.service(namespace).await,
            68..78 => self.config_map(namespace).await,
            78..86 => self.pod(namespace).await,
            86..92 => self.namespace().await,
            _ => self.node().await,
        }
    }

    fn note(&self, what: impl std::fmt::Display) {
        self.world.journal.step(what);
    }

    fn propagation(&self) -> Value {
        let policy = *self.world.rng.pick(&["Background", "Foreground", "Foreground", "Orphan"]);
        json!({ "propagationPolicy": policy })
    }

    async fn deployment(&self, namespace: &str) {
        let rng = &self.world.rng;
        let (name, all) =
            (format!("d{}", rng.below(3)), format!("/apis/apps/v1/namespaces/{namespace}/deployments"));
        let one = format!("{all}/{name}");
        match rng.below(10) {
            0..5 => {
                let object = deployment(&name, rng.below(5), rng.pick::<&str>(SERVING), rng.below(6));
                self.note(format_args!("create deployment {namespace}/{name}"));
                self.create(&all, &object).await;
            }
            5..7 => {
                let replicas = rng.below(5);
                self.note(format_args!("scale deployment {namespace}/{name} to {replicas}"));
                self.merge(&one, &json!({ "spec": { "replicas": replicas } })).await;
            }
            7..9 => {
                let image = *rng.pick(SERVING);
                self.note(format_args!("roll deployment {namespace}/{name} to {image}"));
                let patch = json!([{ "op": "replace", "path": "/spec/template/spec/containers/0/image", "value": image }]);
                self.ask(Method::PATCH, &one, "application/json-patch+json", &patch).await;
            }
            _ => {
                let options = self.propagation();
                self.note(format_args!("delete deployment {namespace}/{name} {options}"));
                self.delete(&one, &options).await;
            }
        }
    }

    async fn job(&self, namespace: &str) {
        let rng = &self.world.rng;
        let (name, all) =
            (format!("j{}", rng.below(3)), format!("/apis/batch/v1/namespaces/{namespace}/jobs"));
        if rng.chance(750) {
            let object =
                job(&name, rng.between(1, 4), rng.between(1, 3), rng.pick::<&str>(ENDING), rng.below(4));
            self.note(format_args!("create job {namespace}/{name}"));
            self.create(&all, &object).await;
        } else {
            let options = self.propagation();
            self.note(format_args!("delete job {namespace}/{name} {options}"));
            self.delete(&format!("{all}/{name}"), &options).await;
        }
    }

    async fn function(&self, namespace: &str) {
        let rng = &self.world.rng;
        let (name, all) = (
            format!("f{}", rng.below(2)),
            format!("/apis/dhow.dev/v1alpha1/namespaces/{namespace}/functions"),
        );
        let one = format!("{all}/{name}");
        match rng.below(4) {
            0 | 1 => {
                self.note(format_args!("create function {namespace}/{name}"));
                let object = json!({
                    "apiVersion": "dhow.dev/v1alpha1", "kind": "Function", "metadata": { "name": name },
                    "spec": { "image": *rng.pick(SERVING), "replicas": rng.between(1, 3) },
                });
                self.create(&all, &object).await;
            }
            2 => {
                self.note(format_args!("change function {namespace}/{name}"));
                let spec = json!({ "replicas": rng.between(1, 3), "image": *rng.pick(SERVING) });
                self.merge(&one, &json!({ "spec": spec })).await;
            }
            _ => {
                self.note(format_args!("delete function {namespace}/{name}"));
                self.delete(&one, &Value::Null).await;
            }
        }
    }

    async fn service(&self, namespace: &str) {
        let rng = &self.world.rng;
        let (name, all) = (format!("s{}", rng.below(4)), format!("/api/v1/namespaces/{namespace}/services"));
        let one = format!("{all}/{name}");
        let selector = json!({ "app": format!("d{}", rng.below(3)) });
        match rng.below(4) {
            0 | 1 => {
                self.note(format_args!("create service {namespace}/{name}"));
                let object = json!({
                    "apiVersion": "v1", "kind": "Service", "metadata": { "name": name },
                    "spec": {
                        "selector": selector, "ports": [{ "port": 80, "targetPort": 8080 }],
                        "type": *rng.pick(&["ClusterIP", "NodePort"]),
                    },
                });
                self.create(&all, &object).await;
            }
            2 => {
                self.note(format_args!("point service {namespace}/{name} to {selector}"));
                self.merge(&one, &json!({ "spec": { "selector": selector } })).await;
            }
            _ => {
                self.note(format_args!("delete service {namespace}/{name}"));
                self.delete(&one, &Value::Null).await;
            }
        }
    }

    async fn config_map(&self, namespace: &str) {
        let rng = &self.world.rng;
        let (name, all) =
            (format!("c{}", rng.below(3)), format!("/api/v1/namespaces/{namespace}/configmaps"));
        let one = format!("{all}/{name}");
        let data = json!({ "value": rng.next().to_string() });
        match rng.below(4) {
            0 | 1 => {
                self.note(format_args!("create configmap {namespace}/{name}"));
                let object = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name }, "data": data });
                self.create(&all, &object).await;
            }
            2 => {
                self.note(format_args!("change configmap {namespace}/{name}"));
                self.merge(&one, &json!({ "data": data })).await;
            }
            _ => {
                self.note(format_args!("delete configmap {namespace}/{name}"));
                self.delete(&one, &Value::Null).await;
            }
        }
    }

    async fn pod(&self, namespace: &str) {
        let rng = &self.world.rng;
        let (name, all) = (format!("p{}", rng.below(3)), format!("/api/v1/namespaces/{namespace}/pods"));
        if rng.chance(650) {
            let (image, restart) =
                if rng.chance(600) { (*rng.pick(SERVING), "Always") } else { (*rng.pick(ENDING), "Never") };
            self.note(format_args!("create pod {namespace}/{name}"));
            let mut object = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "labels": { "app": "bare" } } });
            object["spec"] = pod_spec(image, restart, rng.below(6));
            self.create(&all, &object).await;
        } else {
            let options = if rng.chance(300) { json!({ "gracePeriodSeconds": 0 }) } else { Value::Null };
            self.note(format_args!("delete pod {namespace}/{name} {options}"));
            self.delete(&format!("{all}/{name}"), &options).await;
        }
    }

    async fn namespace(&self) {
        let rng = &self.world.rng;
        let name = *rng.pick(&NAMESPACES[1..]);
        if rng.chance(650) {
            self.make_namespace(name).await;
        } else {
            self.note(format_args!("delete namespace {name}"));
            self.delete(&format!("/api/v1/namespaces/{name}"), &Value::Null).await;
        }
    }

    pub async fn make_namespace(&self, name: &str) {
        self.note(format_args!("create namespace {name}"));
        let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        self.create("/api/v1/namespaces", &object).await;
    }

    async fn node(&self) {
        let rng = &self.world.rng;
        let names: Vec<String> = self.world.nodes.lock().keys().cloned().collect();
        let Some(name) = (!names.is_empty()).then(|| rng.pick(&names).clone()) else { return };
        let path = format!("/api/v1/nodes/{name}");
        match rng.below(5) {
            0 if names.len() < 6 => {
                self.note("add a node");
                self.world.add_node();
            }
            1 if names.len() > 2 => {
                self.note(format_args!("remove node {name}"));
                self.world.take_away(&name);
                self.delete_surely(&path).await;
            }
            2 => {
                self.note(format_args!("delete node {name}, whose kubelet goes on"));
                self.delete(&path, &Value::Null).await;
            }
            _ => {
                let cordon = rng.chance(500);
                self.note(format_args!("cordon node {name}: {cordon}"));
                self.merge(&path, &json!({ "spec": { "unschedulable": cordon } })).await;
            }
        }
    }

    /// Deletes until it is answered that it is gone.
    async fn delete_surely(&self, path: &str) {
        loop {
            match self.delete(path, &Value::Null).await {
                Some((200..300 | 404, _)) => return,
                _ => tokio::time::sleep(Duration::from_millis(500)).await,
            }
        }
    }

    /// Makes every node take pods again.
    pub async fn uncordon_all(&self) {
        let names: Vec<String> = self.world.nodes.lock().keys().cloned().collect();
        for name in names {
            let path = format!("/api/v1/nodes/{name}");
            self.merge(&path, &json!({ "spec": { "unschedulable": null } })).await;
        }
    }
}

/// Processor time a pod asks for, in steps of 20 milli; one kind asks for most of a core.
fn pod_spec(image: &str, restart: &str, size: u64) -> Value {
    let milli = if size == 5 { 700 } else { 20 + 20 * size };
    json!({
        "restartPolicy": restart, "terminationGracePeriodSeconds": 10,
        "containers": [{
            "name": "main", "image": image, "ports": [{ "containerPort": 8080 }],
            "resources": { "requests": { "cpu": format!("{milli}m"), "memory": "16Mi" } },
        }],
    })
}

fn deployment(name: &str, replicas: u64, image: &str, size: u64) -> Value {
    let labels = json!({ "app": name });
    let strategy = match size % 3 {
        0 => json!({ "type": "Recreate" }),
        1 => json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": 1, "maxUnavailable": 0 } }),
        _ => {
            json!({ "type": "RollingUpdate", "rollingUpdate": { "maxSurge": "25%", "maxUnavailable": "50%" } })
        }
    };
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": name, "labels": labels },
        "spec": {
            "replicas": replicas, "selector": { "matchLabels": labels }, "strategy": strategy,
            "template": { "metadata": { "labels": labels }, "spec": pod_spec(image, "Always", size) },
        },
    })
}

fn job(name: &str, completions: u64, parallelism: u64, image: &str, kind: u64) -> Value {
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": { "name": name },
        "spec": {
            "completions": completions, "parallelism": parallelism, "backoffLimit": 2,
            "template": { "metadata": { "labels": { "app": name } }, "spec": pod_spec(image, "Never", 0) },
        },
    });
    match kind {
        0 => job["spec"]["ttlSecondsAfterFinished"] = json!(20),
        1 => job["spec"]["completionMode"] = json!("Indexed"),
        2 => job["spec"]["template"]["spec"]["restartPolicy"] = json!("OnFailure"),
        _ => {}
    }
    job
}
