use super::objects::{Step, pinned_to, wanted_revision, wanted_service};
use super::plan::{Observed, Plan, World, needs_revision, plan_function};
use super::status::url;
use super::trouble::Trouble;
use client::dhow::v1alpha1::{Function, FunctionSpec, Revision, TrafficTarget};
use client::k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus};
use client::k8s_openapi::api::core::v1::{EnvVar, Service};
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet};

/// A namespace that does what a plan says; its pods run at once, or never.
struct Bench {
    function: Function,
    revisions: Vec<Revision>,
    deployments: BTreeMap<String, Deployment>,
    services: BTreeMap<String, Service>,
    /// Images that never get ready.
    broken: BTreeSet<String>,
    highest: u64,
    now: Timestamp,
    /// What the last pass asked for.
    again: Option<std::time::Duration>,
}

impl Bench {
    fn new() -> Self {
        let spec = FunctionSpec {
            image: "hello:1".into(),
            args: vec!["-v".into()],
            env: vec![EnvVar { name: "A".into(), value: Some("b".into()), value_from: None }],
            replicas: Some(2),
            ..FunctionSpec::default()
        };
        let mut function = Function::new("default", "hello", spec);
        function.metadata.uid = Some("f".into());
        function.metadata.generation = Some(1);
        Self {
            function,
            revisions: Vec::new(),
            deployments: BTreeMap::new(),
            services: BTreeMap::new(),
            broken: BTreeSet::new(),
            highest: 0,
            now: Timestamp::from_second(1_000_000).unwrap(),
            again: None,
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut FunctionSpec)) {
        change(&mut self.function.spec);
        *self.function.metadata.generation.as_mut().unwrap() += 1;
    }

    fn traffic(&mut self, all: &[(&str, i32)]) {
        let target = |(revision, percent): &(&str, i32)| TrafficTarget {
            revision: (*revision).into(),
            percent: Some(*percent),
            ..TrafficTarget::default()
        };
        let all = all.iter().map(target).collect();
        self.change(|spec| spec.traffic = all);
    }

    fn observed(&self) -> Vec<Observed<'_>> {
        let one = |r| {
            let name = Revision::clone(r).metadata.name.unwrap();
            let deployment = self.deployments.get(&name);
            let broken = self.broken.contains(&r.spec.image) && deployment.is_some();
            Observed {
                revision: r,
                deployment,
                service: self.services.get(&name),
                has_endpoints: deployment.is_some_and(|d| available(d) > 0),
                trouble: broken.then(|| Trouble { text: "it is broken".into(), lasting: true }),
            }
        };
        self.revisions.iter().map(one).collect()
    }

    fn plan(&self) -> Plan {
        plan_function(&World {
            function: &self.function,
            revisions: self.observed(),
            deployment: self.deployments.get("hello"),
            service: self.services.get("hello"),
            gateway_port: 8080,
            now: self.now,
        })
    }

    /// One pass: the plan is carried out, then the pods are as the Deployments say.
    fn pass(&mut self) -> bool {
        let known: Vec<&Revision> = self.revisions.iter().collect();
        if needs_revision(&self.function, &known) {
            self.highest += 1;
            let mut r = wanted_revision(&self.function, self.highest);
            r.metadata.uid = Some(format!("uid-{}", self.highest));
            self.revisions.push(r);
            return true;
        }
        let plan = self.plan();
        self.again = plan.again;
        let before = self.function.status.clone().unwrap_or_default().traffic;
        let mut changed = put(&mut self.services, "hello", plan.service);
        if let Some(status) = plan.status {
            self.function.status = Some(status);
            changed = true;
        }
        for r in plan.revisions {
            changed |= put(&mut self.deployments, &r.name, r.deployment);
            changed |= put(&mut self.services, &r.name, r.service);
            let own = self.revisions.iter_mut().find(|o| o.metadata.name.as_ref() == Some(&r.name)).unwrap();
            if r.status.is_some() {
                own.status = r.status;
                changed = true;
            }
            if r.forget {
                self.revisions.retain(|o| o.metadata.name.as_ref() != Some(&r.name));
                self.deployments.remove(&r.name);
                self.services.remove(&r.name);
                changed = true;
            }
        }
        if plan.delete_deployment {
            self.deployments.remove("hello");
            changed = true;
        }
        // No request may be lost: what had traffic before this pass and what has it now still runs.
        for t in before.iter().chain(&self.function.status.as_ref().unwrap().traffic) {
            if self.function.spec.replicas_or_default() > 0 {
                assert!(
                    available(&self.deployments[&t.service]) > 0,
                    "{} has traffic and no pods",
                    t.revision
                );
            }
        }
        self.run_pods();
        changed
    }

    fn run_pods(&mut self) {
        for d in self.deployments.values_mut() {
            let spec = d.spec.as_ref().unwrap();
            let image = spec.template.spec.as_ref().unwrap().containers[0].image.clone().unwrap();
            let replicas = spec.replicas;
            let up = if self.broken.contains(&image) { Some(0) } else { replicas };
            d.status = Some(DeploymentStatus {
                replicas,
                updated_replicas: replicas,
                ready_replicas: up,
                available_replicas: up,
                observed_generation: d.metadata.generation,
                ..DeploymentStatus::default()
            });
        }
    }

    /// Passes until nothing changes any more.
    fn settle(&mut self) {
        let mut passes = 0;
        while self.pass() {
            passes += 1;
            assert!(passes < 30, "it never settles: {:?}", self.function.status);
        }
    }

    fn wait(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
        self.settle();
    }

    fn served(&self) -> String {
        let all = self.function.status.clone().unwrap_or_default().traffic;
        all.iter().map(|t| format!("{}={}", t.revision, t.percent)).collect::<Vec<_>>().join(" ")
    }

    fn ready(&self) -> (String, String, String) {
        let c = &self.function.status.as_ref().unwrap().conditions[0];
        (c.status.clone(), c.reason.clone(), c.message.clone())
    }

    fn replicas(&self, name: &str) -> i32 {
        self.deployments[name].spec.as_ref().unwrap().replicas.unwrap()
    }
}

