//! How many files and sockets this process may have open.

/// Raises the limit to what the process may have at most. The usual soft limit is 1,024, for the sake of programs that
/// use select(2) (`systemd.exec(5)`, LimitNOFILE); every connection and every watch takes one.
pub(crate) fn raise_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is plain data that getrlimit fills in and setrlimit reads.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
}

/// How many it may have at most; 0 if that cannot be told.
pub(crate) fn limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is plain data that getrlimit fills in.
    let asked = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    if asked == 0 { limit.rlim_max } else { 0 }
}
