//! Label and field selectors: their query-string form, their object form, and matching.
use serde_json::Value;

/// A label selector (`a=b,c in (d,e),!f`, or metav1.LabelSelector). The empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    pub requirements: Vec<Requirement>,
    /// A selector that matches nothing (a nil metav1.LabelSelector).
    pub nothing: bool,
}

/// One term of a label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    pub values: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
    Gt,
    Lt,
}

/// Why a selector could not be read; the text goes into a 400 Status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(pub String);

impl LabelSelector {
    /// From a query parameter.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let _ = text;
        todo!()
    }
    /// From a metav1.LabelSelector; `Value::Null` matches nothing, `{}` everything.
    pub fn from_object(selector: &Value) -> Result<Self, ParseError> {
        let _ = selector;
        todo!()
    }
    /// Whether a `metadata.labels` object (or null) matches.
    pub fn matches(&self, labels: &Value) -> bool {
        let _ = labels;
        todo!()
    }
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }
}

/// A field selector: `spec.nodeName=a,status.phase!=Failed`. Only equality; values may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    /// Field, whether it must be equal (else unequal), value.
    pub terms: Vec<(String, bool, String)>,
}

impl FieldSelector {
    /// From a query parameter; `\\`, `\,` and `\=` are escapes (apimachinery `fields.UnescapeValue`).
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        let _ = text;
        todo!()
    }
    /// Whether the object matches, `field` giving each field's value. Unknown fields were refused before.
    pub fn matches(&self, field: impl Fn(&str) -> String) -> bool {
        self.terms.iter().all(|(f, equal, v)| (field(f) == *v) == *equal)
    }
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }
}
