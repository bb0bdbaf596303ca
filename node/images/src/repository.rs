//! Reading a repository of a registry, with a bound on everything the registry sends: the reading half of the OCI
//! distribution specification, and the challenges by which a registry asks who that is (RFC 7235, and the token
//! authentication that docker's registries brought).
//!
//! Invariant: no answer of a registry, or of the token service it names, is held in memory beyond a limit: whoever may
//! make a pod may name any registry. (Blobs go to disk as they come, up to what the manifest announced.)
use crate::registry::{Endpoint, explain};
use crate::{Credential, Error, Reference};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use oci_client::errors::{OciDistributionError as OciError, OciEnvelope};
use parking_lot::Mutex;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode};
use serde::Deserialize;
use std::time::Duration;

/// Documents and tokens come within this; each read has its own, shorter limit. 4 MiB at 32 KiB/s.
const DOCUMENT_TIMEOUT: Duration = Duration::from_secs(128);
/// The text of an error, of which 200 characters are shown.
const MAX_ERROR_BYTES: u64 = 16 * 1024;
/// A token: those of cloud providers, which hold another token, have some 10 KiB.
const MAX_TOKEN_BYTES: u64 = 256 * 1024;

/// One repository, read as somebody.
pub(crate) struct Repository<'a> {
    endpoint: Endpoint,
    reference: &'a Reference,
    credential: &'a Credential,
    /// What the registry accepted or asked for last.
    authorization: Mutex<Option<HeaderValue>>,
}

/// Why a body was not read.
enum Unread {
    TooLarge(u64),
    Broken(reqwest::Error),
}

impl<'a> Repository<'a> {
    pub(crate) fn new(endpoint: Endpoint, reference: &'a Reference, credential: &'a Credential) -> Self {
        let authorization = match credential {
            Credential::Token(token) => bearer(token),
            // A name and a password are for whoever asks for them.
            Credential::Basic { .. } | Credential::Anonymous => None,
        };
        Self { endpoint, reference, credential, authorization: Mutex::new(authorization) }
    }

    /// The bytes of a manifest of this repository, by the reference's digest, or else its tag.
    ///
    /// # Errors
    /// `TooLarge` beyond `limit`; else whatever keeps the registry from giving it.
    pub(crate) async fn manifest(
        &self,
        reference: &Reference,
        accepted: &[&str],
        limit: u64,
    ) -> Result<Vec<u8>, Error> {
        let name = reference.digest().or(reference.tag()).unwrap_or("latest");
        let read = async {
            let response = self.get(&format!("manifests/{name}"), accepted).await?;
            let response = self.checked(response).await?;
            read(response, limit).await.map_err(|unread| match unread {
                Unread::TooLarge(size) => {
                    Error::TooLarge { what: format!("the manifest of {reference}"), size, limit }
                }
                Unread::Broken(e) => self.explain(OciError::RequestError(e)),
            })
        };
        self.in_time(read).await
    }

    /// The bytes of a blob as they come; not checked yet.
    pub(crate) async fn blob(
        &self,
        digest: &str,
    ) -> Result<impl Stream<Item = Result<Bytes, reqwest::Error>> + Unpin + use<>, Error> {
        let ask = async {
            let response = self.get(&format!("blobs/{digest}"), &["*/*"]).await?;
            self.checked(response).await
        };
        Ok(self.in_time(ask).await?.bytes_stream().boxed())
    }

    /// What it means that a body ended before its end.
    pub(crate) fn broken(&self, error: reqwest::Error) -> Error {
        self.explain(OciError::RequestError(error))
    }

    fn explain(&self, error: OciError) -> Error {
        explain(error, self.reference, self.credential)
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::time::timeout(DOCUMENT_TIMEOUT, work).await.unwrap_or_else(|_| {
            Err(Error::Unreachable {
                registry: self.reference.registry().to_string(),
                reason: "it did not answer in time".to_string(),
            })
        })
    }

    /// Asks, and once more after saying who asks, if the registry wants to know.
    async fn get(&self, path: &str, accepted: &[&str]) -> Result<Response, Error> {
        let first = self.send(path, accepted).await?;
        // Whoever the registry sent us to is not told who we are.
        let asked = format!("{}://{}", self.endpoint.scheme, self.reference.oci().resolve_registry());
        let own = reqwest::Url::parse(&asked).is_ok_and(|own| own.origin() == first.url().origin());
        if first.status() != StatusCode::UNAUTHORIZED || !own {
            return Ok(first);
        }
        let Some(authorization) = self.answer(first.headers()).await? else { return Ok(first) };
        *self.authorization.lock() = Some(authorization);
        self.send(path, accepted).await
    }

    async fn send(&self, path: &str, accepted: &[&str]) -> Result<Response, Error> {
        let Endpoint { http, scheme } = &self.endpoint;
        let (host, repository) = (self.reference.oci().resolve_registry(), self.reference.repository());
        let mut request = http.get(format!("{scheme}://{host}/v2/{repository}/{path}"));
        request = request.header(ACCEPT, accepted.join(", "));
        if let Some(authorization) = self.authorization.lock().clone() {
            request = request.header(AUTHORIZATION, authorization);
        }
        request.send().await.map_err(|e| self.explain(OciError::RequestError(e)))
    }

