//! The rules for names, labels and the like (apimachinery `util/validation`, `api/validation`).
//!
//! Every text is upstream's: clients and people match on them.
mod metadata;

pub(crate) use metadata::labels;
pub use metadata::{MAX_ANNOTATIONS_BYTES, object_meta, object_meta_update};

/// Longest label name or value, and longest DNS label (RFC 1123).
pub const MAX_LABEL_LEN: usize = 63;
/// Longest DNS name (RFC 1123).
pub const MAX_SUBDOMAIN_LEN: usize = 253;

const DNS_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', \
     and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation \
     is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' \
     or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
     '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const WILDCARD_SUBDOMAIN: &str = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS \
     subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric \
     character (e.g. '*.example.com', regex used for validation is \
     '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS_1035_LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with \
     an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for \
     validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_NAME: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with \
     an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is \
     '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or \
     '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex \
     used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
const CONFIG_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. \
     'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

fn too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

/// Whether `s` is not empty, begins and ends with `end` and has only `inner` in between.
fn is_word(s: &str, end: fn(u8) -> bool, inner: fn(u8) -> bool) -> bool {
    let b = s.as_bytes();
    matches!((b.first(), b.last()), (Some(f), Some(l)) if end(*f) && end(*l)) && b.iter().all(|c| inner(*c))
}
fn is_lower_alphanumeric(c: u8) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}
fn is_dns_label(s: &str) -> bool {
    is_word(s, is_lower_alphanumeric, |c| is_lower_alphanumeric(c) || c == b'-')
}
fn is_qualified_part(s: &str) -> bool {
    is_word(
        s,
        |c| c.is_ascii_alphanumeric(),
        |c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.'),
    )
}

fn join(errors: Vec<String>) -> Result<(), String> {
    if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
}

/// RFC 1123 label; the error is upstream's text.
pub fn dns_label(name: &str) -> Result<(), String> {
    let mut errors = Vec::new();
    if name.len() > MAX_LABEL_LEN {
        errors.push(too_long(MAX_LABEL_LEN));
    }
    if !is_dns_label(name) {
        errors.push(if is_subdomain(name) {
            "must not contain dots".to_owned()
        } else {
            DNS_LABEL.to_owned()
        });
    }
    join(errors)
}

fn is_subdomain(name: &str) -> bool {
    name.split('.').all(is_dns_label)
}

/// RFC 1123 subdomain; the error is upstream's text.
pub fn dns_subdomain(name: &str) -> Result<(), String> {
    let mut errors = Vec::new();
    if name.len() > MAX_SUBDOMAIN_LEN {
        errors.push(too_long(MAX_SUBDOMAIN_LEN));
    }
    if !is_subdomain(name) {
        errors.push(DNS_SUBDOMAIN.to_owned());
    }
    join(errors)
}

/// An RFC 1123 subdomain whose first label is `*`; the error is upstream's text.
pub fn wildcard_dns_subdomain(name: &str) -> Result<(), String> {
    let mut errors = Vec::new();
    if name.len() > MAX_SUBDOMAIN_LEN {
        errors.push(too_long(MAX_SUBDOMAIN_LEN));
    }
    if !name.strip_prefix("*.").is_some_and(is_subdomain) {
        errors.push(WILDCARD_SUBDOMAIN.to_owned());
    }
    join(errors)
}

/// RFC 1035 label: a DNS label that begins with a letter. Services are named so.
pub fn dns_1035_label(name: &str) -> Result<(), String> {
    let mut errors = Vec::new();
    if name.len() > MAX_LABEL_LEN {
        errors.push(too_long(MAX_LABEL_LEN));
    }
    if !is_dns_label(name) || !name.as_bytes()[0].is_ascii_lowercase() {
        errors.push(DNS_1035_LABEL.to_owned());
    }
    join(errors)
}

/// A key of labels, annotations and selectors: `[prefix/]name`.
pub fn qualified_name(key: &str) -> Result<(), Vec<String>> {
    let mut errors = Vec::new();
    let parts: Vec<&str> = key.split('/').collect();
    let name = match parts[..] {
        [name] => name,
        [prefix, name] => {
            if prefix.is_empty() {
                errors.push("prefix part must be non-empty".to_owned());
            } else if let Err(e) = dns_subdomain(prefix) {
                errors.push(format!("prefix part {e}"));
            }
            name
        }
        _ => {
            return Err(vec![format!(
                "a qualified name {QUALIFIED_NAME} with an optional DNS subdomain prefix and '/' (e.g. \
                 'example.com/MyName')"
            )]);
        }
    };
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > MAX_LABEL_LEN {
        errors.push(format!("name part {}", too_long(MAX_LABEL_LEN)));
    }
    if !is_qualified_part(name) {
        errors.push(format!("name part {QUALIFIED_NAME}"));
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// The value of a label.
pub fn label_value(value: &str) -> Result<(), Vec<String>> {
    let mut errors = Vec::new();
    if value.len() > MAX_LABEL_LEN {
        errors.push(too_long(MAX_LABEL_LEN));
    }
    if !value.is_empty() && !is_qualified_part(value) {
        errors.push(LABEL_VALUE.to_owned());
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}

/// A key of a ConfigMap or Secret: a file name.
pub fn config_map_key(key: &str) -> Result<(), Vec<String>> {
    let mut errors = Vec::new();
    if key.len() > MAX_SUBDOMAIN_LEN {
        errors.push(too_long(MAX_SUBDOMAIN_LEN));
    }
    if key.is_empty() || !key.bytes().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_' | b'.')) {
        errors.push(CONFIG_KEY.to_owned());
    }
    match key {
        "." => errors.push("must not be '.'".to_owned()),
        ".." => errors.push("must not be '..'".to_owned()),
        k if k.starts_with("..") => errors.push("must not start with '..'".to_owned()),
        _ => {}
    }
    if errors.is_empty() { Ok(()) } else { Err(errors) }
}