fn available(d: &Deployment) -> i32 {
    d.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

fn put<K>(into: &mut BTreeMap<String, K>, name: &str, step: Step<K>) -> bool {
    match step {
        Step::Nothing | Step::Taken => false,
        Step::Create(object) | Step::Update(object) => {
            into.insert(name.to_owned(), object).is_none_or(|_| true)
        }
    }
}

#[test]
fn a_function_becomes_a_revision_and_that_a_deployment_and_a_service_of_its_name() {
    let mut b = Bench::new();
    b.settle();
    let r = &b.revisions[0];
    assert_eq!((r.metadata.name.as_deref(), &r.spec.image), (Some("hello-r1"), &"hello:1".to_owned()));
    let owner = &r.metadata.owner_references.as_ref().unwrap()[0];
    assert_eq!((owner.kind.as_str(), owner.uid.as_str()), ("Function", "f"));
    let d = b.deployments["hello-r1"].clone();
    let c = &d.spec.as_ref().unwrap().template.spec.as_ref().unwrap().containers[0];
    assert_eq!((c.name.as_str(), c.image.as_deref()), ("function", Some("hello:1")));
    assert_eq!((c.args.as_ref().unwrap()[0].as_str(), c.env.as_ref().unwrap()[0].name.as_str()), ("-v", "A"));
    assert_eq!(c.ports.as_ref().unwrap()[0].container_port, 8080);
    assert!(c.readiness_probe.as_ref().unwrap().tcp_socket.is_some());
    for meta in [&d.metadata, &b.services["hello-r1"].metadata] {
        let owner = &meta.owner_references.as_ref().unwrap()[0];
        assert_eq!((owner.kind.as_str(), owner.uid.as_str()), ("Revision", "uid-1"));
    }
    assert_eq!(b.services["hello-r1"].spec.as_ref().unwrap().cluster_ip.as_deref(), Some("None"));
    assert_eq!(pinned_to(&b.services["hello"]), Some("hello-r1"));
    assert_eq!(b.served(), "hello-r1=100");
    let status = b.function.status.clone().unwrap();
    assert_eq!((status.replicas, status.ready_replicas, status.observed_generation), (2, 2, Some(1)));
    assert_eq!(status.latest_ready_revision.as_deref(), Some("hello-r1"));
    assert_eq!(b.ready(), ("True".into(), "Deployed".into(), "2 of 2 replicas are ready".into()));
    // The server's defaults are no change.
    let d = b.deployments.get_mut("hello-r1").unwrap();
    d.spec.as_mut().unwrap().revision_history_limit = Some(10);
    b.services.get_mut("hello").unwrap().spec.as_mut().unwrap().cluster_ip = Some("127.96.0.7".into());
    assert!(!b.pass());
}

#[test]
fn the_fields_that_the_node_keeps_to_travel_as_annotations_and_volumes() {
    let mut b = Bench::new();
    b.change(|spec| {
        spec.egress = vec!["api.example.com:443".into(), "10.0.0.1".into()];
        spec.config = vec!["/v".into()];
        spec.keyvalue = vec!["default".into(), "s=redis://r:6379".into()];
        spec.timeout_seconds = Some(5);
        spec.concurrency = Some(7);
        spec.imports = vec!["wasi:http/types@0.2.0".into(), "wasi:keyvalue/store@0.2.0-draft".into()];
        spec.volumes = serde_json::from_str(r#"[{"name": "v", "configMap": {"name": "c"}}]"#).unwrap();
        spec.volume_mounts = serde_json::from_str(r#"[{"name": "v", "mountPath": "/v"}]"#).unwrap();
        spec.env_from = serde_json::from_str(r#"[{"secretRef": {"name": "s"}}]"#).unwrap();
    });
    b.settle();
    let template = &b.deployments["hello-r1"].spec.as_ref().unwrap().template;
    let annotations = template.metadata.as_ref().unwrap().annotations.as_ref().unwrap();
    let get = |key: &str| annotations.get(key).map(String::as_str);
    assert_eq!(get("dhow.dev/egress"), Some("api.example.com:443,10.0.0.1"));
    assert_eq!(get("config.dhow.dev/function"), Some("/v"));
    assert_eq!(get("dhow.dev/imports"), Some("wasi:http/types@0.2.0,wasi:keyvalue/store@0.2.0-draft"));
    assert_eq!(get("keyvalue.dhow.dev/function"), Some("default,s=redis://r:6379"));
    assert_eq!((get("dhow.dev/timeout"), get("dhow.dev/concurrency")), (Some("5s"), Some("7")));
    let pod = template.spec.as_ref().unwrap();
    assert_eq!(pod.volumes.as_ref().unwrap()[0].name, "v");
    assert_eq!(pod.containers[0].volume_mounts.as_ref().unwrap()[0].mount_path, "/v");
    assert!(pod.containers[0].env_from.as_ref().unwrap()[0].secret_ref.is_some());
}

#[test]
fn a_change_makes_a_new_revision_and_the_old_one_runs_until_its_requests_are_over() {
    let mut b = Bench::new();
    b.settle();
    b.change(|spec| spec.image = "hello:2".into());
    b.settle();
    assert_eq!((b.served().as_str(), b.revisions.len()), ("hello-r2=100", 2));
    assert_eq!(pinned_to(&b.services["hello"]), Some("hello-r2"));
    assert_eq!(b.replicas("hello-r1"), 2, "requests may still be under way");
    assert_eq!(b.again, Some(std::time::Duration::from_secs(35)), "30 s a request, and a margin");
    b.wait(34);
    assert_eq!(b.replicas("hello-r1"), 2);
    b.wait(1);
    assert_eq!((b.replicas("hello-r1"), b.replicas("hello-r2"), b.again), (0, 2, None));
    let c = b.revisions[0].status.as_ref().unwrap().conditions.clone();
    let said: Vec<_> = c.iter().map(|c| (c.type_.as_str(), c.status.as_str(), c.reason.as_str())).collect();
    assert_eq!(said, [("Ready", "False", "Idle"), ("Active", "False", "NoTraffic")]);
    // What does not make another program makes no revision.
    b.change(|spec| (spec.replicas, spec.hosts) = (Some(3), vec!["h.example".into()]));
    b.settle();
    assert_eq!((b.revisions.len(), b.replicas("hello-r2"), b.replicas("hello-r1")), (2, 3, 0));
}

#[test]
fn a_revision_that_never_gets_ready_moves_no_traffic_and_the_condition_says_why() {
    let mut b = Bench::new();
    b.settle();
    b.broken.insert("bad:1".into());
    b.change(|spec| spec.image = "bad:1".into());
    b.settle();
    assert_eq!(b.served(), "hello-r1=100");
    let text = "hello-r2 does not get ready: it is broken; hello-r1 serves";
    assert_eq!(b.ready(), ("False".into(), "RevisionFailed".into(), text.into()));
    let status = b.function.status.clone().unwrap();
    assert_eq!(status.latest_created_revision.as_deref(), Some("hello-r2"));
    assert_eq!(status.latest_ready_revision.as_deref(), Some("hello-r1"));
    b.wait(1000);
    assert_eq!((b.served().as_str(), b.replicas("hello-r1")), ("hello-r1=100", 2));
    // A better one takes over; the bad one needs no pods any more.
    b.change(|spec| spec.image = "hello:3".into());
    b.settle();
    assert_eq!((b.served().as_str(), b.replicas("hello-r2")), ("hello-r3=100", 0));
}

#[test]
fn the_first_revision_that_never_gets_ready_is_told_of_too() {
    let mut b = Bench::new();
    b.broken.insert("hello:1".into());
    b.settle();
    let text = "hello-r1 does not get ready: it is broken; nothing is served yet";
    assert_eq!(b.ready(), ("False".into(), "RevisionFailed".into(), text.into()));
    assert_eq!(b.served(), "");
}

#[test]
fn going_back_starts_the_old_revision_before_it_gets_the_traffic() {
    let mut b = Bench::new();
    b.settle();
    b.change(|spec| spec.image = "hello:2".into());
    b.settle();
    b.wait(60);
    b.traffic(&[("hello-r1", 100)]);
    // `pass` itself checks at each step that whoever has traffic has pods.
    b.settle();
    assert_eq!((b.served().as_str(), b.replicas("hello-r1"), b.replicas("hello-r2")), ("hello-r1=100", 2, 2));
    assert_eq!(b.ready().0, "True");
    b.wait(60);
    assert_eq!((b.replicas("hello-r1"), b.replicas("hello-r2")), (2, 0));
    // A new revision is tried, and stays without traffic.
    b.change(|spec| spec.image = "hello:3".into());
    b.settle();
    assert_eq!(
        (b.served().as_str(), b.replicas("hello-r3"), b.ready().0.as_str()),
        ("hello-r1=100", 0, "True")
    );
    assert_eq!(b.function.status.as_ref().unwrap().latest_ready_revision.as_deref(), Some("hello-r3"));
    b.traffic(&[]);
    b.settle();
    assert_eq!(b.served(), "hello-r3=100");
}

#[test]
fn a_split_runs_all_its_revisions() {
    let mut b = Bench::new();
    b.settle();
    b.traffic(&[("hello-r1", 100)]);
    b.change(|spec| spec.image = "hello:2".into());
    b.settle();
    b.traffic(&[("hello-r1", 90), ("latest", 10)]);
    b.settle();
    b.wait(60);
    assert_eq!(b.served(), "hello-r1=90 hello-r2=10");
    assert_eq!((b.replicas("hello-r1"), b.replicas("hello-r2")), (2, 2));
    assert_eq!(pinned_to(&b.services["hello"]), Some("hello-r1"), "the one with the largest share");
    b.traffic(&[("hello-r7", 100)]);
    b.settle();
    assert_eq!(b.served(), "hello-r1=90 hello-r2=10");
    assert_eq!(b.ready().1, "RevisionMissing");
}

#[test]
fn old_revisions_are_forgotten_but_none_that_somebody_may_need() {
    let mut b = Bench::new();
    b.change(|spec| spec.revision_history_limit = Some(2));
    b.settle();
    b.traffic(&[("hello-r1", 100)]);
    for n in 2..=7 {
        b.change(|spec| spec.image = format!("hello:{n}"));
        b.wait(60);
    }
    let names: Vec<_> = b.revisions.iter().map(|r| r.metadata.name.clone().unwrap()).collect();
    assert_eq!(names, ["hello-r1", "hello-r5", "hello-r6", "hello-r7"]);
    b.change(|spec| spec.image = "hello:1".into());
    b.settle();
    assert_eq!(
        b.revisions.last().unwrap().metadata.name.as_deref(),
        Some("hello-r8"),
        "numbers count up for ever"
    );
}

#[test]
fn a_function_from_before_there_were_revisions_is_taken_over_without_a_gap() {
    let mut b = Bench::new();
    // As it was: a Deployment and a Service of the function's name, both its own.
    let mut old = wanted_revision(&b.function, 0);
    old.metadata.name = Some("hello".into());
    let mut service = wanted_service(&b.function, &old);
    service.spec.as_mut().unwrap().selector =
        Some([("dhow.dev/function".to_owned(), "hello".to_owned())].into());
    let mut deployment = super::objects::wanted_deployment(&old, 2);
    deployment.metadata.owner_references = service.metadata.owner_references.clone();
    b.services.insert("hello".into(), service.clone());
    b.deployments.insert("hello".into(), deployment);
    b.broken.insert("hello:1".into());
    b.settle();
    assert_eq!(b.services["hello"], service, "it leads to the old pods while no revision is ready");
    assert!(b.deployments.contains_key("hello"));
    b.broken.clear();
    b.run_pods();
    b.settle();
    assert_eq!((b.served().as_str(), pinned_to(&b.services["hello"])), ("hello-r1=100", Some("hello-r1")));
    assert!(b.deployments.contains_key("hello"), "requests may still be under way");
    assert_eq!(b.again, Some(std::time::Duration::from_secs(35)));
    b.wait(35);
    assert!(!b.deployments.contains_key("hello"));
}

#[test]
fn a_function_that_is_switched_off_serves_nothing_and_comes_back() {
    let mut b = Bench::new();
    b.settle();
    b.change(|spec| spec.replicas = Some(0));
    b.settle();
    assert_eq!((b.served().as_str(), b.replicas("hello-r1"), b.ready().1.as_str()), ("", 0, "ScaledToZero"));
    b.change(|spec| spec.replicas = Some(1));
    b.settle();
    assert_eq!((b.served().as_str(), b.ready().0.as_str()), ("hello-r1=100", "True"));
}

#[test]
fn an_object_of_somebody_else_is_left_alone_and_reported() {
    let mut b = Bench::new();
    b.settle();
    let theirs = Service::default();
    b.services.insert("hello".into(), theirs.clone());
    b.settle();
    assert_eq!((b.ready().1.as_str(), &b.services["hello"]), ("NameTaken", &theirs));
    b.services.remove("hello");
    b.deployments.insert(
        "hello-r1".into(),
        Deployment { status: None, spec: Some(Default::default()), ..Deployment::default() },
    );
    let plan = b.plan();
    assert_eq!(plan.revisions[0].deployment, Step::Taken);
    let c = &plan.status.unwrap().conditions[0];
    assert_eq!((c.reason.as_str(), c.message.contains("\"hello-r1\"")), ("NameTaken", true));
}

#[test]
fn what_somebody_changed_is_written_again() {
    let mut b = Bench::new();
    b.settle();
    b.deployments.get_mut("hello-r1").unwrap().spec.as_mut().unwrap().replicas = Some(7);
    b.services.get_mut("hello").unwrap().spec.as_mut().unwrap().selector = None;
    b.services.get_mut("hello").unwrap().spec.as_mut().unwrap().cluster_ip = Some("127.96.0.7".into());
    b.run_pods();
    b.settle();
    assert_eq!((b.replicas("hello-r1"), pinned_to(&b.services["hello"])), (2, Some("hello-r1")));
    assert_eq!(b.services["hello"].spec.as_ref().unwrap().cluster_ip.as_deref(), Some("127.96.0.7"));
}

#[test]
fn the_url_names_the_namespace_unless_it_is_the_default_one() {
    let mut f = Bench::new().function;
    assert_eq!(url(&f, 8080), "http://hello.localhost:8080");
    f.metadata.namespace = Some("shop".into());
    assert_eq!(url(&f, 80), "http://hello.shop.localhost");
}
