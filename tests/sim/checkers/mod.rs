//! What must hold after every commit, whatever else goes wrong. Written against the API's meaning, not against our
//! code: none of them uses a line of the components'.
mod capacity;
mod identity;
mod jobs;
mod ownership;
mod pods;
mod replicas;
mod services;

use crate::state::{Change, State};

pub trait Checker {
    /// What it holds, as a sentence.
    fn invariant(&self) -> &'static str;
    /// Looks at one change, the state being what it was changed to.
    fn committed(&mut self, change: &Change, state: &State) -> Result<(), String>;
}

pub fn all() -> Vec<Box<dyn Checker + Send>> {
    vec![
        Box::new(identity::Identity),
        Box::new(pods::BoundOnce),
        Box::new(pods::EndsOnce),
        Box::new(pods::OwnContainers),
        Box::new(pods::StoppedFirst),
        Box::new(capacity::Capacity),
        Box::new(replicas::Surplus::default()),
        Box::new(ownership::Foreground::default()),
        Box::new(jobs::Counts::default()),
        Box::new(services::Addresses),
    ]
}

pub use capacity::overcommitted;
