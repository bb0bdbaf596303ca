//! The kinds of `metrics.k8s.io` and their objects.
use super::{GROUP, NodeUsage, PodUsage, REQUESTS_PER_SECOND, Usage, VERSION, go_duration};
use crate::meta;
use crate::quantity::Quantity;
use crate::resource::{Resource, Scope, Verb};
use crate::strategy::Strategy;
use crate::table::Column;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

const READ: &[Verb] = &[Verb::Get, Verb::List];

/// Nothing is ever written, so there is nothing to decide.
struct Computed;
impl Strategy for Computed {}

const BASE: Resource = Resource {
    group: GROUP,
    version: VERSION,
    kind: "NodeMetrics",
    plural: "nodes",
    singular: "nodemetrics",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    verbs: READ,
    subresources: &[],
    schema: "io.k8s.metrics.pkg.apis.metrics.v1beta1.NodeMetrics",
    storage: (GROUP, "nodes"),
    selectable_fields: &[],
    columns: COLUMNS,
    strategy: &Computed,
    ttl_seconds: None,
};

/// NodeMetrics and PodMetrics. They stand beside the resource table, not in it: nothing of them is stored.
pub static ROWS: &[Resource] = &[
    BASE,
    Resource {
        kind: "PodMetrics",
        plural: "pods",
        singular: "podmetrics",
        scope: Scope::Namespaced,
        schema: "io.k8s.metrics.pkg.apis.metrics.v1beta1.PodMetrics",
        storage: (GROUP, "pods"),
        ..BASE
    },
];

const fn column(name: &'static str, format: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column { name, kind: "string", format, description: "", priority: 0, cell }
}

static COLUMNS: &[Column] = &[
    column("Name", "name", |o, _| json!(meta::name(o))),
    column("CPU", "", |o, _| json!(sum(o, "cpu").to_string())),
    column("Memory", "", |o, _| json!(sum(o, "memory").to_binary_string())),
    column("Window", "", |o, _| json!(o["window"].as_str().unwrap_or(""))),
];

/// A node's own usage, or that of a pod's containers together.
fn sum(object: &Value, resource: &str) -> Quantity {
    let of =
        |usage: &Value| usage[resource].as_str().and_then(|q| Quantity::parse(q).ok()).map_or(0, |q| q.0);
    let containers = object["containers"].as_array();
    Quantity(of(&object["usage"]) + containers.into_iter().flatten().map(|c| of(&c["usage"])).sum::<i128>())
}

fn usage_of(usage: &Usage) -> Value {
    let mut out = Map::new();
    out.insert("cpu".to_owned(), json!(Quantity(i128::from(usage.cpu_nanocores)).to_string()));
    let bytes = i64::try_from(usage.memory_bytes).unwrap_or(i64::MAX);
    out.insert("memory".to_owned(), json!(Quantity::from_units(bytes).to_binary_string()));
    if let Some(millis) = usage.requests_millis_per_second {
        let rate = Quantity::from_millis(i64::try_from(millis).unwrap_or(i64::MAX));
        out.insert(REQUESTS_PER_SECOND.to_owned(), json!(rate.to_string()));
    }
    Value::Object(out)
}

/// The metadata of the metrics of `object` (a Node or Pod): its name and its labels.
fn metadata_of(object: &Value, now: Timestamp) -> Value {
    let mut metadata = json!({ "name": meta::name(object), "creationTimestamp": whole_seconds(now) });
    if !meta::namespace(object).is_empty() {
        metadata["namespace"] = json!(meta::namespace(object));
    }
    if let Some(labels) = object.pointer("/metadata/labels").filter(|l| l.is_object()) {
        metadata["labels"] = labels.clone();
    }
    metadata
}

fn whole_seconds(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}

/// The NodeMetrics of `node`, a core/v1 Node.
pub fn node_metrics(node: &Value, usage: &NodeUsage, now: Timestamp) -> Value {
    json!({
        "kind": "NodeMetrics", "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": metadata_of(node, now),
        "timestamp": whole_seconds(usage.timestamp), "window": go_duration(usage.window),
        "usage": usage_of(&usage.usage),
    })
}

/// The PodMetrics of `pod`, a core/v1 Pod.
pub fn pod_metrics(pod: &Value, usage: &PodUsage, now: Timestamp) -> Value {
    let containers: Vec<Value> = usage
        .containers
        .iter()
        .map(|(name, usage)| json!({ "name": name, "usage": usage_of(usage) }))
        .collect();
    json!({
        "kind": "PodMetrics", "apiVersion": format!("{GROUP}/{VERSION}"), "metadata": metadata_of(pod, now),
        "timestamp": whole_seconds(usage.timestamp), "window": go_duration(usage.window), "containers": containers,
    })
}

/// The OpenAPI definitions of the group. They are not among those of the schema walk: nobody writes these objects.
pub fn definitions() -> Map<String, Value> {
    serde_json::from_str(include_str!("../../data/metrics.json"))
        .expect("the embedded definitions are a JSON object: they are part of the program")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn objects_are_as_metrics_server_writes_them() {
        let usage = Usage {
            cpu_nanocores: 12_345_678,
            memory_bytes: 2 << 20,
            requests_millis_per_second: Some(2_500),
        };
        let timestamp = "2026-01-01T00:00:10.5Z".parse().unwrap();
        let usage = PodUsage {
            timestamp,
            window: Duration::from_millis(15_020),
            containers: vec![("c".into(), usage)],
        };
        let pod =
            json!({"metadata": {"name": "web", "namespace": "ns", "uid": "u", "labels": {"app": "web"}}});
        let metrics = pod_metrics(&pod, &usage, "2026-01-01T00:00:12.9Z".parse().unwrap());
        assert_eq!(
            metrics,
            json!({
                "kind": "PodMetrics", "apiVersion": "metrics.k8s.io/v1beta1",
                "metadata": {"name": "web", "namespace": "ns", "labels": {"app": "web"},
                    "creationTimestamp": "2026-01-01T00:00:12Z"},
                "timestamp": "2026-01-01T00:00:10Z", "window": "15.02s",
                "containers": [{"name": "c", "usage": {"cpu": "12345678n", "memory": "2Mi",
                    "dhow.dev/requests-per-second": "2500m"}}],
            })
        );
        let cells: Vec<Value> = ROWS[1].columns.iter().map(|c| (c.cell)(&metrics, timestamp)).collect();
        assert_eq!(cells, [json!("web"), json!("12345678n"), json!("2Mi"), json!("15.02s")]);
        for column in COLUMNS {
            assert!((column.cell)(&json!({}), timestamp).is_string(), "{}", column.name);
        }
    }

    #[test]
    fn every_kind_has_its_definitions() {
        let definitions = definitions();
        for row in ROWS {
            assert!(definitions.contains_key(row.schema), "{}", row.schema);
            assert!(definitions.contains_key(&format!("{}List", row.schema)), "{}List", row.schema);
            assert!(crate::resource::lookup(row.group, row.version, row.plural).is_none());
        }
    }
}
