//! From a file to something that can be started: memory, then disk, then the compiler.
//!
//! Invariant: containers of one digest share one compiled program; one digest is compiled once at a time, and no
//! more compilations run than there are turns, of which one namespace never has all. Compiled code comes from the disk only through [`Sealed`].
use crate::Config;
use crate::compiler::{Compilers, compile_apart, compile_binary, read_binary};
use crate::form::Form;
use crate::guest::{ComponentState, ModuleState};
use crate::host::Host;
use crate::instance::HttpPre;
use crate::limits::MAX_CACHE_BYTES;
use crate::sealed::Sealed;
use parking_lot::Mutex;
use shim::Error;
use std::collections::HashMap;
use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use wasmtime::component::Component;
use wasmtime::{Engine, InstancePre, Module, Precompiled};
use wasmtime_wasi::{p2, p3};
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p3::bindings::ServicePre;

/// Changes when what is kept beside wasmtime's own format changes.
const CACHE_FORMAT: u32 = 1;

/// A program with all its imports resolved.
pub(crate) enum Program {
    Module(InstancePre<ModuleState>),
    Command(p2::bindings::CommandPre<ComponentState>),
    /// Of WASI 0.3.
    CommandP3(p3::bindings::CommandPre<ComponentState>),
    Http(HttpPre),
}

impl Program {
    /// What its instances are made from; `None` of a module.
    pub(crate) fn component(&self) -> Option<&wasmtime::component::InstancePre<ComponentState>> {
        match self {
            Self::Module(_) => None,
            Self::Command(pre) => Some(pre.instance_pre()),
            Self::CommandP3(pre) => Some(pre.instance_pre()),
            Self::Http(HttpPre::P2(pre)) => Some(pre.instance_pre()),
            Self::Http(HttpPre::P3(pre)) => Some(pre.instance_pre()),
        }
    }
}

pub(crate) struct Prepared {
    pub(crate) program: Program,
    /// The interfaces a component imports; of a module none.
    pub(crate) imports: Vec<String>,
    /// What the memories of one instance hold from the start.
    pub(crate) initial_bytes: u64,
}

enum Loaded {
    Module(Module),
    Component(Component),
}

/// One digest: locked while it is loaded or compiled.
type Slot = Arc<tokio::sync::Mutex<Weak<Prepared>>>;

pub(crate) struct CodeCache {
    sealed: Sealed,
    /// Engine version and settings, processor and system: what compiled code depends on beside its source.
    compatibility: String,
    /// The command that compiles in a process of its own; empty: this process does it.
    compiler: Vec<OsString>,
    known: Mutex<HashMap<String, Slot>>,
    compilers: Compilers,
    compile_cpu_seconds: u64,
}

