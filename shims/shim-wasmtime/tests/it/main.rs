//! Real guests, from WebAssembly text, in the real shim.
mod commands;
mod http;
mod images;
#[path = "../../../../xtask/src/guests/text.rs"]
mod text;
mod world;
