use super::behavior::{History, normalize};
use super::plan::{Plan, Scale, World, plan_autoscaler, rescaled};
use super::samples::PodMetrics;
use crate::AutoscalerConfig;
use client::k8s_openapi::api::autoscaling::v2::{HorizontalPodAutoscaler, HorizontalPodAutoscalerStatus};
use client::k8s_openapi::api::core::v1::Pod;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

fn now() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

fn ago(seconds: i64) -> Timestamp {
    now() - SignedDuration::from_secs(seconds)
}

fn autoscaler(spec: Value) -> HorizontalPodAutoscaler {
    let mut all = json!({"scaleTargetRef": {"kind": "Deployment", "name": "web", "apiVersion": "apps/v1"},
        "minReplicas": 1, "maxReplicas": 20, "metrics": [cpu(50)]});
    for (key, value) in spec.as_object().unwrap() {
        all[key] = value.clone();
    }
    serde_json::from_value(json!({"metadata": {"name": "h", "namespace": "n", "uid": "u"}, "spec": all}))
        .unwrap()
}

fn cpu(percent: i32) -> Value {
    json!({"type": "Resource", "resource": {"name": "cpu",
        "target": {"type": "Utilization", "averageUtilization": percent}}})
}

/// A pod that requests 100m of CPU and has been ready for an hour, and what it uses, in thousandths of a core.
fn pod(name: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "n", "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "100m"}}}]},
        "status": {"phase": "Running", "startTime": ago(3600), "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": ago(3590)}]},
    }))
    .unwrap()
}

fn uses(name: &str, millicores: i64) -> PodMetrics {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "n"}, "timestamp": ago(2), "window": "15s",
        "containers": [{"name": "c", "usage": {"cpu": format!("{millicores}m"), "memory": "10Mi",
            "dhow.dev/requests-per-second": format!("{}", millicores)}}],
    }))
    .unwrap()
}

fn unready(mut pod: Pod, started_ago: i64) -> Pod {
    let status = pod.status.as_mut().unwrap();
    status.start_time = serde_json::from_value(json!(ago(started_ago))).unwrap();
    let condition = &mut status.conditions.as_mut().unwrap()[0];
    condition.status = "False".into();
    condition.last_transition_time = serde_json::from_value(json!(ago(started_ago))).unwrap();
    pod
}

struct Case {
    autoscaler: HorizontalPodAutoscaler,
    replicas: i32,
    pods: Vec<Pod>,
    metrics: Result<Vec<PodMetrics>, String>,
    history: History,
}

impl Case {
    /// As many pods as values, each using so many thousandths of a core.
    fn of(values: &[i64]) -> Self {
        let names: Vec<String> = (0..values.len()).map(|i| format!("p{i}")).collect();
        Self {
            autoscaler: autoscaler(json!({})),
            replicas: values.len() as i32,
            pods: names.iter().map(|n| pod(n)).collect(),
            metrics: Ok(names.iter().zip(values).map(|(n, v)| uses(n, *v)).collect()),
            history: History::default(),
        }
    }

    fn with(mut self, spec: Value) -> Self {
        self.autoscaler = autoscaler(spec);
        self
    }

    fn plan(&mut self) -> Plan {
        let pods: Vec<&Pod> = self.pods.iter().collect();
        let scale = Scale { replicas: self.replicas, present: self.replicas };
        let config = AutoscalerConfig::default();
        let world = World {
            autoscaler: &self.autoscaler,
            scale: &scale,
            pods: &pods,
            metrics: &self.metrics,
            config: &config,
            now: now(),
        };
        plan_autoscaler(&world, &mut self.history)
    }

    /// The replicas wanted.
    fn wants(&mut self) -> i32 {
        self.plan().rescale.map_or(self.replicas, |r| r.replicas)
    }
}

/// A condition as `status reason`.
fn condition(status: &HorizontalPodAutoscalerStatus, kind: &str) -> String {
    let found = status.conditions.iter().flatten().find(|c| c.type_ == kind);
    found.map(|c| format!("{} {}", c.status, c.reason.as_deref().unwrap_or(""))).unwrap_or_default()
}

