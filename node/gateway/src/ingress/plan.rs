//! Which Ingresses are this gateway's, and what is written about them. Pure.
use client::k8s_openapi::api::networking::v1::{
    Ingress, IngressClass, IngressLoadBalancerIngress, IngressLoadBalancerStatus, IngressPortStatus,
};
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;

/// The class of Ingresses that are this gateway's.
pub(crate) const CLASS: &str = "dhow";
/// Who acts on a class: a class of any name with this controller is this gateway's.
pub(crate) const CONTROLLER: &str = "dhow.dev/gateway";
/// On a class: Ingresses that name none are of it.
const IS_DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";
/// On an Ingress: its class, as it was said before `spec.ingressClassName`.
const OLD_CLASS: &str = "kubernetes.io/ingress.class";

fn is_default(class: &IngressClass) -> bool {
    class.metadata.annotations.as_ref().and_then(|a| a.get(IS_DEFAULT)).is_some_and(|v| v == "true")
}

/// The class to be made at the start, if it is not there: the default, unless another is already.
pub(crate) fn plan_class(classes: &[Arc<IngressClass>]) -> Option<Value> {
    if classes.iter().any(|class| class.metadata.name.as_deref() == Some(CLASS)) {
        return None;
    }
    let mut class = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "IngressClass",
        "metadata": { "name": CLASS }, "spec": { "controller": CONTROLLER },
    });
    if !classes.iter().any(|class| is_default(class)) {
        class["metadata"]["annotations"] = json!({ IS_DEFAULT: "true" });
    }
    Some(class)
}

/// The Ingresses that are this gateway's: those of a class with its controller, and those without a class while such
/// a class is the default.
pub(crate) fn plan_own(ingresses: &[Arc<Ingress>], classes: &[Arc<IngressClass>]) -> Vec<Arc<Ingress>> {
    let own: Vec<_> = classes
        .iter()
        .filter(|class| class.spec.as_ref().and_then(|s| s.controller.as_deref()) == Some(CONTROLLER))
        .collect();
    let names_own = |name: &str| own.iter().any(|class| class.metadata.name.as_deref() == Some(name));
    let default = own.iter().any(|class| is_default(class));
    let is_own = |ingress: &Ingress| {
        let named = ingress.spec.as_ref().and_then(|spec| spec.ingress_class_name.as_deref());
        let old = ingress.metadata.annotations.as_ref().and_then(|a| a.get(OLD_CLASS));
        match (named, old) {
            (Some(name), _) => names_own(name),
            // The annotation is the controller's own word, not the name of an object.
            (None, Some(old)) => old == CLASS || names_own(old),
            (None, None) => default,
        }
    };
    ingresses.iter().filter(|ingress| is_own(ingress)).cloned().collect()
}

/// Where the gateway is reached from outside.
#[derive(Clone, Debug)]
pub(crate) struct Reached {
    pub(crate) ip: IpAddr,
    pub(crate) port: u16,
    pub(crate) tls_port: Option<u16>,
}

/// The status to be written to an Ingress; `None` if it says so already.
pub(crate) fn plan_status(ingress: &Ingress, at: &Reached) -> Option<IngressLoadBalancerStatus> {
    let port = |port: u16| IngressPortStatus {
        port: i32::from(port),
        protocol: "TCP".to_owned(),
        ..IngressPortStatus::default()
    };
    let point = IngressLoadBalancerIngress {
        ip: Some(at.ip.to_string()),
        ports: Some([at.port].into_iter().chain(at.tls_port).map(port).collect()),
        ..IngressLoadBalancerIngress::default()
    };
    let wanted = IngressLoadBalancerStatus { ingress: Some(vec![point]) };
    let written = ingress.status.as_ref().and_then(|status| status.load_balancer.as_ref());
    (ingress.metadata.deletion_timestamp.is_none() && written != Some(&wanted)).then_some(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(name: &str, controller: &str, default: bool) -> Arc<IngressClass> {
        let annotations = if default { json!({ IS_DEFAULT: "true" }) } else { json!({}) };
        let class = json!({ "metadata": { "name": name, "annotations": annotations }, "spec": { "controller": controller } });
        Arc::new(serde_json::from_value(class).expect("a class"))
    }

    fn ingress(name: &str, class: Option<&str>, annotation: Option<&str>) -> Arc<Ingress> {
        let mut value =
            json!({ "metadata": { "name": name, "namespace": "n", "annotations": {} }, "spec": {} });
        if let Some(class) = class {
            value["spec"]["ingressClassName"] = json!(class);
        }
        if let Some(old) = annotation {
            value["metadata"]["annotations"][OLD_CLASS] = json!(old);
        }
        Arc::new(serde_json::from_value(value).expect("an ingress"))
    }

    #[test]
    fn a_class_is_made_once_and_is_the_default_unless_another_is() {
        let made = plan_class(&[]).expect("a class");
        assert_eq!(made["metadata"]["annotations"][IS_DEFAULT], "true");
        let made = plan_class(&[class("nginx", "k8s.io/ingress-nginx", true)]).expect("a class");
        assert!(made["metadata"]["annotations"].is_null());
        assert_eq!(plan_class(&[class(CLASS, "other.example/x", false)]), None);
    }

    #[test]
    fn an_ingress_belongs_to_the_controller_of_its_class() {
        let ingresses = [
            ingress("ours", Some("dhow"), None),
            ingress("also", Some("edge"), None),
            ingress("theirs", Some("nginx"), None),
            ingress("none", None, None),
            ingress("old", None, Some("dhow")),
            ingress("old-theirs", None, Some("nginx")),
        ];
        let names = |classes: &[Arc<IngressClass>]| -> Vec<String> {
            plan_own(&ingresses, classes).iter().filter_map(|i| i.metadata.name.clone()).collect()
        };
        let other = class("nginx", "k8s.io/ingress-nginx", false);
        assert_eq!(
            names(&[class("dhow", CONTROLLER, true), class("edge", CONTROLLER, false), other.clone()]),
            ["ours", "also", "none", "old"]
        );
        assert_eq!(names(&[class("dhow", CONTROLLER, false), other]), ["ours", "old"]);
        assert_eq!(names(&[]), ["old"]);
    }

    #[test]
    fn the_address_is_written_once() {
        let at = Reached { ip: "127.0.0.1".parse().expect("an address"), port: 8080, tls_port: Some(8443) };
        let mut ingress = (*ingress("i", None, None)).clone();
        let status = plan_status(&ingress, &at).expect("a status");
        let wanted = json!({ "ingress": [{ "ip": "127.0.0.1", "ports": [
            { "port": 8080, "protocol": "TCP" }, { "port": 8443, "protocol": "TCP" }] }] });
        assert_eq!(serde_json::to_value(&status).expect("JSON"), wanted);
        ingress.status.get_or_insert_default().load_balancer = Some(status);
        assert_eq!(plan_status(&ingress, &at), None);
    }
}
