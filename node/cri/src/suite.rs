//! What every runtime does, run against each of them: the fake, the fake behind gRPC, the real one with a fake shim.
//!
//! Each case gets a subject of its own, waits for events instead of sleeping, and panics where the subject does not
//! behave.
use crate::{ContainerEventType, Error, EventStream, ImageService, RuntimeService, types::*};
use futures::{FutureExt, StreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// What is tested, and the images it has for it.
#[derive(Clone)]
pub struct Subject {
    pub runtime: Arc<dyn RuntimeService>,
    pub images: Arc<dyn ImageService>,
    /// An image that is here; its containers run until stopped, and `exec` in them gives 0.
    pub runs_forever: String,
    /// An image that is here; its containers end with 3 soon after their start.
    pub exits_with_3: String,
    /// An image that no registry has.
    pub missing: String,
}

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

type Case = (&'static str, for<'a> fn(&'a Subject) -> futures::future::BoxFuture<'a, ()>);

macro_rules! cases {
    ($($name:ident)*) => { &[$((stringify!($name), |subject| $name(subject).boxed())),*] };
}

const CASES: &[Case] = cases! {
    the_runtime_says_who_and_how_it_is
    a_sandbox_lives_and_dies
    lists_are_filtered
    sandboxes_have_addresses_of_their_own
    an_unknown_handler_is_refused
    a_container_is_created_started_and_stopped
    a_container_that_ends_keeps_its_code
    calls_in_the_wrong_state_are_refused
    removing_a_running_container_ends_it
    stopping_a_sandbox_ends_its_containers
    removing_a_sandbox_removes_its_containers
    what_is_gone_may_be_stopped_and_removed_again
    what_never_was_is_not_found
    events_tell_the_life_of_a_container
    a_command_runs_only_in_a_running_container
    streams_are_only_at_a_running_container
    figures_are_of_running_containers
    a_sandbox_has_the_figures_of_its_running_containers_together
    every_metric_is_described_with_its_labels
    images_are_found_by_name_and_by_id
    a_missing_image_is_not_found
};

/// Runs all cases, each against a subject of its own.
pub async fn run(make: impl AsyncFn() -> Subject) {
    for (name, case) in CASES {
        let subject = make().await;
        let Ok(()) = tokio::time::timeout(PATIENCE, case(&subject)).await else {
            panic!("{name} did not end within {PATIENCE:?}")
        };
    }
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

impl Subject {
    fn sandbox_config(&self, name: &str) -> PodSandboxConfig {
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.into(),
                uid: format!("uid-{name}"),
                namespace: "default".into(),
                attempt: 0,
            }),
            hostname: name.into(),
            labels: labels(&[("io.kubernetes.pod.name", name), ("suite", "yes")]),
            annotations: labels(&[("note", "kept")]),
            ..Default::default()
        }
    }

    async fn sandbox(&self, name: &str) -> String {
        let config = Some(self.sandbox_config(name));
        let request = RunPodSandboxRequest { config, runtime_handler: String::new() };
        self.runtime.run_pod_sandbox(request).await.expect("RunPodSandbox").pod_sandbox_id
    }

    async fn try_create(&self, sandbox: &str, name: &str, image: &str) -> Result<String, Error> {
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(ContainerConfig {
                metadata: Some(ContainerMetadata { name: name.into(), attempt: 0 }),
                image: Some(ImageSpec { image: image.into(), ..Default::default() }),
                labels: labels(&[("io.kubernetes.container.name", name)]),
                ..Default::default()
            }),
            sandbox_config: Some(self.sandbox_config("pod")),
        };
        self.runtime.create_container(request).await.map(|created| created.container_id)
    }

    async fn create(&self, sandbox: &str, name: &str, image: &str) -> String {
        self.try_create(sandbox, name, image).await.expect("CreateContainer")
    }

    async fn start(&self, id: &str) {
        let request = StartContainerRequest { container_id: id.into() };
        self.runtime.start_container(request).await.expect("StartContainer");
    }

    async fn running(&self, sandbox: &str, name: &str) -> String {
        let id = self.create(sandbox, name, &self.runs_forever).await;
        self.start(&id).await;
        id
    }

    async fn stop(&self, id: &str, timeout: i64) {
        let request = StopContainerRequest { container_id: id.into(), timeout };
        self.runtime.stop_container(request).await.expect("StopContainer");
    }

    async fn remove(&self, id: &str) {
        let request = RemoveContainerRequest { container_id: id.into() };
        self.runtime.remove_container(request).await.expect("RemoveContainer");
    }

    async fn status(&self, id: &str) -> ContainerStatus {
        let request = ContainerStatusRequest { container_id: id.into(), verbose: false };
        let answer = self.runtime.container_status(request).await.expect("ContainerStatus");
        answer.status.expect("a status")
    }

    async fn sandbox_status(&self, id: &str) -> Result<PodSandboxStatus, Error> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: false };
        Ok(self.runtime.pod_sandbox_status(request).await?.status.expect("a status"))
    }

    async fn containers(&self, filter: ContainerFilter) -> Vec<String> {
        let request = ListContainersRequest { filter: Some(filter) };
        let answer = self.runtime.list_containers(request).await.expect("ListContainers");
        answer.containers.into_iter().map(|container| container.id).collect()
    }

    async fn sandboxes(&self, filter: PodSandboxFilter) -> Vec<String> {
        let request = ListPodSandboxRequest { filter: Some(filter) };
        let answer = self.runtime.list_pod_sandbox(request).await.expect("ListPodSandbox");
        answer.items.into_iter().map(|sandbox| sandbox.id).collect()
    }

    async fn events(&self) -> EventStream {
        self.runtime.get_container_events(GetEventsRequest {}).await.expect("GetContainerEvents")
    }

    async fn exec(&self, id: &str) -> Result<ExecSyncResponse, Error> {
        let request = ExecSyncRequest { container_id: id.into(), cmd: vec!["true".into()], timeout: 5 };
        self.runtime.exec_sync(request).await
    }

    /// Starts a container and waits for the event of its end.
    async fn start_and_wait(&self, id: &str) -> ContainerStatus {
        let mut events = self.events().await;
        self.start(id).await;
        wait_for(&mut events, id, ContainerEventType::Stopped).await;
        self.status(id).await
    }
}

