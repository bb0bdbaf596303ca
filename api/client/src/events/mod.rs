//! Events: what components tell people about objects.
//!
//! Invariant: telling never slows or fails the teller. Events wait in a bounded queue; what does not fit, or
//! repeats too often, is dropped and counted. Equal events become one object whose count rises.
mod correlator;
mod recorder;

pub use recorder::{EventType, Recorder};
