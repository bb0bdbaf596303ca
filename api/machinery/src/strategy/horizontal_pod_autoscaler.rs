//! HorizontalPodAutoscalers: autoscaling/v2, and autoscaling/v1 as another view of it.
use super::Strategy;
use super::check::{self, Faults, quantity};
use super::view::{fill, has, int, list, maybe_int, section, text};
use crate::field::{Error, Path};
use crate::quantity::Quantity;
use serde_json::{Value, json};

pub(super) struct HorizontalPodAutoscaler;
/// The older form, which knows one CPU target and no more; the rest travels in annotations.
pub(super) struct HorizontalPodAutoscalerV1;

/// The CPU target where none is given, percent of the request (upstream `DefaultCPUUtilization`).
const DEFAULT_CPU_UTILIZATION: i64 = 80;
/// The longest a recommendation may be held back, and the longest period of a policy (upstream's limits).
const MAX_STABILIZATION_SECONDS: i64 = 3600;
const MAX_PERIOD_SECONDS: i64 = 1800;

/// Sources of metrics: how `type` names them, and their field.
const SOURCES: &[(&str, &str)] = &[
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];

fn cpu_target(percent: i64) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": percent}}})
}

impl Strategy for HorizontalPodAutoscaler {
    fn default(&self, obj: &mut Value) {
        let Some(spec) = section(obj, "spec") else { return };
        fill(spec, "minReplicas", 1);
        if list(spec, "/metrics").is_empty() {
            spec["metrics"] = json!([cpu_target(DEFAULT_CPU_UTILIZATION)]);
        }
        if let Some(behavior) = spec.get_mut("behavior").filter(|b| b.is_object()) {
            let rules = |policies: Value| json!({"selectPolicy": "Max", "policies": policies});
            let up = rules(json!([
                {"type": "Pods", "value": 4, "periodSeconds": 15},
                {"type": "Percent", "value": 100, "periodSeconds": 15},
            ]));
            let down = rules(json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]));
            for (side, defaults) in [("scaleUp", up), ("scaleDown", down)] {
                let Some(rules) = section(behavior, side) else { continue };
                for name in ["selectPolicy", "policies"] {
                    fill(rules, name, defaults[name].clone());
                }
                // The default for scaling down is the controller's flag, so it is not written here.
                if side == "scaleUp" {
                    fill(rules, "stabilizationWindowSeconds", 0);
                }
            }
        }
    }
    fn prepare_for_create(&self, obj: &mut Value) {
        obj["status"] = json!({});
    }
    fn validate(&self, obj: &Value) -> Faults {
        let (mut faults, path, spec) = (Faults::new(), Path::new("spec"), &obj["spec"]);
        replicas(&mut faults, spec, &path);
        reference(&mut faults, &spec["scaleTargetRef"], &path.child("scaleTargetRef"));
        for (i, metric) in list(spec, "/metrics").iter().enumerate() {
            metric_spec(&mut faults, metric, &path.child("metrics").index(i));
        }
        for side in ["scaleUp", "scaleDown"] {
            if has(spec, &format!("/behavior/{side}")) {
                rules(&mut faults, &spec["behavior"][side], &path.child("behavior").child(side));
            }
        }
        faults
    }
    fn validate_status_update(&self, new: &Value, _old: &Value) -> Faults {
        let (mut faults, path) = (Faults::new(), Path::new("status"));
        for name in ["currentReplicas", "desiredReplicas"] {
            check::not_negative(&mut faults, &new["status"], &path, name);
        }
        faults
    }
}

fn replicas(faults: &mut Faults, spec: &Value, path: &Path) {
    let (least, most) = (maybe_int(spec, "/minReplicas"), int(spec, "/maxReplicas"));
    if let Some(least) = least.filter(|n| *n < 1) {
        let detail = "must be greater than or equal to 1";
        faults.push(Error::invalid(path.child("minReplicas"), least, detail));
    }
    if most < 1 {
        faults.push(Error::invalid(path.child("maxReplicas"), most, "must be greater than 0"));
    }
    if least.is_some_and(|least| most < least) {
        let detail = "must be greater than or equal to `minReplicas`";
        faults.push(Error::invalid(path.child("maxReplicas"), most, detail));
    }
}

