//! Credentials for registries, from a pod's image pull secrets.
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::k8s_openapi::api::core::v1 as core;
use serde::Deserialize;
use std::collections::BTreeMap;

/// A `.dockerconfigjson`, as far as it matters here.
#[derive(Deserialize, Default)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize, Default)]
struct Entry {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
    #[serde(default, rename = "registrytoken")]
    registry_token: String,
}

/// The host (with port) and path an image lies under: `docker.io/library/nginx`.
fn repository(image: &str) -> (String, String) {
    let name = image.split('@').next().unwrap_or(image);
    let (host, path) = match name.split_once('/') {
        Some((h, p)) if h.contains(['.', ':']) || h == "localhost" => (h.to_owned(), p.to_owned()),
        Some(_) => ("docker.io".to_owned(), name.to_owned()),
        None => ("docker.io".to_owned(), format!("library/{name}")),
    };
    let path = match path.rsplit_once(':') {
        Some((p, tag)) if !tag.contains('/') => p.to_owned(),
        _ => path,
    };
    (host, path)
}

/// Whether a registry entry (`registry.example:5000`, `https://index.docker.io/v1/`, `*.example/team`) covers an
/// image; the longer its path, the better it fits.
fn fits(entry: &str, host: &str, path: &str) -> Option<usize> {
    let entry = entry.strip_prefix("https://").or(entry.strip_prefix("http://")).unwrap_or(entry);
    let (entry_host, entry_path) = entry.split_once('/').unwrap_or((entry, ""));
    let entry_host = if entry_host == "index.docker.io" || entry_host == "registry-1.docker.io" {
        "docker.io"
    } else {
        entry_host
    };
    let entry_path = entry_path.trim_matches('/');
    let entry_path = if matches!(entry_path, "v1" | "v2") { "" } else { entry_path };
    let same_host = entry_host == host
        || (entry_host.contains('*')
            && entry_host.split('.').count() == host.split('.').count()
            && entry_host.split('.').zip(host.split('.')).all(|(e, h)| glob(e, h)));
    let below = entry_path.is_empty()
        || path == entry_path
        || path.strip_prefix(entry_path).is_some_and(|r| r.starts_with('/'));
    (same_host && below).then_some(entry_path.len())
}

/// A name part with at most one `*`.
fn glob(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((a, b)) => text.len() >= a.len() + b.len() && text.starts_with(a) && text.ends_with(b),
    }
}

/// The credentials among the secrets that fit an image, best first. Secrets that cannot be read are passed over,
/// as upstream does.
pub fn credentials_for(image: &str, secrets: &[&core::Secret]) -> Vec<cri::AuthConfig> {
    let (host, path) = repository(image);
    let mut found: Vec<(usize, cri::AuthConfig)> = Vec::new();
    for secret in secrets {
        for (key, entry) in entries(secret) {
            let Some(rank) = fits(&key, &host, &path) else { continue };
            let (mut username, mut password) = (entry.username, entry.password);
            if username.is_empty()
                && let Some((u, p)) = STANDARD
                    .decode(entry.auth.trim())
                    .ok()
                    .and_then(|b| String::from_utf8(b).ok())
                    .and_then(|t| t.split_once(':').map(|(u, p)| (u.to_owned(), p.to_owned())))
            {
                (username, password) = (u, p);
            }
            found.push((
                rank,
                cri::AuthConfig {
                    username,
                    password,
                    auth: String::new(),
                    server_address: key,
                    identity_token: entry.identity_token,
                    registry_token: entry.registry_token,
                },
            ));
        }
    }
    found.sort_by_key(|(rank, _)| std::cmp::Reverse(*rank));
    found.into_iter().map(|(_, auth)| auth).collect()
}

fn entries(secret: &core::Secret) -> BTreeMap<String, Entry> {
    let data = |key: &str| secret.data.as_ref().and_then(|d| d.get(key)).map(|b| b.0.as_slice());
    if let Some(bytes) = data(".dockerconfigjson") {
        return serde_json::from_slice::<DockerConfig>(bytes).map(|c| c.auths).unwrap_or_default();
    }
    data(".dockercfg").and_then(|b| serde_json::from_slice(b).ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::k8s_openapi::ByteString;

    fn secret(json: &str) -> core::Secret {
        core::Secret {
            data: Some([(".dockerconfigjson".to_owned(), ByteString(json.as_bytes().to_vec()))].into()),
            ..Default::default()
        }
    }

    fn users(image: &str, json: &str) -> Vec<String> {
        credentials_for(image, &[&secret(json)])
            .into_iter()
            .map(|a| format!("{}:{}", a.username, a.password))
            .collect()
    }

    #[test]
    fn the_entry_with_the_longest_matching_path_comes_first() {
        let json = r#"{"auths":{
            "reg.example:5000":{"username":"all","password":"1"},
            "reg.example:5000/team":{"auth":"dGVhbToyOjM="},
            "reg.example:5000/tea":{"username":"no","password":""},
            "other.example":{"username":"no","password":""}}}"#;
        assert_eq!(users("reg.example:5000/team/app:1", json), ["team:2:3", "all:1"]);
        assert_eq!(users("reg.example:5000/x@sha256:abc", json), ["all:1"]);
        assert_eq!(users("busybox", json), Vec::<String>::new());
    }

    #[test]
    fn docker_hub_is_known_by_its_old_names_and_wildcards_stand_for_one_part() {
        let json = r#"{"auths":{"https://index.docker.io/v1/":{"username":"hub","password":"p"}}}"#;
        assert_eq!(users("nginx", json), ["hub:p"]);
        assert_eq!(users("me/app:2", json), ["hub:p"]);
        let json = r#"{"auths":{"*.example.com":{"username":"w","password":"p"}}}"#;
        assert_eq!(users("a.example.com/x", json), ["w:p"]);
        assert_eq!(users("a.b.example.com/x", json), Vec::<String>::new());
    }

    #[test]
    fn rubbish_gives_no_credentials() {
        assert_eq!(users("nginx", "no json"), Vec::<String>::new());
    }
}
