//! Why the pods of a revision do not run, in a sentence. Pure.
use crate::pod;
use client::k8s_openapi::api::core::v1::Pod;

/// What stands in a container's waiting reason when it does not get on by itself.
const LASTING: &[&str] = &[
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "CrashLoopBackOff",
];

/// Longest message that is passed on: conditions are read in tables and kept for ever.
const MAX_TEXT_LEN: usize = 1024;

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) text: String,
    /// Whether it will stay so until somebody does something.
    pub(super) lasting: bool,
}

/// The worst that the pods say. `None` if they are well or on their way.
pub(super) fn compute_trouble<'a>(pods: impl Iterator<Item = &'a Pod> + Clone) -> Option<Trouble> {
    let active = pods.filter(|p| pod::is_active(p));
    active.clone().find_map(of_container).or_else(|| active.clone().find_map(of_scheduling))
}

fn of_container(pod: &Pod) -> Option<Trouble> {
    let status = pod.status.as_ref()?;
    let containers = status.init_container_statuses.iter().chain(&status.container_statuses).flatten();
    for c in containers {
        let Some(waiting) = c.state.as_ref().and_then(|s| s.waiting.as_ref()) else { continue };
        let reason = waiting.reason.as_deref().unwrap_or("");
        if !LASTING.contains(&reason) {
            continue;
        }
        let mut text = match waiting.message.as_deref().filter(|m| !m.is_empty()) {
            Some(message) => format!("{reason}: {message}"),
            None => reason.to_owned(),
        };
        // A crash loop's own message tells when it is tried again, not what happened.
        let ended = c.last_state.as_ref().and_then(|s| s.terminated.as_ref());
        if let Some(ended) = ended.filter(|_| reason == "CrashLoopBackOff") {
            let why = ended.message.as_deref().map(str::trim).filter(|m| !m.is_empty());
            let why = why.or(ended.reason.as_deref()).unwrap_or("no message");
            text = format!(
                "it ended with exit code {} ({why}) and is started again, later each time",
                ended.exit_code
            );
        }
        return Some(Trouble { text: cut(text), lasting: true });
    }
    None
}

fn of_scheduling(p: &Pod) -> Option<Trouble> {
    let condition = pod::condition(p, "PodScheduled").filter(|c| c.status == "False")?;
    let message = condition.message.as_deref().unwrap_or("no message");
    Some(Trouble { text: cut(format!("no node takes its pods: {message}")), lasting: false })
}

fn cut(mut text: String) -> String {
    if text.len() > MAX_TEXT_LEN {
        let end = (0..=MAX_TEXT_LEN).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn trouble(statuses: &[Value]) -> Option<Trouble> {
        let pods: Vec<Pod> =
            statuses.iter().map(|s| serde_json::from_value(json!({ "status": s })).unwrap()).collect();
        compute_trouble(pods.iter())
    }

    fn waiting(reason: &str, message: &str) -> Value {
        json!({ "containerStatuses": [{ "name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
            "state": { "waiting": { "reason": reason, "message": message } },
            "lastState": { "terminated": { "exitCode": 3, "reason": "Error", "message": "no disk\n" } } }] })
    }

    #[test]
    fn what_lasts_is_said_before_what_may_pass() {
        let unscheduled =
            json!({ "conditions": [{ "type": "PodScheduled", "status": "False", "message": "no room" }] });
        assert_eq!(trouble(&[json!({})]), None);
        assert_eq!(trouble(&[waiting("ContainerCreating", "")]), None);
        let t = trouble(std::slice::from_ref(&unscheduled)).unwrap();
        assert_eq!((t.text.as_str(), t.lasting), ("no node takes its pods: no room", false));
        let t = trouble(&[unscheduled, waiting("ErrImagePull", "not found")]).unwrap();
        assert_eq!((t.text.as_str(), t.lasting), ("ErrImagePull: not found", true));
        let t = trouble(&[waiting("CrashLoopBackOff", "back-off 10s")]).unwrap();
        assert_eq!(t.text, "it ended with exit code 3 (no disk) and is started again, later each time");
        let t = trouble(&[waiting("ErrImagePull", &"ä".repeat(5000))]).unwrap();
        assert!(t.text.len() < 1100 && t.text.ends_with('…'));
    }
}
