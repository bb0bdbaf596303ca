use super::plan::{Plan, Why, World, plan_deployment, replicas};
use super::revision;
use client::k8s_openapi::api::apps::v1::{
    Deployment, DeploymentSpec, DeploymentStatus, DeploymentStrategy, ReplicaSet, ReplicaSetStatus,
    RollingUpdateDeployment,
};
use client::k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec};
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, Time};
use client::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn template(image: &str) -> PodTemplateSpec {
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some([("app".to_owned(), "web".to_owned())].into()),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            containers: vec![Container {
                name: "c".into(),
                image: Some(image.into()),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
    }
}

fn deployment(n: i32, image: &str, surge: i32, unavailable: i32) -> Deployment {
    Deployment {
        metadata: ObjectMeta {
            name: Some("web".into()),
            namespace: Some("default".into()),
            uid: Some("d".into()),
            generation: Some(1),
            ..ObjectMeta::default()
        },
        spec: Some(DeploymentSpec {
            replicas: Some(n),
            selector: LabelSelector {
                match_labels: Some([("app".to_owned(), "web".to_owned())].into()),
                match_expressions: None,
            },
            template: template(image),
            progress_deadline_seconds: Some(600),
            revision_history_limit: Some(10),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(surge)),
                    max_unavailable: Some(IntOrString::Int(unavailable)),
                }),
            }),
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

/// A cluster of one Deployment: carries out plans as the API server and the ReplicaSet controller would.
struct Sim {
    deployment: Deployment,
    sets: Vec<ReplicaSet>,
    running: BTreeSet<String>,
    now: Timestamp,
}

impl Sim {
    fn new(deployment: Deployment) -> Self {
        Self {
            deployment,
            sets: Vec::new(),
            running: BTreeSet::new(),
            now: Timestamp::from_second(1_000_000).unwrap(),
        }
    }

    fn plan(&self) -> Plan {
        plan_deployment(World {
            deployment: &self.deployment,
            replica_sets: self.sets.clone(),
            running: self.running.clone(),
            now: self.now,
        })
    }

    /// One pass of the controller.
    fn step(&mut self) -> Plan {
        let plan = self.plan();
        if let Some(mut rs) = plan.create.clone() {
            rs.metadata.uid = Some(format!("rs{}", self.sets.len()));
            rs.metadata.creation_timestamp = Some(Time(self.now));
            self.sets.push(rs);
        }
        for r in &plan.update {
            let slot = self.sets.iter_mut().find(|s| s.metadata.uid == r.wanted.metadata.uid).unwrap();
            *slot = r.wanted.clone();
        }
        self.sets.retain(|s| !plan.delete.iter().any(|d| d.metadata.uid == s.metadata.uid));
        if let Some(revision) = &plan.revision {
            let a = self.deployment.metadata.annotations.get_or_insert_default();
            a.insert(revision::REVISION.into(), revision.clone());
        }
        self.deployment.status = Some(plan.status.clone());
        self.now += SignedDuration::from_secs(1);
        plan
    }

    fn set_image(&mut self, image: &str) {
        self.deployment.spec.as_mut().unwrap().template = template(image);
        *self.deployment.metadata.generation.as_mut().unwrap() += 1;
    }

    fn scale(&mut self, n: i32) {
        self.deployment.spec.as_mut().unwrap().replicas = Some(n);
        *self.deployment.metadata.generation.as_mut().unwrap() += 1;
    }

    /// The ReplicaSet controller: pods as wanted, `grow` of them becoming available at most in each set.
    fn settle(&mut self, grow: i32) {
        for rs in &mut self.sets {
            let want = replicas(rs);
            let old = rs.status.clone().unwrap_or_default();
            let available = (old.available_replicas.unwrap_or(0) + grow).min(want);
            rs.status = Some(ReplicaSetStatus {
                replicas: want,
                ready_replicas: Some(available),
                available_replicas: Some(available),
                ..old
            });
        }
    }

    fn until_complete(&mut self) {
        for _ in 0..200 {
            if self.step().why == Why::Complete {
                return;
            }
            self.settle(1);
        }
        panic!("did not complete: {:?}", self.sizes());
    }

