//! The fake passes the suite, in process and behind gRPC; and gRPC carries what it must.
use bytes::Bytes;
use cri::fake::{FakeRuntime, Script};
use cri::suite::Subject;
use cri::*;
use futures::{FutureExt, StreamExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

fn fake() -> FakeRuntime {
    let fake = FakeRuntime::new();
    fake.add_image("example/forever:1");
    fake.add_image("example/exit-3:1");
    fake
}

fn subject(runtime: Arc<dyn RuntimeService>, images: Arc<dyn ImageService>) -> Subject {
    Subject {
        runtime,
        images,
        runs_forever: "example/forever:1".into(),
        exits_with_3: "example/exit-3:1".into(),
        missing: "example/missing:1".into(),
    }
}

#[tokio::test(start_paused = true)]
async fn the_fake_passes_the_suite_under_a_paused_clock() {
    suite::run(async || {
        let fake = Arc::new(fake());
        subject(fake.clone(), fake)
    })
    .await;
}

/// A fake behind a socket.
struct Served {
    fake: FakeRuntime,
    socket: std::path::PathBuf,
    shutdown: CancellationToken,
    tasks: JoinSet<Result<(), Error>>,
    _directory: tempfile::TempDir,
}

impl Served {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("cri.sock");
        let mut served = Self {
            fake: fake(),
            socket,
            shutdown: CancellationToken::new(),
            tasks: JoinSet::new(),
            _directory: directory,
        };
        served.listen();
        served
    }

    fn listen(&mut self) {
        let listener = UnixListener::bind(&self.socket).unwrap();
        self.shutdown = CancellationToken::new();
        let fake = Arc::new(self.fake.clone());
        self.tasks.spawn(server::serve(listener, fake.clone(), fake, self.shutdown.clone()));
    }

    async fn stop(&mut self) {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(5), self.tasks.join_next()).await;
        ended.expect("it ends soon, event streams or not").unwrap().unwrap().unwrap();
        std::fs::remove_file(&self.socket).unwrap();
    }
}

#[tokio::test]
async fn the_fake_behind_grpc_passes_the_suite() {
    let served = parking_lot::Mutex::new(Vec::new());
    suite::run(async || {
        let one = Served::start();
        let client = Arc::new(client::connect(&one.socket));
        served.lock().push(one);
        subject(client.clone(), client)
    })
    .await;
}

#[tokio::test]
async fn a_client_outlives_a_restart_of_the_runtime_and_says_when_nobody_is_there() {
    let mut served = Served::start();
    let client = client::connect(&served.socket);
    client.version(VersionRequest::default()).await.unwrap();
    let mut events = client.get_container_events(GetEventsRequest {}).await.unwrap();
    served.stop().await;
    assert!(events.next().await.is_none_or(|event| event.is_err()), "the stream ends with the runtime");
    let error = client.version(VersionRequest::default()).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable(text) if text.contains("cri.sock")), "{error:?}");
    served.listen();
    client.version(VersionRequest::default()).await.unwrap();
    let nowhere = client::connect(Path::new("/nonexistent/cri.sock"));
    let error = nowhere.version(VersionRequest::default()).await.unwrap_err();
    assert!(matches!(&error, Error::Unavailable(text) if text.contains("No such file")), "{error:?}");
}

#[tokio::test]
async fn errors_keep_their_class_and_text_across_the_socket() {
    let served = Served::start();
    let client = client::connect(&served.socket);
    for error in [
        Error::NotFound("a".into()),
        Error::InvalidArgument("b".into()),
        Error::FailedPrecondition("c".into()),
        Error::AlreadyExists("d".into()),
        Error::PermissionDenied("e".into()),
        Error::ResourceExhausted("f".into()),
        Error::Unavailable("g".into()),
        Error::DeadlineExceeded("h".into()),
        Error::Unimplemented("i".into()),
        Error::Internal("j: with \"quotes\" and ünïcode".into()),
    ] {
        served.fake.fail_next("Version", error.clone());
        assert_eq!(client.version(VersionRequest::default()).await.unwrap_err(), error);
    }
}

#[tokio::test]
async fn a_file_is_imported_in_pieces_and_a_broken_one_is_not_taken() {
    let served = Served::start();
    let client = client::connect(&served.socket);
    let whole =
        futures::stream::iter([Ok(Bytes::from(vec![1; 20 << 20])), Ok(Bytes::from_static(b"x"))]).boxed();
    let imported = client.import_image("localhost/a:1".into(), whole).await.unwrap();
    assert_eq!(imported.reference, "localhost/a:1");
    let broken = futures::stream::iter([
        Ok(Bytes::from_static(b"x")),
        Err(Error::InvalidArgument("the disk broke".into())),
    ]);
    let error = client.import_image("localhost/b:1".into(), broken.boxed()).await.unwrap_err();
    assert_eq!(error, Error::InvalidArgument("the disk broke".into()));
    let image = Some(ImageSpec { image: "localhost/b:1".into(), ..Default::default() });
    let request = ImageStatusRequest { image, verbose: false };
    assert!(served.fake.image_status(request).await.unwrap().image.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_scripted_container_ends_when_its_time_has_come() {
    let fake = FakeRuntime::new();
    fake.script("job", Script::exits(7, Duration::from_secs(3600)));
    fake.add_image("job");
    let sandbox = RunPodSandboxRequest {
        config: Some(PodSandboxConfig { metadata: Some(Default::default()), ..Default::default() }),
        ..Default::default()
    };
    let pod_sandbox_id = fake.run_pod_sandbox(sandbox).await.unwrap().pod_sandbox_id;
    let config = ContainerConfig {
        metadata: Some(Default::default()),
        image: Some(ImageSpec { image: "job".into(), ..Default::default() }),
        ..Default::default()
    };
    let create = CreateContainerRequest { pod_sandbox_id, config: Some(config), ..Default::default() };
    let container_id = fake.create_container(create).await.unwrap().container_id;
    let mut events = fake.get_container_events(GetEventsRequest {}).await.unwrap();
    fake.start_container(StartContainerRequest { container_id: container_id.clone() }).await.unwrap();
    assert!(events.next().await.is_some(), "started");
    tokio::time::sleep(Duration::from_secs(3599)).await;
    assert!(events.next().now_or_never().is_none(), "it runs for an hour");
    let ended = events.next().await.unwrap().unwrap();
    assert_eq!(ended.containers_statuses[0].exit_code, 7);
    assert_eq!(fake.calls().last().unwrap(), &format!("StartContainer {container_id}"));
}
