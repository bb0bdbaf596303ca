//! How many files and sockets this process may have open.

/// What a node of the most pods needs: ten thousand of them listen on several ports each, and are talked to. Linux
/// gives no process more by default (`fs.nr_open`).
const WANTED: u64 = 1 << 20;

/// Raises the limit to [`WANTED`] where this process may (root), otherwise to what it may have at most. The usual soft
/// limit is 1,024, for the sake of programs that use select(2) (`systemd.exec(5)`, LimitNOFILE); every connection and
/// every watch takes one.
pub(crate) fn raise_limit() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is plain data that getrlimit fills in and setrlimit reads.
    unsafe {
        let more = libc::rlimit { rlim_cur: WANTED, rlim_max: WANTED };
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) != 0
            || limit.rlim_max < WANTED && libc::setrlimit(libc::RLIMIT_NOFILE, &more) == 0
        {
            return;
        }
        if limit.rlim_cur < limit.rlim_max {
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
