//! An object stays the one it is.
use super::Checker;
use crate::state::{Change, State, number, text};
use serde_json::Value;

pub struct Identity;

/// Fields that never change once they are there.
const FIXED: &[&str] =
    &["/metadata/uid", "/metadata/name", "/metadata/namespace", "/metadata/creationTimestamp", "/kind"];

impl Checker for Identity {
    fn invariant(&self) -> &'static str {
        "an object keeps its identity, its generation only rises, its deletion is not taken back"
    }

    fn committed(&mut self, change: &Change, _: &State) -> Result<(), String> {
        let Some(new) = &change.new else { return Ok(()) };
        let fail = |how: String| Err(format!("{}: {how}", change.about()));
        if text(new, "/metadata/name") != change.name || text(new, "/metadata/namespace") != change.namespace
        {
            return fail("it lies under the key of another".into());
        }
        if text(new, "/metadata/uid").is_empty() {
            return fail("it has no uid".into());
        }
        if new.pointer("/metadata/resourceVersion").is_some() {
            return fail("its resourceVersion was stored".into());
        }
        let generation = |o: &Value| number(o, "/metadata/generation").unwrap_or(0);
        if number(new, "/status/observedGeneration").unwrap_or(0) > generation(new) {
            return fail(format!("its status has seen a generation after {}", generation(new)));
        }
        let Some(old) = &change.old else { return Ok(()) };
        for field in FIXED {
            if old.pointer(field) != new.pointer(field) {
                return fail(format!(
                    "{field} changed from {:?} to {:?}",
                    old.pointer(field),
                    new.pointer(field)
                ));
            }
        }
        if generation(new) < generation(old) {
            return fail(format!("its generation fell from {} to {}", generation(old), generation(new)));
        }
        let spec_changed = old.get("spec") != new.get("spec");
        if spec_changed
            && generation(old) > 0
            && generation(new) == generation(old)
            && change.resource != "core/pods"
        {
            return fail("its spec changed, its generation did not".into());
        }
        let going = "/metadata/deletionTimestamp";
        if !text(old, going).is_empty()
            && (text(new, going).is_empty() || text(new, going) > text(old, going))
        {
            return fail(format!("its deletion moved from {} to {:?}", text(old, going), text(new, going)));
        }
        Ok(())
    }
}