    /// What to say to a challenge; `None` if there is nothing to say.
    async fn answer(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, Error> {
        let challenges = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        for challenge in challenges {
            match parse_challenge(challenge) {
                // A token of the registry's own that it does not take: no other will be better.
                Some(_) if matches!(self.credential, Credential::Token(_)) => return Ok(None),
                Some(Challenge::Bearer { realm, service }) => {
                    return self.token(&realm, service).await.map(Some);
                }
                Some(Challenge::Basic) => return Ok(self.basic()),
                None => {}
            }
        }
        Ok(None)
    }

    fn basic(&self) -> Option<HeaderValue> {
        use base64::Engine;
        let Credential::Basic { username, password } = self.credential else { return None };
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("{username}:{password}"));
        sensitive(format!("Basic {pair}"))
    }

    /// Asks the token service that the registry named.
    async fn token(&self, realm: &str, service: Option<String>) -> Result<HeaderValue, Error> {
        let refused = |reason: &str| Error::Registry {
            registry: self.reference.registry().to_string(),
            reason: format!("its token service {realm} {reason}"),
        };
        let scope = format!("repository:{}:pull", self.reference.repository());
        let mut query = vec![("scope", scope)];
        query.extend(service.map(|service| ("service", service)));
        let mut request = self.endpoint.http.get(realm).query(&query);
        if let Some(authorization) = self.basic() {
            request = request.header(AUTHORIZATION, authorization);
        }
        let response = request.send().await.map_err(|e| self.explain(OciError::RequestError(e)))?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                return Err(self.explain(OciError::AuthenticationFailure(String::new())));
            }
            status => return Err(refused(&format!("answered {}", status.as_u16()))),
        }
        let body = read(response, MAX_TOKEN_BYTES).await.map_err(|unread| match unread {
            Unread::TooLarge(_) => refused("sent more than a token"),
            Unread::Broken(e) => self.explain(OciError::RequestError(e)),
        })?;
        let token: Token = serde_json::from_slice(&body).map_err(|_| refused("sent no token"))?;
        let token = token.token.or(token.access_token).ok_or_else(|| refused("sent no token"))?;
        bearer(&token).ok_or_else(|| refused("sent no token"))
    }

    /// An answer that is not the thing asked for is an error, in the registry's words if it has some.
    async fn checked(&self, response: Response) -> Result<Response, Error> {
        let (status, url) = (response.status(), response.url().to_string());
        if status == StatusCode::OK {
            return Ok(response);
        }
        if status == StatusCode::UNAUTHORIZED {
            return Err(self.explain(OciError::UnauthorizedError { url }));
        }
        // What is longer is no error of a registry's.
        let body = read(response, MAX_ERROR_BYTES).await.unwrap_or_default();
        let code = status.as_u16();
        Err(self.explain(match serde_json::from_slice::<OciEnvelope>(&body) {
            Ok(envelope) if status.is_client_error() => OciError::RegistryError { envelope, url },
            _ => {
                let message = String::from_utf8_lossy(&body).into_owned();
                OciError::ServerError { code, url, message }
            }
        }))
    }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

fn bearer(token: &str) -> Option<HeaderValue> {
    sensitive(format!("Bearer {token}"))
}

fn sensitive(text: String) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Reads a body that is small.
async fn read(mut response: Response, limit: u64) -> Result<Vec<u8>, Unread> {
    if let Some(announced) = response.content_length().filter(|length| *length > limit) {
        return Err(Unread::TooLarge(announced));
    }
    let mut body = Vec::new();
    while let Some(piece) = response.chunk().await.map_err(Unread::Broken)? {
        let size = (body.len() + piece.len()) as u64;
        if size > limit {
            return Err(Unread::TooLarge(size));
        }
        body.extend_from_slice(&piece);
    }
    Ok(body)
}

/// How a registry wants to be told who asks.
#[derive(Debug, PartialEq, Eq)]
enum Challenge {
    Bearer { realm: String, service: Option<String> },
    Basic,
}

/// Reads one `WWW-Authenticate`; `None` for what asks for something else.
fn parse_challenge(text: &str) -> Option<Challenge> {
    let text = text.trim();
    let (scheme, parameters) = text.split_once(' ').unwrap_or((text, ""));
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Challenge::Basic);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service) = (None, None);
    let mut rest = parameters;
    while let Some((name, after)) = rest.split_once('=') {
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let (value, after) = after.split_once(',').unwrap_or((after, ""));
                (value.trim().to_string(), after)
            }
        };
        match name.trim().to_ascii_lowercase().as_str() {
            "realm" => realm = Some(value),
            "service" => service = Some(value),
            // The scope is what we ask for, whatever it names.
            _ => {}
        }
        rest = after.trim_start().trim_start_matches(',');
    }
    Some(Challenge::Bearer { realm: realm?, service })
}

/// The text up to the closing quotation mark, and what follows.
fn unquote(quoted: &str) -> Option<(String, &str)> {
    let (mut text, mut characters) = (String::new(), quoted.char_indices());
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((text, &quoted[at + 1..])),
            '\\' => text.push(characters.next()?.1),
            other => text.push(other),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.into(), service: service.map(Into::into) })
        };
        for (text, wanted) in [
            (
                r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull""#,
                bearer("https://auth.docker.io/token", Some("registry.docker.io")),
            ),
            (r#"bearer service=x, realm="https://a/t?a=b""#, bearer("https://a/t?a=b", Some("x"))),
            (r#"Bearer realm="a\"b""#, bearer("a\"b", None)),
            (r#"Basic realm="r""#, Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            ("Bearer", None),
            (r#"Bearer realm="open"#, None),
            ("Negotiate", None),
            ("", None),
        ] {
            assert_eq!(parse_challenge(text), wanted, "{text}");
        }
    }
}