/// A CrossVersionObjectReference: kind and name become parts of a path.
fn reference(faults: &mut Faults, reference: &Value, path: &Path) {
    for name in ["kind", "name"] {
        match text(reference, &format!("/{name}")) {
            "" => faults.push(Error::required(path.child(name), "")),
            part => segment(faults, part, path.child(name)),
        }
    }
}

/// What may be one segment of a path.
fn segment(faults: &mut Faults, part: &str, path: Path) {
    if part == "." || part == ".." {
        faults.push(Error::invalid(path, part, &format!("may not be '{part}'")));
        return;
    }
    for c in ['/', '%'] {
        if part.contains(c) {
            faults.push(Error::invalid(path.clone(), part, &format!("may not contain '{c}'")));
        }
    }
}

fn metric_spec(faults: &mut Faults, metric: &Value, path: &Path) {
    let kind = text(metric, "/type");
    let kinds: Vec<&str> = SOURCES.iter().map(|(kind, _)| *kind).collect();
    if kind.is_empty() {
        faults.push(Error::required(path.child("type"), "must specify a metric source type"));
    }
    if !kinds.contains(&kind) {
        faults.push(Error::not_supported(path.child("type"), kind, &kinds));
    }
    let given: Vec<&str> =
        SOURCES.iter().map(|(_, field)| *field).filter(|field| has(metric, &format!("/{field}"))).collect();
    if let Some(first) = given.first() {
        source(faults, first, &metric[*first], &path.child(first));
    }
    let expected = SOURCES.iter().find(|(k, _)| *k == kind).map(|(_, field)| *field);
    if let Some(expected) = expected.filter(|e| !given.contains(e)) {
        let detail = "must populate information for the given metric source";
        faults.push(Error::required(path.child(expected), detail));
    }
    if given.len() > 1 {
        for field in given.iter().filter(|f| Some(**f) != expected) {
            faults.push(Error::forbidden(path.child(field), "must populate the given metric source only"));
        }
    }
}

fn source(faults: &mut Faults, field: &str, source: &Value, path: &Path) {
    let at = path.child("target");
    match field {
        "object" => reference(faults, &source["describedObject"], &path.child("describedObject")),
        "containerResource" | "resource" => {
            if text(source, "/name").is_empty() {
                faults.push(Error::required(path.child("name"), "must specify a resource name"));
            }
            if field == "containerResource" && text(source, "/container").is_empty() {
                faults.push(Error::required(path.child("container"), "must specify a container"));
            }
        }
        _ => {}
    }
    if matches!(field, "object" | "external" | "pods") {
        match text(source, "/metric/name") {
            "" => {
                let at = path.child("metric").child("name");
                faults.push(Error::required(at, "must specify a metric name"));
            }
            name => segment(faults, name, path.child("metric").child("name")),
        }
    }
    target(faults, &source["target"], &at);
    let (value, average, utilization) = (
        has(source, "/target/value"),
        has(source, "/target/averageValue"),
        has(source, "/target/averageUtilization"),
    );
    match field {
        "pods" if !is_positive(&source["target"]["averageValue"]) => faults
            .push(Error::required(at.child("averageValue"), "must specify a positive target averageValue")),
        "object" | "external" if !value && !average => faults.push(Error::required(
            at.child("averageValue"),
            "must set either a target value or averageValue",
        )),
        "external" if value && average => faults.push(Error::forbidden(
            at.child("value"),
            "may not set both a target value for metric and a per-pod target",
        )),
        "resource" | "containerResource" if !utilization && !average => faults.push(Error::required(
            at.child("averageUtilization"),
            "must set either a target raw value or a target utilization",
        )),
        "resource" | "containerResource" if utilization && average => faults.push(Error::forbidden(
            at.child("averageValue"),
            "may not set both a target raw value and a target utilization",
        )),
        _ => {}
    }
}

