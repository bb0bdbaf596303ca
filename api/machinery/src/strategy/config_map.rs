//! ConfigMaps.
use super::Strategy;
use super::check::{self, Faults};
use crate::field::{Error, Path};
use crate::validation::config_map_key;
use serde_json::Value;

pub(super) struct ConfigMap;

/// All data of a ConfigMap or Secret together (upstream `MaxSecretSize`): objects are read and sent whole.
pub(super) const MAX_DATA_BYTES: usize = 1 << 20;

impl Strategy for ConfigMap {
    fn validate(&self, obj: &Value) -> Faults {
        let mut faults = Faults::new();
        let mut size = 0;
        for (key, value) in obj["data"].as_object().into_iter().flatten() {
            check_key(&mut faults, key, &Path::new("data"));
            if obj["binaryData"].get(key).is_some() {
                let path = Path::new("data").key(key);
                faults.push(Error::invalid(path, key.as_str(), "duplicate of key present in binaryData"));
            }
            size += value.as_str().map_or(0, str::len);
        }
        for (key, value) in obj["binaryData"].as_object().into_iter().flatten() {
            check_key(&mut faults, key, &Path::new("binaryData"));
            size += decoded_len(value);
        }
        if size > MAX_DATA_BYTES {
            // Upstream prints a path without a name as `[]`, and people search for that.
            faults.push(Error::too_long(Path::root().key(""), MAX_DATA_BYTES));
        }
        faults
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Faults {
        check::frozen(new, old, &["data", "binaryData"])
    }
}

pub(super) fn check_key(faults: &mut Faults, key: &str, path: &Path) {
    for e in config_map_key(key).err().into_iter().flatten() {
        faults.push(Error::invalid(path.key(key), key, &e));
    }
}

/// How many bytes a base64 text holds.
pub(super) fn decoded_len(value: &Value) -> usize {
    let text = value.as_str().unwrap_or("").trim_end_matches('=');
    text.len() / 4 * 3 + text.len() % 4 * 3 / 4
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::shown;
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_file_names_and_the_whole_is_limited() {
        let c = json!({"data": {"a/b": "", "..x": "", "same": ""}, "binaryData": {"same": "AAAA"}});
        let got = shown(&ConfigMap.validate(&c));
        assert_eq!(got.len(), 3, "{got:?}");
        assert!(
            got.contains(&"data[..x]: Invalid value: \"..x\": must not start with '..'".to_owned()),
            "{got:?}"
        );
        let big = json!({"data": {"a": "x".repeat(MAX_DATA_BYTES)}, "binaryData": {"b": "AA=="}});
        assert_eq!(shown(&ConfigMap.validate(&big)), ["[]: Too long: may not be more than 1048576 bytes"]);
        assert_eq!(
            [decoded_len(&json!("AA==")), decoded_len(&json!("AAA=")), decoded_len(&json!("AAAA"))],
            [1, 2, 3]
        );
    }

    #[test]
    fn an_immutable_one_stays_as_it_is() {
        let old = json!({"immutable": true, "data": {"a": "1"}});
        assert!(ConfigMap.validate_update(&old, &old).is_empty());
        let new = json!({"data": {"a": "2"}});
        assert_eq!(
            shown(&ConfigMap.validate_update(&new, &old)),
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set",
            ]
        );
    }
}
