//! One change of one object, as watchers see it.
use crate::object;
use crate::selection::{Selection, Traits};
use bytes::{BufMut, Bytes, BytesMut};
use machinery::resource::Resource;
use machinery::status::Status;
use serde_json::{Value, json};
use std::sync::OnceLock;
use store::{Kv, Revision};

/// What a change is to a watcher; with a selector, an object that stops matching is DELETED.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Added,
    Modified,
    Deleted,
}

impl Kind {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// A change, parsed and encoded at most once however many watch it.
pub(crate) struct Event {
    pub(crate) revision: Revision,
    /// The row of the stored form.
    row: &'static Resource,
    key: String,
    /// The object now; `None` when it is gone.
    new: Option<Kv>,
    old: Option<Kv>,
    new_traits: OnceLock<Traits>,
    old_traits: OnceLock<Traits>,
    frames: [OnceLock<Bytes>; 3],
}

impl Event {
    /// `None` for the store's progress marks.
    pub(crate) fn new(row: &'static Resource, event: store::Event) -> Option<Self> {
        let (key, revision, new, old) = match event {
            store::Event::Put { kv, previous } => (kv.key.clone(), kv.mod_revision, Some(kv), previous),
            store::Event::Delete { key, revision, previous } => (key, revision, None, previous),
            store::Event::Progress(_) => return None,
        };
        Some(Self {
            revision,
            row,
            key,
            new,
            old,
            new_traits: OnceLock::new(),
            old_traits: OnceLock::new(),
            frames: Default::default(),
        })
    }

    /// About how many bytes it holds: both values, and each once more in a frame.
    pub(crate) fn weight(&self) -> usize {
        let of = |kv: &Option<Kv>| kv.as_ref().map_or(0, |kv| kv.value.len());
        2 * (of(&self.new) + of(&self.old)) + 256
    }

    /// What this change is to someone who selects with `selection`; `None` if it does not concern them.
    pub(crate) fn kind_for(
        &self,
        row: &'static Resource,
        selection: &Selection,
        namespace: &str,
    ) -> Option<Kind> {
        if !namespace.is_empty() && object::split_key(&object::prefix(self.row), &self.key).0 != namespace {
            return None;
        }
        let (is, was) = if selection.is_everything() {
            (self.new.is_some(), self.old.is_some())
        } else {
            let is = self.new.as_ref().is_some_and(|kv| self.matches(row, selection, kv, &self.new_traits));
            let was = self.old.as_ref().is_some_and(|kv| self.matches(row, selection, kv, &self.old_traits));
            (is, was)
        };
        match (was, is) {
            (false, true) => Some(Kind::Added),
            (true, true) => Some(Kind::Modified),
            (true, false) => Some(Kind::Deleted),
            // A delete whose old value is no longer known still happened.
            (false, false) if self.new.is_none() && self.old.is_none() => Some(Kind::Deleted),
            (false, false) => None,
        }
    }

    fn matches(
        &self,
        row: &'static Resource,
        selection: &Selection,
        kv: &Kv,
        traits: &OnceLock<Traits>,
    ) -> bool {
        let of = |row: &'static Resource| {
            object::decode(row, &kv.value, kv.mod_revision).map(|o| Traits::of(row, &o)).unwrap_or_default()
        };
        // The cached traits are those of the stored form; a row that converts looks at its own.
        if object::converts(row) {
            selection.matches(row, &of(row))
        } else {
            selection.matches(row, traits.get_or_init(|| of(row)))
        }
    }

    /// The bytes and revision of the object in an event of this kind.
    fn source(&self, kind: Kind) -> Option<&Kv> {
        match kind {
            Kind::Deleted => self.old.as_ref(),
            Kind::Added | Kind::Modified => self.new.as_ref(),
        }
    }

    /// The object of an event of this kind, always with this change's revision.
    pub(crate) fn object(&self, row: &'static Resource, kind: Kind) -> Result<Value, Status> {
        match self.source(kind) {
            Some(kv) => object::decode(row, &kv.value, self.revision),
            None => Ok(self.bare(row)),
        }
    }

    /// What is left of an object whose value is not known any more.
    fn bare(&self, row: &Resource) -> Value {
        let (namespace, name) = object::split_key(&object::prefix(self.row), &self.key);
        let mut object = json!({
            "apiVersion": row.api_version(), "kind": row.kind,
            "metadata": { "name": name, "resourceVersion": self.revision.to_string() },
        });
        if !namespace.is_empty() {
            object["metadata"]["namespace"] = json!(namespace);
        }
        object
    }

    /// The whole frame for clients of the stored form, made once.
    pub(crate) fn frame(&self, kind: Kind) -> Result<Bytes, Status> {
        let cell = &self.frames[kind as usize];
        if let Some(frame) = cell.get() {
            return Ok(frame.clone());
        }
        let object = match self.source(kind) {
            Some(kv) => object::encoded_at(self.row, &kv.value, self.revision)?,
            None => serde_json::to_vec(&self.bare(self.row)).map_err(Status::internal)?.into(),
        };
        Ok(cell.get_or_init(|| frame(kind.as_str(), &object)).clone())
    }
}

/// `{"type":"ADDED","object":…}` and a newline.
pub(crate) fn frame(kind: &str, object: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(object.len() + 40);
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    out.put_slice(object);
    out.put_slice(b"}\n");
    out.freeze()
}