async fn wait_for(events: &mut EventStream, id: &str, kind: ContainerEventType) -> ContainerEventResponse {
    loop {
        let event = events.next().await.expect("the stream goes on").expect("an event");
        if event.container_id == id && event.container_event_type() == kind {
            return event;
        }
    }
}

async fn the_runtime_says_who_and_how_it_is(subject: &Subject) {
    let version = subject.runtime.version(VersionRequest::default()).await.expect("Version");
    assert_eq!(version.runtime_api_version, "v1");
    assert!(!version.runtime_name.is_empty() && !version.runtime_version.is_empty());
    let status = subject.runtime.status(StatusRequest::default()).await.expect("Status");
    let conditions = status.status.expect("a status").conditions;
    for kind in ["RuntimeReady", "NetworkReady"] {
        let condition = conditions.iter().find(|condition| condition.r#type == kind).expect(kind);
        assert!(condition.status, "{kind}: {}", condition.message);
    }
    assert!(!status.runtime_handlers.is_empty());
    subject.runtime.runtime_config(RuntimeConfigRequest {}).await.expect("RuntimeConfig");
}

async fn a_sandbox_lives_and_dies(subject: &Subject) {
    let id = subject.sandbox("pod").await;
    let status = subject.sandbox_status(&id).await.expect("PodSandboxStatus");
    assert_eq!(status.state(), PodSandboxState::Ready);
    assert_eq!(status.metadata, subject.sandbox_config("pod").metadata);
    assert_eq!(status.labels, subject.sandbox_config("pod").labels);
    assert_eq!(status.annotations, subject.sandbox_config("pod").annotations);
    assert!(status.created_at > 0);
    let ip = status.network.expect("a network").ip;
    ip.parse::<std::net::IpAddr>().expect("an address");
    let stop = StopPodSandboxRequest { pod_sandbox_id: id.clone() };
    subject.runtime.stop_pod_sandbox(stop.clone()).await.expect("StopPodSandbox");
    let stopped = subject.sandbox_status(&id).await.expect("PodSandboxStatus");
    assert_eq!(stopped.state(), PodSandboxState::NotReady);
    subject.runtime.stop_pod_sandbox(stop).await.expect("StopPodSandbox again");
    let remove = RemovePodSandboxRequest { pod_sandbox_id: id.clone() };
    subject.runtime.remove_pod_sandbox(remove).await.expect("RemovePodSandbox");
    let error = subject.sandbox_status(&id).await.expect_err("it is gone");
    assert!(error.is_not_found(), "{error:?}");
}

async fn lists_are_filtered(subject: &Subject) {
    let (a, b) = (subject.sandbox("a").await, subject.sandbox("b").await);
    let request = StopPodSandboxRequest { pod_sandbox_id: b.clone() };
    let one = subject.running(&a, "one").await;
    let two = subject.create(&a, "two", &subject.runs_forever).await;
    subject.runtime.stop_pod_sandbox(request).await.expect("StopPodSandbox");
    let all: BTreeSet<String> = subject.sandboxes(PodSandboxFilter::default()).await.into_iter().collect();
    assert_eq!(all, BTreeSet::from([a.clone(), b.clone()]));
    let state = |state: PodSandboxState| Some(PodSandboxStateValue { state: state as i32 });
    let not_ready = PodSandboxFilter { state: state(PodSandboxState::NotReady), ..Default::default() };
    assert_eq!(subject.sandboxes(not_ready).await, std::slice::from_ref(&b));
    let by_id = PodSandboxFilter { id: a.clone(), ..Default::default() };
    assert_eq!(subject.sandboxes(by_id).await, std::slice::from_ref(&a));
    let by_label =
        PodSandboxFilter { label_selector: labels(&[("io.kubernetes.pod.name", "b")]), ..Default::default() };
    assert_eq!(subject.sandboxes(by_label).await, std::slice::from_ref(&b));

    assert_eq!(subject.containers(ContainerFilter::default()).await.len(), 2);
    let running = Some(ContainerStateValue { state: ContainerState::Running as i32 });
    assert_eq!(subject.containers(ContainerFilter { state: running, ..Default::default() }).await, [one]);
    let by_label = labels(&[("io.kubernetes.container.name", "two")]);
    assert_eq!(
        subject.containers(ContainerFilter { label_selector: by_label, ..Default::default() }).await,
        [two]
    );
    let of_b = ContainerFilter { pod_sandbox_id: b, ..Default::default() };
    assert!(subject.containers(of_b).await.is_empty());
}

async fn sandboxes_have_addresses_of_their_own(subject: &Subject) {
    let mut seen = BTreeSet::new();
    for name in ["a", "b", "c"] {
        let id = subject.sandbox(name).await;
        let status = subject.sandbox_status(&id).await.expect("PodSandboxStatus");
        assert!(seen.insert(status.network.expect("a network").ip));
    }
}

async fn an_unknown_handler_is_refused(subject: &Subject) {
    let config = Some(subject.sandbox_config("pod"));
    let request = RunPodSandboxRequest { config, runtime_handler: "no-such-handler".into() };
    let error = subject.runtime.run_pod_sandbox(request).await.expect_err("it is unknown");
    assert!(error.to_string().contains("no-such-handler"), "{error}");
    assert!(subject.sandboxes(PodSandboxFilter::default()).await.is_empty(), "nothing is left");
    let nameless = RunPodSandboxRequest { config: Some(PodSandboxConfig::default()), ..Default::default() };
    let error = subject.runtime.run_pod_sandbox(nameless).await.expect_err("it has no metadata");
    assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
}

async fn a_container_is_created_started_and_stopped(subject: &Subject) {
    let sandbox = subject.sandbox("pod").await;
    let id = subject.create(&sandbox, "main", &subject.runs_forever).await;
    let created = subject.status(&id).await;
    assert_eq!(created.state(), ContainerState::Created);
    assert!(created.created_at > 0 && created.started_at == 0 && created.finished_at == 0);
    assert_eq!(created.metadata.expect("metadata").name, "main");
    assert_eq!(created.image.expect("an image").image, subject.runs_forever);
    assert!(!created.image_ref.is_empty());
    subject.start(&id).await;
    let running = subject.status(&id).await;
    assert_eq!(running.state(), ContainerState::Running);
    assert!(running.started_at >= created.created_at);
    subject.stop(&id, 10).await;
    let stopped = subject.status(&id).await;
    assert_eq!(stopped.state(), ContainerState::Exited);
    assert!(stopped.finished_at >= stopped.started_at);
    subject.stop(&id, 10).await;
    subject.remove(&id).await;
    assert!(subject.containers(ContainerFilter::default()).await.is_empty());
}

async fn a_container_that_ends_keeps_its_code(subject: &Subject) {
    let sandbox = subject.sandbox("pod").await;
    let id = subject.create(&sandbox, "main", &subject.exits_with_3).await;
    let status = subject.start_and_wait(&id).await;
    assert_eq!((status.state(), status.exit_code), (ContainerState::Exited, 3));
    assert_eq!(status.reason, "Error");
    assert!(status.finished_at >= status.started_at);
    subject.stop(&id, 0).await;
    assert_eq!(subject.status(&id).await.exit_code, 3, "stopping what has ended changes nothing");
}

async fn calls_in_the_wrong_state_are_refused(subject: &Subject) {
    let sandbox = subject.sandbox("pod").await;
    let id = subject.running(&sandbox, "main").await;
    let start = StartContainerRequest { container_id: id.clone() };
    let error = subject.runtime.start_container(start).await.expect_err("it runs already");
    assert!(matches!(error, Error::FailedPrecondition(_)), "{error:?}");
    let stop = StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() };
    subject.runtime.stop_pod_sandbox(stop).await.expect("StopPodSandbox");
    let error = subject.try_create(&sandbox, "late", &subject.runs_forever).await.expect_err("it is stopped");
    assert!(matches!(error, Error::FailedPrecondition(_)), "{error:?}");
    let reopen = ReopenContainerLogRequest { container_id: id };
    let error = subject.runtime.reopen_container_log(reopen).await.expect_err("it does not run");
    assert!(matches!(error, Error::FailedPrecondition(_)), "{error:?}");
}

