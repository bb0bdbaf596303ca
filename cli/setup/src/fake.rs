//! A phase that notes what is asked of it.
use crate::{Decision, Phase, PhaseError};
use async_trait::async_trait;
use std::sync::{Arc, Mutex, PoisonError};

/// Whether a fake phase has been done, and whether it fails.
pub struct FakePhase {
    pub name: &'static str,
    pub fails: bool,
    /// What all phases of a test did, in order: `run certs`, `undo certs`.
    pub journal: Arc<Mutex<Vec<String>>>,
}

impl FakePhase {
    fn note(&self, what: &str) {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{what} {}", self.name));
    }
    fn is_done(&self) -> bool {
        let done = format!("run {}", self.name);
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).contains(&done)
    }
}

#[async_trait]
impl Phase for FakePhase {
    fn name(&self) -> &str {
        self.name
    }
    async fn run_if(&self) -> Result<Decision, PhaseError> {
        Ok(if self.is_done() { Decision::Skip("it is done".to_owned()) } else { Decision::Run })
    }
    async fn run(&self) -> Result<(), PhaseError> {
        if self.fails {
            return Err(PhaseError(format!("{} fails", self.name)));
        }
        self.note("run");
        Ok(())
    }
    async fn undo(&self) -> Result<(), PhaseError> {
        self.note("undo");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Outcome, run, undo};

    #[tokio::test]
    async fn a_run_stops_at_the_phase_that_fails_and_goes_on_from_there() {
        let journal = Arc::new(Mutex::new(Vec::new()));
        let phase = |name, fails| FakePhase { name, fails, journal: journal.clone() };
        let (certs, broken, node) = (phase("certs", false), phase("etcd", true), phase("node", false));
        match run(&[&certs, &broken, &node]).await {
            Outcome::Failed { phase, .. } => assert_eq!(phase, "etcd"),
            Outcome::Done { .. } => panic!("a phase failed"),
        }
        let mended = phase("etcd", false);
        match run(&[&certs, &mended, &node]).await {
            Outcome::Done { skipped } => assert_eq!(skipped, [("certs".to_owned(), "it is done".to_owned())]),
            Outcome::Failed { phase, .. } => panic!("{phase} failed"),
        }
        undo(&[&certs, &mended, &node]).await.expect("undone");
        let journal = journal.lock().expect("the journal").join(", ");
        assert_eq!(journal, "run certs, run etcd, run node, undo node, undo etcd, undo certs");
    }
}
