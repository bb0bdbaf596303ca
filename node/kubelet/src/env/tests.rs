use super::*;
use serde_json::json;

fn pod() -> core::Pod {
    serde_json::from_value(json!({
        "metadata": { "name": "p", "namespace": "ns", "uid": "u1", "labels": { "app": "web", "b": "x" } },
        "spec": { "nodeName": "n1", "containers": [{
            "name": "c",
            "resources": { "limits": { "memory": "64Mi", "cpu": "250m" } },
            "env": [
                { "name": "PLAIN", "value": "v" },
                { "name": "REF", "value": "$(PLAIN)-$(FROM_A)-$(NOPE)-$$(PLAIN)" },
                { "name": "KEY", "valueFrom": { "configMapKeyRef": { "name": "cm", "key": "a" } } },
                { "name": "SECRET", "valueFrom": { "secretKeyRef": { "name": "s", "key": "pw" } } },
                { "name": "MAYBE", "valueFrom": { "secretKeyRef": { "name": "s", "key": "no", "optional": true } } },
                { "name": "NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
                { "name": "APP", "valueFrom": { "fieldRef": { "fieldPath": "metadata.labels['app']" } } },
                { "name": "IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } },
                { "name": "NODE", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } },
                { "name": "MEM", "valueFrom": { "resourceFieldRef": { "resource": "limits.memory", "divisor": "1Mi" } } },
                { "name": "CPU", "valueFrom": { "resourceFieldRef": { "resource": "limits.cpu" } } },
                { "name": "PLAIN", "value": "again" }
            ],
            "envFrom": [
                { "prefix": "FROM_", "configMapRef": { "name": "upper" } },
                { "secretRef": { "name": "gone", "optional": true } }
            ]
        }] }
    }))
    .unwrap()
}

fn objects() -> Objects {
    let map = |data: serde_json::Value| {
        Some(Arc::new(serde_json::from_value::<core::ConfigMap>(json!({ "data": data })).unwrap()))
    };
    let secret: core::Secret = serde_json::from_value(json!({ "data": { "pw": "aHVudGVyMg==" } })).unwrap();
    Objects {
        config_maps: [
            ("cm".into(), map(json!({ "a": "1" }))),
            ("upper".into(), map(json!({ "A": "x", "B": "y" }))),
        ]
        .into(),
        secrets: [("s".into(), Some(Arc::new(secret))), ("gone".into(), None)].into(),
    }
}

fn facts() -> PodFacts {
    PodFacts {
        pod_ips: vec!["127.42.0.3".into()],
        host_ip: "127.0.0.1".into(),
        node_name: "n1".into(),
        allocatable: BTreeMap::new(),
    }
}

#[test]
fn every_kind_of_variable_is_resolved_in_order() {
    let pod = pod();
    let c = &pod.spec.as_ref().unwrap().containers[0];
    let env = resolve_env(&pod, c, &objects(), &facts(), &[("PLAIN".into(), "svc".into())]).unwrap();
    let shown: Vec<String> = env.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(
        shown,
        [
            "PLAIN=again",
            "FROM_A=x",
            "FROM_B=y",
            "REF=v-x-$(NOPE)-$(PLAIN)",
            "KEY=1",
            "SECRET=hunter2",
            "NAME=p",
            "APP=web",
            "IP=127.42.0.3",
            "NODE=n1",
            "MEM=64",
            "CPU=1",
        ]
    );
}

#[test]
fn what_is_missing_is_named_as_upstream_names_it() {
    let pod = pod();
    let c = &pod.spec.as_ref().unwrap().containers[0];
    let mut without = objects();
    without.config_maps.insert("cm".into(), None);
    let e = resolve_env(&pod, c, &without, &facts(), &[]).unwrap_err();
    assert_eq!(e.to_string(), "configmap \"cm\" not found");
    let mut keyless = objects();
    keyless.config_maps.insert("cm".into(), Some(Arc::default()));
    let e = resolve_env(&pod, c, &keyless, &facts(), &[]).unwrap_err();
    assert_eq!(e.to_string(), "couldn't find key a in ConfigMap ns/cm");
}

#[test]
fn the_references_of_a_container_are_found() {
    let (maps, secrets) = references(&pod().spec.unwrap().containers[0]);
    assert_eq!(maps.into_iter().collect::<Vec<_>>(), ["cm", "upper"]);
    assert_eq!(secrets.into_iter().collect::<Vec<_>>(), ["gone", "s"]);
}

#[test]
fn arguments_see_the_environment() {
    let c = core::Container {
        command: Some(vec!["/bin/$(A)".into()]),
        args: Some(vec!["--x=$(A)".into(), "$(B)".into()]),
        ..Default::default()
    };
    let (command, args) = expand_command(&c, &[("A".into(), "1".into())]);
    assert_eq!((command, args), (vec!["/bin/1".to_owned()], vec!["--x=1".to_owned(), "$(B)".to_owned()]));
}
