//! Services that listen by themselves, and clients: what a pod's address means to wasi:sockets.
use crate::text::assemble;
use crate::world::{World, soon};
use network_policy::{Direction, Protocol, Rules, Service, ServicePort, Services};
use shim::{Container, Exit};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};
use tokio::sync::watch;

const GUEST: &str = include_str!("../guests/sockets/guest.wat");
/// The pod of these tests: an address that no other test uses.
const POD: &str = "127.42.77.1";
/// Another pod's.
const OTHER: &str = "127.42.77.2";

/// The guest that does `body` with `address`.
fn guest(body: &str, address: SocketAddr) -> Vec<u8> {
    let IpAddr::V4(v4) = address.ip() else { panic!("{address} is not IPv4") };
    let mut text = GUEST.replace("$BODY", body).replace("$PORT", &address.port().to_string());
    for (name, byte) in ["$A", "$B", "$C", "$D"].into_iter().zip(v4.octets()) {
        text = text.replace(&format!("i32.const {name})"), &format!("i32.const {byte})"));
    }
    let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/sockets/wit");
    assemble(&text, &wit).unwrap()
}

/// A port of the pod that is free now.
fn free_port() -> u16 {
    std::net::TcpListener::bind((POD, 0)).unwrap().local_addr().unwrap().port()
}

async fn start(world: &World, body: &str, ip: &str, port: u16) -> Arc<dyn Container> {
    let (mut spec, _) = world.spec(&guest(body, SocketAddr::new(ip.parse().unwrap(), port)));
    spec.pod_ip = POD.parse().unwrap();
    world.start(spec).await
}

async fn run(world: &World, body: &str, ip: &str, port: u16) -> Exit {
    soon(start(world, body, ip, port).await.wait()).await
}