async fn removing_a_running_container_ends_it(subject: &Subject) {
    let sandbox = subject.sandbox("pod").await;
    let id = subject.running(&sandbox, "main").await;
    let mut events = subject.events().await;
    subject.remove(&id).await;
    wait_for(&mut events, &id, ContainerEventType::Stopped).await;
    wait_for(&mut events, &id, ContainerEventType::Deleted).await;
    assert!(subject.containers(ContainerFilter::default()).await.is_empty());
}

async fn stopping_a_sandbox_ends_its_containers(subject: &Subject) {
    let sandbox = subject.sandbox("pod").await;
    let ids = [subject.running(&sandbox, "one").await, subject.running(&sandbox, "two").await];
    let stop = StopPodSandboxRequest { pod_sandbox_id: sandbox };
    subject.runtime.stop_pod_sandbox(stop).await.expect("StopPodSandbox");
    for id in &ids {
        assert_eq!(subject.status(id).await.state(), ContainerState::Exited);
    }
}

async fn removing_a_sandbox_removes_its_containers(subject: &Subject) {
    let sandbox = subject.sandbox("pod").await;
    subject.running(&sandbox, "main").await;
    let remove = RemovePodSandboxRequest { pod_sandbox_id: sandbox };
    subject.runtime.remove_pod_sandbox(remove).await.expect("RemovePodSandbox");
    assert!(subject.containers(ContainerFilter::default()).await.is_empty());
    assert!(subject.sandboxes(PodSandboxFilter::default()).await.is_empty());
}

