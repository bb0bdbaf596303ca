//! The past, from an undo log: each revision's entry names its key and what the key held before.
//!
//! Going backwards from the present and undoing entry by entry gives the state at any revision that is kept;
//! doing so while noting each step gives the events of a watch. So a value is written once when it is new and
//! once when it is replaced, never as a second copy.
use crate::{Event, Kv, Revision};
use std::collections::{BTreeMap, HashMap};

/// One entry of the undo log.
#[derive(Clone, Debug)]
pub(crate) struct Undo {
    pub revision: Revision,
    pub key: String,
    pub previous: Option<Kv>,
}

/// What the keys of `prefix` that changed after `at` held at `at`. `backwards` yields entries newest first.
pub(crate) fn overlay<E>(
    backwards: impl Iterator<Item = Result<Undo, E>>,
    prefix: &str,
    at: Revision,
) -> Result<BTreeMap<String, Option<Kv>>, E> {
    let mut states = BTreeMap::new();
    for undo in backwards {
        let undo = undo?;
        if undo.revision <= at {
            break;
        }
        if undo.key.starts_with(prefix) {
            states.insert(undo.key, undo.previous);
        }
    }
    Ok(states)
}

/// The events of `prefix` in `(after, until]`, oldest first. `current` gives what a key holds now.
pub(crate) fn replay<E>(
    backwards: impl Iterator<Item = Result<Undo, E>>,
    mut current: impl FnMut(&str) -> Result<Option<Kv>, E>,
    prefix: &str,
    after: Revision,
    until: Revision,
) -> Result<Vec<Event>, E> {
    let mut states: HashMap<String, Option<Kv>> = HashMap::new();
    let mut events = Vec::new();
    for undo in backwards {
        let Undo { revision, key, previous } = undo?;
        if revision <= after {
            break;
        }
        if !key.starts_with(prefix) {
            continue;
        }
        let now = match states.get_mut(&key) {
            Some(state) => state.take(),
            None => current(&key)?,
        };
        if revision <= until {
            events.push(match now {
                Some(kv) => Event::Put { kv, previous: previous.clone() },
                None => Event::Delete { key: key.clone(), revision, previous: previous.clone() },
            });
        }
        states.insert(key, previous);
    }
    events.reverse();
    Ok(events)
}
