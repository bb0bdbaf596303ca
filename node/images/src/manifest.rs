//! Reading manifests, indexes and configurations, and deciding from them what an image is. Pure.
use crate::index::RunConfig;
use crate::{ComponentInfo, Error, Prefer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// Everything we can read, for the Accept header.
pub(crate) const ACCEPTED: &[&str] = &[OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_INDEX];

/// Layers that hold one wasm file.
const WASM_LAYERS: &[&str] = &[
    crate::WASM_LAYER_MEDIA_TYPE,
    "application/vnd.wasm.content.layer.v1+wasm",
    "application/vnd.module.wasm.content.layer.v1+wasm",
    "application/vnd.bytecodealliance.wasm.component.layer.v0+wasm",
];

/// What overlayfs and docker put up with.
pub(crate) const MAX_LAYERS: usize = 127;

/// A blob as a manifest names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) schema_version: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) media_type: String,
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    manifests: Vec<IndexEntry>,
}

#[derive(Debug, Deserialize)]
struct IndexEntry {
    digest: String,
    #[serde(default)]
    platform: Option<Platform>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Platform {
    architecture: String,
    os: String,
}

/// A manifest or an index of them.
#[derive(Debug)]
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Index),
}

/// The parts of an image configuration that matter to run it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ImageConfig {
    pub(crate) architecture: String,
    pub(crate) os: String,
    config: Option<RunSection>,
    pub(crate) rootfs: RootFs,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RootFs {
    pub(crate) diff_ids: Vec<String>,
}

/// Docker writes `null` where a list or map is empty.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct RunSection {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    stop_signal: Option<String>,
}

impl ImageConfig {
    pub(crate) fn run_config(&self) -> RunConfig {
        let Some(run) = &self.config else { return RunConfig::default() };
        RunConfig {
            entrypoint: run.entrypoint.clone().unwrap_or_default(),
            cmd: run.cmd.clone().unwrap_or_default(),
            env: run.env.clone().unwrap_or_default(),
            working_dir: run.working_dir.clone().unwrap_or_default(),
            user: run.user.clone().unwrap_or_default(),
            stop_signal: run.stop_signal.clone().unwrap_or_default(),
        }
    }
}

fn unsupported(reference: &str, reason: impl Into<String>) -> Error {
    Error::Unsupported { reference: reference.to_string(), reason: reason.into() }
}

/// Reads what a registry answered for a reference.
pub(crate) fn parse(reference: &str, body: &[u8]) -> Result<Document, Error> {
    let value: serde_json::Value = serde_json::from_slice(body)
        .map_err(|e| unsupported(reference, format!("its manifest is not JSON ({e})")))?;
    if value["schemaVersion"] != 2 {
        return Err(unsupported(
            reference,
            format!("its manifest has schema version {}", value["schemaVersion"]),
        ));
    }
    let malformed = |e: serde_json::Error| unsupported(reference, format!("its manifest is malformed ({e})"));
    if value.get("manifests").is_some() {
        return Ok(Document::Index(serde_json::from_value(value).map_err(malformed)?));
    }
    let manifest: Manifest = serde_json::from_value(value).map_err(malformed)?;
    if manifest.layers.len() > MAX_LAYERS {
        let count = manifest.layers.len();
        return Err(unsupported(reference, format!("it has {count} layers, more than {MAX_LAYERS}")));
    }
    for descriptor in manifest.layers.iter().chain([&manifest.config]) {
        if hex_of(&descriptor.digest).is_none() {
            return Err(unsupported(reference, format!("its manifest names a blob {:?}", descriptor.digest)));
        }
    }
    Ok(Document::Manifest(manifest))
}

/// The hex digits of a well-formed sha256 digest. Digests become file names, so nothing else may pass.
pub(crate) fn hex_of(digest: &str) -> Option<&str> {
    let hex = digest.strip_prefix("sha256:")?;
    let lower_hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    (hex.len() == 64 && hex.bytes().all(lower_hex)).then_some(hex)
}

