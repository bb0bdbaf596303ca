//! Functions (`dhow.dev/v1alpha1`): a program that answers HTTP, kept running and reachable by name.
use super::Strategy;
use super::check::{self, Faults, Unique};
use super::pod::{check_env, defaults};
use super::view::{fill, keep, keep_all_but_status, list, maybe_int, same, section};
use crate::field::{Error, Path};
use crate::validation::{dns_1035_label, dns_subdomain};
use serde_json::{Value, json};

pub(super) struct Function;

impl Strategy for Function {
    fn default(&self, obj: &mut Value) {
        let Some(spec) = section(obj, "spec") else { return };
        fill(spec, "replicas", 1);
        fill(spec, "port", 8080);
        defaults::env(spec, "/env");
    }
    fn prepare_for_create(&self, obj: &mut Value) {
        obj["status"] = json!({});
    }
    fn prepare_for_update(&self, new: &mut Value, old: &Value) {
        keep(new, old, "status");
    }
    fn prepare_for_status_update(&self, new: &mut Value, old: &Value) {
        keep_all_but_status(new, old);
    }
    fn validate(&self, obj: &Value) -> Faults {
        let (mut faults, path, spec) = (Faults::new(), Path::new("spec"), &obj["spec"]);
        check::required(&mut faults, spec, &path, "image");
        let image = spec["image"].as_str().unwrap_or("");
        if image != image.trim() {
            let detail = "must not have leading or trailing whitespace";
            faults.push(Error::invalid(path.child("image"), image, detail));
        }
        check::not_negative(&mut faults, spec, &path, "replicas");
        if let Some(port) = maybe_int(spec, "/port") {
            check::port(&mut faults, port, path.child("port"));
        }
        check_env(&mut faults, list(spec, "/env"), &path.child("env"));
        check::resources(&mut faults, &spec["resources"], &path.child("resources"));
        let mut hosts = Unique::default();
        for (i, host) in list(spec, "/hosts").iter().enumerate() {
            let (host, path) = (host.as_str().unwrap_or(""), path.child("hosts").index(i));
            check::rule(&mut faults, host, path.clone(), dns_subdomain);
            hosts.insert(&mut faults, host, path);
        }
        let mut paths = Unique::default();
        for (i, p) in list(spec, "/paths").iter().enumerate() {
            let (p, path) = (p.as_str().unwrap_or(""), path.child("paths").index(i));
            if !p.starts_with('/') {
                faults.push(Error::invalid(path.clone(), p, "must be an absolute path"));
            }
            paths.insert(&mut faults, p, path);
        }
        for (i, secret) in list(spec, "/imagePullSecrets").iter().enumerate() {
            check::required(&mut faults, secret, &path.child("imagePullSecrets").index(i), "name");
        }
        faults
    }
    fn validate_status_update(&self, new: &Value, _old: &Value) -> Faults {
        check::replica_status(&new["status"], &["readyReplicas"])
    }
    /// A Service of the same name stands before it, and the name becomes part of a host name.
    fn validate_name(&self, name: &str) -> Result<(), String> {
        dns_1035_label(name)
    }
    fn has_generation(&self) -> bool {
        true
    }
    fn generation_changed(&self, new: &Value, old: &Value) -> bool {
        !same(&new["spec"], &old["spec"])
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
    }

    #[test]
    fn the_schema_of_the_table_knows_every_field_used_here() {
        let row = crate::resource::lookup("dhow.dev", "v1alpha1", "functions").expect("a row");
        let schema = crate::schema::definition(row.schema).expect("the function's schema");
        let mut f = json!({"apiVersion": "dhow.dev/v1alpha1", "kind": "Function", "metadata": {"name": "f"},
            "spec": {"image": "x", "args": ["a"], "env": [{"name": "A", "value": "1"}], "replicas": 1, "port": 8080,
                "hosts": ["h.example"], "paths": ["/"], "imagePullSecrets": [{"name": "s"}],
                "resources": {"limits": {"memory": "64Mi"}}},
            "status": {"observedGeneration": 1, "replicas": 1, "readyReplicas": 1, "url": "http://f.localhost",
                "conditions": [{"type": "Ready", "status": "True", "reason": "r", "message": "m",
                    "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        assert_eq!(crate::schema::decode(schema, &mut f), Ok(vec![]));
    }
}