    fn sizes(&self) -> Vec<i32> {
        self.sets.iter().map(replicas).collect()
    }

    fn condition(&self, kind: &str) -> Option<(String, String, String)> {
        let all = self.deployment.status.as_ref()?.conditions.as_ref()?;
        let c = all.iter().find(|c| c.type_ == kind)?;
        Some((c.status.clone(), c.reason.clone().unwrap_or_default(), c.message.clone().unwrap_or_default()))
    }

    fn revision(&self) -> &str {
        &self.deployment.metadata.annotations.as_ref().unwrap()[revision::REVISION]
    }
}

#[test]
fn a_new_deployment_gets_one_replica_set_of_revision_one() {
    let mut sim = Sim::new(deployment(3, "a", 1, 1));
    assert_eq!(sim.step().why, Why::NewReplicaSet);
    assert_eq!((sim.sizes(), sim.revision()), (vec![3], "1"));
    let rs = &sim.sets[0];
    let hash = &rs.metadata.labels.as_ref().unwrap()[revision::HASH_LABEL];
    assert_eq!(rs.metadata.name.as_deref(), Some(format!("web-{hash}").as_str()));
    let spec = rs.spec.as_ref().unwrap();
    assert_eq!(&spec.selector.match_labels.as_ref().unwrap()[revision::HASH_LABEL], hash);
    assert_eq!(sim.condition("Progressing").unwrap().1, "NewReplicaSetCreated");
    assert_eq!(sim.condition("Available").unwrap().0, "False");
    sim.until_complete();
    let (status, reason, message) = sim.condition("Progressing").unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("True", "NewReplicaSetAvailable"));
    assert!(message.starts_with("ReplicaSet \"web-") && message.ends_with("\" has successfully progressed."));
    assert_eq!(sim.condition("Available").unwrap().1, "MinimumReplicasAvailable");
}

#[test]
fn a_complete_deployment_needs_nothing_more() {
    let mut sim = Sim::new(deployment(3, "a", 1, 1));
    sim.until_complete();
    sim.step();
    let status = sim.deployment.status.clone();
    let plan = sim.step();
    assert!(
        plan.create.is_none() && plan.update.is_empty() && plan.delete.is_empty() && plan.revision.is_none()
    );
    assert!(super::status::same_status(status.as_ref().unwrap(), &plan.status));
    assert_eq!(plan.look_again, None);
}

#[test]
fn going_back_to_an_old_template_reuses_its_replica_set_under_a_new_revision() {
    let mut sim = Sim::new(deployment(2, "a", 1, 0));
    sim.until_complete();
    sim.set_image("b");
    sim.until_complete();
    assert_eq!((sim.sizes(), sim.revision()), (vec![0, 2], "2"));
    sim.set_image("a");
    sim.until_complete();
    assert_eq!((sim.sizes(), sim.revision()), (vec![2, 0], "3"));
    let notes = sim.sets[0].metadata.annotations.as_ref().unwrap();
    assert_eq!((notes[revision::REVISION].as_str(), notes[revision::REVISION_HISTORY].as_str()), ("3", "1"));
}

#[test]
fn an_adopted_replica_set_with_another_hash_is_kept() {
    let mut sim = Sim::new(deployment(2, "a", 1, 0));
    sim.until_complete();
    let rs = &mut sim.sets[0];
    rs.metadata.name = Some("web-5f7d8".into());
    let t = rs.spec.as_mut().unwrap().template.as_mut().unwrap();
    t.metadata.as_mut().unwrap().labels.as_mut().unwrap().insert(revision::HASH_LABEL.into(), "5f7d8".into());
    assert!(sim.plan().create.is_none());
}

