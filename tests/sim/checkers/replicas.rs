//! Nobody makes more pods than it was ever asked for.
use super::Checker;
use crate::state::{Change, State, controller, has_ended, is_going, number, uid};
use std::collections::BTreeMap;

/// Pods of a ReplicaSet or a Job, against the most it was ever to have.
#[derive(Default)]
pub struct Surplus {
    most: BTreeMap<String, i64>,
}

impl Checker for Surplus {
    fn invariant(&self) -> &'static str {
        "a ReplicaSet or Job has no more active pods than it was asked for and creations of unknown outcome explain"
    }

    fn committed(&mut self, change: &Change, state: &State) -> Result<(), String> {
        let wanted = match change.resource.as_str() {
            "apps/replicasets" => "/spec/replicas",
            "batch/jobs" => "/spec/parallelism",
            "core/pods" => return self.look_at_pod(change, state),
            _ => return Ok(()),
        };
        if let Some(new) = &change.new {
            let most = self.most.entry(uid(new).to_owned()).or_default();
            *most = (*most).max(number(new, wanted).unwrap_or(1));
        }
        Ok(())
    }
}

impl Surplus {
    fn look_at_pod(&self, change: &Change, state: &State) -> Result<(), String> {
        let (None, Some(pod)) = (&change.old, &change.new) else { return Ok(()) };
        let Some(owner) = controller(pod, "ReplicaSet").or_else(|| controller(pod, "Job")) else {
            return Ok(());
        };
        let active = state
            .of("core/pods")
            .filter(|p| !has_ended(p) && !is_going(p))
            .filter(|p| controller(p, "ReplicaSet").or_else(|| controller(p, "Job")) == Some(owner))
            .count() as i64;
        let most = self.most.get(owner).copied().unwrap_or(0);
        let unknown = state.ambiguous_creates.get(owner).copied().unwrap_or(0) as i64;
        if active > most + unknown {
            return Err(format!(
                "{} is active pod {active} of its owner, which never wanted more than {most} ({unknown} creations unknown)",
                change.about()
            ));
        }
        Ok(())
    }
}
