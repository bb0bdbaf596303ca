//! `wasi:config/store`: the keys of mounted ConfigMaps and Secrets, read when they are asked for.
//!
//! The pod says which volumes: `config.dhow.dev/<container>: /etc/app, /etc/app-secrets`, mount paths, of which the
//! later ones win. A change of the ConfigMap is seen as soon as the kubelet has written it.
use super::{Access, Capability, Granted, HasAccess, Wanted, beneath};
use crate::guest::ComponentState;
use crate::limits::{MAX_CONFIG_KEYS, MAX_CONFIG_VALUE_BYTES};
use bindings::wasi::config::store;
use shim::{Error, Mount};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use wasmtime::component::Linker;

mod bindings {
    wasmtime::component::bindgen!({
        inline: r#"
            package dhow:config;
            world imports { import wasi:config/store@0.2.0-rc.1; }
            package wasi:config@0.2.0-rc.1 {
                interface store {
                    variant error { upstream(string), io(string) }
                    get: func(key: string) -> result<option<string>, error>;
                    get-all: func() -> result<list<tuple<string, string>>, error>;
                }
            }
        "#,
        world: "dhow:config/imports",
        imports: { default: async | trappable },
    });
}

pub(crate) struct ConfigStore;

impl Capability for ConfigStore {
    fn imports(&self) -> &'static [&'static str] {
        &["wasi:config/store@0.2.0-rc.1"]
    }

    fn link(&self, linker: &mut Linker<ComponentState>) -> wasmtime::Result<()> {
        store::add_to_linker::<_, HasAccess>(linker, ComponentState::access)
    }

    fn grant(&self, wanted: &Wanted<'_>, granted: &mut Granted) -> Result<(), Error> {
        let (key, value) = wanted.annotation("config");
        let Some(value) = value else {
            return Err(wanted.invalid(format_args!(
                "the component imports wasi:config/store, and the pod names no source for it; mount a ConfigMap or \
                 Secret and annotate the pod with {key}: <its mountPath>"
            )));
        };
        let mut directories = Vec::new();
        for path in value.split(',').map(str::trim) {
            let mount = wanted.mount_at(path).ok_or_else(|| {
                wanted.invalid(format_args!(
                    "annotation {key} names {path:?}, where container {} mounts no volume; mount a ConfigMap or \
                     Secret there",
                    wanted.container
                ))
            })?;
            directories.push(mount.clone());
        }
        granted.config = Some(Values(directories.into()));
        Ok(())
    }
}

/// Where a container's values lie; the later ones win.
pub(crate) struct Values(Arc<[Mount]>);

/// What a key of a ConfigMap may be called; anything else is not there.
fn is_key(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= 253 && !name.starts_with("..") && name.chars().all(allowed)
}

fn read_value(directory: &std::path::Path, key: &str) -> io::Result<Option<String>> {
    let Some(bytes) = beneath::read(directory, key, MAX_CONFIG_VALUE_BYTES)? else { return Ok(None) };
    let text = String::from_utf8(bytes);
    text.map(Some).map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidData, format!("the value of {key} is not UTF-8 text"))
    })
}

fn get(directories: &[PathBuf], key: &str) -> io::Result<Option<String>> {
    if !is_key(key) {
        return Ok(None);
    }
    for directory in directories.iter().rev() {
        if let Some(value) = read_value(directory, key)? {
            return Ok(Some(value));
        }
    }
    Ok(None)
}

fn get_all(directories: &[PathBuf]) -> io::Result<Vec<(String, String)>> {
    let mut all = BTreeMap::new();
    for directory in directories {
        for entry in std::fs::read_dir(directory)? {
            let name = entry?.file_name();
            let Some(key) = name.to_str().filter(|key| is_key(key)) else { continue };
            // Folders of a volume that is no ConfigMap are not its keys.
            if let Ok(Some(value)) = read_value(directory, key) {
                all.insert(key.to_owned(), value);
            }
            if all.len() > MAX_CONFIG_KEYS {
                return Err(io::Error::other(format!("there are more than {MAX_CONFIG_KEYS} keys")));
            }
        }
    }
    Ok(all.into_iter().collect())
}

impl Access<'_> {
    async fn read_config<T: Send + 'static>(
        &mut self,
        read: impl FnOnce(&[PathBuf]) -> io::Result<T> + Send + 'static,
    ) -> wasmtime::Result<Result<T, store::Error>> {
        let Some(values) = &self.granted.config else {
            return Err(wasmtime::format_err!("this container has no wasi:config"));
        };
        let mounts = values.0.clone();
        let done = tokio::task::spawn_blocking(move || {
            read(&mounts.iter().map(Mount::source).collect::<Vec<PathBuf>>())
        });
        let done = done.await;
        Ok(done.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(|e| store::Error::Io(e.to_string())))
    }
}

impl store::Host for Access<'_> {
    async fn get(&mut self, key: String) -> wasmtime::Result<Result<Option<String>, store::Error>> {
        self.read_config(move |directories| get(directories, &key)).await
    }

    async fn get_all(&mut self) -> wasmtime::Result<Result<Vec<(String, String)>, store::Error>> {
        self.read_config(get_all).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_volumes_win_and_what_is_no_key_is_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        for (volume, key, value) in [(&a, "colour", "blue"), (&a, "size", "9"), (&b, "colour", "red")] {
            std::fs::create_dir_all(volume).unwrap();
            std::fs::write(volume.join(key), value).unwrap();
        }
        std::fs::create_dir(b.join("folder")).unwrap();
        let volumes = [a, b];
        assert_eq!(get(&volumes, "colour").unwrap().as_deref(), Some("red"));
        assert_eq!(get(&volumes, "size").unwrap().as_deref(), Some("9"));
        for key in ["missing", "../a/size", "..data", "", "a/b"] {
            assert_eq!(get(&volumes, key).unwrap(), None, "{key}");
        }
        let all = get_all(&volumes).unwrap();
        assert_eq!(all, [("colour".into(), "red".into()), ("size".into(), "9".into())]);
    }
}
