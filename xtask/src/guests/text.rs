//! WebAssembly text to a component, with no toolchain at all.
//!
//! The text is an ordinary core module whose imports and exports are named as the component model names them
//! (`wasi:http/types@0.2.0` · `[constructor]fields`); the WIT says what their types are.
use anyhow::{Context, Result};
use std::path::Path;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Makes a component of `wat` for the one world of the WIT package in `wit_dir` (its dependencies in `deps/`).
pub fn assemble(wat: &str, wit_dir: &Path) -> Result<Vec<u8>> {
    let mut module = wat::parse_str(wat).context("the text is not WebAssembly")?;
    let mut resolve = Resolve::default();
    let (package, _) =
        resolve.push_dir(wit_dir).with_context(|| format!("reading the WIT in {}", wit_dir.display()))?;
    let world = resolve.select_world(&[package], None).context("the WIT package has not one world")?;
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8)?;
    ComponentEncoder::default()
        .module(&module)?
        .validate(true)
        .encode()
        .context("the module does not fit its WIT world")
}
