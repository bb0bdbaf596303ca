//! The system calls of a container whose pod asks for the runtime's own profile (`seccompProfile: RuntimeDefault`).
//!
//! A list of what is permitted: what it does not name is refused with EPERM. It permits what programs commonly need and
//! leaves out what acts on the whole machine (modules, mounts, clocks, namespaces, tracing of the kernel), as the
//! profiles of Docker and containerd do; their callers would need capabilities that no container here has.
use serde_json::{Value, json};

/// By what they are about. A name that the machine's libseccomp does not know is passed over.
#[rustfmt::skip]
const PERMITTED: [&[&str]; 12] = [
    // Files by descriptor.
    &[
        "close", "close_range", "copy_file_range", "dup", "dup2", "dup3", "fadvise64", "fadvise64_64", "fallocate",
        "fcntl", "fcntl64", "fdatasync", "flock", "fsync", "ftruncate", "ftruncate64", "ioctl", "_llseek", "lseek",
        "pread64", "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2", "read", "readahead", "readv", "sendfile",
        "sendfile64", "splice", "sync", "sync_file_range", "sync_file_range2", "syncfs", "tee", "vmsplice", "write",
        "writev", "cachestat",
    ],
    // Files by name.
    &[
        "access", "chdir", "chmod", "chown", "chown32", "chroot", "creat", "faccessat", "faccessat2", "fchdir",
        "fchmod", "fchmodat", "fchmodat2", "fchown", "fchown32", "fchownat", "fstat", "fstat64", "fstatat64",
        "fstatfs", "fstatfs64", "futimesat", "getcwd", "getdents", "getdents64", "lchown", "lchown32", "link",
        "linkat", "lstat", "lstat64", "mkdir", "mkdirat", "mknod", "mknodat", "name_to_handle_at", "newfstatat",
        "open", "openat", "openat2", "readlink", "readlinkat", "rename", "renameat", "renameat2", "rmdir", "stat",
        "stat64", "statfs", "statfs64", "statx", "symlink", "symlinkat", "truncate", "truncate64", "umask", "unlink",
        "unlinkat", "utime", "utimensat", "utimensat_time64", "utimes",
    ],
    // What is attached to files, and what is heard of them.
    &[
        "fgetxattr", "flistxattr", "fremovexattr", "fsetxattr", "getxattr", "getxattrat", "lgetxattr", "listxattr",
        "listxattrat", "llistxattr", "lremovexattr", "lsetxattr", "removexattr", "removexattrat", "setxattr",
        "setxattrat", "fanotify_mark", "inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch",
    ],
    // Memory.
    &[
        "brk", "madvise", "map_shadow_stack", "memfd_create", "memfd_secret", "mincore", "mlock", "mlock2",
        "mlockall", "mmap", "mmap2", "mprotect", "mremap", "mseal", "msync", "munlock", "munlockall", "munmap",
        "pkey_alloc", "pkey_free", "pkey_mprotect", "process_mrelease", "remap_file_pages",
    ],
    // Processes and threads. (clone is below.)
    &[
        "arch_prctl", "capget", "capset", "execve", "execveat", "exit", "exit_group", "fork", "get_robust_list",
        "get_thread_area", "getpgid", "getpgrp", "getpid", "getppid", "getpriority", "getrlimit", "getrusage",
        "getsid", "gettid", "kill", "modify_ldt", "pidfd_open", "pidfd_send_signal", "prctl", "prlimit64",
        "process_madvise", "process_vm_readv", "process_vm_writev", "ptrace", "rseq", "set_robust_list",
        "set_thread_area", "set_tid_address", "setpgid", "setpriority", "setrlimit", "setsid", "tgkill", "times",
        "tkill", "ugetrlimit", "uname", "vfork", "wait4", "waitid", "waitpid",
    ],
    // Users and groups.
    &[
        "getegid", "getegid32", "geteuid", "geteuid32", "getgid", "getgid32", "getgroups", "getgroups32", "getresgid",
        "getresgid32", "getresuid", "getresuid32", "getuid", "getuid32", "setfsgid", "setfsgid32", "setfsuid",
        "setfsuid32", "setgid", "setgid32", "setgroups", "setgroups32", "setregid", "setregid32", "setresgid",
        "setresgid32", "setresuid", "setresuid32", "setreuid", "setreuid32", "setuid", "setuid32",
    ],
    // Signals.
    &[
        "alarm", "pause", "restart_syscall", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo",
        "rt_sigreturn", "rt_sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64", "rt_tgsigqueueinfo",
        "sigaltstack", "signalfd", "signalfd4", "sigprocmask", "sigreturn",
    ],
    // Sleeping, waking, waiting for several.
    &[
        "clock_nanosleep", "clock_nanosleep_time64", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old",
        "epoll_pwait", "epoll_pwait2", "epoll_wait", "epoll_wait_old", "eventfd", "eventfd2", "futex",
        "futex_requeue", "futex_time64", "futex_wait", "futex_waitv", "futex_wake", "membarrier", "nanosleep",
        "_newselect", "poll", "ppoll", "ppoll_time64", "pselect6", "pselect6_time64", "sched_yield", "select",
    ],
    // Scheduling.
    &[
        "getcpu", "ioprio_get", "ioprio_set", "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity",
        "sched_getattr", "sched_getparam", "sched_getscheduler", "sched_rr_get_interval",
        "sched_rr_get_interval_time64", "sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler",
    ],
    // Time, and what there is to know.
    &[
        "adjtimex", "clock_adjtime", "clock_adjtime64", "clock_getres", "clock_getres_time64", "clock_gettime",
        "clock_gettime64", "getitimer", "getrandom", "gettimeofday", "setitimer", "sysinfo", "time", "timer_create",
        "timer_delete", "timer_getoverrun", "timer_gettime", "timer_gettime64", "timer_settime", "timer_settime64",
        "timerfd_create", "timerfd_gettime", "timerfd_gettime64", "timerfd_settime", "timerfd_settime64",
    ],
    // Other processes and machines. (socket is below.)
    &[
        "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen", "mq_getsetattr",
        "mq_notify", "mq_open", "mq_timedreceive", "mq_timedreceive_time64", "mq_timedsend", "mq_timedsend_time64",
        "mq_unlink", "msgctl", "msgget", "msgrcv", "msgsnd", "pipe", "pipe2", "recv", "recvfrom", "recvmmsg",
        "recvmmsg_time64", "recvmsg", "semctl", "semget", "semop", "semtimedop", "semtimedop_time64", "send",
        "sendmmsg", "sendmsg", "sendto", "setsockopt", "shmat", "shmctl", "shmdt", "shmget", "shutdown", "socketcall",
        "socketpair", "ipc",
    ],
    // Sandboxes within, and asynchronous files. (io_uring is not among them: too many ways out led through it.)
    &[
        "io_cancel", "io_destroy", "io_getevents", "io_pgetevents", "io_pgetevents_time64", "io_setup", "io_submit",
        "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self", "seccomp",
    ],
];

