//! Every limit of this shim, with where its number comes from.
use std::time::Duration;

/// How often running guests are interrupted so that others get their turn. Ten milliseconds is the lower end of
/// what costs nothing measurable; a killed guest is gone after at most one tick of its own running time.
pub const EPOCH_TICK: Duration = Duration::from_millis(10);

/// CPU time below which a turn does not end: half a tick, so that a guest had at most one and a half of them when it is
/// interrupted, and what passing turns on costs stays below a hundredth.
pub const MIN_TURN: Duration = Duration::from_millis(5);

/// Instances alive at once. Each used slot of the pool costs up to seven mappings (stack and its guard, memory,
/// its image and its guard, tables) and `vm.max_map_count` is 65530 by default: 4,000 leave half of them to code,
/// files and threads. Idle http containers hold no instance, so this bounds running work, not containers.
pub const MAX_INSTANCES: u32 = 4_000;

/// A smaller pool is not worth having: instances are then allocated one by one.
pub const MIN_INSTANCES: u32 = 16;

/// What compiling one program may take: ten times what the largest known ones (JavaScript and Python, 13 and 18 MB) take.
pub const COMPILE_CPU_SECONDS: u64 = 120;
pub const COMPILE_MEMORY_BYTES: u64 = 4 << 30;
/// By the clock, for a node so busy that the CPU time does not pass: five times that.
pub const COMPILE_WALL_TIME: Duration = Duration::from_secs(600);
/// What may come of it: four times the largest binary.
pub const MAX_COMPILED_BYTES: u64 = 4 * MAX_BINARY_BYTES;
/// CPU time after which a compilation gives way to all others: three times what a small Rust function takes, so that on a
/// busy node a new version of one still runs within a second.
pub const COMPILE_BURST: Duration = Duration::from_millis(300);
/// How much later than all others the kernel lets it run from then on (`nice(2)`): with ten, a tenth of a busy core.
pub const COMPILE_NICENESS: i32 = 10;

/// Bytes of a linear memory that are cleared and kept instead of given back after use. With 2 MiB (and
/// [`TABLE_KEEP_RESIDENT`]) `wasmtime serve` answered 18.1k requests/s where it answered 9.5k with the default of
/// none: most programs touch less than that, and page faults were 70 % of the cost.
pub const MEMORY_KEEP_RESIDENT: usize = 2 << 20;
/// The same for tables.
pub const TABLE_KEEP_RESIDENT: usize = 512 << 10;

/// The largest binary that is compiled. A Python application is 18 MB and takes 3 s; 128 MiB would take half a
/// minute and about 250 MB of code. Beyond that a compile is an attack on the node.
pub const MAX_BINARY_BYTES: u64 = 128 << 20;

/// How much compiled code is kept on disk: some two thousand ordinary programs, or thirty of the largest.
pub const MAX_CACHE_BYTES: u64 = 1 << 30;

/// Requests one http container works on at once. Two cores finish ~18k requests/s at ~0.1 ms each, so a queue of
/// 256 running instances only builds up when guests wait for others; each may hold a memory.
pub const MAX_CONCURRENT_REQUESTS: usize = 256;

/// Connections to one http container. The usual hard limit is 20,000 descriptors for the process, so one
/// container can take a twentieth of them.
pub const MAX_CONNECTIONS: usize = 1_024;

/// Streams one HTTP/2 client may have open: what browsers and gRPC expect to be allowed at least.
pub const MAX_STREAMS_PER_CONNECTION: u32 = 100;

/// Request head, all lines together: twice what nginx takes by default (four buffers of 8 KiB).
pub const MAX_HEADER_BYTES: usize = 64 << 10;

/// Header lines of one request.
pub const MAX_HEADERS: usize = 128;

/// Body of one request. It is streamed, never held; this only ends uploads nobody meant. Annotation
/// [`MAX_BODY_ANNOTATION`] sets another.
pub const MAX_BODY_BYTES: u64 = 64 << 20;
pub const MAX_BODY_ANNOTATION: &str = "dhow.dev/max-request-body";

