//! The streaming server: where a command's or a container's standard streams are reached over one connection.
//!
//! Purpose: what CRI's Exec and Attach answer is a URL; this is who answers there. A client upgrades its connection to
//! WebSocket (`v5.channel.k8s.io`, `v4.channel.k8s.io`) or to SPDY/3.1 (`v4.channel.k8s.io`, as kubectl before 1.31
//! does), and gets standard input, output, error, the terminal's size and the end's Status through it.
//!
//! The servers between a client and this one, which pass an upgraded connection on, do so by [`tunnel`].
//!
//! Invariant: a URL works once and for a minute. A client may send anything and read nothing: it costs the memory of
//! one connection ([`limits`]), and only its own connection ends. This crate knows no container; what a command is
//! knows the [`Handler`].
//!
//! ```text
//!   Exec/Attach ──► Server::url ──► http://127.0.0.1:PORT/exec/TOKEN
//!   client ──upgrade──► server ──► websocket │ spdy ──► session ──► Handler (runs the command)
//!                                     stdin, sizes ──────────►
//!                                     ◄────────── Output (bounded) ◄── stdout, stderr
//!                                     ◄────────── Status, when it has ended
//! ```
#[cfg(test)]
mod example;
mod handler;
pub mod limits;
mod outcome;
mod output;
mod server;
mod session;
mod spdy;
mod terminal;
mod tokens;
mod tunnel;
mod websocket;

pub use handler::{Client, Handler, Request, Streams, Target};
pub use outcome::Outcome;
pub use output::{Channel, Output};
pub use server::{Full, Server};
pub use terminal::TerminalSize;
pub use tunnel::{handshake, tunnel};
