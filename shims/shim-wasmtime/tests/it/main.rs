//! Real guests, from WebAssembly text, in the real shim.
mod commands;
mod exports;
mod http;
mod images;
mod sockets;
#[path = "../../../../xtask/src/guests/text.rs"]
mod text;
mod world;