/// The architecture of this machine in the registry's words.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        other => other,
    }
}

impl Index {
    /// The manifest for this node: WebAssembly before Linux, unless a Linux image is asked for.
    pub(crate) fn choose(&self, reference: &str, prefer: Prefer) -> Result<&str, Error> {
        let wasm =
            |p: &Platform| p.architecture.starts_with("wasm") || p.os.starts_with("wasi") || p.os == "wasip2";
        let linux = |p: &Platform| p.os == "linux" && p.architecture == architecture();
        let find = |fits: &dyn Fn(&Platform) -> bool| {
            self.manifests.iter().find(|entry| entry.platform.as_ref().is_some_and(fits))
        };
        let found = match prefer {
            Prefer::Wasm => find(&wasm).or_else(|| find(&linux)),
            Prefer::Linux => find(&linux).or_else(|| find(&wasm)),
        };
        // An index of one manifest without a platform is how some tools wrap an artifact.
        let only = || match self.manifests.as_slice() {
            [only] if only.platform.is_none() => Some(only),
            _ => None,
        };
        match found.or_else(only) {
            Some(entry) if hex_of(&entry.digest).is_some() => Ok(&entry.digest),
            Some(entry) => Err(unsupported(reference, format!("its index names {:?}", entry.digest))),
            None => Err(Error::NoPlatform { reference: reference.to_string(), offered: self.offered() }),
        }
    }

    fn offered(&self) -> Vec<String> {
        let real = |entry: &&IndexEntry| {
            // Attestations of build tools are not variants.
            !entry.annotations.contains_key("vnd.docker.reference.type")
        };
        let name = |entry: &IndexEntry| match &entry.platform {
            Some(platform) => format!("{}/{}", platform.os, platform.architecture),
            None => "one without a platform".to_string(),
        };
        let offered: Vec<String> = self.manifests.iter().filter(real).map(name).collect();
        if offered.is_empty() { vec!["nothing".to_string()] } else { offered }
    }
}

/// What an image is, as far as manifest and configuration tell.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One layer is the wasm file.
    Wasm {
        layer: Descriptor,
    },
    /// Ordinary tar layers that hold a wasm file: `path`, or the only one there is.
    Compat {
        path: Option<String>,
    },
    Linux,
}

/// Whether one of the layers is a wasm file.
pub(crate) fn is_wasm(manifest: &Manifest) -> bool {
    manifest.layers.iter().any(|layer| WASM_LAYERS.contains(&layer.media_type.as_str()))
}

/// What a CNCF wasm configuration says of its component. Other configurations say nothing.
pub(crate) fn component(config: &[u8]) -> Option<ComponentInfo> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Config {
        component: Option<ComponentInfo>,
    }
    let config: Config = serde_json::from_slice(config).unwrap_or_default();
    config.component
}

/// The interfaces that it imports.
pub(crate) fn imports(config: &[u8]) -> Vec<String> {
    component(config).map(|component| component.imports).unwrap_or_default()
}

