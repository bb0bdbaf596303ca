use super::plan::{Plan, Step, World, plan_function, url};
use client::dhow::v1alpha1::{Function, FunctionSpec};
use client::k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus};
use client::k8s_openapi::api::core::v1::{EnvVar, Service};
use jiff::Timestamp;

fn function() -> Function {
    let mut f = Function::new(
        "default",
        "hello",
        FunctionSpec {
            image: "localhost/hello:1".into(),
            args: vec!["-v".into()],
            env: vec![EnvVar { name: "A".into(), value: Some("b".into()), value_from: None }],
            replicas: Some(2),
            ..FunctionSpec::default()
        },
    );
    f.metadata.uid = Some("f".into());
    f.metadata.generation = Some(3);
    f
}

fn plan(f: &Function, d: Option<&Deployment>, s: Option<&Service>) -> Plan {
    plan_function(&World {
        function: f,
        deployment: d,
        service: s,
        gateway_port: 8080,
        now: Timestamp::from_second(1_000_000).unwrap(),
    })
}

/// Both objects, as the server has them after the first pass.
fn made(f: &Function) -> (Deployment, Service) {
    let p = plan(f, None, None);
    let (Step::Create(mut d), Step::Create(mut s)) = (p.deployment, p.service) else {
        panic!("both are created")
    };
    // The server's defaults do not count as changes.
    let spec = d.spec.as_mut().unwrap();
    spec.revision_history_limit = Some(10);
    spec.template.spec.as_mut().unwrap().containers[0].image_pull_policy = Some("IfNotPresent".into());
    s.spec.as_mut().unwrap().cluster_ip = Some("127.96.0.7".into());
    (d, s)
}

fn ready(p: &Plan) -> (String, String) {
    let c = &p.status.as_ref().unwrap().conditions[0];
    (c.status.clone(), c.reason.clone())
}

#[test]
fn a_function_becomes_a_deployment_and_a_service_of_its_name() {
    let f = function();
    let (d, s) = made(&f);
    let pod = d.spec.as_ref().unwrap().template.spec.as_ref().unwrap();
    let c = &pod.containers[0];
    assert_eq!((c.name.as_str(), c.image.as_deref()), ("function", Some("localhost/hello:1")));
    assert_eq!(c.args.as_ref().unwrap(), &["-v"]);
    assert_eq!(c.ports.as_ref().unwrap()[0].container_port, 8080);
    assert!(c.readiness_probe.as_ref().unwrap().tcp_socket.is_some());
    assert_eq!(d.spec.as_ref().unwrap().replicas, Some(2));
    assert_eq!(s.spec.as_ref().unwrap().ports.as_ref().unwrap()[0].port, 8080);
    for meta in [&d.metadata, &s.metadata] {
        assert_eq!(meta.name.as_deref(), Some("hello"));
        let owner = &meta.owner_references.as_ref().unwrap()[0];
        assert_eq!((owner.kind.as_str(), owner.uid.as_str()), ("Function", "f"));
    }
    let p = plan(&f, Some(&d), Some(&s));
    assert_eq!((p.deployment, p.service), (Step::Nothing, Step::Nothing), "defaults are no change");
}

#[test]
fn a_changed_wish_and_a_changed_object_are_both_written_again() {
    let mut f = function();
    let (mut d, mut s) = made(&f);
    f.spec.env.clear();
    f.spec.port = Some(9000);
    let p = plan(&f, Some(&d), Some(&s));
    let (Step::Update(new), Step::Update(service)) = (p.deployment, p.service) else {
        panic!("both are updated")
    };
    assert_eq!(new.spec.unwrap().template.spec.unwrap().containers[0].env, None);
    let spec = service.spec.unwrap();
    assert_eq!((spec.cluster_ip.as_deref(), spec.ports.unwrap()[0].port), (Some("127.96.0.7"), 9000));
    let f = function();
    d.spec.as_mut().unwrap().replicas = Some(7);
    s.spec.as_mut().unwrap().selector = None;
    let p = plan(&f, Some(&d), Some(&s));
    assert!(matches!((p.deployment, p.service), (Step::Update(_), Step::Update(_))));
}

#[test]
fn an_object_of_somebody_else_is_left_alone_and_reported() {
    let f = function();
    let (mut d, s) = made(&f);
    d.metadata.owner_references = None;
    let p = plan(&f, Some(&d), Some(&s));
    assert_eq!(p.deployment, Step::Taken);
    assert_eq!(ready(&p), ("False".into(), "NameTaken".into()));
}

#[test]
fn it_is_ready_when_all_replicas_of_this_wish_are() {
    let mut f = function();
    let (mut d, s) = made(&f);
    d.metadata.generation = Some(1);
    let status = |updated, available, observed| {
        Some(DeploymentStatus {
            replicas: Some(2),
            updated_replicas: Some(updated),
            ready_replicas: Some(available),
            available_replicas: Some(available),
            observed_generation: Some(observed),
            ..DeploymentStatus::default()
        })
    };
    for (updated, available, observed, want) in
        [(2, 1, 1, "False"), (1, 2, 1, "False"), (2, 2, 0, "False"), (2, 2, 1, "True")]
    {
        d.status = status(updated, available, observed);
        let p = plan(&f, Some(&d), Some(&s));
        assert_eq!(ready(&p).0, want, "{updated} updated, {available} available, observed {observed}");
    }
    let p = plan(&f, Some(&d), Some(&s));
    let written = p.status.unwrap();
    assert_eq!((written.ready_replicas, written.observed_generation), (2, Some(3)));
    f.status = Some(written);
    assert_eq!(plan(&f, Some(&d), Some(&s)).status, None, "the same status is not written again");
}

#[test]
fn the_url_names_the_namespace_unless_it_is_the_default_one() {
    let mut f = function();
    assert_eq!(url(&f, 8080), "http://hello.localhost:8080");
    f.metadata.namespace = Some("shop".into());
    assert_eq!(url(&f, 80), "http://hello.shop.localhost");
}
