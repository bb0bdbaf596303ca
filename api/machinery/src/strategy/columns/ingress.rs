//! Ingresses and IngressClasses.
use super::{AGE, NAME, or, or_none, shown};
use crate::strategy::view::{has, list, text};
use crate::table::Column;
use serde_json::{Value, json};

pub(in crate::strategy) static INGRESS: &[Column] = &[
    NAME,
    shown("Class", "string", "Who acts on it.", |o, _| json!(or_none(text(o, "/spec/ingressClassName")))),
    shown("Hosts", "string", "The hosts it takes.", |o, _| json!(hosts(o))),
    shown("Address", "string", "Where it is reached.", |o, _| {
        let points = list(o, "/status/loadBalancer/ingress").iter();
        let all: Vec<&str> =
            points.map(|p| or(text(p, "/ip"), text(p, "/hostname"))).filter(|s| !s.is_empty()).collect();
        json!(all.join(","))
    }),
    shown("Ports", "string", "The ports of its rules.", |o, _| {
        json!(if list(o, "/spec/tls").is_empty() { "80" } else { "80, 443" })
    }),
    AGE,
];

pub(in crate::strategy) static INGRESS_CLASS: &[Column] = &[
    NAME,
    shown("Controller", "string", "Who acts on its Ingresses.", |o, _| json!(text(o, "/spec/controller"))),
    shown("Parameters", "string", "What it is configured by.", |o, _| json!(parameters(o))),
    AGE,
];

fn hosts(ingress: &Value) -> String {
    const SHOWN: usize = 3;
    let all: Vec<&str> =
        list(ingress, "/spec/rules").iter().map(|r| text(r, "/host")).filter(|h| !h.is_empty()).collect();
    match all.len() {
        0 => "*".to_owned(),
        n if n > SHOWN => format!("{} + {} more...", all[..SHOWN].join(","), n - SHOWN),
        _ => all.join(","),
    }
}

fn parameters(class: &Value) -> String {
    if !has(class, "/spec/parameters") {
        return "<none>".to_owned();
    }
    let (kind, name) = (text(class, "/spec/parameters/kind"), text(class, "/spec/parameters/name"));
    match text(class, "/spec/parameters/apiGroup") {
        "" => format!("{kind}/{name}"),
        group => format!("{kind}.{group}/{name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::columns::tests::cell;

    const NOW: &str = "2026-01-01T01:00:00Z";

    #[test]
    fn an_ingress_shows_its_hosts_and_its_address() {
        let mut o = json!({ "spec": { "rules": [{ "host": "a" }, {}, { "host": "b" }] } });
        let show = |o: &Value| {
            ["Class", "Hosts", "Address", "Ports"]
                .map(|name| cell(INGRESS, name, o, NOW).as_str().expect("text").to_owned())
        };
        assert_eq!(show(&o), ["<none>", "a,b", "", "80"]);
        o["spec"] = json!({ "ingressClassName": "dhow", "tls": [{}],
            "rules": [{ "host": "a" }, { "host": "b" }, { "host": "c" }, { "host": "d" }] });
        o["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "127.0.0.1" }, { "hostname": "x" }] } });
        assert_eq!(show(&o), ["dhow", "a,b,c + 1 more...", "127.0.0.1,x", "80, 443"]);
        assert_eq!(show(&json!({ "spec": {} }))[1], "*");
    }

    #[test]
    fn a_class_shows_its_parameters() {
        let mut o = json!({ "spec": { "controller": "a.b/c" } });
        assert_eq!(cell(INGRESS_CLASS, "Parameters", &o, NOW), "<none>");
        o["spec"]["parameters"] = json!({ "apiGroup": "g", "kind": "K", "name": "n" });
        assert_eq!(cell(INGRESS_CLASS, "Parameters", &o, NOW), "K.g/n");
    }
}