async fn what_is_gone_may_be_stopped_and_removed_again(subject: &Subject) {
    subject.stop("gone", 1).await;
    subject.remove("gone").await;
    let id = || "gone".to_string();
    subject
        .runtime
        .stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id() })
        .await
        .expect("StopPodSandbox");
    subject
        .runtime
        .remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id() })
        .await
        .expect("RemovePodSandbox");
    let image = Some(ImageSpec { image: "localhost/gone:1".into(), ..Default::default() });
    subject.images.remove_image(RemoveImageRequest { image }).await.expect("RemoveImage");
}

async fn what_never_was_is_not_found(subject: &Subject) {
    let request = ContainerStatusRequest { container_id: "never".into(), verbose: false };
    assert!(subject.runtime.container_status(request).await.expect_err("status").is_not_found());
    let request = StartContainerRequest { container_id: "never".into() };
    assert!(subject.runtime.start_container(request).await.expect_err("start").is_not_found());
    assert!(subject.exec("never").await.expect_err("exec").is_not_found());
    let request = ContainerStatsRequest { container_id: "never".into() };
    assert!(subject.runtime.container_stats(request).await.expect_err("stats").is_not_found());
    let error = subject.try_create("never", "main", &subject.runs_forever).await.expect_err("create");
    assert!(error.is_not_found(), "{error:?}");
    let sandbox = subject.sandbox("pod").await;
    let error = subject.try_create(&sandbox, "main", "localhost/never:1").await.expect_err("create");
    assert!(error.is_not_found() && error.to_string().contains("localhost/never:1"), "{error:?}");
}

