//! Names of images, in their full form: `nginx` is `docker.io/library/nginx:latest`.
use crate::Error;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// A reference in its full form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference(oci_client::Reference);

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let refuse = |reason: String| Error::InvalidReference { reference: text.to_string(), reason };
        let reference = oci_client::Reference::try_from(text).map_err(|e| refuse(e.to_string()))?;
        match reference.digest() {
            Some(digest) if !digest.starts_with("sha256:") => {
                Err(refuse("only sha256 digests are supported".to_string()))
            }
            // The parser lets `UPPER/name` pass: it takes the first part for a registry and then finds that it is none.
            _ if reference.repository().bytes().any(|b| b.is_ascii_uppercase()) => {
                Err(refuse("a repository's name is in lower case".to_string()))
            }
            _ => Ok(Self(reference)),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Reference {
    /// Host and port, such as `docker.io` or `127.0.0.1:5000`.
    pub fn registry(&self) -> &str {
        self.0.registry()
    }

    pub fn repository(&self) -> &str {
        self.0.repository()
    }

    pub fn tag(&self) -> Option<&str> {
        self.0.tag()
    }

    pub fn digest(&self) -> Option<&str> {
        self.0.digest()
    }

    /// The last element of the repository: what a program in the image is called when nothing else says.
    pub fn name(&self) -> &str {
        self.repository().rsplit('/').next().unwrap_or_default()
    }

    /// The same repository by digest.
    pub fn with_digest(&self, digest: &str) -> Self {
        Self(self.0.clone_with_digest(digest.to_string()))
    }

    /// The name by which the image is kept: by digest if it has one, whatever its tag.
    pub(crate) fn key(&self) -> String {
        match self.digest() {
            Some(digest) => self.with_digest(digest).to_string(),
            None => self.to_string(),
        }
    }

    pub(crate) fn oci(&self) -> &oci_client::Reference {
        &self.0
    }

    /// Whether the registry is this machine: such registries may speak plain HTTP.
    pub fn is_loopback(&self) -> bool {
        let host = self.registry().rsplit_once(':').map_or(self.registry(), |(host, _)| host);
        host == "localhost"
            || host.ends_with(".localhost")
            || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_get_their_full_form() {
        for (short, full) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1", "docker.io/library/nginx:1"),
            ("me/app", "docker.io/me/app:latest"),
            ("index.docker.io/me/app", "docker.io/me/app:latest"),
            ("localhost/hello:0123456789ab", "localhost/hello:0123456789ab"),
            ("127.0.0.1:5000/hello", "127.0.0.1:5000/hello:latest"),
            ("ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1"),
        ] {
            assert_eq!(short.parse::<Reference>().unwrap().to_string(), full);
        }
    }

    #[test]
    fn a_digest_beats_a_tag() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let reference: Reference = format!("nginx:1@{digest}").parse().unwrap();
        assert_eq!(reference.key(), format!("docker.io/library/nginx@{digest}"));
    }

    #[test]
    fn what_is_no_reference_is_refused_with_a_reason() {
        for bad in ["", "UPPER/case", "a b", "http://x/y", "x@sha256:12", "x:tag:tag"] {
            let error = bad.parse::<Reference>().unwrap_err();
            assert!(matches!(error, Error::InvalidReference { .. }), "{bad}: {error}");
        }
        let error = format!("x@sha512:{}", "a".repeat(128)).parse::<Reference>().unwrap_err();
        assert!(error.to_string().contains("only sha256"), "{error}");
    }

    #[test]
    fn only_registries_of_this_machine_are_loopback() {
        for (reference, loopback) in [
            ("localhost:5000/a", true),
            ("127.3.4.5/a", true),
            ("registry.localhost/a", true),
            ("docker.io/a", false),
            ("10.0.0.1:5000/a", false),
            ("localhost.example.com/a", false),
        ] {
            assert_eq!(reference.parse::<Reference>().unwrap().is_loopback(), loopback, "{reference}");
        }
    }
}
