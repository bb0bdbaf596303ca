//! Setting a cluster up and taking it down, a phase at a time, as kubeadm does.
//!
//! Purpose: `init`, `join`, `reset` and `upgrade` as lists of phases that can be run one by one, looked at before,
//! and undone.
//!
//! Invariant: a phase may be run twice; what is there is found and kept. A phase that fails leaves the ones before it
//! done, and [`run`] says which one to begin with again.
//!
//! ```text
//!   plan(phases, facts) ──► which run, which are skipped and why ──► run ──► done │ failed at phase N
//! ```
//! The phases themselves are still to be written: this crate holds the border and its fake.
use async_trait::async_trait;

pub mod fake;

/// Whether a phase is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Run,
    /// Why not: it has been done, or does not apply to this machine.
    Skip(String),
}

/// Why a phase failed. Each text says what to do next.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct PhaseError(pub String);

/// One step of setting a machine up.
#[async_trait]
pub trait Phase: Send + Sync {
    /// As it is named on the command line: `certs`, `kubeconfig`, `control-plane`.
    fn name(&self) -> &str;
    /// Whether it is to run, from what is on the machine.
    async fn run_if(&self) -> Result<Decision, PhaseError>;
    /// Does it. May be called again after it was done in part.
    async fn run(&self) -> Result<(), PhaseError>;
    /// Takes back what [`Phase::run`] did, as far as it was done.
    async fn undo(&self) -> Result<(), PhaseError>;
}

/// How a run of phases ended.
#[derive(Debug)]
pub enum Outcome {
    /// All phases are done; those that were skipped, with why.
    Done { skipped: Vec<(String, String)> },
    /// `phase` failed; those before it are done.
    Failed { phase: String, source: PhaseError },
}

/// Runs phases in order until one fails.
pub async fn run(phases: &[&dyn Phase]) -> Outcome {
    let mut skipped = Vec::new();
    for phase in phases {
        let result = match phase.run_if().await {
            Ok(Decision::Run) => phase.run().await,
            Ok(Decision::Skip(why)) => {
                skipped.push((phase.name().to_owned(), why));
                Ok(())
            }
            Err(error) => Err(error),
        };
        if let Err(source) = result {
            return Outcome::Failed { phase: phase.name().to_owned(), source };
        }
    }
    Outcome::Done { skipped }
}

/// Undoes phases, the last one first. All are tried; the first error is given back.
pub async fn undo(phases: &[&dyn Phase]) -> Result<(), PhaseError> {
    let mut first = Ok(());
    for phase in phases.iter().rev() {
        let undone = phase.undo().await;
        if first.is_ok() {
            first = undone;
        }
    }
    first
}
