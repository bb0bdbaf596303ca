//! Makes the operating system's random numbers repeatable in the simulation's thread.
//!
//! The standard library seeds every `HashMap` from `getrandom`, and tokio seeds the order in which `select!` looks
//! at its branches from such a map's hasher. Neither can be handed in, and both change the order of things. So this
//! program has a `getrandom` of its own, which the standard library finds before the C library's: a thread with a
//! seed gets that seed's numbers, every other thread the kernel's.
use std::cell::Cell;
use std::ffi::{c_uint, c_void};

thread_local! {
    static STATE: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From now on this thread's system randomness comes from `seed`. To be called before its first `HashMap`.
pub fn seed_this_thread(seed: u64) {
    STATE.set(Some(seed));
}

/// # Safety
/// As the C library's: `buffer` has room for `length` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn getrandom(buffer: *mut c_void, length: usize, flags: c_uint) -> isize {
    let Some(mut state) = STATE.try_with(Cell::get).ok().flatten() else {
        // SAFETY: the caller's promise is the system call's.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) as isize };
    };
    // SAFETY: the caller promises `length` bytes.
    let bytes = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for byte in bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        *byte = (state >> 56) as u8;
    }
    STATE.set(Some(state));
    length as isize
}

#[test]
fn hash_maps_of_a_seeded_thread_have_the_same_order_each_time() {
    use std::collections::HashSet;
    let order = |seed| {
        let thread = std::thread::spawn(move || {
            seed_this_thread(seed);
            (0..100).collect::<HashSet<u32>>().into_iter().collect::<Vec<_>>()
        });
        thread.join().unwrap()
    };
    assert_eq!(order(1), order(1));
    assert_ne!(order(1), order(2));
}
