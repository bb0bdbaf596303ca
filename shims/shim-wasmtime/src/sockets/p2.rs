//! WASI 0.2: `wasi:sockets/tcp` and `wasi:sockets/udp`.
use super::{lead, plan_bind, plan_source};
use crate::guest::ComponentState;
use crate::reach::Refused;
use network_policy::Protocol;
use std::net::SocketAddr;
use wasmtime::StoreContextMut;
use wasmtime::component::{Linker, Resource};
use wasmtime_wasi::WasiView;
use wasmtime_wasi::p2::bindings::sockets::network::{ErrorCode, IpSocketAddress, Network};
use wasmtime_wasi::p2::bindings::sockets::tcp::{HostTcpSocket, TcpSocket};
use wasmtime_wasi::p2::bindings::sockets::udp::{
    HostIncomingDatagramStream, HostOutgoingDatagramStream, HostUdpSocket, IncomingDatagram,
    IncomingDatagramStream, OutgoingDatagram, OutgoingDatagramStream, UdpSocket,
};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, SocketResult};
use wasmtime_wasi::sockets::WasiSocketsView;

/// The names wasmtime gives its own; a guest's import of any 0.2 finds them.
const TCP: &str = "wasi:sockets/tcp@0.2.12";
const UDP: &str = "wasi:sockets/udp@0.2.12";

/// Connections of others that one accept on a pod's loopback turns away before it says that there is none.
const MAX_TURNED_AWAY: usize = 16;

type Store<'a> = StoreContextMut<'a, ComponentState>;
type Accepted = (Resource<TcpSocket>, Resource<DynInputStream>, Resource<DynOutputStream>);
type Streams = (Resource<IncomingDatagramStream>, Resource<OutgoingDatagramStream>);

/// What the guest is told, or the trap.
pub(super) fn told<T>(done: SocketResult<T>) -> wasmtime::Result<(Result<T, ErrorCode>,)> {
    match done {
        Ok(value) => Ok((Ok(value),)),
        Err(error) => error.downcast().map(|code| (Err(code),)),
    }
}

/// What the guest is told of a refusal.
pub(super) fn refusal(why: Refused) -> ErrorCode {
    match why {
        Refused::Host | Refused::Address => ErrorCode::AccessDenied,
        Refused::NoEndpoint => ErrorCode::ConnectionRefused,
        Refused::Unknown => ErrorCode::NameUnresolvable,
    }
}

fn again<T: 'static>(resource: &Resource<T>) -> Resource<T> {
    Resource::new_borrow(resource.rep())
}

pub(super) fn add_to_linker(linker: &mut Linker<ComponentState>) -> wasmtime::Result<()> {
    let mut tcp = linker.instance(TCP)?;
    tcp.func_wrap_async(
        "[method]tcp-socket.start-bind",
        |mut store: Store<'_>,
         (socket, network, address): (Resource<TcpSocket>, Resource<Network>, IpSocketAddress)| {
            Box::new(async move { told(bind_tcp(store.data_mut(), socket, network, address).await) })
        },
    )?;
    tcp.func_wrap_async(
        "[method]tcp-socket.start-connect",
        |mut store: Store<'_>,
         (socket, network, address): (Resource<TcpSocket>, Resource<Network>, IpSocketAddress)| {
            Box::new(async move { told(connect_tcp(store.data_mut(), socket, network, address).await) })
        },
    )?;
    tcp.func_wrap("[method]tcp-socket.accept", |mut store: Store<'_>, (socket,): (Resource<TcpSocket>,)| {
        told(accept(store.data_mut(), socket))
    })?;
    let mut udp = linker.instance(UDP)?;
    udp.func_wrap_async(
        "[method]udp-socket.start-bind",
        |mut store: Store<'_>,
         (socket, network, address): (Resource<UdpSocket>, Resource<Network>, IpSocketAddress)| {
            Box::new(async move { told(bind_udp(store.data_mut(), socket, network, address).await) })
        },
    )?;
    udp.func_wrap_async(
        "[method]udp-socket.stream",
        |mut store: Store<'_>, (socket, remote): (Resource<UdpSocket>, Option<IpSocketAddress>)| {
            Box::new(async move { told(stream(store.data_mut(), socket, remote).await) })
        },
    )?;
    udp.func_wrap(
        "[method]udp-socket.remote-address",
        |mut store: Store<'_>, (socket,): (Resource<UdpSocket>,)| {
            told(remote_address(store.data_mut(), socket))
        },
    )?;
    udp.func_wrap(
        "[method]incoming-datagram-stream.receive",
        |mut store: Store<'_>, (stream, most): (Resource<IncomingDatagramStream>, u64)| {
            told(receive(store.data_mut(), stream, most))
        },
    )?;
    udp.func_wrap(
        "[method]outgoing-datagram-stream.send",
        |mut store: Store<'_>,
         (stream, datagrams): (Resource<OutgoingDatagramStream>, Vec<OutgoingDatagram>)| {
            told(send(store.data_mut(), stream, datagrams))
        },
    )
}

async fn bind_tcp(
    state: &mut ComponentState,
    socket: Resource<TcpSocket>,
    network: Resource<Network>,
    address: IpSocketAddress,
) -> SocketResult<()> {
    let bind = plan_bind(state.pod.pod_ip, address.into());
    let number = socket.rep();
    HostTcpSocket::start_bind(&mut state.sockets(), socket, network, bind.address.into()).await?;
    state.pod.bound(number, bind);
    Ok(())
}

