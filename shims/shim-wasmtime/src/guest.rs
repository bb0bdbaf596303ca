//! What one container gives to each of its instances: arguments, environment, files, streams, a network policy.
use crate::account::{Account, StoreLimiter};
use crate::capability::{Access, Granted};
use crate::descriptors::{Descriptors, StoreDescriptors};
use crate::figures::{Figures, Instance};
use crate::limits::{HOSTCALL_BYTES, MAX_RANDOM_BYTES, MAX_RESOURCES};
use crate::meter::{Meter, ends_turn};
use crate::outbound::{Outbound, OutboundHooks};
use crate::preopen::Preopen;
use crate::reach::Reach;
use crate::sockets::PodSockets;
use crate::stdio::{GuestInput, GuestOutput, Label};
use crate::traces::{Serving, Traces};
use network_policy::Protocol;
use shim::{Input, Output};
use std::any::Any;
use std::sync::Arc;
use wasmtime::{Engine, Store, UpdateDeadline};
use wasmtime_wasi::cli::AsyncStdinStream;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::sockets::SocketAddrUse;
use wasmtime_wasi::{FsPerms, ResourceTable, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::p2::body::{HostIncomingBody, HostOutgoingBody};
use wasmtime_wasi_http::p2::types::{HostIncomingRequest, HostOutgoingResponse, HostResponseOutparam};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView, p3};

/// The data of a preview 1 module's store.
pub(crate) struct ModuleState {
    wasi: WasiP1Ctx,
    limiter: StoreLimiter,
    _instance: Instance,
    descriptors: StoreDescriptors,
}

impl ModuleState {
    /// What a call of the guest reaches.
    pub(crate) fn wasi(&mut self) -> &mut WasiP1Ctx {
        self.descriptors.settle(self.wasi.ctx().table);
        &mut self.wasi
    }
}

/// The data of a component's store.
pub(crate) struct ComponentState {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    hooks: OutboundHooks,
    table: ResourceTable,
    limiter: StoreLimiter,
    _instance: Instance,
    descriptors: StoreDescriptors,
    granted: Arc<Granted>,
    stderr: GuestOutput,
    /// What the lines of its streams begin with now.
    label: Option<Label>,
    pub(crate) pod: PodSockets,
}

impl ComponentState {
    /// What its pod may reach.
    pub(crate) fn reach(&self) -> &Arc<Reach> {
        self.hooks.outbound.reach()
    }

    /// Says which request it serves from here on.
    pub(crate) fn begin_request(&mut self, serving: Option<&Serving>) {
        self.hooks.serving = serving.map(|serving| serving.context().clone());
        if let Some(label) = &self.label {
            label.set(serving.map(Serving::label).unwrap_or_default());
        }
    }

    /// What a call of a capability reaches.
    pub(crate) fn access(&mut self) -> Access<'_> {
        Access {
            granted: &self.granted,
            stderr: &self.stderr,
            serving: self.hooks.serving.as_ref(),
            table: &mut self.table,
        }
    }

    /// The bytes of its memories and tables.
    pub(crate) fn memory(&self) -> u64 {
        self.limiter.held()
    }

    /// How many resources it holds; `None` while parts of a request are among them.
    pub(crate) fn held_between_requests(&mut self) -> Option<usize> {
        let mut held = 0;
        for resource in self.table.iter_mut() {
            if is_of_a_request(resource) {
                return None;
            }
            held += 1;
        }
        Some(held)
    }
}

fn is_of_a_request(resource: &(dyn Any + Send)) -> bool {
    resource.is::<HostIncomingRequest>()
        || resource.is::<HostResponseOutparam>()
        || resource.is::<HostOutgoingResponse>()
        || resource.is::<HostIncomingBody>()
        || resource.is::<HostOutgoingBody>()
        || resource.is::<p3::Request>()
        || resource.is::<p3::Response>()
}

impl WasiView for ComponentState {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        self.descriptors.settle(&mut self.table);
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for ComponentState {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.hooks, table: &mut self.table, ctx: &mut self.http }
    }
}

/// The standard streams of one instance.
pub(crate) struct Streams {
    stdin: Option<Input>,
    stdout: GuestOutput,
    stderr: GuestOutput,
    label: Option<Label>,
}

/// One container as its instances see it.
pub(crate) struct Guest {
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) cwd: String,
    pub(crate) preopens: Vec<Preopen>,
    pub(crate) stdout: GuestOutput,
    pub(crate) stderr: GuestOutput,
    pub(crate) outbound: Arc<Outbound>,
    pub(crate) traces: Option<Arc<Traces>>,
    pub(crate) granted: Arc<Granted>,
    pub(crate) account: Arc<Account>,
    pub(crate) figures: Arc<Figures>,
    /// `None` when it can open neither files nor sockets.
    pub(crate) descriptors: Option<Arc<Descriptors>>,
    pub(crate) meter: Arc<Meter>,
}

impl Guest {
    pub(crate) fn module_store(
        &self,
        engine: &Engine,
        stdin: Option<Input>,
    ) -> wasmtime::Result<Store<ModuleState>> {
        self.module_store_with(engine, self.streams(stdin))
    }