async fn events_tell_the_life_of_a_container(subject: &Subject) {
    let sandbox = subject.sandbox("pod").await;
    let mut events = subject.events().await;
    let id = subject.create(&sandbox, "main", &subject.exits_with_3).await;
    wait_for(&mut events, &id, ContainerEventType::Created).await;
    subject.start(&id).await;
    wait_for(&mut events, &id, ContainerEventType::Started).await;
    let stopped = wait_for(&mut events, &id, ContainerEventType::Stopped).await;
    assert_eq!(stopped.pod_sandbox_status.expect("its sandbox").id, sandbox);
    let status = stopped.containers_statuses.iter().find(|status| status.id == id).expect("its status");
    assert_eq!((status.state(), status.exit_code), (ContainerState::Exited, 3));
    subject.remove(&id).await;
    wait_for(&mut events, &id, ContainerEventType::Deleted).await;
}

async fn a_command_runs_only_in_a_running_container(subject: &Subject) {
    let sandbox = subject.sandbox("pod").await;
    let id = subject.running(&sandbox, "main").await;
    assert_eq!(subject.exec(&id).await.expect("ExecSync").exit_code, 0);
    let reopen = ReopenContainerLogRequest { container_id: id.clone() };
    subject.runtime.reopen_container_log(reopen).await.expect("ReopenContainerLog");
    subject.stop(&id, 0).await;
    let error = subject.exec(&id).await.expect_err("it has ended");
    assert!(matches!(error, Error::FailedPrecondition(_)), "{error:?}");
}

async fn streams_are_only_at_a_running_container(subject: &Subject) {
    let exec = |id: &str| {
        let cmd = vec!["true".to_string()];
        ExecRequest { container_id: id.into(), cmd, stdout: true, ..Default::default() }
    };
    let attach = |id: &str| AttachRequest { container_id: id.into(), stdout: true, ..Default::default() };
    assert!(subject.runtime.exec(exec("never")).await.expect_err("Exec").is_not_found());
    assert!(subject.runtime.attach(attach("never")).await.expect_err("Attach").is_not_found());
    let sandbox = subject.sandbox("pod").await;
    let id = subject.running(&sandbox, "main").await;
    let (one, other) = (subject.runtime.exec(exec(&id)).await, subject.runtime.attach(attach(&id)).await);
    let (one, other) = (one.expect("Exec").url, other.expect("Attach").url);
    assert!(one.starts_with("http://127.0.0.1:") && other.starts_with("http://127.0.0.1:"), "{one} {other}");
    subject.stop(&id, 0).await;
    let error = subject.runtime.exec(exec(&id)).await.expect_err("it has ended");
    assert!(matches!(error, Error::FailedPrecondition(_)), "{error:?}");
    let error = subject.runtime.attach(attach(&id)).await.expect_err("it has ended");
    assert!(matches!(error, Error::FailedPrecondition(_)), "{error:?}");
}

async fn figures_are_of_running_containers(subject: &Subject) {
    let sandbox = subject.sandbox("pod").await;
    let id = subject.running(&sandbox, "main").await;
    subject.create(&sandbox, "other", &subject.runs_forever).await;
    let request = ContainerStatsRequest { container_id: id.clone() };
    let stats = subject.runtime.container_stats(request).await.expect("ContainerStats").stats.expect("stats");
    assert!(stats.memory.expect("memory").working_set_bytes.expect("bytes").value > 0);
    let filter = ContainerStatsFilter { pod_sandbox_id: sandbox.clone(), ..Default::default() };
    let request = ListContainerStatsRequest { filter: Some(filter) };
    let listed = subject.runtime.list_container_stats(request).await.expect("ListContainerStats").stats;
    let ids: Vec<_> = listed.into_iter().filter_map(|stats| stats.attributes).map(|a| a.id).collect();
    assert_eq!(ids, [id]);
}