fn is_positive(v: &Value) -> bool {
    quantity(v).is_some_and(|q| q > Quantity::ZERO)
}

fn target(faults: &mut Faults, target: &Value, path: &Path) {
    match text(target, "/type") {
        "" => faults.push(Error::required(path.child("type"), "must specify a metric target type")),
        "Utilization" | "Value" | "AverageValue" => {}
        other => {
            let detail = "must be either Utilization, Value, or AverageValue";
            faults.push(Error::invalid(path.child("type"), other, detail));
        }
    }
    for name in ["value", "averageValue"] {
        if has(target, &format!("/{name}")) && !is_positive(&target[name]) {
            faults.push(Error::invalid(path.child(name), target[name].clone(), "must be positive"));
        }
    }
    if let Some(percent) = maybe_int(target, "/averageUtilization").filter(|n| *n < 1) {
        faults.push(Error::invalid(path.child("averageUtilization"), percent, "must be greater than 0"));
    }
}

/// The rules of one direction.
fn rules(faults: &mut Faults, rules: &Value, path: &Path) {
    if let Some(seconds) = maybe_int(rules, "/stabilizationWindowSeconds") {
        let at = path.child("stabilizationWindowSeconds");
        if seconds < 0 {
            faults.push(Error::invalid(at, seconds, "must be greater than or equal to zero"));
        } else if seconds > MAX_STABILIZATION_SECONDS {
            let detail = format!("must be less than or equal to {MAX_STABILIZATION_SECONDS}");
            faults.push(Error::invalid(at, seconds, &detail));
        }
    }
    check::maybe_one_of(faults, rules, path, "selectPolicy", &["Disabled", "Max", "Min"]);
    if quantity(&rules["tolerance"]).is_some_and(|q| q < Quantity::ZERO) {
        let detail = "must be greater than or equal to zero";
        faults.push(Error::invalid(path.child("tolerance"), rules["tolerance"].clone(), detail));
    }
    if list(rules, "/policies").is_empty() {
        faults.push(Error::required(path.child("policies"), "must specify at least one Policy"));
    }
    for (i, policy) in list(rules, "/policies").iter().enumerate() {
        let path = path.child("policies").index(i);
        let kind = text(policy, "/type");
        if !["Pods", "Percent"].contains(&kind) {
            faults.push(Error::not_supported(path.child("type"), kind, &["Percent", "Pods"]));
        }
        for name in ["value", "periodSeconds"] {
            let n = int(policy, &format!("/{name}"));
            if n <= 0 {
                faults.push(Error::invalid(path.child(name), n, "must be greater than zero"));
            }
        }
        let period = int(policy, "/periodSeconds");
        if period > MAX_PERIOD_SECONDS {
            let detail = format!("must be less than or equal to {MAX_PERIOD_SECONDS}");
            faults.push(Error::invalid(path.child("periodSeconds"), period, &detail));
        }
    }
}

/// What the older form has no field for, and the annotation in which it is kept (upstream's names).
const KEPT: &[(&str, &str)] = &[
    ("/spec/metrics", "autoscaling.alpha.kubernetes.io/metrics"),
    ("/spec/behavior", "autoscaling.alpha.kubernetes.io/behavior"),
    ("/status/conditions", "autoscaling.alpha.kubernetes.io/conditions"),
    ("/status/currentMetrics", "autoscaling.alpha.kubernetes.io/current-metrics"),
];

/// Whether a metric, or its status, is the CPU utilization that the older form has a field for.
fn is_cpu_utilization(metric: &Value, of: &str) -> bool {
    text(metric, "/type") == "Resource"
        && text(metric, "/resource/name") == "cpu"
        && has(metric, &format!("/resource/{of}/averageUtilization"))
}

