//! Jobs.
use super::Strategy;
use super::check::{self, Faults};
use super::pod::{check_template, default_template};
use super::view::{each, fill, flag, has, int, keep, list, map, maybe_int, same, section, text};
use crate::field::{Error, Path};
use crate::meta;
use crate::resource::Resource;
use crate::selector::LabelSelector;
use serde_json::{Value, json};

pub(super) struct Job;

const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
const JOB_NAME: &str = "batch.kubernetes.io/job-name";
/// Retries before a Job fails.
const BACKOFF_LIMIT: i64 = 6;
/// Upstream's limits of an indexed job, so that its status stays small.
const MAX_INDEXED_PARALLELISM: i64 = 100_000;

impl Strategy for Job {
    fn default(&self, obj: &mut Value) {
        let Some(spec) = section(obj, "spec") else { return };
        default_template(spec);
        // Neither given: one pod. Only parallelism given: a work queue, which ends when any pod succeeds.
        if !has(spec, "/completions") && !has(spec, "/parallelism") {
            fill(spec, "completions", 1);
        }
        fill(spec, "parallelism", 1);
        let per_index = has(spec, "/backoffLimitPerIndex");
        fill(spec, "backoffLimit", if per_index { i64::from(i32::MAX) } else { BACKOFF_LIMIT });
        fill(spec, "completionMode", "NonIndexed");
        fill(spec, "suspend", false);
        fill(spec, "manualSelector", false);
        let replacement = if has(spec, "/podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
        fill(spec, "podReplacementPolicy", replacement);
        for rule in each(spec, "/podFailurePolicy/rules") {
            for pattern in each(rule, "/onPodConditions") {
                fill(pattern, "status", "True");
            }
        }
        let labels = map(obj, "/spec/template/metadata/labels").filter(|l| !l.is_empty()).cloned();
        if let Some(labels) = labels
            && map(obj, "/metadata/labels").is_none_or(|l| l.is_empty())
        {
            meta::set(obj, "labels", labels);
        }
    }

    /// Marks the pods as this job's own. Needs `metadata.uid` and `metadata.name` to be set.
    fn prepare_for_create(&self, obj: &mut Value) {
        obj["status"] = json!({});
        if flag(obj, "/spec/manualSelector") {
            return;
        }
        let (name, uid) = (meta::name(obj).to_owned(), meta::uid(obj).to_owned());
        let Some(spec) = section(obj, "spec") else { return };
        if let Some(labels) =
            section(spec, "template").and_then(|t| section(t, "metadata")).and_then(|m| section(m, "labels"))
        {
            for (key, value) in
                [("controller-uid", &uid), (CONTROLLER_UID, &uid), ("job-name", &name), (JOB_NAME, &name)]
            {
                labels[key] = json!(value);
            }
        }
        if let Some(labels) = section(spec, "selector").and_then(|s| section(s, "matchLabels")) {
            fill(labels, CONTROLLER_UID, uid);
        }
    }

    fn validate(&self, obj: &Value) -> Faults {
        let (mut faults, path, spec) = (Faults::new(), Path::new("spec"), &obj["spec"]);
        for name in [
            "parallelism",
            "completions",
            "activeDeadlineSeconds",
            "backoffLimit",
            "ttlSecondsAfterFinished",
            "backoffLimitPerIndex",
            "maxFailedIndexes",
        ] {
            check::not_negative(&mut faults, spec, &path, name);
        }
        selector(&mut faults, obj, &path);
        check::maybe_one_of(&mut faults, spec, &path, "completionMode", &["Indexed", "NonIndexed"]);
        check::maybe_one_of(
            &mut faults,
            spec,
            &path,
            "podReplacementPolicy",
            &["Failed", "TerminatingOrFailed"],
        );
        if text(spec, "/completionMode") == "Indexed" {
            if !has(spec, "/completions") {
                faults.push(Error::required(path.child("completions"), "when completion mode is Indexed"));
            }
            if int(spec, "/parallelism") > MAX_INDEXED_PARALLELISM {
                let detail = format!(
                    "must be less than or equal to {MAX_INDEXED_PARALLELISM} when completion mode is Indexed"
                );
                faults.push(Error::invalid(path.child("parallelism"), int(spec, "/parallelism"), &detail));
            }
        } else if let Some(n) = maybe_int(spec, "/backoffLimitPerIndex") {
            let detail = "requires indexed completion mode";
            faults.push(Error::invalid(path.child("backoffLimitPerIndex"), n, detail));
        }
        limits_and_policies(&mut faults, spec, &path);
        let at = path.child("template");
        check_template(&mut faults, &spec["template"], &at);
        let at = at.child("spec").child("restartPolicy");
        if text(spec, "/template/spec/restartPolicy") == "Always" {
            faults.push(Error::required(at, "valid values: \"OnFailure\", \"Never\""));
        }
        faults
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Faults {
        let (mut faults, path) = (Faults::new(), Path::new("spec"));
        let (new, old) = (&new["spec"], &old["spec"]);
        // An indexed job may grow or shrink both together.
        let elastic = text(new, "/completionMode") == "Indexed"
            && maybe_int(new, "/completions") == maybe_int(new, "/parallelism");
        if !elastic {
            check::immutable(
                &mut faults,
                &new["completions"],
                &old["completions"],
                path.child("completions"),
            );
        }
        for name in
            ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "successPolicy"]
        {
            check::immutable(&mut faults, &new[name], &old[name], path.child(name));
        }
        // Before it starts, a suspended job's scheduling may still be decided.
        let mut template = new["template"].clone();
        if flag(old, "/suspend") && template["spec"].is_object() {
            for name in ["nodeSelector", "affinity", "tolerations", "schedulingGates"] {
                keep(&mut template["spec"], &old["template"]["spec"], name);
            }
            if template["metadata"].is_object() {
                for name in ["labels", "annotations"] {
                    keep(&mut template["metadata"], &old["template"]["metadata"], name);
                }
            }
        }
        if !same(&template, &old["template"]) {
            faults.push(Error::invalid(path.child("template"), new["template"].clone(), check::IMMUTABLE));
        }
        faults
    }

    fn orphan_by_default(&self) -> bool {
        true
    }
    fn has_generation(&self) -> bool {
        true
    }
    fn generation_changed(&self, new: &Value, old: &Value) -> bool {
        !same(&new["spec"], &old["spec"])
    }
    fn fields(&self, _resource: &Resource, obj: &Value) -> Vec<String> {
        vec![int(obj, "/status/succeeded").to_string()]
    }
}

/// What belongs together: limits of indexes, and rules of success and failure, need the Job to be as they suppose.
fn limits_and_policies(faults: &mut Faults, spec: &Value, path: &Path) {
    const MAX_RULES: usize = 20;
    let indexed = text(spec, "/completionMode") == "Indexed";
    let per_index = has(spec, "/backoffLimitPerIndex");
    if has(spec, "/maxFailedIndexes") {
        let (n, at) = (int(spec, "/maxFailedIndexes"), path.child("maxFailedIndexes"));
        if !per_index {
            faults.push(Error::invalid(at, n, "when backoffLimitPerIndex is specified"));
        } else if has(spec, "/completions") && n > int(spec, "/completions") {
            faults.push(Error::invalid(at, n, "must be less than or equal to completions"));
        }
    }
    let success = path.child("successPolicy");
    if has(spec, "/successPolicy") {
        let rules = list(spec, "/successPolicy/rules");
        if !indexed {
            let detail = "requires indexed completion mode";
            faults.push(Error::invalid(success.clone(), spec["successPolicy"].clone(), detail));
        }
        if rules.is_empty() {
            let detail = "at least one rules must be specified when successPolicy is specified";
            faults.push(Error::required(success.child("rules"), detail));
        }
        if rules.len() > MAX_RULES {
            let detail = format!("must have at most {MAX_RULES} items");
            faults.push(Error::invalid(success.child("rules"), rules.len(), &detail));
        }
        for (i, rule) in rules.iter().enumerate() {
            let at = success.child("rules").index(i);
            if !has(rule, "/succeededCount") && !has(rule, "/succeededIndexes") {
                let detail = "at least one of succeededCount or succeededIndexes must be specified";
                faults.push(Error::required(at.clone(), detail));
            }
            check::not_negative(faults, rule, &at, "succeededCount");
            let most = int(spec, "/completions");
            if has(spec, "/completions") && int(rule, "/succeededCount") > most {
                let detail =
                    format!("must be less than or equal to {most} (the number of specified completions)");
                faults.push(Error::invalid(
                    at.child("succeededCount"),
                    int(rule, "/succeededCount"),
                    &detail,
                ));
            }
        }
    }
    let failure = path.child("podFailurePolicy");
    if has(spec, "/podFailurePolicy") {
        if text(spec, "/template/spec/restartPolicy") != "Never" {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            let at = path.child("template").child("spec").child("restartPolicy");
            faults.push(Error::invalid(at, text(spec, "/template/spec/restartPolicy"), detail));
        }
        for (i, rule) in list(spec, "/podFailurePolicy/rules").iter().enumerate() {
            let at = failure.child("rules").index(i);
            check::one_of(faults, rule, &at, "action", &["Count", "FailIndex", "FailJob", "Ignore"]);
            if text(rule, "/action") == "FailIndex" && !per_index {
                let detail = "requires the backoffLimitPerIndex to be set";
                faults.push(Error::invalid(at.child("action"), "FailIndex", detail));
            }
        }
    }
}

/// The selector must be the generated one, or the user must say that it is his own.
fn selector(faults: &mut Faults, obj: &Value, path: &Path) {
    let spec = &obj["spec"];
    let at = path.child("selector");
    if spec["selector"].is_null() {
        faults.push(Error::required(at, ""));
        return;
    }
    check::label_selector(faults, &spec["selector"], &at);
    if !flag(spec, "/manualSelector") && !meta::uid(obj).is_empty() {
        let want = json!({ CONTROLLER_UID: meta::uid(obj) });
        let old = json!({ "controller-uid": meta::uid(obj) });
        let given = &spec["selector"]["matchLabels"];
        if *given != want && *given != old {
            faults.push(Error::invalid(
                at.clone(),
                spec["selector"].clone(),
                "`selector` not auto-generated",
            ));
        }
    }
    let labels = &spec["template"]["metadata"]["labels"];
    if LabelSelector::from_object(&spec["selector"]).is_ok_and(|s| !s.matches(labels)) {
        let at = path.child("template").child("metadata").child("labels");
        faults.push(Error::invalid(at, labels.clone(), "`selector` does not match template `labels`"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::shown;
    use super::*;

    fn created(spec: Value) -> Value {
        let mut job = json!({"metadata": {"name": "j", "namespace": "n", "uid": "u-1"}, "spec": spec});
        Job.default(&mut job);
        Job.prepare_for_create(&mut job);
        job
    }
    fn template(restart: &str) -> Value {
        json!({"spec": {"restartPolicy": restart, "containers": [{"name": "a", "image": "x:1"}]}})
    }

    #[test]
    fn limits_of_indexes_and_policies_need_the_job_that_they_suppose() {
        let faults = |more: Value| {
            let mut spec = json!({"template": template("Never"), "completions": 3});
            for (k, v) in more.as_object().unwrap() {
                spec[k] = v.clone();
            }
            shown(&Job.validate(&created(spec)))
        };
        let leader = json!({"rules": [{"succeededIndexes": "0"}]});
        let good = json!({"completionMode": "Indexed", "successPolicy": leader, "backoffLimitPerIndex": 1,
            "maxFailedIndexes": 2, "podFailurePolicy": {"rules": [{"action": "FailIndex",
                "onExitCodes": {"operator": "In", "values": [1]}}]}});
        assert!(faults(good.clone()).is_empty(), "{:?}", faults(good));
        for (bad, wanted) in [
            (json!({"successPolicy": leader}), "requires indexed completion mode"),
            (
                json!({"completionMode": "Indexed", "successPolicy": {"rules": [{}]}}),
                "at least one of succeededCount",
            ),
            (json!({"maxFailedIndexes": 1}), "when backoffLimitPerIndex is specified"),
            (
                json!({"podFailurePolicy": {"rules": [{"action": "FailIndex"}]}}),
                "requires the backoffLimitPerIndex to be set",
            ),
            (
                json!({"template": template("OnFailure"), "podFailurePolicy": {"rules": []}}),
                "only \"Never\" is supported when podFailurePolicy is specified",
            ),
        ] {
            let all = faults(bad.clone());
            assert!(all.iter().any(|f| f.contains(wanted)), "{bad}: {all:?}");
        }
    }

    #[test]
    fn the_smallest_job_gets_defaults_and_a_selector_of_its_own() {
        let job = created(json!({"template": template("Never")}));
        let spec = &job["spec"];
        for (name, value) in [
            ("completions", json!(1)),
            ("parallelism", json!(1)),
            ("backoffLimit", json!(6)),
            ("completionMode", json!("NonIndexed")),
            ("suspend", json!(false)),
            ("podReplacementPolicy", json!("TerminatingOrFailed")),
            ("selector", json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u-1"}})),
        ] {
            assert_eq!(spec[name], value, "{name}");
        }
        assert_eq!(
            spec["template"]["metadata"]["labels"],
            json!({
            "controller-uid": "u-1", "batch.kubernetes.io/controller-uid": "u-1",
            "job-name": "j", "batch.kubernetes.io/job-name": "j"})
        );
        assert!(Job.validate(&job).is_empty(), "{:?}", shown(&Job.validate(&job)));
        let mut again = job.clone();
        Job.default(&mut again);
        assert_eq!(again["spec"], job["spec"]);
        let queue = created(json!({"parallelism": 3, "template": template("OnFailure")}));
        assert!(queue["spec"].get("completions").is_none());
    }

    #[test]
    fn pods_of_a_job_must_be_able_to_end() {
        let got = shown(&Job.validate(&created(json!({"template": template("Always")}))));
        assert_eq!(
            got,
            ["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""]
        );
    }

    #[test]
    fn what_a_job_does_may_not_change_but_how_may() {
        let old = created(json!({"template": template("Never")}));
        let change = |f: fn(&mut Value)| {
            let mut new = old.clone();
            f(&mut new);
            shown(&Job.validate_update(&new, &old))
        };
        assert!(change(|j| j["spec"]["parallelism"] = json!(5)).is_empty());
        assert!(change(|j| j["spec"]["suspend"] = json!(true)).is_empty());
        assert_eq!(
            change(|j| j["spec"]["completions"] = json!(5)),
            ["spec.completions: Invalid value: 5: field is immutable"]
        );
        let got = change(|j| j["spec"]["template"]["spec"]["containers"][0]["image"] = json!("y"));
        assert!(
            got[0].starts_with("spec.template: Invalid value: ") && got[0].ends_with("field is immutable"),
            "{got:?}"
        );
    }
}