#[test]
fn only_as_many_old_replica_sets_as_the_history_limit_stay() {
    let mut sim = Sim::new(deployment(1, "a", 1, 0));
    sim.deployment.spec.as_mut().unwrap().revision_history_limit = Some(2);
    for image in ["a", "b", "c", "d", "e"] {
        sim.set_image(image);
        sim.until_complete();
        sim.step();
    }
    let revisions: Vec<i64> = sim.sets.iter().map(revision::revision_of).collect();
    assert_eq!(revisions, [3, 4, 5]);
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut sim = Sim::new(deployment(2, "a", 1, 0));
    sim.until_complete();
    sim.deployment.spec.as_mut().unwrap().paused = Some(true);
    sim.set_image("b");
    assert_eq!(sim.step().why, Why::Paused);
    assert_eq!(sim.sizes(), [2]);
    assert_eq!(sim.condition("Progressing").unwrap().1, "DeploymentPaused");
    sim.scale(4);
    sim.step();
    assert_eq!(sim.sizes(), [4]);
    sim.deployment.spec.as_mut().unwrap().paused = Some(false);
    sim.settle(9);
    sim.until_complete();
    assert_eq!(sim.sizes(), [0, 4]);
}

#[test]
fn recreate_waits_until_the_last_old_pod_has_ended() {
    let mut d = deployment(2, "a", 0, 0);
    d.spec.as_mut().unwrap().strategy =
        Some(DeploymentStrategy { type_: Some("Recreate".into()), rolling_update: None });
    let mut sim = Sim::new(d);
    sim.until_complete();
    sim.set_image("b");
    assert_eq!(sim.step().why, Why::ShrinkingOld);
    assert_eq!(sim.step().why, Why::WaitingForOldPods, "status still counts old pods");
    sim.settle(9);
    sim.running.insert("rs0".into());
    assert_eq!(sim.step().why, Why::WaitingForOldPods, "a terminating pod still runs");
    sim.running.clear();
    assert_eq!(sim.step().why, Why::NewReplicaSet);
    assert_eq!(sim.sizes(), [0, 2]);
}

#[test]
fn a_rollout_without_progress_times_out_and_says_so() {
    let mut sim = Sim::new(deployment(2, "a", 1, 0));
    sim.until_complete();
    sim.set_image("broken");
    sim.step();
    for rs in &mut sim.sets {
        let old = rs.status.clone().unwrap_or_default();
        rs.status = Some(ReplicaSetStatus { replicas: replicas(rs), ..old });
    }
    let plan = sim.step();
    assert_eq!(plan.why, Why::WaitingForAvailability);
    let wait = plan.look_again.unwrap();
    assert!(wait.as_secs() >= 599 && wait.as_secs() <= 602, "{wait:?}");
    sim.now += SignedDuration::from_secs(602);
    let plan = sim.step();
    let (status, reason, message) = sim.condition("Progressing").unwrap();
    assert_eq!((status.as_str(), reason.as_str()), ("False", "ProgressDeadlineExceeded"));
    assert!(message.ends_with("has timed out progressing."));
    assert_eq!(plan.look_again, None);
    sim.set_image("a");
    sim.until_complete();
    assert_eq!(sim.condition("Progressing").unwrap().1, "NewReplicaSetAvailable");
}

#[test]
fn scaling_in_the_middle_of_a_rollout_shares_by_size() {
    let mut sim = Sim::new(deployment(10, "a", 3, 2));
    sim.until_complete();
    sim.set_image("b");
    sim.step();
    sim.step();
    assert_eq!(sim.sizes(), [8, 3]);
    // The old ones are available, the new ones are not.
    for rs in &mut sim.sets {
        let available = if revision::revision_of(rs) == 1 { 8 } else { 0 };
        rs.status = Some(ReplicaSetStatus {
            replicas: replicas(rs),
            available_replicas: Some(available),
            ..ReplicaSetStatus::default()
        });
    }
    sim.step();
    sim.scale(20);
    assert_eq!(sim.step().why, Why::Scaling);
    let sizes = sim.sizes();
    assert_eq!(sizes.iter().sum::<i32>(), 23);
    assert!(sizes[0] > sizes[1] && sizes[1] > 3, "{sizes:?}");
}

#[test]
fn scaling_to_zero_takes_every_pod() {
    let mut sim = Sim::new(deployment(4, "a", 1, 1));
    sim.until_complete();
    sim.set_image("b");
    sim.step();
    sim.scale(0);
    sim.until_complete();
    assert_eq!(sim.sizes(), [0, 0]);
}