async fn connect_tcp(
    state: &mut ComponentState,
    socket: Resource<TcpSocket>,
    network: Resource<Network>,
    address: IpSocketAddress,
) -> SocketResult<()> {
    let ways = state.reach().translate(address.into(), Protocol::Tcp).map_err(refusal)?;
    let destination = *ways.first().ok_or(ErrorCode::ConnectionRefused)?;
    let source = plan_source(state.pod.pod_ip, destination.ip());
    if let Some(source) = source
        && HostTcpSocket::local_address(&mut state.sockets(), again(&socket)).is_err()
    {
        // Where binding fails, connecting says why.
        let mut sockets = state.sockets();
        let (of_socket, of_network) = (again(&socket), again(&network));
        if HostTcpSocket::start_bind(&mut sockets, of_socket, of_network, source.into()).await.is_ok() {
            HostTcpSocket::finish_bind(&mut sockets, again(&socket))?;
        }
    }
    let from = HostTcpSocket::local_address(&mut state.sockets(), again(&socket)).map(SocketAddr::from);
    if from.is_ok_and(|from| from.ip() == state.pod.pod_ip) {
        state.reach().clear(destination);
    }
    HostTcpSocket::start_connect(&mut state.sockets(), socket, network, destination.into())
}

fn accept(state: &mut ComponentState, socket: Resource<TcpSocket>) -> SocketResult<Accepted> {
    for _ in 0..MAX_TURNED_AWAY {
        let (peer, input, output) = state.sockets().accept(again(&socket))?;
        // One that is gone already has no address; its streams say so.
        let from = HostTcpSocket::remote_address(&mut state.sockets(), again(&peer)).map(SocketAddr::from);
        if from.is_ok_and(|from| !state.pod.admits(socket.rep(), from.ip())) {
            let table = state.ctx().table;
            table.delete(input)?;
            table.delete(output)?;
            table.delete(peer)?;
            continue;
        }
        return Ok((peer, input, output));
    }
    Err(ErrorCode::WouldBlock.into())
}

async fn bind_udp(
    state: &mut ComponentState,
    socket: Resource<UdpSocket>,
    network: Resource<Network>,
    address: IpSocketAddress,
) -> SocketResult<()> {
    let bind = plan_bind(state.pod.pod_ip, address.into());
    let number = socket.rep();
    HostUdpSocket::start_bind(&mut state.sockets(), socket, network, bind.address.into()).await?;
    state.pod.bound(number, bind);
    Ok(())
}

async fn stream(
    state: &mut ComponentState,
    socket: Resource<UdpSocket>,
    remote: Option<IpSocketAddress>,
) -> SocketResult<Streams> {
    let number = socket.rep();
    let ways = state.pod.ways(number);
    let remote = remote.map(|remote| lead(state, &ways, remote.into())).transpose().map_err(refusal)?;
    let (incoming, outgoing) = state.sockets().stream(socket, remote.map(IpSocketAddress::from)).await?;
    state.pod.streamed(number, incoming.rep(), outgoing.rep());
    Ok((incoming, outgoing))
}

fn remote_address(state: &mut ComponentState, socket: Resource<UdpSocket>) -> SocketResult<IpSocketAddress> {
    let ways = state.pod.ways(socket.rep());
    let remote = HostUdpSocket::remote_address(&mut state.sockets(), socket)?;
    Ok(ways.lock().named(remote.into()).into())
}

fn receive(
    state: &mut ComponentState,
    stream: Resource<IncomingDatagramStream>,
    most: u64,
) -> SocketResult<Vec<IncomingDatagram>> {
    let number = stream.rep();
    let mut datagrams = HostIncomingDatagramStream::receive(&mut state.sockets(), stream, most)?;
    datagrams.retain(|datagram| {
        state.pod.admits_to_stream(number, SocketAddr::from(datagram.remote_address).ip())
    });
    if let Some(ways) = state.pod.stream_ways.get(&number) {
        let ways = ways.lock();
        for datagram in &mut datagrams {
            datagram.remote_address = ways.named(datagram.remote_address.into()).into();
        }
    }
    Ok(datagrams)
}

fn send(
    state: &mut ComponentState,
    stream: Resource<OutgoingDatagramStream>,
    mut datagrams: Vec<OutgoingDatagram>,
) -> SocketResult<u64> {
    let ways = state.pod.stream_ways.get(&stream.rep()).cloned().unwrap_or_default();
    let mut refused = None;
    for (number, datagram) in datagrams.iter_mut().enumerate() {
        let Some(remote) = &mut datagram.remote_address else { continue };
        match lead(state, &ways, SocketAddr::from(*remote)) {
            Ok(way) => *remote = way.into(),
            Err(why) => {
                refused = Some((number, why));
                break;
            }
        }
    }
    match refused {
        Some((0, why)) => return Err(refusal(why).into()),
        // Those before it are sent; the guest learns of this one when it comes first.
        Some((number, _)) => datagrams.truncate(number),
        None => {}
    }
    HostOutgoingDatagramStream::send(&mut state.sockets(), stream, datagrams)
}
