//! Jobs of the sample command: codes, completions, deadlines.
use crate::harness::{Namespace, wait, world};
use serde_json::Value;

fn job(name: &str, spec: &str, args: &str) -> String {
    format!(
        "
apiVersion: batch/v1
kind: Job
metadata: {{name: {name}}}
spec:
  {spec}
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
      containers: [{{name: main, image: '{}', args: {args}}}]
",
        world().image("hello-cli")
    )
}

fn condition(object: &Value, kind: &str) -> Option<Value> {
    object["status"]["conditions"]
        .as_array()?
        .iter()
        .find(|c| c["type"] == kind && c["status"] == "True")
        .cloned()
}

#[test]
fn a_job_that_exits_0_completes() {
    let t = Namespace::new(&world().cluster, "job-completes");
    t.apply(&job("good", "backoffLimit: 0", r#"["world", "--exit", "0"]"#));
    t.wait("job/good", "condition=Complete");
    let status = t.json(&["get", "job", "good"])["status"].clone();
    assert_eq!(status["succeeded"], 1, "{status}");
    assert!(status["completionTime"].is_string() && status["startTime"].is_string(), "{status}");
    assert_eq!(t.ok(&["logs", "job/good"]), "Hello, world!\n");
    let row = t.ok(&["get", "job", "good", "--no-headers"]);
    assert!(row.contains("1/1"), "{row}");
    let described = t.ok(&["describe", "job", "good"]);
    assert!(
        described.contains("1 Succeeded / 0 Failed") && described.contains("SuccessfulCreate"),
        "{described}"
    );
    t.ok(&["delete", "job", "good"]);
    wait::until("its pod went with it", || {
        let left = t.ok(&["get", "pods", "-o", "name"]);
        wait::holds(left.is_empty(), left)
    });
}

#[test]
fn a_job_that_exits_3_fails_with_that_code_in_its_status() {
    let t = Namespace::new(&world().cluster, "job-fails");
    t.apply(&job("bad", "backoffLimit: 0", r#"["world", "--exit", "3"]"#));
    t.wait("job/bad", "condition=Failed");
    let failed = condition(&t.json(&["get", "job", "bad"]), "Failed").expect("a condition");
    assert_eq!(failed["reason"], "BackoffLimitExceeded", "{failed}");
    let pods = t.items(&["get", "pods", "-l", "job-name=bad"]);
    assert_eq!(pods.len(), 1, "a limit of 0 makes one pod");
    let ended = &pods[0]["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!((&ended["exitCode"], &ended["reason"]), (&3.into(), &"Error".into()), "{ended}");
    assert_eq!(pods[0]["status"]["phase"], "Failed");
}

#[test]
fn a_failed_pod_is_tried_again_up_to_the_limit() {
    let t = Namespace::new(&world().cluster, "job-again");
    t.apply(&job("again", "backoffLimit: 1", r#"["--exit", "1"]"#));
    t.wait("job/again", "condition=Failed");
    t.until("two failed pods", "job", "again", |j| (j["status"]["failed"] == 2).then_some(()));
}

#[test]
fn completions_are_reached_with_so_many_at_once() {
    let t = Namespace::new(&world().cluster, "job-many");
    t.apply(&job(
        "many",
        "completions: 5\n  parallelism: 2\n  completionMode: Indexed",
        r#"["$(JOB_COMPLETION_INDEX)"]"#,
    ));
    t.wait("job/many", "condition=Complete");
    let status = t.json(&["get", "job", "many"])["status"].clone();
    assert_eq!((&status["succeeded"], &status["completedIndexes"]), (&5.into(), &"0-4".into()), "{status}");
}

#[test]
fn a_job_that_takes_too_long_is_ended_and_a_finished_one_removed() {
    let t = Namespace::new(&world().cluster, "job-time");
    t.apply(&job("slow", "activeDeadlineSeconds: 2", r#"["--spin"]"#));
    t.apply(&job("brief", "ttlSecondsAfterFinished: 1", r#"["x"]"#));
    t.wait("job/slow", "condition=Failed");
    let failed = condition(&t.json(&["get", "job", "slow"]), "Failed").expect("a condition");
    assert_eq!(failed["reason"], "DeadlineExceeded", "{failed}");
    wait::until("the endless program has ended", || {
        let pods = t.items(&["get", "pods", "-l", "job-name=slow"]);
        wait::holds(pods.is_empty(), format!("{} pods", pods.len()))
    });
    t.ok(&["wait", "job/brief", "--for=delete", "--timeout=60s"]);
}