/// How long after SIGTERM a server goes on as before while nobody comes: until then the node's gateway and proxies have
/// heard that it goes. Seen were 10 to 60 ms.
pub const ENDPOINT_SETTLE: Duration = Duration::from_millis(100);
/// The same while connections are open or made: their peers learn by each answer that it is the last.
pub const MAX_LINGER: Duration = Duration::from_secs(1);

/// Whether each line that a container writes while it serves a request begins with the request's trace.
pub const LOG_TRACE_ANNOTATION: &str = "dhow.dev/log-trace-id";

/// How long a new connection may take until its first request's head has arrived.
pub const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a client may take to send a later request's head, the wait on an idle connection included.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// How often a quiet HTTP/2 client is asked whether it is still there, and how long it may take to say so.
pub const PING_INTERVAL: Duration = Duration::from_secs(20);

/// How long sent bytes may stay unacknowledged: what a client that stopped reading costs us.
pub const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// How long one request may take, the sending of its response by the guest included. Annotation
/// [`TIMEOUT_ANNOTATION`] sets another, up to [`MAX_REQUEST_TIMEOUT`].
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
pub const MAX_REQUEST_TIMEOUT: Duration = Duration::from_secs(3600);
pub const TIMEOUT_ANNOTATION: &str = "dhow.dev/timeout";

/// How many requests one instance of an http container may serve, where the pod's annotation permits more than the one
/// that is the rule: at ten thousand a new instance costs nothing any more, and what a guest leaks still has an end.
pub const MAX_INSTANCE_REUSE: u32 = 10_000;
pub const INSTANCE_REUSE_ANNOTATION: &str = "dhow.dev/instance-reuse";

/// How long an instance waits for its next request: long enough for one request a second to find it, short enough that
/// a container without requests soon holds nothing.
pub const REUSE_IDLE: Duration = Duration::from_secs(5);

/// Calls of a container's exported functions (`kubectl exec`) at once: people and probes, not traffic.
pub const MAX_EXECS: usize = 16;
/// How long one of them may take when its caller names no time.
pub const MAX_EXEC_TIME: Duration = Duration::from_secs(3600);

/// How long a new outgoing connection may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an outgoing request may wait for its response's head when the guest asks for no other.
pub const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(60);
/// Idle outgoing connections one container keeps to one destination.
pub const MAX_IDLE_OUTGOING: usize = 16;

/// Files, directories, sockets, streams and requests that one instance holds at once. Each may be a descriptor, and all
/// guests share those of one process, 20,000 as a rule: what one of them takes its neighbours cannot have. 1,024 is what
/// a Linux process may open unless it asks for more.
pub const MAX_RESOURCES: usize = 1_024;

/// Memories and tables of one core module. LLVM and Go make one of each, reference types a second table; the pool is
/// shared, so more than a few would take what other instances need.
pub const MAX_MEMORIES_PER_MODULE: u32 = 4;
pub const MAX_TABLES_PER_MODULE: u32 = 8;

/// The same for all modules of a component together: ten programs composed into one have a memory and two tables each,
/// and four core instances.
pub const MAX_MEMORIES_PER_COMPONENT: u32 = 16;
pub const MAX_TABLES_PER_COMPONENT: u32 = 64;
pub const MAX_CORE_INSTANCES_PER_COMPONENT: u32 = 128;

/// Bytes a guest may write to an output stream in one call; what a pipe holds.
pub const OUTPUT_CHUNK: usize = 64 << 10;

/// The longest [`shim::Exit::message`]: what Kubernetes keeps of a termination message.
pub const MAX_MESSAGE_BYTES: usize = 4096;

/// Keys of one `wasi:config` source, and the longest value: what a ConfigMap may hold in all (1 MiB, with short keys).
pub const MAX_CONFIG_KEYS: usize = 10_000;
pub const MAX_CONFIG_VALUE_BYTES: u64 = 1 << 20;