async fn a_sandbox_has_the_figures_of_its_running_containers_together(subject: &Subject) {
    let sandbox = subject.sandbox("pod").await;
    let one = subject.running(&sandbox, "main").await;
    subject.running(&sandbox, "other").await;
    let of_one = subject.runtime.container_stats(ContainerStatsRequest { container_id: one }).await;
    let memory = |m: Option<MemoryUsage>| m.expect("memory").working_set_bytes.expect("bytes").value;
    let least = memory(of_one.expect("ContainerStats").stats.expect("stats").memory);
    let request = PodSandboxStatsRequest { pod_sandbox_id: sandbox.clone() };
    let stats =
        subject.runtime.pod_sandbox_stats(request).await.expect("PodSandboxStats").stats.expect("stats");
    let linux = stats.linux.expect("figures");
    assert_eq!(linux.containers.len(), 2);
    assert!(memory(linux.memory) > least);
    let filter = PodSandboxStatsFilter { id: sandbox, ..Default::default() };
    let request = ListPodSandboxStatsRequest { filter: Some(filter) };
    let listed = subject.runtime.list_pod_sandbox_stats(request).await.expect("ListPodSandboxStats").stats;
    assert_eq!(listed.len(), 1);
    let request = PodSandboxStatsRequest { pod_sandbox_id: "no-such".into() };
    assert!(subject.runtime.pod_sandbox_stats(request).await.expect_err("stats").is_not_found());
}

async fn every_metric_is_described_with_its_labels(subject: &Subject) {
    let sandbox = subject.sandbox("pod").await;
    let id = subject.running(&sandbox, "main").await;
    let described = subject.runtime.list_metric_descriptors(ListMetricDescriptorsRequest {}).await;
    let described: BTreeMap<String, usize> = described
        .expect("ListMetricDescriptors")
        .descriptors
        .into_iter()
        .map(|d| (d.name, d.label_keys.len()))
        .collect();
    let metrics = subject.runtime.list_pod_sandbox_metrics(ListPodSandboxMetricsRequest {}).await;
    let of_pod = metrics.expect("ListPodSandboxMetrics").pod_metrics;
    let of_pod = of_pod.into_iter().find(|p| p.pod_sandbox_id == sandbox).expect("the sandbox's");
    let of_container = of_pod.container_metrics.into_iter().find(|c| c.container_id == id);
    let metrics = of_container.expect("the container's").metrics;
    assert!(!metrics.is_empty());
    for metric in metrics {
        assert_eq!(described.get(&metric.name), Some(&metric.label_values.len()), "{}", metric.name);
        assert!(metric.value.is_some() && metric.timestamp > 0, "{metric:?}");
    }
}

async fn images_are_found_by_name_and_by_id(subject: &Subject) {
    let spec = |image: &str| Some(ImageSpec { image: image.into(), ..Default::default() });
    let status = async |image: &str| {
        let request = ImageStatusRequest { image: spec(image), verbose: false };
        subject.images.image_status(request).await.expect("ImageStatus").image
    };
    let by_name = status(&subject.runs_forever).await.expect("it is here");
    assert_eq!(status(&by_name.id).await.expect("by its id").id, by_name.id);
    assert!(status("localhost/never:1").await.is_none());
    let all = subject.images.list_images(ListImagesRequest::default()).await.expect("ListImages").images;
    assert!(all.iter().any(|image| image.id == by_name.id));
    let filter = Some(ImageFilter { image: spec(&subject.exits_with_3) });
    let one = subject.images.list_images(ListImagesRequest { filter }).await.expect("ListImages").images;
    assert_eq!(one.len(), 1);
    subject.images.image_fs_info(ImageFsInfoRequest {}).await.expect("ImageFsInfo");
    let request = RemoveImageRequest { image: spec(&subject.runs_forever) };
    subject.images.remove_image(request).await.expect("RemoveImage");
    assert!(status(&subject.runs_forever).await.is_none());
    let nameless = PullImageRequest::default();
    let error = subject.images.pull_image(nameless).await.expect_err("it names nothing");
    assert!(matches!(error, Error::InvalidArgument(_)), "{error:?}");
}

async fn a_missing_image_is_not_found(subject: &Subject) {
    let image = Some(ImageSpec { image: subject.missing.clone(), ..Default::default() });
    let request = PullImageRequest { image, ..Default::default() };
    let error = subject.images.pull_image(request).await.expect_err("no registry has it");
    assert!(error.is_not_found(), "{error:?}");
    assert!(error.to_string().contains("missing"), "{error}");
}
