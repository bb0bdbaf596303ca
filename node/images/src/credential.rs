//! Credentials for registries: from a request, or from docker's credential file.
use crate::{Error, Reference};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// How to identify to a registry. `Debug` shows no secret.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub enum Credential {
    #[default]
    Anonymous,
    Basic {
        username: String,
        password: String,
    },
    /// A bearer token for the registry itself.
    Token(String),
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Anonymous => f.write_str("Anonymous"),
            Self::Basic { username, .. } => write!(f, "Basic({username:?}, …)"),
            Self::Token(_) => f.write_str("Token(…)"),
        }
    }
}

impl Credential {
    /// The `auth` field of docker's file: base64 of `user:password`.
    pub fn from_basic_auth(auth: &str) -> Result<Self, String> {
        let decoded = STANDARD.decode(auth.trim()).map_err(|_| "the auth field is not base64".to_string())?;
        let text = String::from_utf8(decoded).map_err(|_| "the auth field is not text".to_string())?;
        let (username, password) = text
            .split_once(':')
            .ok_or_else(|| "the auth field has no colon between user and password".to_string())?;
        // Docker's own client pads with NUL.
        let password = password.trim_end_matches('\0');
        Ok(Self::Basic { username: username.to_string(), password: password.to_string() })
    }

    pub(crate) fn is_anonymous(&self) -> bool {
        matches!(self, Self::Anonymous)
    }

    pub(crate) fn oci(&self) -> oci_client::secrets::RegistryAuth {
        use oci_client::secrets::RegistryAuth;
        match self {
            Self::Anonymous => RegistryAuth::Anonymous,
            Self::Basic { username, password } => RegistryAuth::Basic(username.clone(), password.clone()),
            Self::Token(token) => RegistryAuth::Bearer(token.clone()),
        }
    }
}

/// Docker's credential file (`~/.docker/config.json`), as docker, podman and their like write it.
#[derive(Debug)]
pub struct CredentialFile {
    path: PathBuf,
    content: FileContent,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct FileContent {
    auths: BTreeMap<String, AuthEntry>,
    creds_store: String,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct AuthEntry {
    auth: String,
    username: String,
    password: String,
    registrytoken: String,
}

impl std::fmt::Debug for AuthEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AuthEntry(…)")
    }
}

/// A credential helper is an interactive program at worst (a locked key ring).
const HELPER_TIMEOUT: Duration = Duration::from_secs(60);

impl CredentialFile {
    /// Where the file is by the environment handed in: `$REGISTRY_AUTH_FILE`, `$DOCKER_CONFIG/config.json`,
    /// `~/.docker/config.json`.
    pub fn path(environment: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
        let set = |name| environment(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        set("REGISTRY_AUTH_FILE")
            .or_else(|| set("DOCKER_CONFIG").map(|directory| directory.join("config.json")))
            .or_else(|| set("HOME").map(|home| home.join(".docker/config.json")))
    }

    /// Reads a file; one that does not exist holds nothing.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let content = match std::fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| Error::Credentials { path: path.to_path_buf(), reason: e.to_string() })?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => FileContent::default(),
            Err(e) => return Err(Error::Credentials { path: path.to_path_buf(), reason: e.to_string() }),
        };
        Ok(Self { path: path.to_path_buf(), content })
    }

    /// The credential for an image: a helper if one is named for its registry, else the longest matching entry.
    pub async fn credential(&self, reference: &Reference) -> Result<Credential, Error> {
        let fail = |reason| Error::Credentials { path: self.path.clone(), reason };
        let registry = reference.registry();
        let helper = self.content.cred_helpers.get(registry).map(String::as_str);
        let entry = self.entry(reference);
        let stored = entry
            .is_some_and(|e| !e.auth.is_empty() || !e.username.is_empty() || !e.registrytoken.is_empty());
        let store = Some(self.content.creds_store.as_str()).filter(|store| !store.is_empty() && !stored);
        if let Some(helper) = helper.or(store) {
            return ask_helper(helper, &server_name(registry)).await.map_err(fail);
        }
        match entry {
            None => Ok(Credential::Anonymous),
            Some(entry) if !entry.registrytoken.is_empty() => {
                Ok(Credential::Token(entry.registrytoken.clone()))
            }
            Some(entry) if !entry.auth.is_empty() => Credential::from_basic_auth(&entry.auth).map_err(fail),
            Some(entry) if !entry.username.is_empty() => {
                Ok(Credential::Basic { username: entry.username.clone(), password: entry.password.clone() })
            }
            Some(_) => Ok(Credential::Anonymous),
        }
    }

    /// The entry with the longest key that is the registry, or a path within it.
    fn entry(&self, reference: &Reference) -> Option<&AuthEntry> {
        let full = format!("{}/{}", reference.registry(), reference.repository());
        let fits =
            |key: &str| full == key || full.strip_prefix(key).is_some_and(|rest| rest.starts_with('/'));
        self.content
            .auths
            .iter()
            .map(|(key, entry)| (plain_key(key), entry))
            .filter(|(key, _)| fits(key))
            .max_by_key(|(key, _)| key.len())
            .map(|(_, entry)| entry)
    }
}