/// `wasi:keyvalue`: the longest key, as a URL or a path of a file system may be; the longest value, NATS' and etcd's
/// order of magnitude; what one call may name and carry, so that 256 requests at work hold no more than 2 GiB.
pub const MAX_KEY_BYTES: usize = 1 << 10;
pub const MAX_VALUE_BYTES: usize = 1 << 20;
pub const MAX_BATCH_KEYS: usize = 1_000;
pub const MAX_BATCH_BYTES: usize = 8 << 20;
/// Keys in one answer of list-keys.
pub const PAGE_KEYS: usize = 1_000;
/// Buckets of one container: each Redis among them is a connection.
pub const MAX_BUCKETS: usize = 16;
/// What the embedded stores of one namespace hold on a node: a thousand namespaces fill 64 GiB. The walk of list-keys
/// over so many keys takes tens of milliseconds.
pub const MAX_NAMESPACE_BYTES: u64 = 64 << 20;
pub const MAX_NAMESPACE_KEYS: u64 = 100_000;
/// Pages of one namespace's file kept in memory: a thousand open ones take a gigabyte at worst.
pub const KEYVALUE_CACHE_BYTES: usize = 1 << 20;
/// How long one command of a Redis may take.
pub const REDIS_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes a second that a container may write to its log, and how many at once before that counts. The log keeps 50 MiB,
/// so a flood turns it over in ten seconds; a burst is what a start-up or a dump prints. Annotation
/// [`LOG_RATE_ANNOTATION`] sets another rate.
pub const LOG_BYTES_PER_SECOND: u64 = 4 << 20;
pub const LOG_BURST_BYTES: u64 = 8 << 20;
pub const LOG_RATE_ANNOTATION: &str = "dhow.dev/log-bytes-per-second";
/// Less would hold a single line for minutes.
pub const MIN_LOG_BYTES_PER_SECOND: u64 = 1 << 10;

/// CPU time that one call may take at a stretch before it goes to the background: more than an ordinary request takes
/// in all, less than anyone waiting behind it would notice.
pub const FOREGROUND_BURST: Duration = Duration::from_millis(5);

/// How much later than calls that just began the kernel lets those run that compute (`nice(2)`): with fifteen they keep
/// a thirtieth of a busy core. With ten, a tenth, the slowest hundredth of a neighbour's requests took 1.6 times as
/// long; with the least the kernel gives (`SCHED_IDLE`) a guest that computes beside Linux processes stands still.
pub const BACKGROUND_NICENESS: i32 = 15;

/// Over how long it is looked who takes more than its share: the kernel's own period for CPU quotas.
pub const SHARE_WINDOW: Duration = Duration::from_millis(100);
/// Below that much of all cores in use there is enough for everybody.
pub const BUSY_PERCENT: u32 = 85;

/// CPU time of one request: a third of the time it has at most, for a guest that computes all the while is a mistake.
/// Annotation [`REQUEST_CPU_ANNOTATION`] sets another.
pub const REQUEST_CPU_ANNOTATION: &str = "dhow.dev/request-cpu";

/// Bytes that one call of a component may hand to the host: twice the largest batch of `wasi:keyvalue`. It is copied
/// here before anybody looks at it, and 256 requests may call at once.
pub const HOSTCALL_BYTES: usize = 16 << 20;
/// Random bytes in one call; they too are made here first.
pub const MAX_RANDOM_BYTES: u64 = 1 << 20;

/// Requests of one http container at once, if fewer than its memory limit has room for.
pub const CONCURRENCY_ANNOTATION: &str = "dhow.dev/concurrency";

/// Bytes of one response's body; without it only the request's time bounds them.
pub const MAX_RESPONSE_ANNOTATION: &str = "dhow.dev/max-response-body";

/// Requests of one http container that end for want of memory with none answered between them, before the container
/// itself is ended so (`OOMKilled`) and started anew: enough that a single client's large requests do not do it in the
/// midst of others', few enough to be noticed.
pub const MAX_EXHAUSTIONS: u32 = 10;
