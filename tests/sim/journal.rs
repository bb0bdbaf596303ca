//! What happened: a hash over all of it, the last lines of it, and the verdict.
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fmt::Display;
use std::io::Write;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Lines shown when an invariant breaks.
const LAST: usize = 120;

pub struct Journal {
    start: Instant,
    seed: u64,
    /// Cancelled when an invariant broke.
    pub broken: CancellationToken,
    state: Mutex<State>,
}

struct State {
    hash: u64,
    lines: u64,
    last: VecDeque<String>,
    step: u32,
    verdict: Option<String>,
    file: Option<std::fs::File>,
}

impl Journal {
    /// `DHOW_SIM_TRACE` names a file that gets every line.
    pub fn new(seed: u64) -> Self {
        let file = std::env::var_os("DHOW_SIM_TRACE")
            .map(|path| std::fs::File::create(path).expect("DHOW_SIM_TRACE"));
        let state = State {
            hash: 0xcbf2_9ce4_8422_2325,
            lines: 0,
            last: VecDeque::new(),
            step: 0,
            verdict: None,
            file,
        };
        Self { start: Instant::now(), seed, broken: CancellationToken::new(), state: Mutex::new(state) }
    }

    /// Since the run began, simulated.
    pub fn now(&self) -> Duration {
        self.start.elapsed()
    }

    pub fn note(&self, what: impl Display) {
        let line = format!("{:>10.3} {what}", self.now().as_secs_f64());
        let mut state = self.state.lock();
        state.hash =
            line.bytes().fold(state.hash, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
        state.lines += 1;
        if let Some(file) = &mut state.file {
            // A trace that cannot be written is no reason to end the run.
            let _ = writeln!(file, "{line}");
        }
        if state.last.len() == LAST {
            state.last.pop_front();
        }
        state.last.push_back(line);
    }

    /// More than is worth keeping, for the file alone.
    pub fn detail(&self, what: impl Display) {
        if let Some(file) = &mut self.state.lock().file {
            let _ = writeln!(file, "{:>10} {what}", "");
        }
    }

    /// The next step of the workload.
    pub fn step(&self, what: impl Display) {
        let step = {
            let mut state = self.state.lock();
            state.step += 1;
            state.step
        };
        self.note(format_args!("step {step}: {what}"));
    }

    /// An invariant does not hold. The first one counts; what follows is its consequence.
    pub fn broke(&self, invariant: &str, how: impl Display) {
        self.note(format_args!("BROKEN {invariant}: {how}"));
        let mut state = self.state.lock();
        if state.verdict.is_none() {
            state.verdict = Some(format!(
                "seed {} broke an invariant in step {}, {:.3} s into the run\n  {invariant}\n  {how}\n\
                 replay it with\n  DHOW_SIM_SEED={} cargo test -p tests --test sim -- --nocapture\n",
                self.seed,
                state.step,
                self.start.elapsed().as_secs_f64(),
                self.seed
            ));
        }
        self.broken.cancel();
    }

    /// What broke first, and the lines that led there.
    pub fn verdict(&self) -> Option<String> {
        let state = self.state.lock();
        let verdict = state.verdict.as_ref()?;
        let mut text = format!("{verdict}the last {} of {} lines:\n", state.last.len(), state.lines);
        for line in &state.last {
            text.push_str(line);
            text.push('\n');
        }
        Some(text)
    }

    /// Identifies everything that happened, and in which order.
    pub fn hash(&self) -> u64 {
        self.state.lock().hash
    }

    pub fn lines(&self) -> u64 {
        self.state.lock().lines
    }
}
