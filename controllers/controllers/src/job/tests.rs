use super::account::{FINALIZER, INDEX};
use super::index_failures::FAILURE_COUNT;
use super::plan::{Plan, Why, World, plan_job, same_status};
use client::k8s_openapi::api::batch::v1::{Job, JobSpec};
use client::k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateTerminated, ContainerStatus, Pod, PodSpec, PodStatus, PodTemplateSpec,
};
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// A Job and its pods: carries out plans as the server would, and may stop between any two steps.
struct Sim {
    job: Job,
    pods: Vec<Pod>,
    made: usize,
    now: Timestamp,
}

fn job(spec: JobSpec) -> Job {
    Job {
        metadata: ObjectMeta { name: Some("work".into()), uid: Some("j".into()), ..ObjectMeta::default() },
        spec: Some(spec),
        status: None,
    }
}

fn spec(completions: Option<i32>, parallelism: i32) -> JobSpec {
    JobSpec {
        completions,
        parallelism: Some(parallelism),
        backoff_limit: Some(2),
        template: PodTemplateSpec {
            metadata: None,
            spec: Some(PodSpec { restart_policy: Some("Never".into()), ..PodSpec::default() }),
        },
        ..JobSpec::default()
    }
}

impl Sim {
    fn new(spec: JobSpec) -> Self {
        Self { job: job(spec), pods: Vec::new(), made: 0, now: Timestamp::from_second(1_000_000).unwrap() }
    }

    fn plan(&self) -> Plan {
        let pods: Vec<&Pod> = self.pods.iter().collect();
        plan_job(&World { job: &self.job, pods: &pods, now: self.now })
    }

    /// Carries out the first `steps` of: delete, create, write status, release each pod.
    fn carry_out(&mut self, plan: &Plan, steps: usize) {
        let mut left = steps;
        let mut go = || {
            let go = left > 0;
            left = left.saturating_sub(1);
            go
        };
        for name in &plan.delete {
            if !go() {
                return;
            }
            let now = self.now;
            let Some(p) = self.pods.iter_mut().find(|p| p.metadata.name.as_ref() == Some(name)) else {
                continue;
            };
            if !plan.deleted_count_as_failed {
                p.metadata.finalizers = None;
            }
            p.metadata.deletion_timestamp = Some(Time(now));
        }
        for index in &plan.create {
            if !go() {
                return;
            }
            self.made += 1;
            let name = format!("p{}", self.made);
            self.pods.push(Pod {
                metadata: ObjectMeta {
                    uid: Some(format!("uid-{name}")),
                    name: Some(name),
                    finalizers: Some(vec![FINALIZER.into()]),
                    annotations: index.map(|i| {
                        let mut all = BTreeMap::from([(INDEX.to_owned(), i.to_string())]);
                        all.extend(plan.failures.get(&i).map(|n| (FAILURE_COUNT.to_owned(), n.to_string())));
                        all
                    }),
                    creation_timestamp: Some(Time(self.now)),
                    ..ObjectMeta::default()
                },
                spec: None,
                status: Some(PodStatus { phase: Some("Running".into()), ..PodStatus::default() }),
            });
        }
        if !go() {
            return;
        }
        self.job.status = Some(plan.status.clone());
        for name in &plan.release {
            if !go() {
                return;
            }
            if let Some(p) = self.pods.iter_mut().find(|p| p.metadata.name.as_ref() == Some(name)) {
                p.metadata.finalizers = None;
            }
        }
    }

    /// One whole pass; pods that were deleted and are held by nothing go.
    fn step(&mut self) -> Plan {
        let plan = self.plan();
        self.carry_out(&plan, usize::MAX);
        self.sweep();
        plan
    }

    fn sweep(&mut self) {
        self.pods.retain(|p| p.metadata.deletion_timestamp.is_none() || p.metadata.finalizers.is_some());
    }

    fn end(&mut self, i: usize, phase: &str) {
        let now = self.now;
        let Some(status) = self.pods[i].status.as_mut() else { return };
        status.phase = Some(phase.into());
        status.container_statuses = Some(vec![ContainerStatus {
            state: Some(ContainerState {
                terminated: Some(ContainerStateTerminated {
                    finished_at: Some(Time(now)),
                    ..ContainerStateTerminated::default()
                }),
                ..ContainerState::default()
            }),
            ..ContainerStatus::default()
        }]);
    }