/// `https://index.docker.io/v1/` and `docker.io` are one registry; schemes and API paths do not count.
fn plain_key(key: &str) -> String {
    let key = key.trim_start_matches("https://").trim_start_matches("http://");
    let key = key.trim_end_matches('/').trim_end_matches("/v1").trim_end_matches("/v2").trim_end_matches('/');
    match key {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_string(),
        other => other.to_string(),
    }
}

fn server_name(registry: &str) -> String {
    match registry {
        "docker.io" => "https://index.docker.io/v1/".to_string(),
        other => other.to_string(),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

/// Asks `docker-credential-<helper> get`: the server's name in, JSON out.
async fn ask_helper(helper: &str, server: &str) -> Result<Credential, String> {
    if helper.contains('/') {
        return Err(format!("{helper:?} is no name of a credential helper"));
    }
    let program = format!("docker-credential-{helper}");
    let ask = async {
        let mut child = tokio::process::Command::new(&program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(server.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output = match tokio::time::timeout(HELPER_TIMEOUT, ask).await {
        Ok(result) => result.map_err(|e| format!("{program}: {e}"))?,
        Err(_) => return Err(format!("{program} did not answer within {} s", HELPER_TIMEOUT.as_secs())),
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stdout).trim().to_string();
        // That is how helpers say that they have nothing.
        if said.contains("credentials not found") {
            return Ok(Credential::Anonymous);
        }
        return Err(format!("{program} failed: {said}"));
    }
    let answer: HelperAnswer =
        serde_json::from_slice(&output.stdout).map_err(|e| format!("{program} answered no JSON: {e}"))?;
    if answer.username == "<token>" {
        return Err(format!(
            "{program} gave an identity token for {server}; log in with a password or access token"
        ));
    }
    Ok(Credential::Basic { username: answer.username, password: answer.secret })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(username: &str, password: &str) -> Credential {
        Credential::Basic { username: username.into(), password: password.into() }
    }

    fn file(json: &str) -> CredentialFile {
        CredentialFile { path: "config.json".into(), content: serde_json::from_str(json).unwrap() }
    }

    #[tokio::test]
    async fn the_longest_matching_entry_wins() {
        let file = file(
            r#"{"auths":{
                "https://index.docker.io/v1/":{"auth":"aHViOnB3"},
                "reg.example:5000":{"username":"u","password":"p"},
                "reg.example:5000/team":{"auth":"dGVhbTpwOnc="},
                "empty.example":{}}}"#,
        );
        let of = async |reference: &str| file.credential(&reference.parse().unwrap()).await.unwrap();
        assert_eq!(of("nginx").await, basic("hub", "pw"));
        assert_eq!(of("reg.example:5000/x").await, basic("u", "p"));
        assert_eq!(of("reg.example:5000/team/x").await, basic("team", "p:w"));
        assert_eq!(of("reg.example:5000/teammate/x").await, basic("u", "p"));
        assert_eq!(of("empty.example/x").await, Credential::Anonymous);
        assert_eq!(of("elsewhere.example/x").await, Credential::Anonymous);
    }

    #[tokio::test]
    async fn a_missing_helper_and_a_broken_entry_say_which_file_is_meant() {
        let helper = file(r#"{"credHelpers":{"a.example":"no-such-helper-here"}}"#);
        let error = helper.credential(&"a.example/x".parse().unwrap()).await.unwrap_err().to_string();
        assert!(
            error.contains("config.json") && error.contains("docker-credential-no-such-helper-here"),
            "{error}"
        );
        let broken = file(r#"{"auths":{"a.example":{"auth":"%%"}}}"#);
        let error = broken.credential(&"a.example/x".parse().unwrap()).await.unwrap_err().to_string();
        assert!(error.contains("not base64"), "{error}");
    }

    #[test]
    fn the_file_is_found_by_the_environment() {
        let set = |pairs: &'static [(&str, &str)]| {
            move |name: &str| pairs.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v))
        };
        let path = |pairs| CredentialFile::path(set(pairs));
        assert_eq!(path(&[("HOME", "/h")]), Some("/h/.docker/config.json".into()));
        assert_eq!(path(&[("HOME", "/h"), ("DOCKER_CONFIG", "/d")]), Some("/d/config.json".into()));
        assert_eq!(
            path(&[("REGISTRY_AUTH_FILE", "/a.json"), ("DOCKER_CONFIG", "/d")]),
            Some("/a.json".into())
        );
        assert_eq!(path(&[]), None);
    }

    #[test]
    fn secrets_do_not_show() {
        let shown = format!("{:?} {:?}", basic("me", "secret"), Credential::Token("secret".into()));
        assert!(shown.contains("me") && !shown.contains("secret"), "{shown}");
    }
}