/// Decides what an image is.
pub(crate) fn shape(reference: &str, manifest: &Manifest, config: &[u8]) -> Result<Shape, Error> {
    let wasm: Vec<&Descriptor> =
        manifest.layers.iter().filter(|layer| WASM_LAYERS.contains(&layer.media_type.as_str())).collect();
    match wasm.as_slice() {
        [layer] => return Ok(Shape::Wasm { layer: (*layer).clone() }),
        [] => {}
        [_, _, ..] => {
            let count = wasm.len();
            return Err(unsupported(
                reference,
                format!("it holds {count} WebAssembly files, and nothing says which of them to run"),
            ));
        }
    }
    if let Some(odd) = manifest.layers.iter().find(|layer| compression(&layer.media_type).is_none()) {
        return Err(unsupported(
            reference,
            format!("it has a layer of the unknown type {:?}", odd.media_type),
        ));
    }
    if manifest.layers.is_empty() {
        return Err(unsupported(reference, "it has no layers"));
    }
    let config: ImageConfig = parse_config(reference, config)?;
    let run = config.run_config();
    let program = run.entrypoint.first().or(run.cmd.first()).cloned();
    let variant =
        manifest.annotations.get("module.wasm.image/variant").is_some_and(|v| v.starts_with("compat"));
    if config.architecture.starts_with("wasm") || config.os.starts_with("wasi") || variant {
        return Ok(Shape::Compat { path: program });
    }
    if program.as_deref().is_some_and(|p| p.ends_with(".wasm")) {
        return Ok(Shape::Compat { path: program });
    }
    if config.os != "linux" && !config.os.is_empty() {
        return Err(Error::NoPlatform {
            reference: reference.to_string(),
            offered: vec![format!("{}/{}", config.os, config.architecture)],
        });
    }
    if config.architecture != architecture() && !config.architecture.is_empty() {
        return Err(Error::NoPlatform {
            reference: reference.to_string(),
            offered: vec![format!("linux/{}", config.architecture)],
        });
    }
    if config.rootfs.diff_ids.len() != manifest.layers.len() {
        let (diffs, layers) = (config.rootfs.diff_ids.len(), manifest.layers.len());
        return Err(unsupported(
            reference,
            format!("its configuration tells of {diffs} layers, its manifest of {layers}"),
        ));
    }
    Ok(Shape::Linux)
}

pub(crate) fn parse_config(reference: &str, config: &[u8]) -> Result<ImageConfig, Error> {
    serde_json::from_slice(config)
        .map_err(|e| unsupported(reference, format!("its configuration is malformed ({e})")))
}

/// How a tar layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
}