impl HorizontalPodAutoscalerV1 {
    /// The autoscaling/v2 form.
    pub(super) fn to_v2(obj: &mut Value) {
        let kept: Vec<Value> = KEPT
            .iter()
            .map(|(_, name)| {
                let annotations = obj.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut);
                let text = annotations.and_then(|a| a.remove(*name));
                // What somebody wrote there by hand and cannot be read is dropped, as upstream drops it.
                text.as_ref()
                    .and_then(Value::as_str)
                    .and_then(|t| serde_json::from_str(t).ok())
                    .unwrap_or_default()
            })
            .collect();
        let take = |obj: &mut Value, section: &str, field: &str| -> Value {
            obj.get_mut(section)
                .and_then(Value::as_object_mut)
                .and_then(|o| o.remove(field))
                .unwrap_or_default()
        };
        let target = take(obj, "spec", "targetCPUUtilizationPercentage").as_i64();
        let current = take(obj, "status", "currentCPUUtilizationPercentage").as_i64();
        let [metrics, behavior, conditions, current_metrics] = &kept[..] else { return };
        let mut all: Vec<Value> = metrics.as_array().cloned().unwrap_or_default();
        all.extend(target.map(cpu_target));
        if all.is_empty() {
            all.push(cpu_target(DEFAULT_CPU_UTILIZATION));
        }
        if let Some(spec) = section(obj, "spec") {
            spec["metrics"] = Value::Array(all);
            if behavior.is_object() {
                spec["behavior"] = behavior.clone();
            }
        }
        let mut statuses: Vec<Value> = current_metrics.as_array().cloned().unwrap_or_default();
        statuses.extend(current.map(|percent| {
            json!({"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": percent}}})
        }));
        if has(obj, "/status") && obj["status"].is_object() {
            if !statuses.is_empty() {
                obj["status"]["currentMetrics"] = Value::Array(statuses);
            }
            if conditions.is_array() {
                obj["status"]["conditions"] = conditions.clone();
            }
        }
        obj["apiVersion"] = json!("autoscaling/v2");
    }

    /// The autoscaling/v1 form of a v2 object.
    fn of_v2(obj: &mut Value) {
        let mut take = |section: &str, field: &str| -> Value {
            obj.get_mut(section)
                .and_then(Value::as_object_mut)
                .and_then(|o| o.remove(field))
                .unwrap_or_default()
        };
        let (metrics, behavior) = (take("spec", "metrics"), take("spec", "behavior"));
        let (conditions, current) = (take("status", "conditions"), take("status", "currentMetrics"));
        // The first CPU utilization has a field; everything else is kept as it is.
        let split = |all: &Value, of: &str| -> (Option<Value>, Value) {
            let mut all: Vec<Value> = all.as_array().cloned().unwrap_or_default();
            let found = all.iter().position(|m| is_cpu_utilization(m, of)).map(|i| all.remove(i));
            let percent = found.map(|m| m["resource"][of]["averageUtilization"].clone());
            (percent, if all.is_empty() { Value::Null } else { Value::Array(all) })
        };
        let (target, metrics) = split(&metrics, "target");
        let (percent, current) = split(&current, "current");
        if let (Some(target), Some(spec)) = (target, section(obj, "spec")) {
            spec["targetCPUUtilizationPercentage"] = target;
        }
        if let (Some(percent), Some(status)) = (percent, section(obj, "status")) {
            status["currentCPUUtilizationPercentage"] = percent;
        }
        for ((_, name), value) in KEPT.iter().zip([metrics, behavior, conditions, current]) {
            if value.is_null() || value == json!([]) {
                continue;
            }
            if let Some(annotations) = section(obj, "metadata").and_then(|m| section(m, "annotations")) {
                annotations[*name] = json!(value.to_string());
            }
        }
        obj["apiVersion"] = json!("autoscaling/v1");
    }
}

