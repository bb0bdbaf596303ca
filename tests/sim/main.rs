//! A whole cluster in one thread, its time simulated, its trouble drawn from a seed.
//!
//! Purpose: to find what only goes wrong when a process dies between two steps, an answer is lost, a watch breaks, a
//! node falls silent, or all of that at once; and to find it again from one number.
//!
//! Invariant: a seed determines everything. The same seed gives the same trace, whose hash is printed.
//!
//! ```text
//!   user ─┐                       ┌ FaultyStore ─ Defect ─ Tap ─ MemoryStore
//!   scheduler ── Door ── Server ──┘                              │ every commit
//!   controllers ┘  │ refused, lost, late, cut      Observer ◄────┘
//!   kubelet ───────┘                                 └ checkers: what must hold at every commit
//!      └ Line ── Machine (FakeRuntime)             convergence: what must come true at last
//! ```
//! Each process lives behind a [`gate`]: it dies before or after the n-th of its own effects and is started anew.
//! First there is trouble and only safety is checked; then the trouble ends and everything must come right.
//!
//! `DHOW_SIM_SEED=n` runs one seed, `DHOW_SIM_SEEDS=n` how many (from `DHOW_SIM_FIRST`), `DHOW_SIM_TRACE=file`
//! writes everything that happened.
mod answers;
mod chance;
mod checkers;
mod children;
mod convergence;
mod door;
mod gate;
mod journal;
mod machine;
mod mutants;
mod observer;
mod rng;
mod run;
mod seeds;
mod server;
mod state;
mod tap;
mod watches;
mod weather;
mod workload;
mod world;
