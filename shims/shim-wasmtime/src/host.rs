//! The engine and what it offers to guests: built once, with the first container.
use crate::Config;
use crate::account::Account;
use crate::capability::{self, Capability};
use crate::code::CodeCache;
use crate::descriptors::Descriptors;
use crate::guest::{ComponentState, ModuleState};
use crate::idle::AllIdle;
use crate::lanes::Lanes;
use crate::limits::{
    MAX_CORE_INSTANCES_PER_COMPONENT, MAX_MEMORIES_PER_COMPONENT, MAX_MEMORIES_PER_MODULE,
    MAX_TABLES_PER_COMPONENT, MAX_TABLES_PER_MODULE, MEMORY_KEEP_RESIDENT, MIN_INSTANCES,
    TABLE_KEEP_RESIDENT,
};
use crate::sockets;
use crate::ticker::Ticker;
use shim::Error;
use std::sync::Arc;
use tokio::runtime::{Handle, Runtime};
use wasmtime::{Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig};

/// One trust domain: all guests of this node.
///
/// Guests run on threads of their own. They yield every tick, but a hundred busy ones would still make whoever
/// shares their threads wait a hundred ticks; the kernel shares the processor between threads more fairly.
pub(crate) struct Host {
    pub(crate) guests: GuestThreads,
    /// Where those go that compute for long.
    pub(crate) lanes: Arc<Lanes>,
    pub(crate) engine: Engine,
    pub(crate) ticker: Ticker,
    /// WASI preview 1.
    pub(crate) modules: wasmtime::Linker<ModuleState>,
    /// WASI 0.2 and 0.3, and wasi:http of both.
    pub(crate) components: wasmtime::component::Linker<ComponentState>,
    pub(crate) capabilities: Vec<Box<dyn Capability>>,
    pub(crate) code: CodeCache,
    /// What all guests together use and may use.
    pub(crate) memory: Arc<Account>,
    /// The files and sockets of all guests.
    pub(crate) descriptors: Arc<Descriptors>,
    /// Instances that wait for another request.
    pub(crate) idle: AllIdle,
}

/// Of this machine's memory, what guests may have in all, in percent: the rest is for the other parts of the node, the
/// code of the guests, and the page cache.
const GUESTS_SHARE_PERCENT: u64 = 75;

/// The bytes all guests may have together; no limit where the machine does not tell its size.
fn guests_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
    kib.map_or(u64::MAX, |kib| kib * 1024 / 100 * GUESTS_SHARE_PERCENT)
}

impl Host {
    pub(crate) fn new(config: &Config) -> Result<Self, Error> {
        let engine = build_engine(config.max_instances)?;
        let unavailable = |e: wasmtime::Error| Error::Unavailable(format!("setting up WASI failed: {e:#}"));
        let mut modules = wasmtime::Linker::new(&engine);
        wasmtime_wasi::p1::add_to_linker_async(&mut modules, |state: &mut ModuleState| state.wasi())
            .map_err(unavailable)?;
        let mut components = wasmtime::component::Linker::new(&engine);
        wasmtime_wasi::p2::add_to_linker_async(&mut components).map_err(unavailable)?;
        wasmtime_wasi_http::p2::add_only_http_to_linker_async(&mut components).map_err(unavailable)?;
        let capabilities = capability::all(config);
        for capability in &capabilities {
            capability.link(&mut components).map_err(unavailable)?;
        }
        wasmtime_wasi::p3::add_to_linker(&mut components).map_err(unavailable)?;
        wasmtime_wasi_http::p3::add_to_linker(&mut components).map_err(unavailable)?;
        sockets::add_to_linker(&mut components).map_err(unavailable)?;
        let ticker = Ticker::start(engine.weak()).map_err(|source| Error::Io {
            what: "starting the thread that interrupts guests".into(),
            source,
        })?;
        let code = CodeCache::open(config, &engine)?;
        let memory = Account::of_node(guests_memory());
        let descriptors = Descriptors::of_this_process();
        let (guests, lanes) = (GuestThreads::start()?, Lanes::start()?);
        Ok(Self {
            guests,
            lanes,
            engine,
            ticker,
            modules,
            components,
            capabilities,
            code,
            memory,
            descriptors,
            idle: AllIdle::default(),
        })
    }
}

/// The threads that run guests: one for each core.
pub(crate) struct GuestThreads(Option<Runtime>);

impl GuestThreads {
    fn start() -> Result<Self, Error> {
        tokio::runtime::Builder::new_multi_thread()
            .thread_name("wasm-guest")
            .enable_all()
            .build()
            .map(|runtime| Self(Some(runtime)))
            .map_err(|source| Error::Io { what: "starting the threads that run guests".into(), source })
    }

    pub(crate) fn handle(&self) -> &Handle {
        // It is taken only when this value is dropped.
        self.0.as_ref().map_or_else(|| unreachable!("used after the end"), Runtime::handle)
    }
}

impl Drop for GuestThreads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            // The last holder may itself be a guest's task, which must not wait for its own thread.
            runtime.shutdown_background();
        }
    }
}

/// Builds the engine with as large a pool as the address space allows: each memory reserves 4 GiB of it, and a
/// container, a ulimit or a 47-bit machine may not have that for all.
pub(crate) fn build_engine(max_instances: u32) -> Result<Engine, Error> {
    let mut instances = max_instances;
    while instances >= MIN_INSTANCES {
        match Engine::new(&engine_config(Some(instances))) {
            Ok(engine) => {
                if instances < max_instances {
                    tracing::warn!(
                        instances,
                        wanted = max_instances,
                        "the address space allows fewer instances"
                    );
                }
                return Ok(engine);
            }
            Err(e) => tracing::debug!(instances, error = %format!("{e:#}"), "this many instances do not fit"),
        }
        instances /= 4;
    }
    tracing::warn!("the address space is too small for a pool of instances; they are allocated one by one");
    Engine::new(&engine_config(None))
        .map_err(|e| Error::Unavailable(format!("this machine cannot run WebAssembly: {e:#}")))
}

fn engine_config(pool: Option<u32>) -> wasmtime::Config {
    let mut config = wasmtime::Config::new();
    config.epoch_interruption(true);
    config.wasm_component_model(true);
    config.wasm_component_model_async(true);
    config.memory_init_cow(true);
    if let Some(instances) = pool {
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool_config(instances)));
    }
    config
}

fn pool_config(instances: u32) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.linear_memory_keep_resident(MEMORY_KEEP_RESIDENT)
        .table_keep_resident(TABLE_KEEP_RESIDENT)
        // Asks the kernel (6.7 and later) which pages a guest wrote, so that only those are cleared.
        .pagemap_scan(Enabled::Auto)
        .total_component_instances(instances)
        .total_memories(instances)
        .total_stacks(instances)
        // A component made by wit-component is three or four core modules (program, shim, fix-ups, adapter) with
        // one memory and about two tables between them.
        .total_core_instances(instances.saturating_mul(4))
        .total_tables(instances.saturating_mul(2))
        .max_memories_per_module(MAX_MEMORIES_PER_MODULE)
        .max_tables_per_module(MAX_TABLES_PER_MODULE)
        .max_memories_per_component(MAX_MEMORIES_PER_COMPONENT)
        .max_tables_per_component(MAX_TABLES_PER_COMPONENT)
        .max_core_instances_per_component(MAX_CORE_INSTANCES_PER_COMPONENT)
        // Few languages use WebAssembly's garbage collector yet.
        .total_gc_heaps((instances / 8).max(1));
    pool
}
