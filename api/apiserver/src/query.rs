//! The query string and its options.
use machinery::status::Status;
use store::Revision;

/// The decoded pairs of a query string, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: Option<&str>) -> Self {
        Self(
            text.unwrap_or("")
                .split('&')
                .filter(|pair| !pair.is_empty())
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (percent_decode(key, true), percent_decode(value, true))
                })
                .collect(),
        )
    }

    /// The first value of `key`, unless it is empty.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.raw(key).filter(|v| !v.is_empty())
    }
    /// The first value of `key`.
    pub(crate) fn raw(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str())
    }
    pub(crate) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_str())
    }
    /// A flag as Go's conversion reads it: absent, empty, `false` and `0` are false, everything else is true.
    pub(crate) fn flag(&self, key: &str) -> bool {
        self.raw(key).is_some_and(|v| !matches!(v, "false" | "0"))
    }
    pub(crate) fn integer(&self, key: &str) -> Result<Option<i64>, Status> {
        match self.get(key) {
            None => Ok(None),
            Some(v) => v.parse().map(Some).map_err(|_| {
                Status::bad_request(format!(
                    "unable to decode query parameter {key}: {v:?} is not a whole number"
                ))
            }),
        }
    }

    /// `dryRun=All`; other values are refused as upstream refuses them.
    pub(crate) fn dry_run(&self) -> Result<bool, Status> {
        let mut dry = false;
        for value in self.all("dryRun").filter(|v| !v.is_empty()) {
            if value != "All" {
                return Err(invalid_options(
                    "dryRun",
                    "FieldValueNotSupported",
                    format!("Unsupported value: {value:?}: supported values: \"All\""),
                ));
            }
            dry = true;
        }
        Ok(dry)
    }

    pub(crate) fn field_validation(&self) -> Result<FieldValidation, Status> {
        match self.get("fieldValidation") {
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some(other) => Err(invalid_options(
                "fieldValidation",
                "FieldValueNotSupported",
                format!("Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""),
            )),
        }
    }

    /// `fieldManager` is accepted and checked for length (upstream's limit is 128).
    pub(crate) fn check_field_manager(&self) -> Result<(), Status> {
        match self.get("fieldManager") {
            Some(m) if m.len() > 128 => Err(invalid_options(
                "fieldManager",
                "FieldValueTooLong",
                "Too long: may not be more than 128 bytes".to_owned(),
            )),
            _ => Ok(()),
        }
    }
}

/// A refused option, as upstream's `ValidateListOptions` and its kin answer: 422 with one cause.
pub(crate) fn invalid_options(field: &str, reason: &str, detail: String) -> Status {
    let mut status =
        Status::new(422, "Invalid", format!("ListOptions.meta.k8s.io \"\" is invalid: {field}: {detail}"));
    status.details = serde_json::json!({
        "group": "meta.k8s.io", "kind": "ListOptions",
        "causes": [{ "reason": reason, "message": detail, "field": field }],
    });
    status
}

/// What to do about fields the schema does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

/// How a `resourceVersion` binds a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VersionMatch {
    NotOlderThan,
    Exact,
}

/// `resourceVersion` as a number; absent and `0` differ.
pub(crate) fn resource_version(text: &str) -> Result<Revision, Status> {
    text.parse().map_err(|_| {
        invalid_options(
            "resourceVersion",
            "FieldValueInvalid",
            format!("Invalid value: {text:?}: must be a number"),
        )
    })
}

/// Options of list and watch, checked against each other as upstream's `ValidateListOptions` does.
#[derive(Clone, Debug)]
pub(crate) struct ListOptions {
    pub(crate) version: Option<Revision>,
    pub(crate) version_match: Option<VersionMatch>,
    pub(crate) limit: usize,
    pub(crate) continue_token: Option<String>,
    pub(crate) timeout_seconds: Option<u64>,
    pub(crate) bookmarks: bool,
    pub(crate) send_initial_events: Option<bool>,
}