/// `None` for what is no tar layer.
pub(crate) fn compression(media_type: &str) -> Option<Compression> {
    Some(match media_type {
        "application/vnd.oci.image.layer.v1.tar"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar"
        | "application/vnd.docker.image.rootfs.diff.tar" => Compression::None,
        "application/vnd.oci.image.layer.v1.tar+gzip"
        | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        | "application/vnd.docker.image.rootfs.diff.tar.gzip"
        | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Compression::Gzip,
        "application/vnd.oci.image.layer.v1.tar+zstd"
        | "application/vnd.docker.image.rootfs.diff.tar.zstd" => Compression::Zstd,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn digest(n: u8) -> String {
        format!("sha256:{}", format!("{n:02x}").repeat(32))
    }

    fn manifest(config: &str, layers: &[&str]) -> Manifest {
        let layer = |(i, media_type): (usize, &&str)| json!({"mediaType": media_type, "digest": digest(i as u8 + 1), "size": 10});
        let value = json!({
            "schemaVersion": 2,
            "config": {"mediaType": config, "digest": digest(0), "size": 2},
            "layers": layers.iter().enumerate().map(layer).collect::<Vec<_>>(),
        });
        match parse("r", value.to_string().as_bytes()).unwrap() {
            Document::Manifest(manifest) => manifest,
            Document::Index(_) => panic!("an index"),
        }
    }

    #[test]
    fn every_flavour_of_wasm_artifact_is_known() {
        for (config, layers) in [
            ("application/vnd.wasm.config.v0+json", &["application/wasm"][..]),
            (
                "application/vnd.fermyon.spin.application.v1+config",
                &["application/vnd.wasm.content.layer.v1+wasm", "application/vnd.wasm.content.layer.v1+data"],
            ),
            ("application/vnd.wasm.config.v1+json", &["application/vnd.wasm.content.layer.v1+wasm"]),
            ("application/vnd.wasm.config.v1+json", &["application/vnd.module.wasm.content.layer.v1+wasm"]),
            ("x", &["application/vnd.bytecodealliance.wasm.component.layer.v0+wasm"]),
        ] {
            let shape = shape("r", &manifest(config, layers), b"{}").unwrap();
            assert!(matches!(&shape, Shape::Wasm { layer } if layer.digest == digest(1)), "{shape:?}");
        }
    }

    #[test]
    fn two_wasm_files_are_refused_because_nothing_says_which_to_run() {
        let two = manifest("x", &["application/wasm", "application/wasm"]);
        let error = shape("r", &two, b"{}").unwrap_err().to_string();
        assert!(error.contains("2 WebAssembly files"), "{error}");
    }

    #[test]
    fn an_ordinary_image_may_hold_wasm() {
        let tar = manifest("c", &["application/vnd.oci.image.layer.v1.tar+gzip"]);
        let wasm = json!({"architecture": "wasm", "os": "wasip1", "config": {"Entrypoint": ["/app.wasm"]}});
        let path = Some("/app.wasm".to_string());
        assert_eq!(
            shape("r", &tar, wasm.to_string().as_bytes()).unwrap(),
            Shape::Compat { path: path.clone() }
        );
        let smart = json!({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["/app.wasm"]}});
        assert_eq!(shape("r", &tar, smart.to_string().as_bytes()).unwrap(), Shape::Compat { path });
        let linux = json!({"architecture": architecture(), "os": "linux", "rootfs": {"diff_ids": [digest(9)]},
            "config": {"Entrypoint": null, "Cmd": ["/bin/sh"], "Env": null}});
        assert_eq!(shape("r", &tar, linux.to_string().as_bytes()).unwrap(), Shape::Linux);
        let foreign = json!({"architecture": "s390x", "os": "linux"});
        let error = shape("r", &tar, foreign.to_string().as_bytes()).unwrap_err().to_string();
        assert!(error.contains("linux/s390x"), "{error}");
    }

    #[test]
    fn an_index_gives_wasm_first_and_linux_when_asked() {
        let index = json!({"schemaVersion": 2, "manifests": [
            {"digest": digest(1), "size": 1, "platform": {"os": "linux", "architecture": architecture()}},
            {"digest": digest(2), "size": 1, "platform": {"os": "wasip2", "architecture": "wasm"}},
            {"digest": digest(3), "size": 1, "platform": {"os": "windows", "architecture": "amd64"}},
        ]});
        let Document::Index(index) = parse("r", index.to_string().as_bytes()).unwrap() else {
            panic!("no index")
        };
        assert_eq!(index.choose("r", Prefer::Wasm).unwrap(), digest(2));
        assert_eq!(index.choose("r", Prefer::Linux).unwrap(), digest(1));
        let windows = json!({"schemaVersion": 2, "manifests": [
            {"digest": digest(3), "platform": {"os": "windows", "architecture": "amd64"}}]});
        let Document::Index(windows) = parse("r", windows.to_string().as_bytes()).unwrap() else {
            panic!("no index")
        };
        let error = windows.choose("r", Prefer::Wasm).unwrap_err().to_string();
        assert!(error.contains("windows/amd64"), "{error}");
    }

    #[test]
    fn a_digest_that_is_no_file_name_never_passes() {
        for bad in ["sha256:../../etc/passwd", "sha256:", "sha512:aa", "", "sha256:AB"] {
            assert_eq!(hex_of(bad), None, "{bad}");
        }
        let evil = json!({"schemaVersion": 2, "layers": [],
            "config": {"mediaType": "c", "digest": "sha256:../../x", "size": 1}});
        assert!(parse("r", evil.to_string().as_bytes()).is_err());
    }

    #[test]
    fn manifests_that_are_none_say_why() {
        for (body, reason) in [
            (&b"<html>"[..], "not JSON"),
            (b"{\"schemaVersion\":1}", "schema version 1"),
            (b"{\"schemaVersion\":2}", "malformed"),
        ] {
            let error = parse("r", body).unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
