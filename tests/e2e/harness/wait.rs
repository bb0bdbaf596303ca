//! Waiting for a state, never for a time.
use std::time::{Duration, Instant};

/// How long anything on a cluster may take: two cores, several tests at once, a debug build.
pub const LONG: Duration = Duration::from_secs(90);

/// Between two looks. Short against what is waited for, long against what a look costs.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// Looks until `look` finds something; panics with `what` and the last word of `look` if it never does.
pub fn until<T>(what: &str, look: impl FnMut() -> Result<T, String>) -> T {
    within(LONG, what, look)
}

pub fn within<T>(limit: Duration, what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let start = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(last) if start.elapsed() > limit => {
                panic!("{what}: not so after {} s; last seen: {last}", limit.as_secs())
            }
            Err(_) => std::thread::sleep(LOOK_AGAIN),
        }
    }
}

/// `Ok` if `condition` holds, else what is seen.
pub fn holds(condition: bool, seen: impl Into<String>) -> Result<(), String> {
    if condition { Ok(()) } else { Err(seen.into()) }
}