impl ListOptions {
    pub(crate) fn parse(query: &Query, watch: bool) -> Result<Self, Status> {
        let version = query.get("resourceVersion").map(resource_version).transpose()?;
        let version_match = match query.get("resourceVersionMatch") {
            None => None,
            Some("NotOlderThan") => Some(VersionMatch::NotOlderThan),
            Some("Exact") => Some(VersionMatch::Exact),
            Some(other) => {
                return Err(invalid_options(
                    "resourceVersionMatch",
                    "FieldValueNotSupported",
                    format!(
                        "Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\", \"\""
                    ),
                ));
            }
        };
        let send_initial_events = query.get("sendInitialEvents").map(|v| !matches!(v, "false" | "0"));
        let options = Self {
            version,
            version_match,
            // A negative limit is no limit, as upstream treats it.
            limit: usize::try_from(query.integer("limit")?.unwrap_or(0)).unwrap_or(0),
            continue_token: query.get("continue").map(str::to_owned),
            timeout_seconds: query
                .integer("timeoutSeconds")?
                .and_then(|s| u64::try_from(s).ok())
                .filter(|s| *s > 0),
            bookmarks: query.flag("allowWatchBookmarks"),
            send_initial_events,
        };
        options.check(watch)?;
        Ok(options)
    }

    fn check(&self, watch: bool) -> Result<(), Status> {
        let forbidden = |field: &str, why: &str| {
            Err(invalid_options(field, "FieldValueForbidden", format!("Forbidden: {why}")))
        };
        if self.send_initial_events.is_some() {
            if !watch {
                return forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list");
            }
            if self.version_match != Some(VersionMatch::NotOlderThan) {
                return forbidden(
                    "resourceVersionMatch",
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                );
            }
        }
        if watch {
            if self.version_match.is_some() && self.send_initial_events.is_none() {
                return forbidden(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                );
            }
            return Ok(());
        }
        if self.version_match.is_some() {
            if self.version.is_none() {
                return forbidden(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                );
            }
            if self.continue_token.is_some() {
                return forbidden(
                    "resourceVersionMatch",
                    "resourceVersionMatch is forbidden when continue is provided",
                );
            }
            if self.version_match == Some(VersionMatch::Exact) && self.version == Some(0) {
                return forbidden(
                    "resourceVersionMatch",
                    "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
                );
            }
        }
        if self.continue_token.is_some() && self.version.is_some_and(|v| v != 0) {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        Ok(())
    }
}

/// Decodes `%XX`, and `+` as a space in queries. Malformed escapes stay as they are.
pub(crate) fn percent_decode(text: &str, plus_is_space: bool) -> String {
    if !text.contains(['%', '+']) {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    let hex = |b: u8| char::from(b).to_digit(16);
    while i < bytes.len() {
        match bytes[i] {
            b'%' if i + 2 < bytes.len() => match (hex(bytes[i + 1]), hex(bytes[i + 2])) {
                (Some(h), Some(l)) => {
                    out.push((h * 16 + l) as u8);
                    i += 2;
                }
                _ => out.push(b'%'),
            },
            b'+' if plus_is_space => out.push(b' '),
            other => out.push(other),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_decoded_and_malformed_ones_are_kept() {
        assert_eq!(percent_decode("a%3Db+c%2", true), "a=b c%2");
        assert_eq!(percent_decode("a+b%zz", false), "a+b%zz");
        assert_eq!(percent_decode("%41", false), "A");
    }

    #[test]
    fn send_initial_events_needs_not_older_than() {
        let parse = |q| ListOptions::parse(&Query::parse(Some(q)), true);
        assert_eq!(parse("sendInitialEvents=true").unwrap_err().code, 422);
        assert!(parse("sendInitialEvents=true&resourceVersionMatch=NotOlderThan").is_ok());
        assert_eq!(parse("resourceVersion=5&resourceVersionMatch=Exact").unwrap_err().code, 422);
    }

    #[test]
    fn options_that_contradict_each_other_are_refused_for_lists() {
        let code = |q| ListOptions::parse(&Query::parse(Some(q)), false).err().map(|s| s.code);
        assert_eq!(code("resourceVersionMatch=Exact"), Some(422));
        assert_eq!(code("resourceVersion=0&resourceVersionMatch=Exact"), Some(422));
        assert_eq!(code("resourceVersion=7&continue=x"), Some(400));
        assert_eq!(code("resourceVersion=abc"), Some(422));
        assert_eq!(code("limit=-1&resourceVersion=0"), None);
    }
}
