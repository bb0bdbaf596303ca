use super::endpoints::{compute_endpoints, same};
use super::plan::{MAX_ENDPOINTS, Plan, Why, plan_slices};
use client::k8s_openapi::api::core::v1::{
    Container, ContainerPort, Pod, PodCondition, PodSpec, PodStatus, Service, ServicePort, ServiceSpec,
};
use client::k8s_openapi::api::discovery::v1::EndpointSlice;
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use client::k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use jiff::Timestamp;

fn service(target: IntOrString) -> Service {
    Service {
        metadata: ObjectMeta {
            name: Some("web".into()),
            namespace: Some("default".into()),
            uid: Some("svc".into()),
            labels: Some([("team".to_owned(), "a".to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            selector: Some([("app".to_owned(), "web".to_owned())].into()),
            ports: Some(vec![ServicePort { port: 80, target_port: Some(target), ..ServicePort::default() }]),
            cluster_ip: Some("127.96.0.9".into()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn pod(i: usize, ready: bool) -> Pod {
    Pod {
        metadata: ObjectMeta {
            name: Some(format!("web-{i:03}")),
            namespace: Some("default".into()),
            uid: Some(format!("uid-{i:03}")),
            labels: Some([("app".to_owned(), "web".to_owned())].into()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            node_name: Some("n1".into()),
            containers: vec![Container {
                ports: Some(vec![ContainerPort {
                    name: Some("http".into()),
                    container_port: if i.is_multiple_of(2) { 8080 } else { 9090 },
                    ..ContainerPort::default()
                }]),
                ..Container::default()
            }],
            ..PodSpec::default()
        }),
        status: Some(PodStatus {
            phase: Some("Running".into()),
            pod_ip: Some(format!("127.42.{}.{}", i / 250, i % 250 + 1)),
            conditions: Some(vec![PodCondition {
                type_: "Ready".into(),
                status: if ready { "True" } else { "False" }.into(),
                ..PodCondition::default()
            }]),
            ..PodStatus::default()
        }),
    }
}

fn plan(service: &Service, pods: &[Pod], slices: &[EndpointSlice]) -> Plan {
    plan_slices(service, &pods.iter().collect::<Vec<_>>(), &slices.iter().collect::<Vec<_>>())
}

/// The slices after a plan, as the server would have them.
fn after(mut slices: Vec<EndpointSlice>, plan: Plan) -> Vec<EndpointSlice> {
    slices.retain(|s| !plan.delete.iter().any(|d| d.metadata.uid == s.metadata.uid));
    for u in plan.update {
        let slot = slices.iter_mut().find(|s| s.metadata.uid == u.metadata.uid).unwrap();
        *slot = u;
    }
    for mut c in plan.create {
        let name = format!("web-{}", slices.len());
        c.metadata.uid = Some(name.clone());
        c.metadata.name = Some(name);
        slices.push(c);
    }
    slices
}

fn sizes(slices: &[EndpointSlice]) -> Vec<usize> {
    slices.iter().map(|s| s.endpoints.as_ref().unwrap().len()).collect()
}

#[test]
fn conditions_tell_ready_serving_and_terminating_apart() {
    let mut ending = pod(2, true);
    ending.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    let mut ended = pod(3, false);
    ended.status.as_mut().unwrap().phase = Some("Succeeded".into());
    let mut homeless = pod(4, false);
    homeless.status.as_mut().unwrap().pod_ip = None;
    let pods = [pod(0, true), pod(1, false), ending, ended, homeless];
    let p = plan(&service(IntOrString::Int(8080)), &pods, &[]);
    let slice = &p.create[0];
    let seen: Vec<_> = slice
        .endpoints
        .iter()
        .flatten()
        .map(|e| {
            let c = e.conditions.as_ref().unwrap();
            (e.target_ref.as_ref().unwrap().name.clone().unwrap(), c.ready, c.serving, c.terminating)
        })
        .collect();
    let (t, f) = (Some(true), Some(false));
    assert_eq!(seen, [("web-000".into(), t, t, f), ("web-001".into(), f, f, f), ("web-002".into(), f, t, t)]);
    assert_eq!(slice.ports.as_ref().unwrap()[0].port, Some(8080));
    assert_eq!(slice.ports.as_ref().unwrap()[0].name.as_deref(), Some(""));
    let labels = slice.metadata.labels.as_ref().unwrap();
    assert_eq!((labels["kubernetes.io/service-name"].as_str(), labels["team"].as_str()), ("web", "a"));
    assert_eq!(labels["endpointslice.kubernetes.io/managed-by"], "endpointslice-controller.k8s.io");
}

#[test]
fn a_service_that_publishes_unready_addresses_calls_them_ready() {
    let mut s = service(IntOrString::Int(8080));
    s.spec.as_mut().unwrap().publish_not_ready_addresses = Some(true);
    let p = plan(&s, &[pod(0, false)], &[]);
    let c = p.create[0].endpoints.as_ref().unwrap()[0].conditions.clone().unwrap();
    assert_eq!((c.ready, c.serving), (Some(true), Some(false)));
}

#[test]
fn a_named_port_is_looked_up_in_each_pod_and_different_numbers_get_slices_of_their_own() {
    let s = service(IntOrString::String("http".into()));
    let slices = after(Vec::new(), plan(&s, &[pod(0, true), pod(1, true), pod(2, true)], &[]));
    let mut ports: Vec<_> = slices.iter().map(|s| s.ports.as_ref().unwrap()[0].port).collect();
    ports.sort();
    assert_eq!(ports, [Some(8080), Some(9090)]);
}

#[test]
fn many_pods_fill_slices_of_a_hundred_and_one_change_rewrites_one_slice() {
    let s = service(IntOrString::Int(80));
    let mut pods: Vec<Pod> = (0..250).map(|i| pod(i, true)).collect();
    let slices = after(Vec::new(), plan(&s, &pods, &[]));
    assert_eq!(sizes(&slices), [MAX_ENDPOINTS, MAX_ENDPOINTS, 50]);
    assert_eq!(plan(&s, &pods, &slices).why, Why::AsWanted);
    pods[120] = pod(120, false);
    let p = plan(&s, &pods, &slices);
    assert_eq!((p.create.len(), p.update.len(), p.delete.len()), (0, 1, 0));
}

#[test]
fn a_newcomer_takes_the_room_that_is_left() {
    let s = service(IntOrString::Int(80));
    let pods: Vec<Pod> = (0..150).map(|i| pod(i, true)).collect();
    let slices = after(Vec::new(), plan(&s, &pods[..149], &[]));
    let slices = after(slices.clone(), plan(&s, &pods, &slices));
    assert_eq!(sizes(&slices), [100, 50]);
    let slices = after(slices.clone(), plan(&s, &pods[..100], &slices));
    assert_eq!(sizes(&slices), [100]);
    assert!(after(slices.clone(), plan(&s, &[], &slices)).is_empty());
}

#[test]
fn without_a_selector_nothing_is_touched_and_an_external_name_has_no_slices() {
    let mut s = service(IntOrString::Int(80));
    let slices = after(Vec::new(), plan(&s, &[pod(0, true)], &[]));
    s.spec.as_mut().unwrap().selector = None;
    let p = plan(&s, &[pod(0, true)], &slices);
    assert_eq!((p.why, p.delete.len()), (Why::NoSelector, 0));
    s.spec.as_mut().unwrap().type_ = Some("ExternalName".into());
    assert_eq!(plan(&s, &[], &slices).delete.len(), 1);
}

#[test]
fn the_older_endpoints_split_ready_from_unready() {
    let s = service(IntOrString::Int(8080));
    let pods = [pod(0, true), pod(1, false), pod(2, true)];
    let e = compute_endpoints(&s, &pods.iter().collect::<Vec<_>>()).unwrap();
    let subset = &e.subsets.as_ref().unwrap()[0];
    let ips = |l: &Option<Vec<client::k8s_openapi::api::core::v1::EndpointAddress>>| {
        l.iter().flatten().map(|a| a.ip.clone()).collect::<Vec<_>>()
    };
    assert_eq!(ips(&subset.addresses), ["127.42.0.1", "127.42.0.3"]);
    assert_eq!(ips(&subset.not_ready_addresses), ["127.42.0.2"]);
    let turned: Vec<&Pod> = pods.iter().rev().collect();
    assert!(same(&e, &compute_endpoints(&s, &turned).unwrap()), "the order of pods does not matter");
}

#[tokio::test(start_paused = true)]
async fn endpoints_are_written_once_a_second_however_many_pods_come() {
    const PODS: usize = 200;
    let api = client::fake_api::FakeApi::default();
    api.put(
        "/api/v1/namespaces/default/services",
        "web",
        serde_json::to_value(service(IntOrString::Int(8080))).unwrap(),
    );
    let ctx = crate::testing::context(&api);
    let stop = ctx.shutdown.clone();
    let running = tokio::spawn(super::run(ctx));
    for i in 0..PODS {
        api.put(
            "/api/v1/namespaces/default/pods",
            &format!("web-{i:03}"),
            serde_json::to_value(pod(i, true)).unwrap(),
        );
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let listed = |kind: &str| -> usize {
        let all = api.objects().into_iter().filter(|o| o["kind"] == kind);
        match kind {
            "Endpoints" => all.map(|o| o["subsets"][0]["addresses"].as_array().map_or(0, Vec::len)).sum(),
            _ => all.map(|o| o["endpoints"].as_array().map_or(0, Vec::len)).sum(),
        }
    };
    for _ in 0..1000 {
        if listed("Endpoints") == PODS && listed("EndpointSlice") == PODS {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!((listed("Endpoints"), listed("EndpointSlice")), (PODS, PODS));
    let writes = api
        .requests()
        .iter()
        .filter(|r| !r.starts_with("GET") && r.contains("/endpoints"))
        .filter(|r| !r.contains("endpointslices"))
        .count();
    assert!((2..=6).contains(&writes), "{writes} writes of Endpoints");
    stop.cancel();
    running.await.unwrap();
}
