//! Functions (`dhow.dev/v1alpha1`): a program that answers HTTP, kept running and reachable by name.
mod queue;
mod traffic;
mod trigger;

use super::Strategy;
use super::check::{self, Faults, Unique};
use super::revision;
use super::view::{fill, list, maybe_int, same, section};
use crate::field::{Error, Path};
use crate::validation::{dns_1035_label, dns_subdomain, wildcard_dns_subdomain};
use serde_json::{Value, json};
use std::net::IpAddr;

pub(super) struct Function;

/// The longest name: a revision's, `<function>-r<N>`, is the name of a Service and the value of a label, 63 bytes
/// at most; eleven are left for the suffix, as upstream leaves for a CronJob's.
const MAX_NAME_LEN: usize = 52;
/// The gateway keeps a route for each pair of a host and a path.
const MAX_HOSTS: usize = 256;
const MAX_PATHS: usize = 256;
/// `timeoutSeconds` when it is not given, as the schema says.
const DEFAULT_TIMEOUT_SECONDS: i64 = 30;

impl Strategy for Function {
    fn default(&self, obj: &mut Value) {
        let Some(spec) = section(obj, "spec") else { return };
        let replicas = maybe_int(spec, "/minReplicas").unwrap_or(1).max(1);
        fill(spec, "replicas", replicas);
        revision::default_spec(spec);
        trigger::default_names(spec);
    }
    fn prepare_for_create(&self, obj: &mut Value) {
        obj["status"] = json!({});
    }
    fn validate(&self, obj: &Value) -> Faults {
        let (mut faults, path, spec) = (Faults::new(), Path::new("spec"), &obj["spec"]);
        revision::check_spec(&mut faults, spec, &path);
        replicas(&mut faults, spec, &path);
        hosts(&mut faults, list(spec, "/hosts"), &path.child("hosts"));
        paths(&mut faults, list(spec, "/paths"), &path.child("paths"));
        traffic::check(&mut faults, crate::meta::name(obj), list(spec, "/traffic"), &path.child("traffic"));
        let timeout = maybe_int(spec, "/timeoutSeconds").unwrap_or(DEFAULT_TIMEOUT_SECONDS);
        trigger::check(&mut faults, list(spec, "/triggers"), timeout, &path.child("triggers"));
        faults
    }
    fn validate_status_update(&self, new: &Value, _old: &Value) -> Faults {
        check::replica_status(&new["status"], &["readyReplicas"])
    }
    /// A Service of the same name stands before it, and the name becomes part of a host name.
    fn validate_name(&self, name: &str) -> Result<(), String> {
        if name.len() > MAX_NAME_LEN {
            return Err(format!("must be no more than {MAX_NAME_LEN} characters"));
        }
        dns_1035_label(name)
    }
    fn has_generation(&self) -> bool {
        true
    }
    fn generation_changed(&self, new: &Value, old: &Value) -> bool {
        !same(&new["spec"], &old["spec"])
    }
}

fn replicas(faults: &mut Faults, spec: &Value, path: &Path) {
    for name in ["replicas", "minReplicas", "revisionHistoryLimit"] {
        check::not_negative(faults, spec, path, name);
    }
    let Some(max) = maybe_int(spec, "/maxReplicas") else { return };
    if max < 1 {
        faults.push(Error::invalid(path.child("maxReplicas"), max, "must be greater than 0"));
    } else if maybe_int(spec, "/minReplicas").is_some_and(|min| min > max) {
        let detail = "must be greater than or equal to `minReplicas`";
        faults.push(Error::invalid(path.child("maxReplicas"), max, detail));
    }
}

/// Names as an Ingress' rules have them.
fn hosts(faults: &mut Faults, hosts: &[Value], path: &Path) {
    if hosts.len() > MAX_HOSTS {
        faults.push(Error::too_many(path.clone(), hosts.len(), MAX_HOSTS));
    }
    let mut seen = Unique::default();
    for (i, host) in hosts.iter().enumerate() {
        let (host, path) = (host.as_str().unwrap_or(""), path.index(i));
        if host.parse::<IpAddr>().is_ok() {
            faults.push(Error::invalid(path.clone(), host, "must be a DNS name, not an IP address"));
        } else if host.contains('*') {
            check::rule(faults, host, path.clone(), wildcard_dns_subdomain);
        } else {
            check::rule(faults, host, path.clone(), dns_subdomain);
        }
        seen.insert(faults, host, path);
    }
}

