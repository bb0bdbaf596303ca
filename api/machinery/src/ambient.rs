//! Time and randomness, as values that are handed in. Whoever needs them takes an [`Ambient`]; a test hands in
//! a clock that follows tokio's paused time and a seeded generator.
use std::sync::Arc;

/// The time of day and a source of random numbers.
#[derive(Clone)]
pub struct Ambient {
    now: Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>,
    random: Arc<dyn Fn() -> u64 + Send + Sync>,
}

impl Ambient {
    /// Builds an ambient from its two sources.
    pub fn new(
        now: impl Fn() -> jiff::Timestamp + Send + Sync + 'static,
        random: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        Self { now: Arc::new(now), random: Arc::new(random) }
    }

    /// The time now (UTC).
    pub fn now(&self) -> jiff::Timestamp {
        (self.now)()
    }

    /// 64 random bits. Not for keys or tokens: use the operating system's generator there.
    pub fn random(&self) -> u64 {
        (self.random)()
    }

    /// `len` characters of the alphabet that Kubernetes uses for generated names: no vowels and nothing that
    /// reads like another character (apimachinery `util/rand`).
    pub fn suffix(&self, len: usize) -> String {
        const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        (0..len).map(|_| ALPHABET[(self.random() % ALPHABET.len() as u64) as usize] as char).collect()
    }

    /// A version 4 UUID, lower case with dashes (RFC 9562).
    pub fn uuid(&self) -> String {
        let (a, b) = (self.random(), self.random());
        format!(
            "{:08x}-{:04x}-4{:03x}-{:x}{:03x}-{:012x}",
            a >> 32,
            (a >> 16) & 0xffff,
            a & 0xfff,
            8 + (b >> 62),
            (b >> 48) & 0xfff,
            b & 0xffff_ffff_ffff
        )
    }
}

impl std::fmt::Debug for Ambient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ambient")
    }
}
