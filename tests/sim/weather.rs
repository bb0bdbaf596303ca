//! What goes wrong, how often. Each seed has a weather of its own: some kinds of trouble often, others never, so
//! that the rare combinations are met as well as the mixture of everything.
use crate::rng::Rng;
use parking_lot::Mutex;
use store::Faults;

/// In a thousand, each.
#[derive(Clone, Copy, Debug, Default)]
pub struct Weather {
    /// A request does not reach the API server.
    pub refused: u64,
    /// It is answered with 429, 500 or 503 and not carried out.
    pub error: u64,
    /// It is carried out and the answer is lost.
    pub lost: u64,
    /// It takes up to five seconds.
    pub slow: u64,
    /// A watch breaks before an event.
    pub cut: u64,
    /// An event of a watch comes twice.
    pub repeat: u64,
    /// An event of a watch comes late.
    pub lag: u64,
    /// A call of the runtime fails and did nothing.
    pub cri_error: u64,
    /// A call of the runtime is carried out and its answer lost.
    pub cri_lost: u64,
    /// A call of the runtime takes up to three seconds.
    pub cri_slow: u64,
    /// A process dies within the next effects of its own, per step of the workload.
    pub crash: u64,
    /// A node's machine has trouble, per step: rebooted, silent, its runtime away, its containers killed.
    pub node: u64,
    /// The store's history is compacted, per step.
    pub forgets: u64,
    pub store: StoreWeather,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct StoreWeather {
    pub refused: u16,
    pub lost_answer: u16,
    pub read_error: u16,
    pub slow: u16,
    pub broken_watch: u16,
}

impl StoreWeather {
    pub fn faults(self) -> Faults {
        Faults {
            refused: self.refused,
            lost_answer: self.lost_answer,
            read_error: self.read_error,
            slow: self.slow,
            broken_watch: self.broken_watch,
        }
    }
}

impl Weather {
    /// A seed's own.
    pub fn of(rng: &Rng) -> Self {
        // Every eighth seed is calm: what breaks there needs no fault at all.
        if rng.chance(125) {
            return Self::default();
        }
        let sometimes = |most: u64| if rng.chance(500) { rng.between(1, most) } else { 0 };
        Self {
            refused: sometimes(60),
            error: sometimes(60),
            lost: sometimes(60),
            slow: sometimes(40),
            cut: sometimes(60),
            repeat: sometimes(100),
            lag: sometimes(60),
            cri_error: sometimes(60),
            cri_lost: sometimes(60),
            cri_slow: sometimes(60),
            crash: sometimes(500),
            node: sometimes(300),
            forgets: sometimes(200),
            store: StoreWeather {
                refused: sometimes(40) as u16,
                lost_answer: sometimes(40) as u16,
                read_error: sometimes(20) as u16,
                slow: sometimes(30) as u16,
                broken_watch: sometimes(30) as u16,
            },
        }
    }
}

/// The weather now.
#[derive(Default)]
pub struct Sky(Mutex<Weather>);

impl Sky {
    pub fn is(&self) -> Weather {
        *self.0.lock()
    }
    pub fn becomes(&self, weather: Weather) {
        *self.0.lock() = weather;
    }
}
