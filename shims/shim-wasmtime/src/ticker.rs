//! The one thread that interrupts guests.
//!
//! It advances the engine's epoch every [`EPOCH_TICK`] while any guest runs, and sleeps without waking when none
//! has run for [`IDLE_TICKS`]: an idle node must cost no CPU.
use crate::limits::EPOCH_TICK;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;
use wasmtime::EngineWeak;

/// A second: request after request must not wake the thread each time.
const IDLE_TICKS: u32 = 100;

#[derive(Default)]
struct Shared {
    running: AtomicUsize,
    parked: AtomicBool,
    stopped: AtomicBool,
}

pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

/// While one lives, the epoch advances.
pub(crate) struct Running(Arc<Shared>);

impl Ticker {
    pub(crate) fn start(engine: EngineWeak) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let of_thread = shared.clone();
        let thread =
            std::thread::Builder::new().name("wasm-epoch".into()).spawn(move || tick(&of_thread, &engine))?;
        Ok(Self { shared, thread })
    }

    pub(crate) fn running(&self) -> Running {
        // Sequentially consistent on both sides: either the thread sees this guest before it parks, or this
        // guest sees that it has parked.
        if self.shared.running.fetch_add(1, SeqCst) == 0 && self.shared.parked.load(SeqCst) {
            self.thread.thread().unpark();
        }
        Running(self.shared.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.stopped.store(true, SeqCst);
        self.thread.thread().unpark();
    }
}

fn tick(shared: &Shared, engine: &EngineWeak) {
    let mut idle = 0;
    while !shared.stopped.load(SeqCst) {
        if shared.running.load(SeqCst) > 0 {
            idle = 0;
        } else {
            idle += 1;
        }
        if idle > IDLE_TICKS {
            shared.parked.store(true, SeqCst);
            if shared.running.load(SeqCst) == 0 && !shared.stopped.load(SeqCst) {
                std::thread::park();
            }
            shared.parked.store(false, SeqCst);
            idle = 0;
            continue;
        }
        std::thread::sleep(EPOCH_TICK);
        match engine.upgrade() {
            Some(engine) => engine.increment_epoch(),
            None => return,
        }
    }
}
