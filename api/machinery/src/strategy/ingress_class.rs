//! IngressClasses: who acts on an Ingress.
use super::Strategy;
use super::check::{self, Faults};
use super::view::{fill, has, same, text};
use crate::field::{Error, Path};
use crate::validation::dns_subdomain;
use serde_json::Value;

pub(super) struct IngressClass;

/// The longest name of a controller.
const MAX_CONTROLLER: usize = 250;

impl Strategy for IngressClass {
    fn default(&self, obj: &mut Value) {
        if let Some(parameters) = obj.pointer_mut("/spec/parameters").filter(|p| p.is_object()) {
            fill(parameters, "scope", "Cluster");
        }
    }
    fn validate(&self, obj: &Value) -> Faults {
        let (mut faults, path) = (Faults::new(), Path::new("spec"));
        let (controller, at) = (text(obj, "/spec/controller"), path.child("controller"));
        if controller.len() > MAX_CONTROLLER {
            faults.push(Error::too_long(at, MAX_CONTROLLER));
        } else if controller.is_empty() {
            faults.push(Error::required(at, ""));
        } else if !is_domain_prefixed_path(controller) {
            let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            faults.push(Error::invalid(at, controller, detail));
        }
        if has(obj, "/spec/parameters") {
            parameters(&mut faults, &obj["spec"]["parameters"], &path.child("parameters"));
        }
        faults
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Faults {
        let mut faults = Faults::new();
        let path = Path::new("spec").child("controller");
        check::immutable(&mut faults, &new["spec"]["controller"], &old["spec"]["controller"], path);
        faults
    }
    fn has_generation(&self) -> bool {
        true
    }
    fn generation_changed(&self, new: &Value, old: &Value) -> bool {
        !same(&new["spec"], &old["spec"])
    }
}

fn is_domain_prefixed_path(text: &str) -> bool {
    let is_path = |rest: &str| {
        !rest.is_empty()
            && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~:/%!$&'()*+,;=@".contains(&b))
    };
    text.split_once('/').is_some_and(|(domain, rest)| dns_subdomain(domain).is_ok() && is_path(rest))
}

fn parameters(faults: &mut Faults, parameters: &Value, path: &Path) {
    for field in ["kind", "name"] {
        check::required(faults, parameters, path, field);
    }
    let namespace = text(parameters, "/namespace");
    match text(parameters, "/scope") {
        "Namespace" if namespace.is_empty() => {
            let detail = "`parameters.scope` is set to 'Namespace'";
            faults.push(Error::required(path.child("namespace"), detail));
        }
        "Cluster" if !namespace.is_empty() => {
            let detail = "`parameters.scope` is set to 'Cluster'";
            faults.push(Error::forbidden(path.child("namespace"), detail));
        }
        "Cluster" | "Namespace" => {}
        other => faults.push(Error::not_supported(path.child("scope"), other, &["Cluster", "Namespace"])),
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::shown;
    use super::*;
    use serde_json::json;

    #[test]
    fn the_controller_is_a_domain_and_a_path_and_stays() {
        let class = |controller: &str| json!({ "spec": { "controller": controller } });
        assert!(IngressClass.validate(&class("dhow.dev/gateway")).is_empty());
        assert_eq!(shown(&IngressClass.validate(&json!({}))), ["spec.controller: Required value"]);
        for bad in ["gateway", "A_B/x", "dhow.dev/", "dhow.dev/a b"] {
            assert_eq!(IngressClass.validate(&class(bad)).len(), 1, "{bad}");
        }
        let got = shown(&IngressClass.validate_update(&class("a.b/d"), &class("a.b/c")));
        assert_eq!(got, ["spec.controller: Invalid value: \"a.b/d\": field is immutable"]);
    }

    #[test]
    fn parameters_are_of_the_cluster_unless_they_say_otherwise() {
        let mut class =
            json!({ "spec": { "controller": "a.b/c", "parameters": { "kind": "K", "name": "n" } } });
        IngressClass.default(&mut class);
        assert_eq!(class["spec"]["parameters"]["scope"], "Cluster");
        assert!(IngressClass.validate(&class).is_empty());
        class["spec"]["parameters"]["namespace"] = json!("x");
        assert_eq!(IngressClass.validate(&class).len(), 1);
        class["spec"]["parameters"]["scope"] = json!("Namespace");
        assert!(IngressClass.validate(&class).is_empty());
        class["spec"]["parameters"]["namespace"] = Value::Null;
        assert_eq!(IngressClass.validate(&class).len(), 1);
    }
}