impl CodeCache {
    pub(crate) fn open(config: &Config, engine: &Engine) -> Result<Self, Error> {
        let mut hasher = DefaultHasher::new();
        CACHE_FORMAT.hash(&mut hasher);
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            sealed: Sealed::open_dir(&config.cache_dir, MAX_CACHE_BYTES)?,
            compatibility: format!("{target}-{:016x}", hasher.finish()),
            compiler: config.compiler.clone(),
            compile_cpu_seconds: config.compile_cpu_seconds,
            known: Mutex::default(),
            compilers: Compilers::new(cores),
        })
    }

    /// Gives the program of a digest, ready to be instantiated. `tenant` is who wants it compiled if it must be;
    /// dropping the future ends a compilation that nobody else waits for.
    pub(crate) async fn prepare(
        &self,
        host: &Arc<Host>,
        path: &Path,
        digest: &str,
        tenant: &str,
    ) -> Result<Arc<Prepared>, Error> {
        let slot = self.slot(digest);
        let mut known = slot.lock().await;
        if let Some(prepared) = known.upgrade() {
            return Ok(prepared);
        }
        let stopped = |e: &dyn std::fmt::Display| Error::Unavailable(format!("loading {digest} failed: {e}"));
        let (of_task, digest_of_task) = (host.clone(), digest.to_owned());
        let sealed = tokio::task::spawn_blocking(move || {
            let loaded = of_task.code.load_sealed(&of_task.engine, &digest_of_task)?;
            loaded.map(|loaded| link(&of_task, loaded).map(Arc::new)).transpose()
        });
        let prepared = match sealed.await.map_err(|e| stopped(&e))?? {
            Some(prepared) => prepared,
            None => {
                // Only here: what is compiled already does not wait for others' compilations.
                let _turn = self.compilers.turn(tenant).await?;
                let apart = match self.compiler.is_empty() {
                    true => None,
                    false => Some(
                        compile_apart(&self.compiler, self.compile_cpu_seconds, path, digest, &self.sealed)
                            .await?,
                    ),
                };
                let (of_task, path, digest_of_task) = (host.clone(), path.to_owned(), digest.to_owned());
                let compiled = tokio::task::spawn_blocking(move || {
                    let (code, engine) = (&of_task.code, &of_task.engine);
                    let compiled = match apart {
                        Some(compiled) => form_of_compiled(compiled, &digest_of_task)?,
                        None => compile_binary(engine, &read_binary(&path, &digest_of_task)?)?,
                    };
                    let loaded = code.load_compiled(engine, compiled, &digest_of_task)?;
                    link(&of_task, loaded).map(Arc::new)
                });
                compiled.await.map_err(|e| stopped(&e))??
            }
        };
        *known = Arc::downgrade(&prepared);
        Ok(prepared)
    }

    fn slot(&self, digest: &str) -> Slot {
        let mut known = self.known.lock();
        // Every container that starts comes by here: forgetting the dead ones now keeps the map as small as the
        // set of live programs.
        known.retain(|_, slot| {
            Arc::strong_count(slot) > 1 || slot.try_lock().map_or(true, |program| program.strong_count() > 0)
        });
        known.entry(digest.to_owned()).or_default().clone()
    }

    /// The program as it was compiled before; `None` when it must be compiled.
    fn load_sealed(&self, engine: &Engine, digest: &str) -> Result<Option<Loaded>, Error> {
        let Some(file) = self.sealed.open(&cache_name(digest, &self.compatibility)?) else { return Ok(None) };
        match deserialize(engine, &file) {
            Ok(loaded) => Ok(Some(loaded)),
            // Compiling it again would make the same of it.
            Err(e) if is_too_large(&e) => Err(too_large(&e)),
            Err(e) => {
                tracing::warn!(%digest, error = %format!("{e:#}"), "compiled code is made anew");
                Ok(None)
            }
        }
    }

    fn load_compiled(
        &self,
        engine: &Engine,
        (form, compiled): (Form, Vec<u8>),
        digest: &str,
    ) -> Result<Loaded, Error> {
        let name = cache_name(digest, &self.compatibility)?;
        // Code that is mapped from a file can be dropped from memory when memory is short; so the fresh code is
        // used from the file too, where it could be written.
        let loaded = match self.sealed.put(&name, &compiled) {
            Ok(file) => deserialize(engine, &file),
            Err(e) => {
                tracing::warn!(%digest, error = %e, "compiled code could not be kept; it will be compiled again");
                // SAFETY: these bytes are what the engine has just made.
                match form {
                    Form::Module => unsafe { Module::deserialize(engine, &compiled) }.map(Loaded::Module),
                    Form::Component => {
                        unsafe { Component::deserialize(engine, &compiled) }.map(Loaded::Component)
                    }
                }
            }
        };
        drop(compiled);
        return_free_memory();
        loaded.map_err(|e| match is_too_large(&e) {
            true => too_large(&e),
            false => Error::Unavailable(format!("loading the compiled code of {digest} failed: {e:#}")),
        })
    }
}

fn form_of_compiled(compiled: Vec<u8>, digest: &str) -> Result<(Form, Vec<u8>), Error> {
    match Engine::detect_precompiled(&compiled) {
        Some(Precompiled::Module) => Ok((Form::Module, compiled)),
        Some(Precompiled::Component) => Ok((Form::Component, compiled)),
        None => Err(Error::Unavailable(format!("the compiler made nothing usable of {digest}"))),
    }
}

/// Whether a program asks for more memories, tables or instances than the pool gives to one. wasmtime has no type for
/// that error; a test holds these words.
fn is_too_large(error: &wasmtime::Error) -> bool {
    error.chain().any(|cause| cause.to_string().contains("pooling allocator"))
}

fn too_large(error: &wasmtime::Error) -> Error {
    Error::InvalidImage(format!(
        "the WebAssembly binary asks for more than one instance gets here: {error:#}"
    ))
}

/// The compiler leaves hundreds of megabytes in the allocator's free lists; a node wants them back.
fn return_free_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes no pointers and may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn cache_name(digest: &str, compatibility: &str) -> Result<String, Error> {
    let plain = digest.replace(':', "-");
    let safe = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if plain.is_empty() || plain.len() > 150 || !plain.chars().all(safe) {
        return Err(Error::InvalidImage(format!("{digest:?} is not a digest")));
    }
    Ok(format!("{plain}.{compatibility}"))
}

fn deserialize(engine: &Engine, file: &PathBuf) -> wasmtime::Result<Loaded> {
    // SAFETY: `Sealed` has verified that this node wrote these bytes, and nobody else may write in its directory.
    unsafe {
        match Engine::detect_precompiled_file(file)? {
            Some(Precompiled::Module) => Module::deserialize_file(engine, file).map(Loaded::Module),
            Some(Precompiled::Component) => Component::deserialize_file(engine, file).map(Loaded::Component),
            None => Err(wasmtime::format_err!("not compiled code")),
        }
    }
}

