//! `spec.podFailurePolicy`: what a failed pod means, by its exit codes and conditions. Pure.
use crate::pod;
use client::k8s_openapi::api::batch::v1::{
    Job, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule,
};
use client::k8s_openapi::api::core::v1::{ContainerStatus, Pod};

/// What a failed pod means for its Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It counts towards the backoff limit.
    Count,
    /// It counts for nothing and is replaced.
    Ignore,
    /// It counts, and its index is not tried again.
    FailIndex,
    /// The Job fails at once; why.
    FailJob(String),
}

/// Judges a pod that has failed: the first rule that matches decides.
pub(crate) fn judge(job: &Job, p: &Pod) -> Verdict {
    let policy = job.spec.as_ref().and_then(|s| s.pod_failure_policy.as_ref());
    let rules = policy.map(|p| p.rules.as_slice()).unwrap_or_default();
    // A pod that has not ended yet has no exit codes; it is judged when it has.
    if pod::phase(p) != "Failed" {
        return Verdict::Count;
    }
    for (index, rule) in rules.iter().enumerate() {
        let Some(what) = matched(rule, p) else { continue };
        let name = client::ObjectKey::of(p);
        return match rule.action.as_str() {
            "FailJob" => Verdict::FailJob(format!(
                "{} matching FailJob rule at index {index}",
                what.replace("{pod}", &name.to_string())
            )),
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

/// What of the pod matches the rule, with `{pod}` for its name.
fn matched(rule: &PodFailurePolicyRule, p: &Pod) -> Option<String> {
    if let Some(codes) = &rule.on_exit_codes {
        let (container, code) = failed_containers(p).find(|(c, code)| {
            codes.container_name.as_ref().is_none_or(|n| *n == c.name) && exit_code_matches(codes, *code)
        })?;
        return Some(format!("Container {} for pod {{pod}} failed with exit code {code}", container.name));
    }
    let pattern = rule.on_pod_conditions.iter().flatten().find(|wanted| {
        let status = wanted.status.as_deref().unwrap_or("True");
        pod::condition(p, &wanted.type_).is_some_and(|c| c.status == status)
    })?;
    Some(format!("Pod {{pod}} has condition {}", pattern.type_))
}

/// Containers that ended with a code other than 0.
fn failed_containers(p: &Pod) -> impl Iterator<Item = (&ContainerStatus, i32)> {
    let status = p.status.as_ref();
    let init = status.and_then(|s| s.init_container_statuses.as_ref()).into_iter().flatten();
    let main = status.and_then(|s| s.container_statuses.as_ref()).into_iter().flatten();
    main.chain(init).filter_map(|c| {
        let code = c.state.as_ref()?.terminated.as_ref()?.exit_code;
        (code != 0).then_some((c, code))
    })
}

fn exit_code_matches(codes: &PodFailurePolicyOnExitCodesRequirement, code: i32) -> bool {
    match codes.operator.as_str() {
        "In" => codes.values.contains(&code),
        "NotIn" => !codes.values.contains(&code),
        _ => false,
    }
}