/// No recommendation of the past holds the number up.
fn without_stabilization() -> Value {
    json!({"behavior": {
        "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max",
            "policies": [{"type": "Percent", "value": 900, "periodSeconds": 15}]},
        "scaleDown": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max",
            "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]}}})
}

#[test]
fn the_number_follows_the_ratio_and_stays_within_the_tolerance() {
    for (values, want) in [
        (&[100, 100, 100][..], 6),
        (&[55, 55, 55], 3),
        (&[56, 56, 56], 4),
        (&[45, 45, 45, 45], 4),
        (&[20, 20, 20, 20], 2),
        (&[0, 0], 1),
        (&[1000], 10),
    ] {
        assert_eq!(Case::of(values).with(without_stabilization()).wants(), want, "{values:?}");
    }
}

#[test]
fn the_status_says_what_was_found_and_why() {
    let mut case = Case::of(&[100, 100]);
    let plan = case.plan();
    let rescale = plan.rescale.unwrap();
    assert_eq!(rescale.replicas, 4);
    assert_eq!(rescale.reason, "cpu resource utilization (percentage of request) above target");
    let status = plan.status;
    assert_eq!((status.current_replicas, status.desired_replicas), (Some(2), 4));
    assert_eq!(condition(&status, "ScalingActive"), "True ValidMetricFound");
    assert_eq!(condition(&status, "AbleToScale"), "True ReadyForNewScale");
    assert_eq!(condition(&status, "ScalingLimited"), "False DesiredWithinRange");
    let current = &status.current_metrics.as_ref().unwrap()[0].resource.as_ref().unwrap().current;
    assert_eq!(
        (current.average_utilization, &current.average_value.as_ref().unwrap().0[..]),
        (Some(100), "100m")
    );
    let done = rescaled(status.clone(), Ok(4), 2, now());
    assert_eq!(condition(&done, "AbleToScale"), "True SucceededRescale");
    assert!(done.last_scale_time.is_some());
    let failed = rescaled(status, Err("no"), 2, now());
    assert_eq!(condition(&failed, "AbleToScale"), "False FailedUpdateScale");
    assert_eq!((failed.desired_replicas, failed.last_scale_time), (2, None));
}

#[test]
fn without_a_behavior_the_number_at_most_doubles_and_the_highest_recent_recommendation_holds_it_up() {
    let mut case = Case::of(&[1000, 1000, 1000]);
    let plan = case.plan();
    assert_eq!(plan.rescale.unwrap().replicas, 6);
    assert_eq!(condition(&plan.status, "ScalingLimited"), "True ScaleUpLimit");

    let mut case = Case::of(&[10, 10, 10, 10]);
    case.history.recommendations = vec![(ago(299), 4), (ago(10), 1)];
    let plan = case.plan();
    assert_eq!(plan.rescale, None);
    assert_eq!(condition(&plan.status, "AbleToScale"), "True ScaleDownStabilized");
    case.history.recommendations = vec![(ago(301), 4), (ago(10), 2)];
    assert_eq!(case.wants(), 2);
}

#[test]
fn the_least_and_the_most_are_kept_whatever_the_metrics_say() {
    let mut case = Case::of(&[1000]).with(json!({"maxReplicas": 3}));
    let plan = case.plan();
    assert_eq!(
        (plan.rescale.unwrap().replicas, &condition(&plan.status, "ScalingLimited")[..]),
        (3, "True TooManyReplicas")
    );
    let mut case = Case::of(&[0, 0, 0]).with(json!({"minReplicas": 2}));
    case.history.recommendations = vec![(ago(400), 3)];
    let plan = case.plan();
    assert_eq!(
        (plan.rescale.unwrap().replicas, &condition(&plan.status, "ScalingLimited")[..]),
        (2, "True TooFewReplicas")
    );
    let mut case = Case::of(&[50, 50, 50]).with(json!({"maxReplicas": 2}));
    assert_eq!(case.plan().rescale.unwrap().reason, "Current number of replicas above Spec.MaxReplicas");
    let mut case = Case::of(&[50]).with(json!({"minReplicas": 2}));
    assert_eq!(case.plan().rescale.unwrap().reason, "Current number of replicas below Spec.MinReplicas");
    let mut case = Case::of(&[]);
    let plan = case.plan();
    assert_eq!(
        (plan.rescale, &condition(&plan.status, "ScalingActive")[..]),
        (None, "False ScalingDisabled")
    );
}

#[test]
fn pods_that_are_not_heard_of_hold_the_change_back() {
    // Two at 20 of 50 %, one unknown: thought of as at 100 %, so nothing shrinks.
    let mut case = Case::of(&[20, 20, 20]).with(without_stabilization());
    case.metrics.as_mut().unwrap().pop();
    assert_eq!(case.wants(), 3);
    // Two at 100 of 50 %, one unknown: thought of as at 0 %: four, not six.
    let mut case = Case::of(&[100, 100, 100]).with(without_stabilization());
    case.metrics.as_mut().unwrap().pop();
    assert_eq!(case.wants(), 4);
}

#[test]
fn pods_that_start_or_go_do_not_count_as_they_are() {
    // One of three is unready since its start ten seconds ago and burns CPU: thought of as at 0 %.
    let mut case = Case::of(&[100, 100, 1000]).with(without_stabilization());
    case.pods[2] = unready(pod("p2"), 10);
    assert_eq!(case.wants(), 4);
    // One that was ready once and is not now counts as it is.
    let mut case = Case::of(&[100, 100, 100]).with(without_stabilization());
    case.pods[2] = unready(pod("p2"), 3600);
    case.pods[2].status.as_mut().unwrap().conditions.as_mut().unwrap()[0].last_transition_time =
        serde_json::from_value(json!(ago(100))).unwrap();
    assert_eq!(case.wants(), 6);
    // One that is being deleted is left out.
    let mut case = Case::of(&[100, 100, 1000]).with(without_stabilization());
    case.replicas = 2;
    case.pods[2].metadata.deletion_timestamp = serde_json::from_value(json!(now())).unwrap();
    assert_eq!(case.wants(), 4);
    // A fresh one counts once it has been ready for a whole window.
    let mut case = Case::of(&[100]).with(without_stabilization());
    let status = case.pods[0].status.as_mut().unwrap();
    status.start_time = serde_json::from_value(json!(ago(30))).unwrap();
    status.conditions.as_mut().unwrap()[0].last_transition_time =
        serde_json::from_value(json!(ago(10))).unwrap();
    let plan = case.plan();
    assert_eq!(
        (plan.rescale, &condition(&plan.status, "ScalingActive")[..]),
        (None, "False FailedGetResourceMetric")
    );
    case.pods[0].status.as_mut().unwrap().conditions.as_mut().unwrap()[0].last_transition_time =
        serde_json::from_value(json!(ago(18))).unwrap();
    assert_eq!(case.wants(), 2);
}

#[test]
fn a_metric_that_is_not_known_stops_shrinking_but_not_growing() {
    let two = json!([cpu(50), {"type": "External", "external": {"metric": {"name": "x"},
        "target": {"type": "Value", "value": "1"}}}]);
    let mut behavior = without_stabilization();
    behavior["metrics"] = two;
    assert_eq!(Case::of(&[100, 100]).with(behavior.clone()).wants(), 4);
    let mut shrinking = Case::of(&[10, 10]).with(behavior);
    let plan = shrinking.plan();
    assert_eq!(
        (plan.rescale, &condition(&plan.status, "ScalingActive")[..]),
        (None, "False FailedGetExternalMetric")
    );
    let told: Vec<&str> = plan.warnings.iter().map(|(reason, _)| *reason).collect();
    assert_eq!(told, ["FailedGetExternalMetric", "FailedComputeMetricsReplicas"]);

    let mut case = Case::of(&[100]);
    case.metrics = Err("unable to fetch metrics from resource metrics API: gone".into());
    let plan = case.plan();
    assert_eq!(
        plan.warnings[0].1,
        "failed to get cpu utilization: unable to get metrics for resource cpu: unable to fetch metrics from resource metrics API: gone"
    );
    let mut case = Case::of(&[100]);
    case.pods[0].spec.as_mut().unwrap().containers[0].resources = None;
    assert_eq!(
        case.plan().warnings[0].1,
        "failed to get cpu utilization: missing request for cpu in container c of Pod p0"
    );
}

#[test]
fn every_kind_of_target_is_understood() {
    let case = |metric: Value| {
        let mut spec = without_stabilization();
        spec["metrics"] = json!([metric]);
        Case::of(&[100, 300]).with(spec)
    };
    let average = |value: &str| json!({"type": "AverageValue", "averageValue": value});
    let resource =
        |name: &str, target: Value| json!({"type": "Resource", "resource": {"name": name, "target": target}});
    assert_eq!(case(resource("cpu", average("100m"))).wants(), 4);
    assert_eq!(case(resource("memory", average("5Mi"))).wants(), 4);
    let container = |name: &str| {
        json!({"type": "ContainerResource", "containerResource": {
        "name": "cpu", "container": name, "target": {"type": "Utilization", "averageUtilization": 100}}})
    };
    assert_eq!(case(container("c")).wants(), 4);
    let plan = case(container("other")).plan();
    assert!(
        plan.warnings[0].1.ends_with("container other not present in metrics for pod n/p0"),
        "{:?}",
        plan.warnings
    );
    let pods =
        |name: &str| json!({"type": "Pods", "pods": {"metric": {"name": name}, "target": average("50")}});
    let plan = case(pods("requests_per_second")).plan();
    assert_eq!(plan.rescale.as_ref().unwrap().reason, "pods metric requests_per_second above target");
    assert_eq!(plan.rescale.unwrap().replicas, 8);
    let metrics = plan.status.current_metrics.unwrap();
    let current = &metrics[0].pods.as_ref().unwrap().current;
    assert_eq!(current.average_value.as_ref().unwrap().0, "200");
    let plan = case(pods("other")).plan();
    assert_eq!(condition(&plan.status, "ScalingActive"), "False FailedGetPodsMetric");
}

#[test]
fn policies_bound_how_many_pods_come_and_go_in_their_period() {
    let spec =
        |up: Value, down: Value| autoscaler(json!({"behavior": {"scaleUp": up, "scaleDown": down}})).spec;
    let rules = |window: i32, select: &str, policies: Value| json!({"stabilizationWindowSeconds": window, "selectPolicy": select, "policies": policies});
    let pods = |value: i32| json!({"type": "Pods", "value": value, "periodSeconds": 60});
    let percent = |value: i32| json!({"type": "Percent", "value": value, "periodSeconds": 60});
    let go = |spec: &_, current: i32, desired: i32, history: &mut History| {
        let n = normalize(spec, current, desired, history, SignedDuration::from_secs(300), now());
        (n.replicas, n.limited.1)
    };
    let both = json!([pods(2), percent(100)]);
    let s = spec(rules(0, "Max", both.clone()), rules(0, "Max", both.clone()));
    assert_eq!(go(&s, 4, 20, &mut History::default()), (8, "ScaleUpLimit"));
    assert_eq!(go(&s, 10, 1, &mut History::default()), (1, "DesiredWithinRange"));
    let s = spec(rules(0, "Min", both.clone()), rules(0, "Min", both.clone()));
    assert_eq!(go(&s, 4, 20, &mut History::default()), (6, "ScaleUpLimit"));
    assert_eq!(go(&s, 10, 1, &mut History::default()), (8, "ScaleDownLimit"));
    // What came within the period counts, what came before does not.
    let mut history = History { ups: vec![(ago(30), 2), (ago(90), 5)], ..History::default() };
    assert_eq!(go(&s, 6, 20, &mut history), (6, "ScaleUpLimit"));
    let s = spec(rules(0, "Disabled", both.clone()), rules(0, "Disabled", both));
    assert_eq!(go(&s, 4, 20, &mut History::default()), (4, "ScaleUpLimit"));
    assert_eq!(go(&s, 4, 1, &mut History::default()), (4, "ScaleDownLimit"));
}

#[test]
fn each_direction_has_a_window_of_its_own() {
    let window = |up: i32, down: i32| {
        let rules = |seconds: i32| {
            json!({"stabilizationWindowSeconds": seconds, "selectPolicy": "Max",
                "policies": [{"type": "Percent", "value": 1000, "periodSeconds": 15}]})
        };
        autoscaler(json!({"behavior": {"scaleUp": rules(up), "scaleDown": rules(down)}})).spec
    };
    let go = |spec: &_, desired: i32, before: &[(i64, i32)]| {
        let recommendations = before.iter().map(|(seconds, n)| (ago(*seconds), *n)).collect();
        let mut history = History { recommendations, ..History::default() };
        let n = normalize(spec, 5, desired, &mut history, SignedDuration::from_secs(300), now());
        (n.replicas, n.able.1)
    };
    assert_eq!(go(&window(60, 60), 9, &[(30, 7)]), (7, "ScaleUpStabilized"));
    assert_eq!(go(&window(60, 60), 9, &[(61, 7)]), (9, "ReadyForNewScale"));
    assert_eq!(go(&window(60, 60), 2, &[(30, 4)]), (4, "ScaleDownStabilized"));
    assert_eq!(go(&window(60, 60), 2, &[(30, 8)]), (5, "ScaleDownStabilized"), "never up on the way down");
    assert_eq!(go(&window(0, 0), 2, &[(1, 8)]), (2, "ReadyForNewScale"));
}

#[test]
fn what_no_rule_can_ask_for_is_forgotten() {
    let mut history = History { recommendations: vec![(ago(3601), 1), (ago(10), 2)], ..History::default() };
    history.rescaled(ago(5000), 1, 4);
    history.rescaled(ago(5), 4, 2);
    history.prune(now());
    assert_eq!(history.recommendations, [(ago(10), 2)]);
    assert_eq!((history.ups.len(), history.downs[0].1), (0, 2));
}
