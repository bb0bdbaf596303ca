//! A Job counts what was, once.
use super::Checker;
use crate::state::{Change, State, controller, is_true, number, text, uid};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Default)]
pub struct Counts {
    /// Pods that were seen to succeed, by their Job's uid.
    succeeded: BTreeMap<String, BTreeSet<String>>,
}

impl Checker for Counts {
    fn invariant(&self) -> &'static str {
        "a Job tells of no more successes than there were and were wanted, and ends one way"
    }

    fn committed(&mut self, change: &Change, state: &State) -> Result<(), String> {
        let Some(new) = &change.new else { return Ok(()) };
        if change.resource == "core/pods" {
            if let (Some(job), "Succeeded") = (controller(new, "Job"), text(new, "/status/phase")) {
                self.succeeded.entry(job.to_owned()).or_default().insert(uid(new).to_owned());
            }
            return Ok(());
        }
        if change.resource != "batch/jobs" {
            return Ok(());
        }
        let told = number(new, "/status/succeeded").unwrap_or(0);
        // A pod whose creation nobody was told of may do the work of another: upstream warns of it (TooManySucceededPods).
        let unknown = state.ambiguous_creates.get(uid(new)).copied().unwrap_or(0) as i64;
        if let Some(wanted) = number(new, "/spec/completions")
            && told > wanted + unknown
        {
            return Err(format!(
                "{} tells of {told} successes, {wanted} were wanted ({unknown} creations unknown)",
                change.about()
            ));
        }
        let were = self.succeeded.get(uid(new)).map_or(0, BTreeSet::len) as i64;
        if told > were {
            return Err(format!("{} tells of {told} successes, there were {were}", change.about()));
        }
        if is_true(new, "Complete") && is_true(new, "Failed") {
            return Err(format!("{} is complete and failed", change.about()));
        }
        let Some(old) = &change.old else { return Ok(()) };
        for end in ["Complete", "Failed"] {
            if is_true(old, end) && !is_true(new, end) {
                return Err(format!("{} was {end} and is no more", change.about()));
            }
        }
        if number(old, "/status/succeeded").unwrap_or(0) > told {
            return Err(format!(
                "{} told of {} successes and now of {told}",
                change.about(),
                number(old, "/status/succeeded").unwrap_or(0)
            ));
        }
        Ok(())
    }
}
