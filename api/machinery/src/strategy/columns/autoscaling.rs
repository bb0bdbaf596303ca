//! HorizontalPodAutoscalers.
use super::{AGE, NAME, shown};
use crate::strategy::horizontal_pod_autoscaler::HorizontalPodAutoscalerV1;
use crate::strategy::view::{has, int, list, maybe_int, text};
use crate::table::Column;
use jiff::Timestamp;
use serde_json::{Value, json};

/// Metrics shown before the rest is only counted.
const SHOWN: usize = 2;

const REFERENCE: Column = shown("Reference", "string", "What is scaled.", reference);
const MIN_PODS: Column = shown("MinPods", "string", "The least number of pods.", |o, _| {
    json!(maybe_int(o, "/spec/minReplicas").map_or_else(|| "<unset>".to_owned(), |n| n.to_string()))
});
const MAX_PODS: Column =
    shown("MaxPods", "integer", "The greatest number of pods.", |o, _| json!(int(o, "/spec/maxReplicas")));
const REPLICAS: Column =
    shown("Replicas", "integer", "How many pods there are.", |o, _| json!(int(o, "/status/currentReplicas")));

pub(in crate::strategy) static HORIZONTAL_POD_AUTOSCALER: &[Column] = &[
    NAME,
    REFERENCE,
    shown("Targets", "string", "Each metric's value and target.", |o, _| json!(targets(o))),
    MIN_PODS,
    MAX_PODS,
    REPLICAS,
    AGE,
];

pub(in crate::strategy) static HORIZONTAL_POD_AUTOSCALER_V1: &[Column] = &[
    NAME,
    REFERENCE,
    shown("Targets", "string", "Each metric's value and target.", |o, _| {
        let mut v2 = o.clone();
        HorizontalPodAutoscalerV1::to_v2(&mut v2);
        json!(targets(&v2))
    }),
    MIN_PODS,
    MAX_PODS,
    REPLICAS,
    AGE,
];

fn reference(o: &Value, _: Timestamp) -> Value {
    json!(format!("{}/{}", text(o, "/spec/scaleTargetRef/kind"), text(o, "/spec/scaleTargetRef/name")))
}

/// `cpu: 10%/50%, 5/20`, in the order of the metrics; the status of a metric stands at the metric's place.
fn targets(o: &Value) -> String {
    let metrics = list(o, "/spec/metrics");
    if metrics.is_empty() {
        return "<none>".to_owned();
    }
    let statuses = list(o, "/status/currentMetrics");
    let all: Vec<String> = metrics
        .iter()
        .enumerate()
        .map(|(i, metric)| target(metric, statuses.get(i).unwrap_or(&Value::Null)))
        .collect();
    let text = all[..all.len().min(SHOWN)].join(", ");
    if all.len() > SHOWN { format!("{text} + {} more...", all.len() - SHOWN) } else { text }
}

fn target(metric: &Value, status: &Value) -> String {
    let (field, named) = match text(metric, "/type") {
        "Resource" => ("resource", true),
        "ContainerResource" => ("containerResource", true),
        "Pods" => ("pods", false),
        "Object" => ("object", false),
        "External" => ("external", false),
        _ => return "<unknown type>".to_owned(),
    };
    let (target, current) = (&metric[field]["target"], &status[field]["current"]);
    let prefix = if named { format!("{}: ", text(&metric[field], "/name")) } else { String::new() };
    let one_of = |name: &str| -> Option<(String, &str)> {
        let wanted = target[name].as_str()?;
        Some((current[name].as_str().unwrap_or("<unknown>").to_owned(), wanted))
    };
    if let Some((now, wanted)) = one_of("averageValue") {
        let average = if matches!(field, "object" | "external") { " (avg)" } else { "" };
        return format!("{prefix}{now}/{wanted}{average}");
    }
    if let Some((now, wanted)) = one_of("value") {
        return format!("{prefix}{now}/{wanted}");
    }
    let percent = |of: &Value| maybe_int(of, "/averageUtilization").map(|n| format!("{n}%"));
    let now = percent(current).unwrap_or_else(|| "<unknown>".to_owned());
    let wanted = if has(target, "/averageUtilization") { percent(target) } else { None };
    format!("{prefix}{now}/{}", wanted.unwrap_or_else(|| "<auto>".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::columns::tests::cell;

    const NOW: &str = "2026-01-01T01:00:00Z";

    #[test]
    fn targets_are_shown_beside_what_is() {
        let cpu =
            json!({"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 50}}});
        let requests =
            json!({"type": "Pods", "pods": {"metric": {"name": "m"}, "target": {"averageValue": "20"}}});
        let o = |metrics: Value, current: Value| {
            json!({"spec": {"scaleTargetRef": {"kind": "Deployment", "name": "web"}, "metrics": metrics,
                "minReplicas": 1, "maxReplicas": 5}, "status": {"currentMetrics": current, "currentReplicas": 2}})
        };
        let show = |o: &Value| cell(HORIZONTAL_POD_AUTOSCALER, "Targets", o, NOW);
        let both = o(
            json!([cpu, requests]),
            json!([{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 10}}}, {"type": ""}]),
        );
        assert_eq!(show(&both), "cpu: 10%/50%, <unknown>/20");
        assert_eq!(
            show(&o(json!([cpu, cpu, cpu]), json!([]))),
            "cpu: <unknown>/50%, cpu: <unknown>/50% + 1 more..."
        );
        assert_eq!(show(&o(json!([]), json!([]))), "<none>");
        assert_eq!(cell(HORIZONTAL_POD_AUTOSCALER, "Reference", &both, NOW), "Deployment/web");
        assert_eq!(cell(HORIZONTAL_POD_AUTOSCALER, "Replicas", &both, NOW), 2);
        let v1 = json!({"spec": {"targetCPUUtilizationPercentage": 50, "maxReplicas": 3},
            "status": {"currentCPUUtilizationPercentage": 7}});
        assert_eq!(cell(HORIZONTAL_POD_AUTOSCALER_V1, "Targets", &v1, NOW), "cpu: 7%/50%");
    }
}
