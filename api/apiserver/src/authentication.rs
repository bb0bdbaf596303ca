//! Who sends a request: a client certificate, a bearer token, or nobody.
use async_trait::async_trait;
use http::HeaderMap;
use machinery::status::Status;
use pki::PeerIdentity;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Everyone who proved who they are.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Everyone else.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// The name of who shows no credentials.
pub const ANONYMOUS: &str = "system:anonymous";
/// Those who may do everything.
pub const MASTERS: &str = "system:masters";

/// A user and the groups it belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
}

impl UserInfo {
    /// A user who proved who it is; `system:authenticated` is added.
    pub fn new<S: Into<String>>(name: impl Into<String>, groups: impl IntoIterator<Item = S>) -> Self {
        let mut groups: Vec<String> = groups.into_iter().map(Into::into).collect();
        if !groups.iter().any(|g| g == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        Self { name: name.into(), uid: String::new(), groups }
    }
    /// The cluster's administrator, as kubeadm names it.
    pub fn admin() -> Self {
        Self::new("kubernetes-admin", [MASTERS])
    }
    /// Who shows no credentials.
    pub fn anonymous() -> Self {
        Self { name: ANONYMOUS.to_owned(), uid: String::new(), groups: vec![UNAUTHENTICATED.to_owned()] }
    }
    /// A component that uses the in-process door: `system:kube-scheduler` and its kin.
    pub fn component(name: &str) -> Self {
        Self::new(name, [] as [String; 0])
    }
    /// The kubelet of a node.
    pub fn node(node: &str) -> Self {
        Self::new(format!("system:node:{node}"), ["system:nodes"])
    }
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

impl From<PeerIdentity> for UserInfo {
    fn from(peer: PeerIdentity) -> Self {
        Self::new(peer.common_name, peer.organizations)
    }
}

/// A way to tell who a bearer token belongs to.
#[async_trait]
pub trait Authenticator: Send + Sync + 'static {
    /// The token's user, or `None` when this authenticator does not know the token.
    async fn authenticate_token(&self, token: &str) -> Option<UserInfo>;
}

/// Tokens from a list, as kube-apiserver's `--token-auth-file` has them.
#[derive(Default)]
pub struct StaticTokens(HashMap<String, UserInfo>);

/// Why a token file was refused.
#[derive(Debug, thiserror::Error)]
pub enum TokenFileError {
    #[error("cannot read the token file {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{}, line {line}: expected token,user,uid and optionally \"group1,group2\"", path.display())]
    Line { path: PathBuf, line: usize },
}

impl StaticTokens {
    pub fn new(tokens: impl IntoIterator<Item = (String, UserInfo)>) -> Self {
        Self(tokens.into_iter().collect())
    }
    /// From lines of `token,user,uid,"group1,group2"`; empty lines and lines that begin with `#` are skipped.
    pub fn from_file(path: &Path) -> Result<Self, TokenFileError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| TokenFileError::Read { path: path.to_owned(), source })?;
        let mut tokens = HashMap::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut parts = line.splitn(4, ',').map(str::trim);
            let (Some(token), Some(name), Some(uid)) = (parts.next(), parts.next(), parts.next()) else {
                return Err(TokenFileError::Line { path: path.to_owned(), line: index + 1 });
            };
            if token.is_empty() || name.is_empty() {
                return Err(TokenFileError::Line { path: path.to_owned(), line: index + 1 });
            }
            let groups = parts.next().unwrap_or("").trim_matches('"');
            let groups = groups.split(',').map(str::trim).filter(|g| !g.is_empty());
            let mut user = UserInfo::new(name, groups);
            user.uid = uid.to_owned();
            tokens.insert(token.to_owned(), user);
        }
        Ok(Self(tokens))
    }
}

#[async_trait]
impl Authenticator for StaticTokens {
    async fn authenticate_token(&self, token: &str) -> Option<UserInfo> {
        self.0.get(token).cloned()
    }
}

/// Who sent a request that came over a socket. Bad credentials are an error, none at all are anonymous.
pub(crate) async fn authenticate(
    peer: Option<&Arc<UserInfo>>,
    headers: &HeaderMap,
    authenticators: &[Arc<dyn Authenticator>],
) -> Result<Arc<UserInfo>, Status> {
    if let Some(user) = peer {
        return Ok(user.clone());
    }
    let Some(header) = headers.get(http::header::AUTHORIZATION) else {
        return Ok(Arc::new(UserInfo::anonymous()));
    };
    let token = header.to_str().ok().and_then(|h| {
        let (scheme, token) = h.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    // Another scheme (Basic) is bad credentials too: answering as anonymous would hide the mistake.
    let Some(token) = token.filter(|t| !t.is_empty()) else { return Err(Status::unauthorized()) };
    for authenticator in authenticators {
        if let Some(user) = authenticator.authenticate_token(token).await {
            return Ok(Arc::new(user));
        }
    }
    Err(Status::unauthorized())
}