/// Connects from an address, as soon as somebody listens.
async fn connect(from: &str, port: u16) -> TcpStream {
    soon(async {
        loop {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::new(from.parse().unwrap(), 0)).unwrap();
            match socket.connect(SocketAddr::new(POD.parse().unwrap(), port)).await {
                Ok(stream) => return stream,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    })
    .await
}

async fn echo(mut stream: TcpStream, text: &[u8]) -> Vec<u8> {
    soon(async {
        // A connection that is turned away may end at any of these.
        let _ = stream.write_all(text).await;
        let _ = stream.shutdown().await;
        let mut back = Vec::new();
        let _ = stream.read_to_end(&mut back).await;
        back
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_listens_on_all_addresses_listens_on_its_pods_alone() {
    let world = World::new();
    for ip in ["0.0.0.0", POD] {
        let port = free_port();
        let container = start(&world, "$tcp-echo", ip, port).await;
        for text in [&b"one"[..], b"two"] {
            assert_eq!(echo(connect(OTHER, port).await, text).await, text);
        }
        for elsewhere in ["127.0.0.1", OTHER] {
            assert!(TcpStream::connect((elsewhere, port)).await.is_err(), "{elsewhere}");
        }
        container.kill(15).await.unwrap();
        assert_eq!(soon(container.wait()).await.code, 143);
        soon(container.delete()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_on_loopback_answers_its_own_pod_alone() {
    let world = World::new();
    let port = free_port();
    let container = start(&world, "$tcp-echo", "127.0.0.1", port).await;
    assert_eq!(echo(connect(POD, port).await, b"inside").await, b"inside");
    assert_eq!(echo(connect(OTHER, port).await, b"outside").await, b"");
    assert_eq!(echo(connect(POD, port).await, b"again").await, b"again");
    soon(container.delete()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_pods_or_the_nodes_address_cannot_be_bound() {
    let world = World::new();
    for ip in [OTHER, "127.0.0.2"] {
        let exit = run(&world, "$tcp-echo", ip, free_port()).await;
        assert_eq!(exit.code, 134, "{ip}: {exit:?}");
        let exit = run(&world, "$udp-echo", ip, free_port()).await;
        assert_eq!(exit.code, 134, "{ip}: {exit:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_comes_from_its_pods_address_and_finds_its_pod_on_loopback() {
    let world = World::new();
    for (listens, connects) in [(OTHER, OTHER), (POD, "127.0.0.1"), (POD, POD)] {
        let listener = TcpListener::bind((listens, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let client = start(&world, "$tcp-hello", connects, port).await;
        let (mut stream, from) = soon(listener.accept()).await.unwrap();
        assert_eq!(from.ip(), POD.parse::<IpAddr>().unwrap(), "to {connects}");
        let mut said = String::new();
        soon(stream.read_to_string(&mut said)).await.unwrap();
        assert_eq!(said, "hi");
        assert_eq!(soon(client.wait()).await.code, 0);
    }
    // The node's own services are not the pod's.
    let node = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let exit = run(&world, "$tcp-hello", "127.0.0.1", node.local_addr().unwrap().port()).await;
    assert_eq!(exit.code, 134, "{exit:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datagrams_come_to_the_pods_address_and_on_loopback_from_the_pod_alone() {
    let world = World::new();
    for (binds, admits_others) in [("0.0.0.0", true), ("127.0.0.1", false)] {
        let port = free_port();
        let container = start(&world, "$udp-echo", binds, port).await;
        let (inside, outside) =
            (UdpSocket::bind((POD, 0)).await.unwrap(), UdpSocket::bind((OTHER, 0)).await.unwrap());
        // Datagrams before it listens are lost.
        assert_eq!(ask(&inside, port, b"inside").await, b"inside");
        if admits_others {
            assert_eq!(ask(&outside, port, b"outside").await, b"outside");
        } else {
            outside.send_to(b"outside", (POD, port)).await.unwrap();
            assert_eq!(ask(&inside, port, b"after").await, b"after");
            assert!(outside.try_recv(&mut [0; 16]).is_err(), "a stranger got an answer");
        }
        soon(container.delete()).await.unwrap();
    }
}

/// A network whose only Service has one UDP port with one endpoint.
fn network_with(service: SocketAddr, endpoint: SocketAddr, rules: Rules) -> shim::Network {
    let mut services = Services::new("cluster.local");
    services.insert(Service {
        namespace: "default".into(),
        name: "echo".into(),
        cluster_ips: vec![service.ip()],
        external_name: None,
        ports: vec![ServicePort { protocol: Protocol::Udp, port: service.port(), endpoints: vec![endpoint] }],
        client_affinity: false,
    });
    shim::Network {
        namespace: "default".into(),
        rules: watch::channel(Arc::new(rules)).1,
        services: watch::channel(Some(Arc::new(services))).1,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_datagram_to_a_service_reaches_an_endpoint_and_the_answer_comes_from_the_service() {
    // Another guest's pod serves, and no kube-proxy is there: what arrives was led by the sandbox.
    const SERVER: &str = "127.42.77.3";
    let world = World::new();
    let port = std::net::UdpSocket::bind((SERVER, 0)).unwrap().local_addr().unwrap().port();
    let (mut spec, _) = world.spec(&guest("$udp-echo", SocketAddr::new("0.0.0.0".parse().unwrap(), port)));
    spec.pod_ip = SERVER.parse().unwrap();
    let server = world.start(spec).await;
    let probe = UdpSocket::bind((OTHER, 0)).await.unwrap();
    assert_eq!(ask_at(&probe, SERVER, port, b"up").await, b"up");

    let (service, endpoint) =
        (SocketAddr::from(([127, 96, 77, 1], 5300)), SocketAddr::new(SERVER.parse().unwrap(), port));
    let asks = |body, rules| {
        let (mut spec, _) = world.spec(&guest(body, service));
        spec.pod_ip = POD.parse().unwrap();
        spec.network = network_with(service, endpoint, rules);
        spec
    };
    for body in ["$udp-ask", "$udp-ask-connected"] {
        let exit = world.run(asks(body, Rules::default())).await;
        assert_eq!(exit.code, 0, "{body}: {exit:?}");
        let closed = Rules { egress: Direction::Isolated(vec![]), ..Rules::default() };
        let container = world.start(asks(body, closed)).await;
        let exit = soon(container.wait()).await;
        assert_eq!(exit.code, 134, "{body} although the policy closes it: {exit:?}");
        assert_eq!(container.stats().sandbox.unwrap().egress_denials, 1, "{body}");
        soon(container.delete()).await.unwrap();
    }
    soon(server.delete()).await.unwrap();
}

async fn ask(socket: &UdpSocket, port: u16, text: &[u8]) -> Vec<u8> {
    ask_at(socket, POD, port, text).await
}

async fn ask_at(socket: &UdpSocket, ip: &str, port: u16, text: &[u8]) -> Vec<u8> {
    soon(async {
        loop {
            socket.send_to(text, (ip, port)).await.unwrap();
            let mut back = vec![0; 64];
            let answer = tokio::time::timeout(Duration::from_millis(200), socket.recv_from(&mut back)).await;
            if let Ok(Ok((length, _))) = answer
                && &back[..length] == text
            {
                back.truncate(length);
                return back;
            }
        }
    })
    .await
}