    pub(crate) fn module_store_with(
        &self,
        engine: &Engine,
        streams: Streams,
    ) -> wasmtime::Result<Store<ModuleState>> {
        let mut wasi = self.wasi(streams)?.build_p1();
        wasi.ctx().table.set_max_capacity(MAX_RESOURCES);
        let limiter = StoreLimiter::new(self.account.clone());
        let descriptors = StoreDescriptors::new(self.descriptors.clone());
        let mut store = Store::new(
            engine,
            ModuleState { wasi, limiter, descriptors, _instance: self.figures.instance() },
        );
        store.limiter(|state| &mut state.limiter);
        interruptible(&mut store);
        Ok(store)
    }

    pub(crate) fn component_store(
        &self,
        engine: &Engine,
        stdin: Option<Input>,
    ) -> wasmtime::Result<Store<ComponentState>> {
        self.component_store_with(engine, self.streams(stdin))
    }

    pub(crate) fn component_store_with(
        &self,
        engine: &Engine,
        streams: Streams,
    ) -> wasmtime::Result<Store<ComponentState>> {
        let mut table = ResourceTable::new();
        table.set_max_capacity(MAX_RESOURCES);
        let label = streams.label.clone();
        let state = ComponentState {
            wasi: self.wasi(streams)?.build(),
            http: WasiHttpCtx::new(),
            hooks: OutboundHooks {
                outbound: self.outbound.clone(),
                traces: self.traces.clone(),
                serving: None,
            },
            table,
            limiter: StoreLimiter::new(self.account.clone()),
            _instance: self.figures.instance(),
            descriptors: StoreDescriptors::new(self.descriptors.clone()),
            granted: self.granted.clone(),
            stderr: self.stderr.clone(),
            label,
            pod: PodSockets::new(self.outbound.reach().pod_ip),
        };
        let mut store = Store::new(engine, state);
        store.set_hostcall_fuel(HOSTCALL_BYTES);
        store.limiter(|state| &mut state.limiter);
        interruptible(&mut store);
        Ok(store)
    }

    /// The streams of whoever asked for an instance, at the container's rate.
    pub(crate) fn streams_to(&self, stdin: Option<Input>, output: &Arc<dyn Output>) -> Streams {
        Streams {
            stdin,
            stdout: self.stdout.redirected(output.clone()),
            stderr: self.stderr.redirected(output.clone()),
            label: None,
        }
    }

    /// The container's own.
    fn streams(&self, stdin: Option<Input>) -> Streams {
        let (stdout, stderr) = (self.stdout.clone(), self.stderr.clone());
        if self.traces.as_ref().is_none_or(|traces| !traces.labels) {
            return Streams { stdin, stdout, stderr, label: None };
        }
        let label = Label::default();
        let (stdout, stderr) = (stdout.labelled(&label), stderr.labelled(&label));
        Streams { stdin, stdout, stderr, label: Some(label) }
    }

    fn wasi(&self, streams: Streams) -> wasmtime::Result<WasiCtxBuilder> {
        let mut wasi = WasiCtx::builder();
        wasi.max_random_size(MAX_RANDOM_BYTES);
        wasi.args(&self.args).envs(&self.env).stdout(streams.stdout).stderr(streams.stderr);
        if let Some(input) = streams.stdin {
            wasi.stdin(AsyncStdinStream::new(GuestInput::new(input)));
        }
        if !self.cwd.is_empty() {
            wasi.initial_cwd(&self.cwd);
        }
        for preopen in &self.preopens {
            let access = if preopen.read_only { FsPerms::ReadOnly } else { FsPerms::ReadWrite };
            wasi.preopened_dir(&preopen.host, &preopen.guest, access)?;
        }
        let reach = self.outbound.reach().clone();
        wasi.allow_tcp(true).allow_udp(true).allow_ip_name_lookup(true).socket_addr_check(
            move |address, usage| {
                let permitted = match usage {
                    SocketAddrUse::TcpBind => reach.may_bind(address),
                    SocketAddrUse::UdpBind => {
                        // Port 0 is a client's.
                        let noted = address.port() == 0 || reach.listens(Protocol::Udp, address.port());
                        noted && reach.may_bind(address)
                    }
                    SocketAddrUse::TcpListen => reach.may_listen(address),
                    SocketAddrUse::TcpConnect => reach.may_connect(address),
                    SocketAddrUse::UdpSend => reach.may_send(address),
                    SocketAddrUse::TcpAccept => reach.admits_socket(address, Protocol::Tcp),
                    SocketAddrUse::UdpReceive => reach.admits_socket(address, Protocol::Udp),
                };
                Box::pin(std::future::ready(permitted))
            },
        );
        Ok(wasi)
    }
}

/// At the end of its turn the guest goes to the end of the line. By tokio's own yield: it lets the thread look at its sockets
/// before the guest goes on, while a guest that merely woke itself would hold them up for dozens of ticks.
fn interruptible<T>(store: &mut Store<T>) {
    store.epoch_deadline_callback(|_| {
        Ok(match ends_turn() {
            true => UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())),
            false => UpdateDeadline::Continue(1),
        })
    });
    // Left at its start of 0, the first deadline would have passed before the first instruction.
    store.set_epoch_deadline(1);
}
