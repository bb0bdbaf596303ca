//! Deployments.
use super::Strategy;
use super::check::{self, Faults};
use super::pod::{check_template, default_template};
use super::view::{fill, has, int, list, maybe_int, same, section, text};
use crate::field::{Error, Path};
use serde_json::{Value, json};

pub(super) struct Deployment;

impl Strategy for Deployment {
    fn default(&self, obj: &mut Value) {
        let Some(spec) = section(obj, "spec") else { return };
        default_template(spec);
        fill(spec, "replicas", 1);
        fill(spec, "revisionHistoryLimit", 10);
        fill(spec, "progressDeadlineSeconds", 600);
        let Some(strategy) = section(spec, "strategy") else { return };
        fill(strategy, "type", "RollingUpdate");
        if strategy["type"] == "RollingUpdate"
            && let Some(rolling) = section(strategy, "rollingUpdate")
        {
            fill(rolling, "maxUnavailable", "25%");
            fill(rolling, "maxSurge", "25%");
        }
    }
    fn prepare_for_create(&self, obj: &mut Value) {
        obj["status"] = json!({});
    }
    fn validate(&self, obj: &Value) -> Faults {
        let (mut faults, path, spec) = (Faults::new(), Path::new("spec"), &obj["spec"]);
        for name in ["replicas", "minReadySeconds", "revisionHistoryLimit"] {
            check::not_negative(&mut faults, spec, &path, name);
        }
        check::selector_of_template(&mut faults, spec, &path);
        managed_template(&mut faults, spec, &path);
        strategy(&mut faults, &spec["strategy"], &path.child("strategy"));
        if let Some(deadline) = maybe_int(spec, "/progressDeadlineSeconds") {
            check::not_negative(&mut faults, spec, &path, "progressDeadlineSeconds");
            if deadline <= int(spec, "/minReadySeconds") {
                let at = path.child("progressDeadlineSeconds");
                faults.push(Error::invalid(at, deadline, "must be greater than minReadySeconds"));
            }
        }
        faults
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Faults {
        let mut faults = Faults::new();
        let path = Path::new("spec").child("selector");
        check::immutable(&mut faults, &new["spec"]["selector"], &old["spec"]["selector"], path);
        faults
    }
    fn validate_status_update(&self, new: &Value, _old: &Value) -> Faults {
        let counts = ["updatedReplicas", "readyReplicas", "availableReplicas", "unavailableReplicas"];
        // Unavailable ones are counted against what is desired, so they may be more than there are.
        check::replica_status(&new["status"], &counts[..3])
    }
    fn has_generation(&self) -> bool {
        true
    }
    /// Annotations are copied to ReplicaSets, so they are part of what is desired.
    fn generation_changed(&self, new: &Value, old: &Value) -> bool {
        !same(&new["spec"], &old["spec"])
            || !same(&new["metadata"]["annotations"], &old["metadata"]["annotations"])
    }
}

/// A template whose pods a controller keeps running: they restart always and have no deadline.
pub(super) fn managed_template(faults: &mut Faults, spec: &Value, path: &Path) {
    let template = &spec["template"];
    let at = path.child("template");
    check_template(faults, template, &at);
    let restart = text(template, "/spec/restartPolicy");
    if restart != "Always" {
        faults.push(Error::not_supported(at.child("spec").child("restartPolicy"), restart, &["Always"]));
    }
    if has(template, "/spec/activeDeadlineSeconds") {
        let at = at.child("spec").child("activeDeadlineSeconds");
        faults.push(Error::forbidden(at, "activeDeadlineSeconds in ReplicaSet is not Supported"));
    }
    if !list(template, "/spec/ephemeralContainers").is_empty() {
        let at = at.child("spec").child("ephemeralContainers");
        faults.push(Error::forbidden(at, "ephemeral containers not allowed in pod template"));
    }
}

fn strategy(faults: &mut Faults, strategy: &Value, path: &Path) {
    match text(strategy, "/type") {
        "Recreate" => {
            if has(strategy, "/rollingUpdate") {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                faults.push(Error::forbidden(path.child("rollingUpdate"), detail));
            }
        }
        "RollingUpdate" => {
            let (rolling, path) = (&strategy["rollingUpdate"], path.child("rollingUpdate"));
            let unavailable =
                check::count_or_percent(faults, &rolling["maxUnavailable"], path.child("maxUnavailable"));
            let surge = check::count_or_percent(faults, &rolling["maxSurge"], path.child("maxSurge"));
            if unavailable == 0 && surge == 0 {
                let detail = "may not be 0 when `maxSurge` is 0";
                faults.push(Error::invalid(
                    path.child("maxUnavailable"),
                    rolling["maxUnavailable"].clone(),
                    detail,
                ));
            }
            if rolling["maxUnavailable"].is_string() && unavailable > 100 {
                let at = path.child("maxUnavailable");
                faults.push(Error::invalid(
                    at,
                    rolling["maxUnavailable"].clone(),
                    "must not be greater than 100%",
                ));
            }
        }
        other => {
            faults.push(Error::not_supported(path.child("type"), other, &["Recreate", "RollingUpdate"]));
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::check::tests::shown;
    use super::*;

    pub(in crate::strategy) fn minimal() -> Value {
        json!({"metadata": {"name": "d", "namespace": "n"}, "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web"}, "creationTimestamp": null},
                "spec": {"containers": [{"name": "a", "image": "x:1"}]}}}})
    }
    fn faults(change: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut d = minimal();
        change(&mut d);
        Deployment.default(&mut d);
        shown(&Deployment.validate(&d))
    }

    #[test]
    fn the_smallest_deployment_gets_upstreams_defaults_once() {
        let mut d = minimal();
        Deployment.default(&mut d);
        let once = d.clone();
        Deployment.default(&mut d);
        assert_eq!(d, once);
        let spec = &d["spec"];
        assert_eq!((&spec["replicas"], &spec["revisionHistoryLimit"]), (&json!(1), &json!(10)));
        assert_eq!(spec["progressDeadlineSeconds"], 600);
        assert_eq!(
            spec["strategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "25%", "maxSurge": "25%"}})
        );
        assert_eq!(spec["template"]["metadata"], json!({"labels": {"app": "web"}}));
        let pod = &spec["template"]["spec"];
        assert_eq!(pod["restartPolicy"], "Always");
        assert!(pod.get("enableServiceLinks").is_none(), "that default is a pod's, not a template's");
        assert!(Deployment.validate(&d).is_empty(), "{:?}", Deployment.validate(&d));
    }

    #[test]
    fn faults_are_worded_as_upstream() {
        type Change = Box<dyn FnOnce(&mut Value)>;
        let cases: Vec<(Change, &str)> = vec![
            (
                Box::new(|d| d["spec"]["replicas"] = json!(-1)),
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            ),
            (Box::new(|d| d["spec"]["selector"] = Value::Null), "spec.selector: Required value"),
            (
                Box::new(|d| d["spec"]["selector"] = json!({})),
                "spec.selector: Invalid value: {}: empty selector is invalid for deployment",
            ),
            (
                Box::new(|d| d["spec"]["selector"]["matchLabels"] = json!({"app": "x"})),
                "spec.template.metadata.labels: Invalid value: {\"app\":\"web\"}: `selector` does not match template `labels`",
            ),
            (
                Box::new(|d| d["spec"]["template"]["spec"]["restartPolicy"] = json!("Never")),
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
            ),
            (
                Box::new(|d| d["spec"]["template"]["spec"]["containers"] = json!([])),
                "spec.template.spec.containers: Required value",
            ),
            (
                Box::new(|d| d["spec"]["strategy"] = json!({"type": "Recreate", "rollingUpdate": {}})),
                "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
            ),
            (
                Box::new(|d| {
                    d["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": "0%"}})
                }),
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
            ),
            (
                Box::new(|d| d["spec"]["minReadySeconds"] = json!(600)),
                "spec.progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds",
            ),
        ];
        for (change, want) in cases {
            let got = faults(change);
            assert!(got.iter().any(|f| f == want), "wanted {want}, got {got:?}");
        }
    }

    #[test]
    fn the_selector_is_immutable_and_annotations_are_desired_state() {
        let old = minimal();
        let mut new = old.clone();
        new["spec"]["selector"]["matchLabels"]["a"] = json!("b");
        let got = shown(&Deployment.validate_update(&new, &old));
        assert!(
            got[0].starts_with("spec.selector: Invalid value: ") && got[0].ends_with("field is immutable"),
            "{got:?}"
        );
        let mut new = old.clone();
        new["metadata"]["labels"] = json!({"a": "b"});
        assert!(!Deployment.generation_changed(&new, &old));
        new["metadata"]["annotations"] = json!({"a": "b"});
        assert!(Deployment.generation_changed(&new, &old));
    }

    #[test]
    fn the_two_ways_to_update_touch_disjoint_halves() {
        let row = crate::resource::lookup("apps", "v1", "deployments").expect("a row");
        let old = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1}, "status": {"replicas": 1}});
        let mut new = json!({"metadata": {"name": "d"}, "spec": {"replicas": 2}, "status": {"replicas": 9}});
        row.prepare_for_update(&mut new, &old);
        assert_eq!((&new["spec"]["replicas"], &new["status"]["replicas"]), (&json!(2), &json!(1)));
        let mut new = json!({"metadata": {"name": "d"}, "spec": {"replicas": 2}, "status": {"replicas": 9}});
        row.prepare_for_status_update(&mut new, &old);
        assert_eq!((&new["spec"]["replicas"], &new["status"]["replicas"]), (&json!(1), &json!(9)));
    }
}
