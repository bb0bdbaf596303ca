//! Deployments, ReplicaSets, Jobs, Functions and Revisions.
use super::{AGE, NAME, label_selector, or_none, shown, template_images, template_names, timestamp, wide};
use crate::selector::LabelSelector;
use crate::strategy::view::{has, int, list, maybe_int, text};
use crate::table::{Column, human_duration};
use jiff::Timestamp;
use serde_json::{Value, json};

const CONTAINERS: Column =
    wide("Containers", "string", "Names of the template's containers.", template_names);
const IMAGES: Column = wide("Images", "string", "Images of the template's containers.", template_images);
const SELECTOR: Column = wide("Selector", "string", "Which pods belong to the object.", label_selector);

pub(in crate::strategy) static DEPLOYMENT: &[Column] = &[
    NAME,
    shown("Ready", "string", "Ready pods of all desired ones.", ready_of_desired),
    shown("Up-to-date", "string", "Pods that run the current template.", |o, _| {
        json!(int(o, "/status/updatedReplicas"))
    }),
    shown("Available", "string", "Pods that have been ready for minReadySeconds.", |o, _| {
        json!(int(o, "/status/availableReplicas"))
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", "string", "Which pods belong to the object.", |o, _| {
        json!(
            LabelSelector::from_object(&o["spec"]["selector"])
                .map_or_else(|_| "<invalid>".to_owned(), |s| s.to_string())
        )
    }),
];