/// The bits of clone's first argument that make namespaces: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;
/// Sockets to the host of a virtual machine, past every network policy.
const AF_VSOCK: u64 = 40;
/// personality(2): Linux, Linux with the names of 2.6, a look at the current one; and the same with 32-bit's.
const PERSONALITIES: [u64; 5] = [0x0, 0x0002_0000, 0xffff_ffff, 0x8, 0x0002_0008];

const EPERM: u32 = 1;
/// For clone3, whose flags a filter cannot see: libraries try clone then.
const ENOSYS: u32 = 38;

/// The part `linux.seccomp` of a container's configuration.
pub(crate) fn default_profile() -> Value {
    let names: Vec<&str> = PERMITTED.iter().flat_map(|group| group.iter().copied()).collect();
    let allow = |names: Value, args: Value| json!({"names": names, "action": "SCMP_ACT_ALLOW", "args": args});
    let equal = |value: u64| json!([{"index": 0, "value": value, "op": "SCMP_CMP_EQ"}]);
    let mut calls = vec![
        allow(json!(names), json!([])),
        allow(
            json!(["clone"]),
            json!([{"index": 0, "value": CLONE_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]),
        ),
        allow(json!(["socket"]), json!([{"index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_NE"}])),
        json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}),
    ];
    calls.extend(PERSONALITIES.map(|value| allow(json!(["personality"]), equal(value))));
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": architectures(),
        "syscalls": calls,
    })
}

/// The machine's own and those its processors run besides.
fn architectures() -> &'static [&'static str] {
    match std::env::consts::ARCH {
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        // Empty is the machine's own.
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_acts_on_the_whole_machine_is_not_permitted_and_nothing_stands_twice() {
        let all: Vec<&str> = PERMITTED.iter().flat_map(|group| group.iter().copied()).collect();
        let unique: BTreeSet<&str> = all.iter().copied().collect();
        assert_eq!(all.len(), unique.len());
        for call in [
            "mount",
            "umount2",
            "pivot_root",
            "move_mount",
            "open_tree",
            "fsopen",
            "init_module",
            "finit_module",
            "delete_module",
            "kexec_load",
            "kexec_file_load",
            "reboot",
            "swapon",
            "swapoff",
            "unshare",
            "setns",
            "bpf",
            "perf_event_open",
            "userfaultfd",
            "keyctl",
            "add_key",
            "request_key",
            "open_by_handle_at",
            "io_uring_setup",
            "settimeofday",
            "clock_settime",
            "sethostname",
            "iopl",
            "ioperm",
            "acct",
            "quotactl",
            "syslog",
            "clone",
            "clone3",
            "socket",
            "personality",
        ] {
            assert!(!unique.contains(call), "{call}");
        }
    }
}
