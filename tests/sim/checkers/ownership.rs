//! Foreground deletion: the owner goes last.
use super::Checker;
use crate::state::{Change, State, is_going, list, text, uid};
use std::collections::BTreeMap;
use std::time::Duration;

/// A dependent that came so shortly before its owner's deletion may not have been known to the garbage collector.
const NEWS_TRAVEL: Duration = Duration::from_secs(60);

#[derive(Default)]
pub struct Foreground {
    /// By uid: when an object came, and when its deletion began.
    came: BTreeMap<String, Duration>,
    going: BTreeMap<String, Duration>,
}

fn has_finalizer(object: &serde_json::Value) -> bool {
    list(object, "/metadata/finalizers").iter().any(|f| f == "foregroundDeletion")
}

impl Checker for Foreground {
    fn invariant(&self) -> &'static str {
        "an owner deleted in the foreground outlives the dependents that block it"
    }

    fn committed(&mut self, change: &Change, state: &State) -> Result<(), String> {
        let id = change.new.as_ref().or(change.old.as_ref()).map(|o| uid(o).to_owned()).unwrap_or_default();
        if let Some(new) = &change.new {
            self.came.entry(id.clone()).or_insert(change.at);
            if is_going(new) {
                self.going.entry(id.clone()).or_insert(change.at);
            }
        }
        // Taking the last finalizer away is what removes an object: the store then still holds it.
        let was_held = change.old.as_ref().is_some_and(|old| has_finalizer(old) && is_going(old));
        if !was_held || change.new.as_ref().is_some_and(|new| has_finalizer(new)) {
            return Ok(());
        }
        let began = self.going.get(&id).copied().unwrap_or_default();
        let blocking = state.objects.values().find(|o| {
            let came = self.came.get(uid(&o.value)).copied().unwrap_or_default();
            came + NEWS_TRAVEL < began
                && list(&o.value, "/metadata/ownerReferences")
                    .iter()
                    .any(|r| r["uid"] == id.as_str() && r["blockOwnerDeletion"] == true)
        });
        match blocking {
            Some(o) => Err(format!(
                "{} was released while {} {} blocks it",
                change.about(),
                text(&o.value, "/kind"),
                text(&o.value, "/metadata/name")
            )),
            None => Ok(()),
        }
    }
}
