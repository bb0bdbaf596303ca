//! The API server through its in-process door, over the memory store, under a paused clock.
mod cluster;
mod crud;
mod deleting;
mod faults;
mod lists;
mod metrics;
mod patches;
mod refusals;
mod services;
mod subresources;
mod watches;
