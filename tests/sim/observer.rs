//! Sees every commit the moment it happens, keeps the [`State`] and lets the checkers look at it.
use crate::checkers::{self, Checker};
use crate::journal::Journal;
use crate::state::{Change, Entry, PodRecord, State, Stored, split_key, text, uid};
use parking_lot::Mutex;
use serde_json::Value;
use std::sync::Arc;
use store::{Event, Kv};

pub struct Observer {
    pub journal: Arc<Journal>,
    inner: Mutex<Inner>,
}

struct Inner {
    state: State,
    checkers: Vec<Box<dyn Checker + Send>>,
}

impl Observer {
    pub fn new(journal: Arc<Journal>) -> Self {
        Self { journal, inner: Mutex::new(Inner { state: State::default(), checkers: checkers::all() }) }
    }

    /// Looks at the state, or notes something in it.
    pub fn with<R>(&self, look: impl FnOnce(&mut State) -> R) -> R {
        look(&mut self.inner.lock().state)
    }

    /// One event of the store.
    pub fn saw(&self, event: &Event) {
        if let Err((invariant, how)) = self.take_in(event) {
            self.journal.broke(invariant, how);
        }
    }

    fn take_in(&self, event: &Event) -> Result<(), (&'static str, String)> {
        let (key, revision, kv, previous) = match event {
            Event::Put { kv, previous } => (&kv.key, kv.mod_revision, Some(kv), previous),
            Event::Delete { key, revision, previous } => (key, *revision, None, previous),
            Event::Progress(_) => return Ok(()),
        };
        let written = kv.map_or(0, |kv| hash(&kv.value));
        self.journal.note(format_args!(
            "commit {revision} {} {key} {written:016x}",
            if kv.is_some() { "put" } else { "delete" }
        ));
        if let Some(kv) = kv {
            self.journal.detail(String::from_utf8_lossy(&kv.value));
        }
        let mut inner = self.inner.lock();
        let Inner { state, checkers } = &mut *inner;
        let change = apply(state, key, revision, kv, previous.as_ref())
            .map_err(|how| ("the store counts rightly", how))?;
        state.now = self.journal.now();
        let Some(mut change) = change else { return Ok(()) };
        change.at = state.now;
        for checker in checkers {
            checker.committed(&change, state).map_err(|how| (checker.invariant(), how))?;
        }
        Ok(())
    }
}

/// Brings the state to the event's, and checks that revisions rise by one and each key's own history fits.
fn apply(
    state: &mut State,
    key: &str,
    revision: u64,
    kv: Option<&Kv>,
    previous: Option<&Kv>,
) -> Result<Option<Change>, String> {
    if revision != state.head + 1 {
        return Err(format!("revision {revision} of {key} follows on {}", state.head));
    }
    state.head = revision;
    let old = state.objects.remove(key);
    if previous.map(|p| p.mod_revision) != old.as_ref().map(|o| o.revision) {
        return Err(format!(
            "{key} was at revision {:?} before {revision}, the event says {:?}",
            old.map(|o| o.revision),
            previous.map(|p| p.mod_revision)
        ));
    }
    let Some((resource, namespace, name)) = split_key(key) else { return Ok(None) };
    let mut new = None;
    if let Some(kv) = kv {
        let (created, version) = old.as_ref().map_or((revision, 1), |o| (o.created, o.version + 1));
        if (kv.create_revision, kv.version) != (created, version) {
            return Err(format!(
                "{key} has version {} of {}, not {version} of {created}",
                kv.version, kv.create_revision
            ));
        }
        let value: Value =
            serde_json::from_slice(&kv.value).map_err(|e| format!("{key} is not JSON: {e}"))?;
        let value = Arc::new(value);
        state.objects.insert(key.to_owned(), Stored { value: value.clone(), revision, created, version });
        new = Some(value);
    }
    let entry = Entry { revision, namespace: namespace.clone(), name: name.clone(), deleted: kv.is_none() };
    state.log.entry(resource.clone()).or_default().push(entry);
    let change =
        Change { revision, at: state.now, resource, namespace, name, old: old.map(|o| o.value), new };
    if change.resource == "core/pods" {
        note_pod(state, &change);
    }
    Ok(Some(change))
}

fn note_pod(state: &mut State, change: &Change) {
    let Some(pod) = change.new.as_ref().or(change.old.as_ref()) else { return };
    let record = state.pods.entry(uid(pod).to_owned()).or_insert_with(|| PodRecord {
        namespace: change.namespace.clone(),
        name: change.name.clone(),
        restart_policy: text(pod, "/spec/restartPolicy").to_owned(),
        ..PodRecord::default()
    });
    record.gone = change.new.is_none();
    let node = text(pod, "/spec/nodeName");
    if !node.is_empty() {
        record.node = Some(node.to_owned());
    }
}

fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3))
}
