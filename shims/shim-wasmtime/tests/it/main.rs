//! Real guests, from WebAssembly text, in the real shim.
mod capabilities;
mod commands;
mod components;
mod exports;
mod hostile;
mod http;
mod images;
mod sockets;
#[path = "../../../../xtask/src/guests/text.rs"]
mod text;
mod traces;
mod world;
