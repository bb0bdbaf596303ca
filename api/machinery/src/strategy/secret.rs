//! Secrets. `stringData` is written only: it becomes `data`.
use super::Strategy;
use super::check::{self, Faults};
use super::config_map::{MAX_DATA_BYTES, check_key, decoded_len};
use super::view::{drop_field, fill, section, text};
use crate::field::{Error, Path};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

pub(super) struct Secret;

impl Strategy for Secret {
    fn default(&self, obj: &mut Value) {
        fill(obj, "type", "Opaque");
        if let Some(Value::Object(given)) = obj.get("stringData").cloned()
            && let Some(data) = section(obj, "data")
        {
            for (key, value) in given {
                data[key.as_str()] = Value::from(STANDARD.encode(value.as_str().unwrap_or("")));
            }
        }
        drop_field(obj, "stringData");
    }
    fn validate(&self, obj: &Value) -> Faults {
        let mut faults = Faults::new();
        let path = Path::new("data");
        let mut size = 0;
        for (key, value) in obj["data"].as_object().into_iter().flatten() {
            check_key(&mut faults, key, &path);
            size += decoded_len(value);
        }
        if size > MAX_DATA_BYTES {
            faults.push(Error::too_long(path.clone(), MAX_DATA_BYTES));
        }
        let has = |key: &str| obj["data"].get(key).is_some();
        let mut need = |key: &str| {
            if !has(key) {
                faults.push(Error::required(path.key(key), ""));
            }
        };
        match text(obj, "/type") {
            "kubernetes.io/service-account-token" => {
                const ACCOUNT: &str = "kubernetes.io/service-account.name";
                if obj["metadata"]["annotations"][ACCOUNT].as_str().unwrap_or("").is_empty() {
                    let path = Path::new("metadata").child("annotations").key(ACCOUNT);
                    faults.push(Error::required(path, ""));
                }
            }
            "kubernetes.io/dockercfg" => docker(&mut faults, obj, ".dockercfg"),
            "kubernetes.io/dockerconfigjson" => docker(&mut faults, obj, ".dockerconfigjson"),
            "kubernetes.io/basic-auth" if !has("username") => need("password"),
            "kubernetes.io/ssh-auth" => need("ssh-privatekey"),
            "kubernetes.io/tls" => {
                need("tls.crt");
                need("tls.key");
            }
            _ => {}
        }
        faults
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Faults {
        let mut faults = Faults::new();
        check::immutable(&mut faults, &new["type"], &old["type"], Path::new("type"));
        faults.extend(check::frozen(new, old, &["data"]));
        faults
    }
}

/// Credentials of a registry are JSON. Their text does not go into an error.
fn docker(faults: &mut Faults, secret: &Value, key: &str) {
    let path = Path::new("data").key(key);
    let Some(text) = secret["data"][key].as_str() else {
        faults.push(Error::required(path, ""));
        return;
    };
    let json = STANDARD.decode(text).ok().and_then(|b| serde_json::from_slice::<Value>(&b).ok());
    if !json.is_some_and(|v| v.is_object()) {
        faults.push(Error::invalid(path, "<secret contents redacted>", "the contents are not a JSON object"));
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::shown;
    use super::*;
    use serde_json::json;

    #[test]
    fn string_data_becomes_data() {
        let mut s = json!({"data": {"a": "AA=="}, "stringData": {"a": "x", "b": "y"}});
        Secret.default(&mut s);
        assert_eq!(s, json!({"type": "Opaque", "data": {"a": "eA==", "b": "eQ=="}}));
        let once = s.clone();
        Secret.default(&mut s);
        assert_eq!(s, once);
    }

    #[test]
    fn types_ask_for_their_keys_and_may_not_change() {
        let got = shown(&Secret.validate(&json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}})));
        assert_eq!(got, ["data[tls.key]: Required value"]);
        let bad = json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "e3"}});
        let got = shown(&Secret.validate(&bad));
        assert!(got[0].contains("<secret contents redacted>"), "{got:?}");
        let got = shown(&Secret.validate_update(&json!({"type": "b"}), &json!({"type": "a"})));
        assert_eq!(got, ["type: Invalid value: \"b\": field is immutable"]);
    }
}
