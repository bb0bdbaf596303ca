//! Every limit of this crate, with where its number comes from.
use std::time::Duration;

/// Connections at once. Each may hold what lies in its buffers ([`MAX_OUTPUT_BYTES`], [`INPUT_BYTES`], one frame each
/// way), 2.5 MiB at worst: 128 are 320 MiB if all stall, and few if nobody does.
pub const MAX_CONNECTIONS: usize = 128;

/// URLs given out and not yet used. Each is some hundred bytes and a command line (at most what CRI's messages hold);
/// as many as could be used at once, twice.
pub const MAX_TOKENS: usize = 256;

/// How long a URL waits for its client; upstream's minute.
pub const TOKEN_LIFETIME: Duration = Duration::from_secs(60);

/// How long a connection on which no frame comes or goes is kept; upstream's `--streaming-connection-idle-timeout`.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(4 * 3600);

/// How long a client may take to send its request's head, and a SPDY client to open its streams (upstream's
/// `DefaultStreamCreationTimeout`).
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
pub const STREAMS_TIMEOUT: Duration = Duration::from_secs(30);

/// Request head, all lines together: a token's URL and the headers of an upgrade are below 1 KiB.
pub const MAX_HEAD_BYTES: usize = 16 << 10;

/// How long a client may take to close once everything was sent; whoever reads a terabyte from it has read it by then.
pub const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);

/// Output that waits for a slow client. From [`FULL_OUTPUT_BYTES`] on a command is asked to wait; one that writes on,
/// or a container's own output, which waits for nobody, loses the client at [`MAX_OUTPUT_BYTES`].
pub const FULL_OUTPUT_BYTES: usize = 256 << 10;
pub const MAX_OUTPUT_BYTES: usize = 1 << 20;

/// The same in pieces, for a program that writes byte by byte: each has some 80 bytes of bookkeeping, 1.3 MiB in all.
pub const MAX_PIECES: usize = 16 << 10;

/// The largest piece of output sent as one frame: what a pipe holds.
pub const MAX_PIECE_BYTES: usize = 64 << 10;

/// Input that lies between the client and a program that does not read: a pipe's size.
pub const INPUT_BYTES: usize = 64 << 10;
/// What may wait before that, in bytes and in frames: meanwhile the connection is read on, so that a client that leaves
/// is noticed.
pub const INPUT_QUEUE_BYTES: usize = 256 << 10;
pub const INPUT_QUEUE: usize = 1024;

/// The largest frame taken from a client. client-go sends 32 KiB at most.
pub const MAX_FRAME_BYTES: usize = 256 << 10;

/// What a tunnel carries at once, each way.
pub const TUNNEL_CHUNK: usize = 16 << 10;
/// How long a tunnel stands with one end closed: what is on its way still arrives.
pub const TUNNEL_LINGER: Duration = Duration::from_secs(30);

/// SPDY: streams a client may open; five are all there are.
pub const MAX_SPDY_STREAMS: usize = 8;
/// SPDY: the header block of one stream, after decompression. `streamtype: stdin` is all that is in it.
pub const MAX_SPDY_HEADER_BYTES: usize = 16 << 10;
/// SPDY: a control frame.
pub const MAX_SPDY_CONTROL_BYTES: usize = 16 << 10;

/// A terminal's size as JSON has some thirty bytes.
pub const MAX_RESIZE_BYTES: usize = 1 << 10;
