//! The past, from an undo log: each revision's entry names its key and what the key held before.
//!
//! Going backwards from the present and undoing entry by entry gives the state at any revision that is kept;
//! doing so while noting each step gives the events of a watch. So a value is written once when it is new and
//! once when it is replaced, never as a second copy.
use crate::{Event, Kv, Revision};
use std::collections::{BTreeMap, HashMap, VecDeque};

/// What one watcher is given of the past at a time, in keys and values: a part of the whole history of 64 MiB, and some
/// two hundred times what one revision of a pod takes, so that reading on is not the most of the work.
const MAX_REPLAY_BYTES: usize = 4 * 1024 * 1024;

/// What a watch begins with.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    /// Oldest first.
    pub events: VecDeque<Event>,
    /// There are more after these, and this watch has no more.
    pub cut: bool,
}

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

/// The oldest events of `prefix` in `(after, until]`, as many as [`MAX_REPLAY_BYTES`] allows and at least one. `current`
/// gives what a key holds now.
pub(crate) fn replay<E>(
    backwards: impl Iterator<Item = Result<Undo, E>>,
    mut current: impl FnMut(&str) -> Result<Option<Kv>, E>,
    prefix: &str,
    after: Revision,
    until: Revision,
) -> Result<Replay, E> {
    let mut states: HashMap<String, Option<Kv>> = HashMap::new();
    let (mut replay, mut bytes) = (Replay::default(), 0);
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
            let event = match now {
                Some(kv) => Event::Put { kv, previous: previous.clone() },
                None => Event::Delete { key: key.clone(), revision, previous: previous.clone() },
            };
            bytes += size(&event);
            replay.events.push_front(event);
            // The newest go, since the watcher must see the oldest first.
            while bytes > MAX_REPLAY_BYTES && replay.events.len() > 1 {
                bytes -= replay.events.pop_back().as_ref().map_or(0, size);
                replay.cut = true;
            }
        }
        states.insert(key, previous);
    }
    Ok(replay)
}

fn size(event: &Event) -> usize {
    let of = |kv: &Kv| kv.key.len() + kv.value.len();
    match event {
        Event::Put { kv, previous } => of(kv) + previous.as_ref().map_or(0, of),
        Event::Delete { key, previous, .. } => key.len() + previous.as_ref().map_or(0, of),
        Event::Progress(_) => 0,
    }
}