fn paths(faults: &mut Faults, paths: &[Value], path: &Path) {
    if paths.len() > MAX_PATHS {
        faults.push(Error::too_many(path.clone(), paths.len(), MAX_PATHS));
    }
    let mut seen = Unique::default();
    for (i, p) in paths.iter().enumerate() {
        let (p, path) = (p.as_str().unwrap_or(""), path.index(i));
        if !p.starts_with('/') {
            faults.push(Error::invalid(path.clone(), p, "must be an absolute path"));
        }
        seen.insert(faults, p, path);
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::shown;
    use super::*;

    #[test]
    fn an_image_is_all_a_function_needs() {
        let mut f = json!({"metadata": {"name": "f"}, "spec": {"image": "x"}});
        Function.default(&mut f);
        assert_eq!(f["spec"], json!({"image": "x", "replicas": 1, "port": 8080}));
        assert!(Function.validate(&f).is_empty());
        assert!(Function.validate_name("a.b").is_err());
        assert!(Function.validate_name(&"a".repeat(52)).is_ok());
        assert!(Function.validate_name(&"a".repeat(53)).is_err(), "its revisions' names would be too long");
        let mut f = json!({"spec": {"image": "x", "minReplicas": 3}});
        Function.default(&mut f);
        assert_eq!(f["spec"]["replicas"], 3);
    }

    #[test]
    fn faults_are_named() {
        let f = json!({"spec": {"replicas": -1, "port": 0, "hosts": ["a_b", "ok.example"], "paths": ["x", "/y", "/y"],
            "env": [{"value": "1"}]}});
        let got = shown(&Function.validate(&f));
        assert_eq!(got.len(), 7, "{got:?}");
        assert_eq!(got[0], "spec.image: Required value");
        assert!(got.contains(&"spec.paths[2]: Duplicate value: \"/y\"".to_owned()));
        assert!(got.contains(&"spec.env[0].name: Required value".to_owned()));
        let f = json!({"spec": {"image": "x", "timeoutSeconds": 0, "concurrency": 0, "minReplicas": 3, "maxReplicas": 2,
            "hosts": ["*.shop.example", "shop.*.example", "10.0.0.1"], "egress": ["http://x"], "imports": ["a:b/c@1.0.0", "a,b"],
            "volumes": [{"name": "v", "emptyDir": {}}], "volumeMounts": [{"name": "w", "mountPath": "/w"}]}});
        let got = shown(&Function.validate(&f));
        for part in [
            "spec.timeoutSeconds: Invalid value: 0: must be between 1 and 3600, inclusive",
            "spec.concurrency: Invalid value: 0",
            "spec.volumeMounts[0].name: Not found: \"w\"",
            "spec.egress[0]: Invalid value: \"http://x\": must be a host name",
            "spec.imports[1]: Invalid value: \"a,b\": must be the name of an interface",
            "spec.maxReplicas: Invalid value: 2: must be greater than or equal to `minReplicas`",
            "spec.hosts[1]: Invalid value: \"shop.*.example\": a wildcard DNS-1123 subdomain must start with '*.'",
            "spec.hosts[2]: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address",
        ] {
            assert!(got.iter().any(|g| g.starts_with(part)), "{part}: {got:?}");
        }
        assert_eq!(got.len(), 8, "{got:?}");
    }

    #[test]
    fn the_schema_of_the_table_knows_every_field_used_here() {
        let row = crate::resource::lookup("dhow.dev", "v1alpha1", "functions").expect("a row");
        let schema = crate::schema::definition(row.schema).expect("the function's schema");
        let condition = json!({"type": "Ready", "status": "True", "reason": "r", "message": "m",
            "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let shared = json!({"image": "x", "args": ["a"], "env": [{"name": "A", "value": "1"}],
            "envFrom": [{"configMapRef": {"name": "c"}}], "port": 8080, "imagePullSecrets": [{"name": "s"}],
            "resources": {"limits": {"memory": "64Mi"}}, "volumes": [{"name": "v", "emptyDir": {}}],
            "volumeMounts": [{"name": "v", "mountPath": "/v"}], "egress": ["api.example.com:443"],
            "config": ["/v"], "keyvalue": ["default", "s=redis://r:6379"], "imports": ["wasi:http/types@0.2.0"], "timeoutSeconds": 5, "concurrency": 10});
        let mut f = json!({"apiVersion": "dhow.dev/v1alpha1", "kind": "Function", "metadata": {"name": "f"},
            "spec": {"replicas": 1, "minReplicas": 1, "maxReplicas": 3, "hosts": ["h.example"], "paths": ["/"],
                "revisionHistoryLimit": 5,
                "traffic": [{"revision": "f-r1", "percent": 100}, {"revision": "latest", "headers": {"x-canary": "1"}}],
                "triggers": [{"name": "t", "cron": {"schedule": "* * * * *", "timeZone": "Europe/Berlin", "path": "/",
                    "concurrencyPolicy": "Forbid", "startingDeadlineSeconds": 10, "body": "b"}},
                    {"name": "q", "queue": {"secretKeyRef": {"name": "redis", "key": "url"}, "stream": "s",
                    "group": "g", "path": "/", "concurrency": 1, "maxAttempts": 1, "backoffSeconds": 1,
                    "visibilityTimeoutSeconds": 60, "deadLetterStream": "d"}},
                    {"name": "q2", "queue": {"url": "redis://r", "stream": "s"}}]},
            "status": {"observedGeneration": 1, "replicas": 1, "readyReplicas": 1, "url": "http://f.localhost",
                "selector": "dhow.dev/function=f", "latestCreatedRevision": "f-r2", "latestReadyRevision": "f-r1",
                "traffic": [{"revision": "f-r1", "percent": 100, "service": "f-r1", "headers": {"a": "b"}}],
                "triggers": [{"name": "t", "lastScheduleTime": "2026-01-01T00:00:00Z", "lastResult": "200",
                    "lastSuccessfulTime": "2026-01-01T00:00:00Z", "pendingMessages": 1, "lagMessages": 2,
                    "conditions": [condition]}],
                "conditions": [condition]}});
        f["spec"].as_object_mut().unwrap().extend(shared.as_object().unwrap().clone());
        assert_eq!(crate::schema::decode(schema, &mut f), Ok(vec![]));
        assert_eq!(shown(&Function.validate(&f)), [""; 0]);
        let row = crate::resource::lookup("dhow.dev", "v1alpha1", "revisions").expect("a row");
        let schema = crate::schema::definition(row.schema).expect("the revision's schema");
        let mut r = json!({"apiVersion": "dhow.dev/v1alpha1", "kind": "Revision", "metadata": {"name": "f-r1"},
            "spec": shared, "status": {"replicas": 1, "readyReplicas": 1, "conditions": [condition]}});
        assert_eq!(crate::schema::decode(schema, &mut r), Ok(vec![]));
        assert_eq!(shown(&revision::Revision.validate(&r)), [""; 0]);
    }
}