#[test]
fn the_selector_that_takes_everything_is_refused() {
    let mut d = deployment(1, "a", 1, 0);
    d.spec.as_mut().unwrap().selector = LabelSelector::default();
    let plan = Sim::new(d).plan();
    assert_eq!((plan.why, plan.create.is_none()), (Why::SelectsEverything, true));
}

#[test]
fn a_terminating_deployment_only_reports() {
    let mut d = deployment(1, "a", 1, 0);
    d.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    let plan = Sim::new(d).plan();
    assert_eq!((plan.why, plan.create.is_none(), plan.update.len()), (Why::Terminating, true, 0));
}

#[test]
fn annotations_of_the_deployment_reach_the_replica_set_but_not_its_bookkeeping() {
    let mut d = deployment(1, "a", 1, 0);
    d.metadata.annotations = Some(
        [("kubernetes.io/change-cause", "first"), ("kubectl.kubernetes.io/last-applied-configuration", "{}")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into(),
    );
    let mut sim = Sim::new(d);
    sim.step();
    let notes = sim.sets[0].metadata.annotations.as_ref().unwrap();
    assert_eq!(notes["kubernetes.io/change-cause"], "first");
    assert!(!notes.contains_key("kubectl.kubernetes.io/last-applied-configuration"));
}

#[test]
fn statuses_with_missing_and_zero_counts_are_the_same() {
    let a = DeploymentStatus { replicas: Some(0), ..DeploymentStatus::default() };
    assert!(super::status::same_status(&a, &DeploymentStatus::default()));
}

#[derive(Clone, Debug)]
enum Act {
    Image(u8),
    Settle(i32),
    Step,
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        1 => (0u8..4).prop_map(Act::Image),
        4 => (0i32..3).prop_map(Act::Settle),
        4 => Just(Act::Step),
    ];
    proptest::collection::vec(act, 0..80)
}

proptest! {
    /// While pods stay healthy the floor and the ceiling hold at every moment, whatever the order of passes,
    /// template changes and pods becoming ready; and in the end it converges.
    #[test]
    fn a_rollout_stays_between_floor_and_ceiling_and_converges(
        n in 1i32..12, surge in 0i32..5, unavailable in 0i32..5, acts in acts(),
    ) {
        prop_assume!(surge + unavailable > 0);
        let mut sim = Sim::new(deployment(n, "img0", surge, unavailable));
        sim.until_complete();
        let check = |sim: &Sim| {
            let total: i32 = sim.sizes().iter().sum();
            let available: i32 = sim.sets.iter().map(super::plan::staying).sum();
            assert!(total <= n + surge, "{total} pods are over the ceiling: {:?}", sim.sizes());
            assert!(available >= n - unavailable.min(n), "{available} available are under the floor");
        };
        for act in acts {
            match act {
                Act::Image(i) => sim.set_image(&format!("img{i}")),
                Act::Settle(g) => sim.settle(g),
                Act::Step => { sim.step(); }
            }
            check(&sim);
        }
        for _ in 0..300 {
            if sim.step().why == Why::Complete { break; }
            check(&sim);
            sim.settle(1);
        }
        prop_assert_eq!(sim.step().why, Why::Complete);
        prop_assert_eq!(sim.sizes().iter().sum::<i32>(), n);
        prop_assert_eq!(sim.sizes().iter().filter(|s| **s > 0).count(), 1);
    }

    /// However `replicas` changes in the middle, the end is the same, and no pass asks for more than the ceiling.
    #[test]
    fn scaling_during_a_rollout_converges(
        scales in proptest::collection::vec((0i32..15, 0i32..3), 1..8), surge in 1i32..4, unavailable in 0i32..3,
    ) {
        let mut sim = Sim::new(deployment(5, "a", surge, unavailable));
        sim.until_complete();
        sim.set_image("b");
        let mut last = 5;
        for (n, grow) in scales {
            sim.step();
            sim.settle(grow);
            sim.scale(n);
            last = n;
            sim.step();
            let total: i32 = sim.sizes().iter().sum();
            prop_assert!(total <= n + surge, "{} pods over {}", total, n + surge);
        }
        sim.until_complete();
        prop_assert_eq!(sim.sizes().iter().sum::<i32>(), last);
    }
}
