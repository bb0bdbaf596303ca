//! Field paths and field errors, as `k8s.io/apimachinery/pkg/util/validation/field` words them.
use std::fmt;

/// The path of a field inside an object, as Kubernetes prints it: `spec.containers[0].name`,
/// `metadata.labels[app.kubernetes.io/name]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(String);

impl Path {
    /// The path of a top-level field.
    pub fn new(name: &str) -> Self {
        Self(name.to_owned())
    }
    /// The path of the object itself.
    pub fn root() -> Self {
        Self::default()
    }
    /// The field `name` below this path.
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }
    /// The list item at `index` below this path.
    pub fn index(&self, index: usize) -> Self {
        Self(format!("{}[{index}]", self.0))
    }
    /// The map entry `key` below this path.
    pub fn key(&self, key: &str) -> Self {
        Self(format!("{}[{key}]", self.0))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// Why a field was refused; the reason string of a `StatusCause` (`FieldValueInvalid` and its kin).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    Required,
    Invalid,
    Duplicate,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    NotFound,
    TypeInvalid,
    Internal,
}

impl ErrorKind {
    /// The `reason` of the cause in a Status.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::Duplicate => "FieldValueDuplicate",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::NotFound => "FieldValueNotFound",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }
}

/// One refused field. `detail` is the whole text after the path, for example
/// `Invalid value: "A": a lowercase RFC 1123 label must consist of …` or `Required value`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {detail}")]
pub struct Error {
    pub kind: ErrorKind,
    pub path: Path,
    pub detail: String,
}

/// `s` as Go's `%q` prints it.
fn quoted(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// `v` as Go's field errors print a value: strings quoted, everything else as compact JSON.
fn shown(v: &serde_json::Value) -> String {
    match v {
        serde_json::Value::String(s) => quoted(s),
        other => other.to_string(),
    }
}

impl Error {
    /// `Required value[: detail]`.
    pub fn required(path: Path, detail: &str) -> Self {
        let detail =
            if detail.is_empty() { "Required value".to_owned() } else { format!("Required value: {detail}") };
        Self { kind: ErrorKind::Required, path, detail }
    }
    /// `Invalid value: VALUE: detail`.
    pub fn invalid(path: Path, value: impl Into<serde_json::Value>, detail: &str) -> Self {
        Self {
            kind: ErrorKind::Invalid,
            path,
            detail: format!("Invalid value: {}: {detail}", shown(&value.into())),
        }
    }
    /// `Duplicate value: VALUE`.
    pub fn duplicate(path: Path, value: impl Into<serde_json::Value>) -> Self {
        Self {
            kind: ErrorKind::Duplicate,
            path,
            detail: format!("Duplicate value: {}", shown(&value.into())),
        }
    }
    /// `Unsupported value: VALUE: supported values: "A", "B"`.
    pub fn not_supported(path: Path, value: impl Into<serde_json::Value>, supported: &[&str]) -> Self {
        let list = supported.iter().map(|s| format!("{s:?}")).collect::<Vec<_>>().join(", ");
        Self {
            kind: ErrorKind::NotSupported,
            path,
            detail: format!("Unsupported value: {}: supported values: {list}", shown(&value.into())),
        }
    }
    /// `Forbidden: detail`.
    pub fn forbidden(path: Path, detail: &str) -> Self {
        Self { kind: ErrorKind::Forbidden, path, detail: format!("Forbidden: {detail}") }
    }
    /// `Too long: may not be more than MAX bytes`.
    pub fn too_long(path: Path, max: usize) -> Self {
        Self { kind: ErrorKind::TooLong, path, detail: format!("Too long: may not be more than {max} bytes") }
    }
    /// `Too many: COUNT: must have at most MAX items`.
    pub fn too_many(path: Path, count: usize, max: usize) -> Self {
        let items = if max == 1 { "item" } else { "items" };
        Self {
            kind: ErrorKind::TooMany,
            path,
            detail: format!("Too many: {count}: must have at most {max} {items}"),
        }
    }
    /// `Not found: VALUE`.
    pub fn not_found(path: Path, value: impl Into<serde_json::Value>) -> Self {
        Self { kind: ErrorKind::NotFound, path, detail: format!("Not found: {}", shown(&value.into())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_values_read_as_in_go() {
        let path = Path::new("spec").child("containers").index(0).child("env").key("a/b");
        assert_eq!(path.to_string(), "spec.containers[0].env[a/b]");
        assert_eq!(Path::root().to_string(), "<nil>");
        let e = Error::invalid(path, "a\"\u{1}\té", "no");
        assert_eq!(e.to_string(), "spec.containers[0].env[a/b]: Invalid value: \"a\\\"\\x01\\té\": no");
        let e = Error::not_supported(Path::new("type"), "x", &["a", "b"]);
        assert_eq!(e.to_string(), "type: Unsupported value: \"x\": supported values: \"a\", \"b\"");
        assert_eq!(Error::required(Path::new("a"), "").to_string(), "a: Required value");
        assert_eq!(Error::duplicate(Path::new("a"), 3).to_string(), "a: Duplicate value: 3");
        let e = Error::too_many(Path::new("a"), 3, 1);
        assert_eq!(
            (e.to_string().as_str(), e.kind.reason()),
            ("a: Too many: 3: must have at most 1 item", "FieldValueTooMany")
        );
    }
}