fn link(host: &Host, loaded: Loaded) -> Result<Prepared, Error> {
    match loaded {
        Loaded::Module(module) => {
            let pre = host.modules.instantiate_pre(&module).map_err(|e| explain_module_import(&e))?;
            if module.get_export("_start").is_none() {
                return Err(Error::InvalidImage(
                    "the WebAssembly module exports no _start: it is a library, not a program".to_owned(),
                ));
            }
            let needs = module.resources_required();
            let initial_bytes = u64::from(needs.num_memories) * needs.max_initial_memory_size.unwrap_or(0);
            Ok(Prepared { program: Program::Module(pre), imports: Vec::new(), initial_bytes })
        }
        Loaded::Component(component) => {
            let ty = component.component_type();
            let exports: Vec<&str> = ty.exports(&host.engine).map(|(name, _)| name).collect();
            let kind = component_kind(&exports)?;
            let imports: Vec<String> = ty.imports(&host.engine).map(|(name, _)| name.to_owned()).collect();
            let pre = host
                .components
                .instantiate_pre(&component)
                .map_err(|e| explain_component_import(&imports, &e))?;
            let needs = component.resources_required();
            let initial_bytes = needs.map_or(0, |needs| {
                u64::from(needs.num_memories) * needs.max_initial_memory_size.unwrap_or(0)
            });
            let invalid = |e: wasmtime::Error| Error::InvalidImage(format!("the component's exports: {e:#}"));
            let program = match kind {
                ComponentKind::HttpP3 => Program::Http(HttpPre::P3(ServicePre::new(pre).map_err(invalid)?)),
                ComponentKind::Http => Program::Http(HttpPre::P2(ProxyPre::new(pre).map_err(invalid)?)),
                ComponentKind::CommandP3 => {
                    Program::CommandP3(p3::bindings::CommandPre::new(pre).map_err(invalid)?)
                }
                ComponentKind::Command => {
                    Program::Command(p2::bindings::CommandPre::new(pre).map_err(invalid)?)
                }
            };
            Ok(Prepared { program, imports, initial_bytes })
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ComponentKind {
    HttpP3,
    Http,
    CommandP3,
    Command,
}

/// What a component is, from its exports: a server before a command, and the newer WASI before the older.
const KINDS: [(&str, &str, ComponentKind); 4] = [
    ("wasi:http/handler", "0.3", ComponentKind::HttpP3),
    ("wasi:http/incoming-handler", "0.2", ComponentKind::Http),
    ("wasi:cli/run", "0.3", ComponentKind::CommandP3),
    ("wasi:cli/run", "0.2", ComponentKind::Command),
];

fn component_kind(exports: &[&str]) -> Result<ComponentKind, Error> {
    let exported = |interface: &str, series: &str| {
        exports.iter().filter_map(|name| name.split_once('@')).any(|(name, version)| {
            name == interface && version.strip_prefix(series).is_some_and(|rest| rest.starts_with('.'))
        })
    };
    if let Some((_, _, kind)) = KINDS.iter().find(|(interface, series, _)| exported(interface, series)) {
        return Ok(*kind);
    }
    let has = if exports.is_empty() { "nothing".to_owned() } else { exports.join(", ") };
    Err(Error::InvalidImage(format!(
        "the component exports {has}, but neither wasi:http/handler of WASI 0.3 nor wasi:http/incoming-handler of 0.2 \
         (a server), nor wasi:cli/run of either (a command)"
    )))
}

fn explain_module_import(error: &wasmtime::Error) -> Error {
    Error::InvalidImage(match error.downcast_ref::<wasmtime::UnknownImportError>() {
        Some(unknown) => format!(
            "the WebAssembly module imports {}::{}, which this node does not offer",
            unknown.module(),
            unknown.name()
        ),
        None => format!("the WebAssembly module does not fit this node: {error:#}"),
    })
}

fn explain_component_import(imports: &[String], error: &wasmtime::Error) -> Error {
    let text = format!("{error:#}");
    let import = imports.iter().find(|name| text.contains(&format!("`{name}`")));
    Error::InvalidImage(match import {
        Some(import) if text.contains("not found in the linker") => {
            format!("the component imports {import}, which this node does not offer")
        }
        Some(import) => format!("the component imports {import} in a form this node does not offer: {text}"),
        None => format!("the component does not fit this node: {text}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_component_is_a_server_before_it_is_a_command() {
        let kind = |exports: &[&str]| component_kind(exports);
        assert_eq!(
            kind(&["wasi:cli/run@0.2.0", "wasi:http/incoming-handler@0.2.6"]).unwrap(),
            ComponentKind::Http
        );
        assert_eq!(kind(&["wasi:cli/run@0.2.3"]).unwrap(), ComponentKind::Command);
        assert_eq!(kind(&["wasi:cli/run@0.3.0"]).unwrap(), ComponentKind::CommandP3);
        assert_eq!(
            kind(&["wasi:http/incoming-handler@0.2.6", "wasi:http/handler@0.3.0"]).unwrap(),
            ComponentKind::HttpP3
        );
        assert!(kind(&["wasi:http/handler@0.30.0"]).is_err());
        let error = kind(&["foo:bar/baz"]).unwrap_err().to_string();
        assert!(error.contains("exports foo:bar/baz, but neither"), "{error}");
    }

    #[test]
    fn a_digest_that_could_leave_the_cache_is_refused() {
        assert!(cache_name("sha256:ab12", "x").is_ok());
        assert!(cache_name("../../etc/passwd", "x").is_err());
        assert!(cache_name("", "x").is_err());
    }
}
