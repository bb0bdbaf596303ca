//! Defaults of pods and pod templates (upstream `apis/core/v1/defaults.go`).
use crate::strategy::view::{each, fill, fill_zero, flag, has, section, text};
use serde_json::{Value, json};

/// Octal 0644: the mode of files in volumes made from objects.
const DEFAULT_MODE: i64 = 420;
/// How long a projected service account token lives.
const TOKEN_SECONDS: i64 = 3600;

/// Defaults of a PodSpec, in a pod as in a template.
pub(in crate::strategy) fn pod_spec(spec: &mut Value) {
    fill(spec, "dnsPolicy", "ClusterFirst");
    fill(spec, "restartPolicy", "Always");
    fill(spec, "schedulerName", "default-scheduler");
    fill(spec, "securityContext", json!({}));
    fill(spec, "terminationGracePeriodSeconds", 30);
    // The old name of the field is kept equal to the new one.
    let account = match text(spec, "/serviceAccountName") {
        "" => text(spec, "/serviceAccount"),
        name => name,
    }
    .to_owned();
    if !account.is_empty() {
        spec["serviceAccountName"] = json!(account);
        spec["serviceAccount"] = json!(account);
    }
    for volume in each(spec, "/volumes") {
        self::volume(volume);
    }
    for list in ["/initContainers", "/containers", "/ephemeralContainers"] {
        for container in each(spec, list) {
            self::container(container);
        }
    }
}

/// Defaults of a pod that a template does not have.
pub(super) fn pod(pod: &mut Value) {
    let Some(spec) = section(pod, "spec") else { return };
    fill(spec, "enableServiceLinks", true);
    let host_network = flag(spec, "/hostNetwork");
    for list in ["/initContainers", "/containers"] {
        for container in each(spec, list) {
            requests_from_limits(container);
            if host_network {
                for port in each(container, "/ports") {
                    let number = port["containerPort"].as_i64().unwrap_or(0);
                    fill_zero(port, "hostPort", number);
                }
            }
        }
    }
}

fn requests_from_limits(container: &mut Value) {
    let Some(limits) = container.pointer("/resources/limits").and_then(Value::as_object).cloned() else {
        return;
    };
    if limits.is_empty() {
        return;
    }
    let Some(requests) = section(&mut container["resources"], "requests") else { return };
    for (name, limit) in limits {
        fill(requests, &name, limit);
    }
}

/// Defaults of a container.
pub(super) fn container(container: &mut Value) {
    let policy = pull_policy(text(container, "/image"));
    fill(container, "imagePullPolicy", policy);
    fill(container, "terminationMessagePath", "/dev/termination-log");
    fill(container, "terminationMessagePolicy", "File");
    fill(container, "resources", json!({}));
    for port in each(container, "/ports") {
        fill(port, "protocol", "TCP");
    }
    for var in each(container, "/env") {
        field_ref(&mut var["valueFrom"]);
        // Indexing makes the field: take it away again where there was none.
        if var["valueFrom"].is_null() {
            crate::strategy::view::drop_field(var, "valueFrom");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if has(container, &format!("/{name}")) {
            probe(&mut container[name]);
        }
    }
    for hook in ["/lifecycle/postStart/httpGet", "/lifecycle/preStop/httpGet"] {
        if let Some(get) = container.pointer_mut(hook) {
            http_get(get);
        }
    }
}

/// Images without a tag, and `latest`, are pulled every time.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    // A colon before the last slash separates a registry's port.
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
        None if digest => "IfNotPresent",
        None => "Always",
    }
}

fn probe(probe: &mut Value) {
    fill_zero(probe, "timeoutSeconds", 1);
    fill_zero(probe, "periodSeconds", 10);
    fill_zero(probe, "successThreshold", 1);
    fill_zero(probe, "failureThreshold", 3);
    if let Some(get) = probe.pointer_mut("/httpGet") {
        http_get(get);
    }
    if let Some(grpc) = probe.pointer_mut("/grpc")
        && !grpc["service"].is_string()
    {
        grpc["service"] = json!("");
    }
}

fn http_get(get: &mut Value) {
    fill(get, "path", "/");
    fill(get, "scheme", "HTTP");
}

fn field_ref(source: &mut Value) {
    if let Some(field) = source.pointer_mut("/fieldRef") {
        fill(field, "apiVersion", "v1");
    }
}

/// Defaults of an EnvVar list that stands alone.
pub(in crate::strategy) fn env(obj: &mut Value, pointer: &str) {
    for var in each(obj, pointer) {
        if has(var, "/valueFrom") {
            field_ref(&mut var["valueFrom"]);
        }
    }
}

fn volume(volume: &mut Value) {
    let Some(o) = volume.as_object() else { return };
    if !o.iter().any(|(k, v)| k != "name" && !v.is_null()) {
        volume["emptyDir"] = json!({});
    }
    for source in ["configMap", "secret", "downwardAPI", "projected"] {
        if has(volume, &format!("/{source}")) {
            fill(&mut volume[source], "defaultMode", DEFAULT_MODE);
        }
    }
    for item in each(volume, "/downwardAPI/items") {
        field_ref(item);
    }
    for source in each(volume, "/projected/sources") {
        if let Some(token) = source.pointer_mut("/serviceAccountToken") {
            fill(token, "expirationSeconds", TOKEN_SECONDS);
        }
        for item in each(source, "/downwardAPI/items") {
            field_ref(item);
        }
    }
    if let Some(path) = volume.pointer_mut("/hostPath")
        && !path["type"].is_string()
    {
        path["type"] = json!("");
    }
    if let Some(iscsi) = volume.pointer_mut("/iscsi") {
        fill(iscsi, "iscsiInterface", "default");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, policy) in [
            ("a", "Always"),
            ("a:latest", "Always"),
            ("a:1", "IfNotPresent"),
            ("localhost:5000/a", "Always"),
            ("localhost:5000/a:1", "IfNotPresent"),
            ("a@sha256:00", "IfNotPresent"),
            ("a:latest@sha256:00", "Always"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}
