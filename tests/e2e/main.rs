//! End-to-end tests: the real binary, real kubectls, Debian's docker-registry, runc.
//!
//! Purpose: what a user does is done here, with the programs a user has; nothing is faked.
//!
//! Invariant: no process, mount or file of a run outlives it, not even when the test binary is killed
//! (`harness::guard`). Nothing waits for a time, only for a state, and never longer than a bound.
//!
//! ```text
//!   tests ──► harness::world ──► dhow up (one for most tests, a namespace a test) ◄── kubectl · dhow · HTTP
//!                           └──► docker-registry, plain, and with TLS and a password
//! ```
//!
//! `cargo xtask test` builds what is needed and says where it is in DHOW_TEST_BINARY, DHOW_TEST_KUBECTL and
//! DHOW_TEST_GUESTS; without them the tests fail and say so.
#![allow(clippy::disallowed_methods, reason = "real processes live in real time")]

mod harness;

mod bad_input;
mod capabilities;
mod cli;
#[path = "../../shims/shim-wasmtime/tests/it/components.rs"]
#[allow(dead_code, reason = "the shim's own tests use more of them")]
mod components;
mod crash;
mod deployments;
mod exec;
mod functions;
mod gateway;
mod jobs;
mod kubectl;
mod linux;
mod metrics;
mod network_policy;
mod others;
mod queue;
mod startup;
#[path = "../../xtask/src/guests/text.rs"]
mod text;
mod traces;
