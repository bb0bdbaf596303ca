//! What must not happen, as it is found.
use std::cell::{Cell, RefCell};
use std::time::Instant;

/// More than anyone reads; the rest is counted.
const MAX_TOLD: usize = 200;

pub(crate) struct Faults {
    begun: Instant,
    told: RefCell<Vec<String>>,
    count: Cell<usize>,
}

impl Faults {
    pub(crate) fn new(begun: Instant) -> Self {
        Self { begun, told: RefCell::default(), count: Cell::new(0) }
    }

    pub(crate) fn add(&self, what: impl Into<String>) {
        let what = format!("{:8.1} s  {}", self.begun.elapsed().as_secs_f64(), what.into());
        self.count.set(self.count.get() + 1);
        if self.told.borrow().len() < MAX_TOLD {
            eprintln!("FAULT {what}");
            self.told.borrow_mut().push(what);
        }
    }

    pub(crate) fn begun(&self) -> Instant {
        self.begun
    }

    pub(crate) fn count(&self) -> usize {
        self.count.get()
    }

    pub(crate) fn told(&self) -> Vec<String> {
        self.told.borrow().clone()
    }
}