impl Strategy for HorizontalPodAutoscalerV1 {
    fn default(&self, obj: &mut Value) {
        let Some(spec) = section(obj, "spec") else { return };
        fill(spec, "minReplicas", 1);
    }
    fn prepare_for_create(&self, obj: &mut Value) {
        obj["status"] = json!({});
    }
    fn validate(&self, obj: &Value) -> Faults {
        let (mut faults, path) = (Faults::new(), Path::new("spec"));
        if let Some(percent) = maybe_int(obj, "/spec/targetCPUUtilizationPercentage").filter(|n| *n < 1) {
            let at = path.child("targetCPUUtilizationPercentage");
            faults.push(Error::invalid(at, percent, "must be greater than 0"));
            return faults;
        }
        let mut v2 = obj.clone();
        Self::to_v2(&mut v2);
        HorizontalPodAutoscaler.default(&mut v2);
        HorizontalPodAutoscaler.validate(&v2)
    }
    fn validate_status_update(&self, new: &Value, old: &Value) -> Faults {
        HorizontalPodAutoscaler.validate_status_update(new, old)
    }
    fn converts(&self) -> bool {
        true
    }
    fn to_storage(&self, obj: &mut Value) {
        Self::to_v2(obj);
        HorizontalPodAutoscaler.default(obj);
    }
    fn from_storage(&self, obj: &mut Value) {
        Self::of_v2(obj);
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::shown;
    use super::*;

    fn autoscaler(spec: Value) -> Value {
        let mut obj = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "h", "namespace": "n"},
            "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"}, "maxReplicas": 5}});
        for (key, value) in spec.as_object().unwrap() {
            obj["spec"][key] = value.clone();
        }
        HorizontalPodAutoscaler.default(&mut obj);
        obj
    }

    #[test]
    fn the_defaults_are_one_replica_and_eighty_percent_of_the_cpu() {
        let obj = autoscaler(json!({}));
        assert_eq!(obj["spec"]["minReplicas"], 1);
        assert_eq!(obj["spec"]["metrics"], json!([cpu_target(80)]));
        assert!(obj["spec"].get("behavior").is_none());
        assert!(HorizontalPodAutoscaler.validate(&obj).is_empty());
        let obj = autoscaler(json!({"behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}}}));
        let behavior = &obj["spec"]["behavior"];
        assert_eq!(behavior["scaleUp"]["stabilizationWindowSeconds"], 0);
        assert_eq!(behavior["scaleUp"]["policies"].as_array().unwrap().len(), 2);
        assert_eq!(
            behavior["scaleDown"],
            json!({"stabilizationWindowSeconds": 5, "selectPolicy": "Max",
                "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]})
        );
    }

    #[test]
    fn faults_are_worded_as_upstream() {
        let pods =
            |target: Value| json!({"type": "Pods", "pods": {"metric": {"name": "m"}, "target": target}});
        let resource =
            |target: Value| json!({"type": "Resource", "resource": {"name": "cpu", "target": target}});
        let cases = [
            (json!({"maxReplicas": 0}), "spec.maxReplicas: Invalid value: 0: must be greater than 0"),
            (
                json!({"minReplicas": 0}),
                "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
            ),
            (
                json!({"minReplicas": 6}),
                "spec.maxReplicas: Invalid value: 5: must be greater than or equal to `minReplicas`",
            ),
            (json!({"scaleTargetRef": {"name": "a/b"}}), "spec.scaleTargetRef.kind: Required value"),
            (
                json!({"scaleTargetRef": {"kind": "D", "name": "a/b"}}),
                "spec.scaleTargetRef.name: Invalid value: \"a/b\": may not contain '/'",
            ),
            (
                json!({"metrics": [{"type": "Bogus"}]}),
                "spec.metrics[0].type: Unsupported value: \"Bogus\": supported values: \"ContainerResource\", \"External\", \"Object\", \"Pods\", \"Resource\"",
            ),
            (
                json!({"metrics": [{"type": "Pods"}]}),
                "spec.metrics[0].pods: Required value: must populate information for the given metric source",
            ),
            (
                json!({"metrics": [pods(json!({"type": "AverageValue", "averageValue": "0"}))]}),
                "spec.metrics[0].pods.target.averageValue: Required value: must specify a positive target averageValue",
            ),
            (
                json!({"metrics": [resource(json!({"type": "Utilization"}))]}),
                "spec.metrics[0].resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization",
            ),
            (
                json!({"metrics": [resource(json!({"type": "x", "averageUtilization": 50}))]}),
                "spec.metrics[0].resource.target.type: Invalid value: \"x\": must be either Utilization, Value, or AverageValue",
            ),
            (
                json!({"behavior": {"scaleUp": {"selectPolicy": "x"}}}),
                "spec.behavior.scaleUp.selectPolicy: Unsupported value: \"x\": supported values: \"Disabled\", \"Max\", \"Min\"",
            ),
            (
                json!({"behavior": {"scaleDown": {"stabilizationWindowSeconds": 3601}}}),
                "spec.behavior.scaleDown.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
            ),
            (
                json!({"behavior": {"scaleDown": {"policies": [{"type": "Pods", "value": 0, "periodSeconds": 1801}]}}}),
                "spec.behavior.scaleDown.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800",
            ),
        ];
        for (spec, want) in cases {
            let got = shown(&HorizontalPodAutoscaler.validate(&autoscaler(spec)));
            assert!(got.iter().any(|f| f == want), "wanted {want}, got {got:?}");
        }
    }

    #[test]
    fn the_older_form_has_a_field_for_cpu_and_annotations_for_the_rest_and_nothing_is_lost() {
        let memory = json!({"type": "Resource", "resource": {"name": "memory",
            "target": {"type": "AverageValue", "averageValue": "64Mi"}}});
        let mut v2 = autoscaler(json!({
            "metrics": [memory, cpu_target(50)], "behavior": {"scaleDown": {"stabilizationWindowSeconds": 1}}}));
        v2["status"] = json!({"currentReplicas": 2, "desiredReplicas": 3,
            "conditions": [{"type": "AbleToScale", "status": "True"}],
            "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 70}}}]});
        let mut v1 = v2.clone();
        HorizontalPodAutoscalerV1.from_storage(&mut v1);
        assert_eq!(v1["apiVersion"], "autoscaling/v1");
        assert_eq!(v1["spec"]["targetCPUUtilizationPercentage"], 50);
        assert_eq!(v1["status"]["currentCPUUtilizationPercentage"], 70);
        assert!(v1["spec"].get("metrics").is_none() && v1["spec"].get("behavior").is_none());
        assert!(HorizontalPodAutoscalerV1.validate(&v1).is_empty());
        let schema = crate::schema::definition("io.k8s.api.autoscaling.v1.HorizontalPodAutoscaler").unwrap();
        assert_eq!(crate::schema::decode(schema, &mut v1.clone()), Ok(vec![]));
        let mut back = v1;
        HorizontalPodAutoscalerV1.to_storage(&mut back);
        back["metadata"].as_object_mut().unwrap().remove("annotations");
        assert_eq!(back, v2);
    }

    #[test]
    fn what_kubectl_autoscale_sends_becomes_a_whole_autoscaler() {
        let mut obj = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "d"},
            "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}, "maxReplicas": 3}});
        HorizontalPodAutoscalerV1.default(&mut obj);
        assert!(HorizontalPodAutoscalerV1.validate(&obj).is_empty());
        HorizontalPodAutoscalerV1.to_storage(&mut obj);
        assert_eq!(obj["spec"]["metrics"], json!([cpu_target(80)]));
        assert_eq!((&obj["spec"]["minReplicas"], &obj["apiVersion"]), (&json!(1), &json!("autoscaling/v2")));
        let bad = json!({"spec": {"targetCPUUtilizationPercentage": 0, "maxReplicas": 1}});
        assert_eq!(
            shown(&HorizontalPodAutoscalerV1.validate(&bad)),
            ["spec.targetCPUUtilizationPercentage: Invalid value: 0: must be greater than 0"]
        );
    }
}
