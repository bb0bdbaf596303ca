//! RuntimeClasses.
use super::Strategy;
use super::check::{self, Faults};
use crate::field::{Error, Path};
use crate::validation::dns_label;
use serde_json::Value;

pub(super) struct RuntimeClass;

impl Strategy for RuntimeClass {
    fn validate(&self, obj: &Value) -> Faults {
        let mut faults = Faults::new();
        match obj["handler"].as_str().unwrap_or("") {
            "" => faults.push(Error::required(Path::new("handler"), "")),
            handler => check::rule(&mut faults, handler, Path::new("handler"), dns_label),
        }
        let path = Path::new("overhead").child("podFixed");
        for (name, quantity) in obj["overhead"]["podFixed"].as_object().into_iter().flatten() {
            check::quantity_not_negative(&mut faults, quantity, path.key(name));
        }
        check::labels(&mut faults, &obj["scheduling"], &Path::new("scheduling"), "nodeSelector");
        faults
    }
    fn validate_update(&self, new: &Value, old: &Value) -> Faults {
        let mut faults = Faults::new();
        check::immutable(&mut faults, &new["handler"], &old["handler"], Path::new("handler"));
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::shown;
    use super::*;
    use serde_json::json;

    #[test]
    fn the_handler_is_a_label_and_stays() {
        assert_eq!(shown(&RuntimeClass.validate(&json!({}))), ["handler: Required value"]);
        assert_eq!(RuntimeClass.validate(&json!({"handler": "a.b"})).len(), 1);
        let got = shown(&RuntimeClass.validate_update(&json!({"handler": "b"}), &json!({"handler": "a"})));
        assert_eq!(got, ["handler: Invalid value: \"b\": field is immutable"]);
    }
}