pub(in crate::strategy) static REPLICA_SET: &[Column] = &[
    NAME,
    shown("Desired", "integer", "How many pods there should be.", |o, _| json!(int(o, "/spec/replicas"))),
    shown("Current", "integer", "How many pods there are.", |o, _| json!(int(o, "/status/replicas"))),
    shown("Ready", "integer", "How many pods are ready.", |o, _| json!(int(o, "/status/readyReplicas"))),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(in crate::strategy) static JOB: &[Column] = &[
    NAME,
    shown("Status", "string", "Whether the job runs, is complete or failed.", |o, _| json!(job_status(o))),
    shown("Completions", "string", "Pods that succeeded, of those wanted.", |o, _| json!(job_completions(o))),
    shown("Duration", "string", "Time from the start to the completion, or until now.", |o, now| {
        json!(job_duration(o, now))
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(in crate::strategy) static FUNCTION: &[Column] = &[
    NAME,
    shown("Ready", "string", "Ready pods of all desired ones.", ready_of_desired),
    shown("URL", "string", "Where the function answers.", |o, _| json!(or_none(text(o, "/status/url")))),
    shown("Image", "string", "The image that is run.", |o, _| json!(text(o, "/spec/image"))),
    AGE,
    wide("Latest", "string", "The newest revision.", |o, _| {
        json!(or_none(text(o, "/status/latestCreatedRevision")))
    }),
    wide("Traffic", "string", "Which revision serves which share.", |o, _| json!(or_none(&traffic(o)))),
    wide("Triggers", "string", "What became of the triggers' last calls.", |o, _| {
        json!(or_none(&triggers(o)))
    }),
    wide("Reason", "string", "Why it is ready or not.", |o, _| json!(condition(o, "Ready", "reason"))),
];

pub(in crate::strategy) static REVISION: &[Column] = &[
    NAME,
    shown("Ready", "string", "Ready pods of all there are.", |o, _| {
        json!(format!("{}/{}", int(o, "/status/readyReplicas"), int(o, "/status/replicas")))
    }),
    shown("Active", "string", "Whether requests are sent to it.", |o, _| {
        json!(condition(o, "Active", "status"))
    }),
    shown("Image", "string", "The image that is run.", |o, _| json!(text(o, "/spec/image"))),
    AGE,
    wide("Reason", "string", "Why it is ready or not.", |o, _| json!(condition(o, "Ready", "reason"))),
];

/// `a-r1=90,a-r2=10`, and `a-r3` in brackets with the headers that lead there.
fn traffic(function: &Value) -> String {
    let share = |t: &Value| {
        let headers: Vec<_> = t["headers"].as_object().into_iter().flatten().collect();
        if headers.is_empty() {
            return format!("{}={}", text(t, "/revision"), int(t, "/percent"));
        }
        let headers: Vec<_> =
            headers.iter().map(|(k, v)| format!("{k}:{}", v.as_str().unwrap_or(""))).collect();
        format!("{}[{}]", text(t, "/revision"), headers.join(" "))
    };
    list(function, "/status/traffic").iter().map(share).collect::<Vec<_>>().join(",")
}

/// `tick=answered 200,orders=RedisUnavailable`: the last result, or why messages are not taken.
fn triggers(function: &Value) -> String {
    let one = |t: &Value| {
        let ready = list(t, "/conditions").iter().find(|c| c["type"] == "Ready" && c["status"] != "True");
        let reason = ready.and_then(|c| c["reason"].as_str());
        let said = reason.or(t["lastResult"].as_str()).unwrap_or("not called yet");
        format!("{}={said}", text(t, "/name"))
    };
    list(function, "/status/triggers").iter().map(one).collect::<Vec<_>>().join(",")
}

/// A field of a condition; `Unknown` without one.
fn condition<'a>(o: &'a Value, kind: &str, field: &str) -> &'a str {
    let found = list(o, "/status/conditions").iter().find(|c| c["type"] == kind);
    found.and_then(|c| c[field].as_str()).unwrap_or("Unknown")
}

fn ready_of_desired(o: &Value, _: Timestamp) -> Value {
    json!(format!("{}/{}", int(o, "/status/readyReplicas"), int(o, "/spec/replicas")))
}

fn job_status(job: &Value) -> &'static str {
    // Of several conditions of one type the first counts.
    let is = |kind: &str| {
        let mut conditions = list(job, "/status/conditions").iter();
        conditions.find(|c| c["type"] == kind).is_some_and(|c| c["status"] == "True")
    };
    match () {
        () if is("Complete") => "Complete",
        () if is("Failed") => "Failed",
        () if crate::meta::is_terminating(job) => "Terminating",
        () if is("Suspended") => "Suspended",
        () if is("FailureTarget") => "FailureTarget",
        () if is("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

fn job_completions(job: &Value) -> String {
    let succeeded = int(job, "/status/succeeded");
    match (maybe_int(job, "/spec/completions"), int(job, "/spec/parallelism")) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, p) if p > 1 => format!("{succeeded}/1 of {p}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

fn job_duration(job: &Value, now: Timestamp) -> String {
    if !has(job, "/status/startTime") {
        return String::new();
    }
    let Some(start) = timestamp(text(job, "/status/startTime")) else { return String::new() };
    let end = timestamp(text(job, "/status/completionTime")).unwrap_or(now);
    human_duration(end.as_second() - start.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::columns::tests::cell;

    const NOW: &str = "2026-01-01T01:00:00Z";

    #[test]
    fn a_deployment_shows_ready_of_desired_and_its_selector_when_wide() {
        let d = json!({
            "spec": {"replicas": 3, "selector": {"matchLabels": {"app": "web"}},
                "template": {"spec": {"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]}}},
            "status": {"readyReplicas": 2, "updatedReplicas": 1, "availableReplicas": 2}
        });
        for (column, want) in [
            ("Ready", json!("2/3")),
            ("Up-to-date", json!(1)),
            ("Available", json!(2)),
            ("Containers", json!("a,b")),
            ("Images", json!("x,y")),
            ("Selector", json!("app=web")),
        ] {
            assert_eq!(cell(DEPLOYMENT, column, &d, NOW), want, "{column}");
        }
    }

    #[test]
    fn a_job_shows_its_state_and_completions() {
        let job = |spec: Value, status: Value| json!({"metadata": {}, "spec": spec, "status": status});
        let show = |j: &Value| (cell(JOB, "Status", j, NOW), cell(JOB, "Completions", j, NOW));
        assert_eq!(
            show(&job(json!({"completions": 2, "parallelism": 1}), json!({"succeeded": 1}))),
            (json!("Running"), json!("1/2"))
        );
        assert_eq!(show(&job(json!({"parallelism": 3}), json!({}))), (json!("Running"), json!("0/1 of 3")));
        let failed = json!({"conditions": [{"type": "Failed", "status": "True"}]});
        assert_eq!(show(&job(json!({"completions": 1}), failed)).0, json!("Failed"));
        assert_eq!(cell(JOB, "Duration", &job(json!({}), json!({})), NOW), json!(""));
    }
}