    fn running(&self) -> Vec<usize> {
        let runs = |p: &Pod| {
            p.metadata.deletion_timestamp.is_none()
                && p.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Running")
        };
        (0..self.pods.len()).filter(|i| runs(&self.pods[*i])).collect()
    }

    fn end_with(&mut self, i: usize, code: i32) {
        self.end(i, "Failed");
        let statuses = self.pods[i].status.as_mut().unwrap().container_statuses.as_mut().unwrap();
        statuses[0].name = "c".into();
        statuses[0].state.as_mut().unwrap().terminated.as_mut().unwrap().exit_code = code;
    }

    fn end_all(&mut self, phase: &str) {
        for i in self.running() {
            self.end(i, phase);
        }
    }

    fn later(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    fn counts(&self) -> (i32, i32, i32) {
        let s = self.job.status.clone().unwrap_or_default();
        (s.active.unwrap_or(0), s.succeeded.unwrap_or(0), s.failed.unwrap_or(0))
    }

    fn conditions(&self) -> Vec<(String, String)> {
        let all = self.job.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        all.into_iter()
            .filter(|c| c.status == "True")
            .map(|c| (c.type_, c.reason.unwrap_or_default()))
            .collect()
    }

    fn until_finished(&mut self) {
        for _ in 0..50 {
            if self.step().why == Why::Finished {
                return;
            }
        }
        panic!("did not finish: {:?} {:?}", self.counts(), self.conditions());
    }
}

fn pair(a: &str, b: &str) -> (String, String) {
    (a.to_owned(), b.to_owned())
}

#[test]
fn a_job_runs_its_pods_in_parallel_and_completes() {
    let mut sim = Sim::new(spec(Some(3), 2));
    assert_eq!(sim.step().create.len(), 2);
    assert_eq!(sim.counts(), (2, 0, 0));
    assert!(sim.job.status.as_ref().unwrap().start_time.is_some());
    sim.end_all("Succeeded");
    assert_eq!(sim.step().create.len(), 1);
    sim.end_all("Succeeded");
    sim.step();
    assert_eq!(sim.conditions(), [pair("SuccessCriteriaMet", "CompletionsReached")]);
    sim.until_finished();
    assert_eq!(sim.counts(), (0, 3, 0));
    assert_eq!(sim.conditions()[1], pair("Complete", "CompletionsReached"));
    assert!(sim.job.status.as_ref().unwrap().completion_time.is_some());
    assert!(sim.pods.iter().all(|p| p.metadata.finalizers.is_none()), "nothing holds the pods");
}

#[test]
fn a_job_whose_pods_fail_too_often_fails() {
    let mut sim = Sim::new(spec(Some(1), 1));
    for _ in 0..3 {
        sim.step();
        sim.end_all("Failed");
        sim.step();
        sim.later(700);
    }
    sim.until_finished();
    assert_eq!(sim.counts(), (0, 0, 3));
    assert_eq!(
        sim.conditions(),
        [pair("FailureTarget", "BackoffLimitExceeded"), pair("Failed", "BackoffLimitExceeded")]
    );
    assert_eq!(sim.made, 3);
}

#[test]
fn a_failed_pod_is_replaced_after_a_wait_that_doubles() {
    let mut s = spec(Some(1), 1);
    s.backoff_limit = Some(100);
    let mut sim = Sim::new(s);
    for want in [10, 20, 40, 80, 160, 320, 600, 600] {
        sim.step();
        assert_eq!(sim.running().len(), 1, "before the wait of {want}");
        sim.end_all("Failed");
        let plan = sim.step();
        assert_eq!((plan.why, plan.create.len()), (Why::BackingOff, 0));
        assert_eq!(plan.look_again.unwrap().as_secs(), want);
        sim.later(want as i64);
    }
}

#[test]
fn a_success_ends_the_backing_off() {
    let mut s = spec(Some(5), 1);
    s.backoff_limit = Some(100);
    let mut sim = Sim::new(s);
    sim.step();
    sim.end_all("Failed");
    sim.later(10);
    sim.step();
    sim.end_all("Succeeded");
    assert_eq!(sim.step().create.len(), 1);
}

#[test]
fn a_job_over_its_deadline_ends_its_pods_and_fails() {
    let mut s = spec(Some(1), 1);
    s.active_deadline_seconds = Some(30);
    let mut sim = Sim::new(s);
    let plan = sim.step();
    assert_eq!(plan.look_again.unwrap().as_secs(), 30);
    sim.later(31);
    let plan = sim.step();
    assert_eq!((plan.why, plan.delete.len()), (Why::Finishing, 1));
    assert_eq!(
        sim.conditions(),
        [pair("FailureTarget", "DeadlineExceeded")],
        "Failed only when its pods are gone"
    );
    sim.until_finished();
    assert_eq!(sim.conditions()[1], pair("Failed", "DeadlineExceeded"));
    assert_eq!(sim.counts(), (0, 0, 1));
}

fn policy(rules: serde_json::Value) -> JobSpec {
    let mut s = spec(Some(1), 1);
    s.pod_failure_policy = Some(serde_json::from_value(serde_json::json!({ "rules": rules })).unwrap());
    s
}

#[test]
fn an_exit_code_may_fail_the_job_at_once() {
    let rules = serde_json::json!([
        { "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] },
        { "action": "FailJob", "onExitCodes": { "containerName": "c", "operator": "In", "values": [42] } },
    ]);
    let mut sim = Sim::new(policy(rules));
    sim.step();
    sim.end_with(0, 1);
    sim.step();
    assert!(sim.conditions().is_empty(), "another code counts towards the limit");
    sim.later(700);
    sim.step();
    let i = sim.running()[0];
    sim.end_with(i, 42);
    sim.until_finished();
    assert_eq!(sim.conditions()[1], pair("Failed", "PodFailurePolicy"));
    let all = sim.job.status.as_ref().unwrap().conditions.clone().unwrap();
    let text = all[0].message.clone().unwrap();
    assert!(text.contains("failed with exit code 42 matching FailJob rule at index 1"), "{text}");
}

#[test]
fn an_ignored_failure_counts_for_nothing_and_is_replaced_at_once() {
    let rules = serde_json::json!([
        { "action": "Ignore", "onExitCodes": { "operator": "NotIn", "values": [1, 2] } },
    ]);
    let mut sim = Sim::new(policy(rules));
    for _ in 0..5 {
        sim.step();
        let i = sim.running()[0];
        sim.end_with(i, 7);
        sim.step();
    }
    assert_eq!(sim.counts(), (1, 0, 0));
    sim.end_all("Succeeded");
    sim.until_finished();
    assert_eq!(sim.counts(), (0, 1, 0));
}

#[test]
fn restarts_in_place_count_towards_the_limit() {
    let mut s = spec(Some(1), 1);
    s.template.spec.as_mut().unwrap().restart_policy = Some("OnFailure".into());
    let mut sim = Sim::new(s);
    sim.step();
    sim.pods[0].status.as_mut().unwrap().container_statuses =
        Some(vec![ContainerStatus { restart_count: 2, ..ContainerStatus::default() }]);
    sim.step();
    assert_eq!(sim.conditions(), [pair("FailureTarget", "BackoffLimitExceeded")]);
}

#[test]
fn an_indexed_job_gives_each_index_to_one_pod() {
    let mut s = spec(Some(3), 2);
    s.completion_mode = Some("Indexed".into());
    let mut sim = Sim::new(s);
    assert_eq!(sim.step().create, [Some(0), Some(1)]);
    sim.end(1, "Succeeded");
    assert_eq!(sim.step().create, [Some(2)]);
    assert_eq!(sim.job.status.as_ref().unwrap().completed_indexes.as_deref(), Some("1"));
    sim.later(1);
    sim.end(0, "Failed");
    assert_eq!(sim.step().why, Why::BackingOff);
    sim.later(20);
    assert_eq!(sim.step().create, [Some(0)]);
    sim.end_all("Succeeded");
    sim.until_finished();
    let status = sim.job.status.clone().unwrap();
    assert_eq!((status.completed_indexes.as_deref(), status.succeeded), (Some("0-2"), Some(3)));
}

fn per_index(completions: i32, parallelism: i32, limit: i32) -> JobSpec {
    let mut s = spec(Some(completions), parallelism);
    s.completion_mode = Some("Indexed".into());
    s.backoff_limit = Some(i32::MAX);
    s.backoff_limit_per_index = Some(limit);
    s
}

/// The running pod of an index.
fn runs(sim: &Sim, index: i32) -> usize {
    let found = sim.running().into_iter().find(|i| super::account::index_of(&sim.pods[*i]) == Some(index));
    found.unwrap_or_else(|| panic!("index {index} does not run"))
}

#[test]
fn an_index_that_fails_too_often_is_given_up_and_the_others_go_on() {
    let mut sim = Sim::new(per_index(2, 2, 1));
    sim.step();
    let first = runs(&sim, 0);
    sim.end(first, "Failed");
    let plan = sim.step();
    assert_eq!((plan.why, plan.create.len()), (Why::BackingOff, 0));
    assert_eq!(plan.look_again.unwrap().as_secs(), 10);
    // Until another pod carries its number on, the failed one is held and not counted.
    assert!(sim.pods[first].metadata.finalizers.is_some());
    assert_eq!(sim.counts(), (1, 0, 0));
    sim.later(11);
    assert_eq!(sim.step().create, [Some(0)]);
    assert_eq!(sim.pods[runs(&sim, 0)].metadata.annotations.as_ref().unwrap()[FAILURE_COUNT], "1");
    // Listed, then counted.
    sim.step();
    sim.step();
    assert_eq!(sim.counts(), (2, 0, 1));
    // What is left of the first failure is its number on the second pod.
    sim.pods.remove(first);
    let second = runs(&sim, 0);
    sim.end(second, "Failed");
    sim.step();
    assert_eq!(sim.job.status.as_ref().unwrap().failed_indexes.as_deref(), Some("0"));
    sim.later(3600);
    assert!(sim.step().create.is_empty(), "it is not tried again");
    let other = runs(&sim, 1);
    sim.end(other, "Succeeded");
    sim.until_finished();
    assert_eq!(sim.conditions()[1], pair("Failed", "FailedIndexes"));
    assert_eq!(sim.counts(), (0, 1, 2));
    assert!(sim.pods.iter().all(|p| p.metadata.finalizers.is_none()), "nothing holds the pods");
}

#[test]
fn more_failed_indexes_than_allowed_end_the_job() {
    let mut s = per_index(5, 5, 0);
    s.max_failed_indexes = Some(1);
    let mut sim = Sim::new(s);
    sim.step();
    for index in [0, 3] {
        let i = runs(&sim, index);
        sim.end(i, "Failed");
        sim.step();
    }
    sim.until_finished();
    assert_eq!(sim.conditions()[1], pair("Failed", "MaxFailedIndexesExceeded"));
    assert_eq!(sim.job.status.as_ref().unwrap().failed_indexes.as_deref(), Some("0,3"));
}

#[test]
fn a_rule_may_give_an_index_up_at_its_first_failure() {
    let mut s = per_index(2, 2, 5);
    let rules = serde_json::json!({ "rules": [
        { "action": "FailIndex", "onExitCodes": { "operator": "In", "values": [42] } }] });
    s.pod_failure_policy = Some(serde_json::from_value(rules).unwrap());
    let mut sim = Sim::new(s);
    sim.step();
    let (a, b) = (runs(&sim, 0), runs(&sim, 1));
    sim.end_with(a, 42);
    sim.end_with(b, 1);
    sim.step();
    assert_eq!(sim.job.status.as_ref().unwrap().failed_indexes.as_deref(), Some("0"));
    sim.later(11);
    assert_eq!(sim.step().create, [Some(1)]);
}

#[test]
fn a_job_with_a_success_policy_ends_when_its_leader_has_succeeded() {
    let mut s = spec(Some(3), 3);
    s.completion_mode = Some("Indexed".into());
    let rules = serde_json::json!({ "rules": [{ "succeededIndexes": "0" }] });
    s.success_policy = Some(serde_json::from_value(rules).unwrap());
    let mut sim = Sim::new(s);
    sim.step();
    sim.end(1, "Succeeded");
    sim.step();
    assert!(sim.conditions().is_empty());
    sim.end(0, "Succeeded");
    sim.until_finished();
    assert_eq!(
        sim.conditions(),
        [pair("SuccessCriteriaMet", "SuccessPolicy"), pair("Complete", "SuccessPolicy")]
    );
    assert_eq!(sim.counts(), (0, 2, 0));
    assert!(sim.running().is_empty(), "the others are ended");
}

#[test]
fn a_work_queue_is_done_when_one_succeeded_and_all_have_ended() {
    let mut sim = Sim::new(spec(None, 3));
    assert_eq!(sim.step().create.len(), 3);
    sim.end(0, "Succeeded");
    let plan = sim.step();
    assert_eq!((plan.create.len(), plan.delete.len()), (0, 0));
    sim.end_all("Succeeded");
    sim.until_finished();
    assert_eq!(sim.counts(), (0, 3, 0));
}

#[test]
fn a_suspended_job_has_no_pods_and_starts_anew_when_resumed() {
    let mut sim = Sim::new(spec(Some(2), 2));
    sim.step();
    sim.job.spec.as_mut().unwrap().suspend = Some(true);
    let plan = sim.step();
    assert_eq!((plan.why, plan.delete.len()), (Why::Suspended, 2));
    assert_eq!(sim.conditions(), [pair("Suspended", "JobSuspended")]);
    assert_eq!(sim.job.status.as_ref().unwrap().start_time, None);
    sim.step();
    sim.job.spec.as_mut().unwrap().suspend = Some(false);
    sim.later(100);
    assert_eq!(sim.step().create.len(), 2);
    assert_eq!(sim.counts(), (2, 0, 0), "pods ended by suspension did not fail");
    assert_eq!(sim.job.status.as_ref().unwrap().start_time, Some(Time(sim.now)));
}

#[test]
fn less_parallelism_takes_pods_away_without_counting_them() {
    let mut sim = Sim::new(spec(Some(9), 3));
    sim.step();
    sim.job.spec.as_mut().unwrap().parallelism = Some(1);
    let plan = sim.step();
    assert_eq!((plan.why, plan.delete.len(), plan.deleted_count_as_failed), (Why::TooMany, 2, false));
    sim.step();
    assert_eq!(sim.counts(), (1, 0, 0));
}

#[test]
fn a_finished_job_goes_after_its_ttl() {
    let mut s = spec(Some(1), 1);
    s.ttl_seconds_after_finished = Some(60);
    let mut sim = Sim::new(s);
    sim.step();
    sim.end_all("Succeeded");
    sim.until_finished();
    let plan = sim.plan();
    assert_eq!((plan.delete_job, plan.look_again.unwrap().as_secs()), (false, 60));
    sim.later(60);
    assert!(sim.plan().delete_job);
}

#[test]
fn a_terminating_job_makes_no_pods_and_a_foreign_one_is_left_alone() {
    let mut sim = Sim::new(spec(Some(1), 1));
    sim.job.metadata.deletion_timestamp = Some(Time(sim.now));
    assert_eq!((sim.plan().why, sim.plan().create.len()), (Why::Terminating, 0));
    let mut s = spec(Some(1), 1);
    s.managed_by = Some("example.com/kueue".into());
    assert_eq!(Sim::new(s).plan().why, Why::NotOurs);
}

#[test]
fn nothing_new_means_nothing_written() {
    let mut sim = Sim::new(spec(Some(3), 2));
    sim.step();
    let plan = sim.step();
    assert!(plan.create.is_empty() && plan.delete.is_empty() && plan.release.is_empty());
    assert!(same_status(sim.job.status.as_ref().unwrap(), &sim.plan().status));
    assert_eq!(plan.why, Why::AsWanted);
}

proptest! {
    /// Whenever the controller dies, and whichever pods end how, each ended pod is counted exactly once.
    #[test]
    fn every_ended_pod_is_counted_exactly_once(
        script in proptest::collection::vec((0usize..6, any::<bool>(), 0usize..5), 1..40),
        completions in 1i32..6, parallelism in 1i32..4,
    ) {
        let mut s = spec(Some(completions), parallelism);
        s.backoff_limit = Some(1000);
        let mut sim = Sim::new(s);
        let (mut good, mut bad) = (0, 0);
        for (pod, succeeds, steps) in script {
            let plan = sim.plan();
            sim.carry_out(&plan, steps);
            sim.sweep();
            let running = sim.running();
            if !running.is_empty() && sim.conditions().is_empty() {
                sim.end(running[pod % running.len()], if succeeds { "Succeeded" } else { "Failed" });
                if succeeds { good += 1 } else { bad += 1 }
            }
            sim.later(700);
        }
        for _ in 0..100 {
            if sim.step().why == Why::Finished { break; }
            for i in sim.running() {
                if sim.conditions().is_empty() { sim.end(i, "Succeeded"); good += 1; }
            }
            sim.later(700);
        }
        prop_assert_eq!(sim.plan().why, Why::Finished);
        let (_, succeeded, failed) = sim.counts();
        prop_assert_eq!(succeeded, good);
        // Pods that were still running when enough had succeeded were taken away uncounted.
        prop_assert_eq!(failed, bad);
    }
}
