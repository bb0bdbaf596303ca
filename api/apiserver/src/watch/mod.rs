//! Watches: one watch of the store for each resource, shared by everyone who watches that resource.
//!
//! ```text
//!   Store::watch(prefix) ──► Hub: ring of the last events, each encoded at most once
//!                              ▲ ▲ ▲   pulled, never pushed: a slow watcher holds nothing up and owns no buffer;
//!                              │ │ │   one that falls out of the ring reads the store's history instead, and
//!                           Watchers   one that falls out of that gets 410
//! ```
//! Invariant: a watcher sees every change of what it selects after its revision, once, in the order of revisions.
mod event;
mod hub;
mod stream;

pub(crate) use hub::Hubs;
pub(crate) use stream::watch;
