//! Making the CNCF wasm artifact of a file: its configuration and its manifest.
use crate::Form;
use crate::manifest::{Descriptor, Manifest, OCI_MANIFEST};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

pub const WASM_CONFIG_MEDIA_TYPE: &str = "application/vnd.wasm.config.v0+json";
pub const WASM_LAYER_MEDIA_TYPE: &str = "application/wasm";

/// What a component wants and gives, by name of interface. Whoever can read components fills it in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ComponentInfo {
    pub exports: Vec<String>,
    pub imports: Vec<String>,
    /// The world it was made for, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WasmConfig<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<&'a str>,
    architecture: &'a str,
    os: &'a str,
    layer_digests: [&'a str; 1],
    #[serde(skip_serializing_if = "Option::is_none")]
    component: Option<&'a ComponentInfo>,
}

/// A small document and its digest.
pub(crate) struct Document {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: String,
}

impl Document {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        let digest = digest_of(&bytes);
        Self { bytes, digest }
    }
}

/// `sha256:…` of bytes.
pub(crate) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex::encode(Sha256::digest(bytes)))
}

/// Configuration and manifest for a wasm file of the given digest and size. The same file gives the same artifact.
pub(crate) fn documents(
    digest: &str,
    size: u64,
    form: Form,
    component: Option<&ComponentInfo>,
    created: Option<&str>,
    annotations: BTreeMap<String, String>,
) -> Result<(Document, Document), serde_json::Error> {
    let config =
        WasmConfig { created, architecture: "wasm", os: form.os(), layer_digests: [digest], component };
    let config = Document::new(serde_json::to_vec(&config)?);
    let descriptor = |media_type: &str, digest: &str, size| Descriptor {
        media_type: media_type.to_string(),
        digest: digest.to_string(),
        size,
        annotations: BTreeMap::new(),
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: OCI_MANIFEST.to_string(),
        config: descriptor(WASM_CONFIG_MEDIA_TYPE, &config.digest, config.bytes.len() as u64),
        layers: vec![descriptor(WASM_LAYER_MEDIA_TYPE, digest, size)],
        annotations,
    };
    let manifest = Document::new(serde_json::to_vec(&manifest)?);
    Ok((config, manifest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_artifact_is_the_one_the_cncf_describes() {
        let info =
            ComponentInfo { exports: vec!["wasi:http/incoming-handler@0.2.0".into()], ..Default::default() };
        let (config, manifest) =
            documents("sha256:aa", 7, Form::Component, Some(&info), None, BTreeMap::new()).unwrap();
        let config_json: serde_json::Value = serde_json::from_slice(&config.bytes).unwrap();
        assert_eq!(
            config_json,
            serde_json::json!({
                "architecture": "wasm", "os": "wasip2", "layerDigests": ["sha256:aa"],
                "component": {"exports": ["wasi:http/incoming-handler@0.2.0"], "imports": []},
            })
        );
        let manifest: serde_json::Value = serde_json::from_slice(&manifest.bytes).unwrap();
        assert_eq!(manifest["config"]["mediaType"], WASM_CONFIG_MEDIA_TYPE);
        assert_eq!(manifest["config"]["digest"], config.digest);
        assert_eq!(manifest["layers"][0]["mediaType"], WASM_LAYER_MEDIA_TYPE);
        assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
    }
}
