//! Label and field selectors: their query-string form, their object form, and matching.
//!
//! The grammar and the wording of its errors are apimachinery's (`labels.Parse`, `fields.ParseSelector`):
//! clients show these texts to people.
mod labels;

use serde_json::Value;
use std::fmt;

/// A label selector (`a=b,c in (d,e),!f`, or metav1.LabelSelector). The empty one matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    /// All must hold. Sorted by key.
    pub requirements: Vec<Requirement>,
    /// A selector that matches nothing (a nil metav1.LabelSelector).
    pub nothing: bool,
}

/// One term of a label selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    /// Sorted, without repetitions.
    pub values: Vec<String>,
}

/// How a term compares. `Equals` and `NotEquals` are `In` and `NotIn` with one value, kept apart because they
/// are printed differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    Equals,
    NotEquals,
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

impl Requirement {
    /// Whether a `metadata.labels` object (or null) fulfils this term. A label that is absent fulfils the
    /// negative ones.
    pub fn matches(&self, labels: &Value) -> bool {
        let value = labels.get(&self.key).and_then(Value::as_str);
        let listed = |v: &str| self.values.iter().any(|x| x == v);
        let compare = |holds: fn(i64, i64) -> bool| {
            let (Some(have), Some(want)) = (value, self.values.first()) else { return false };
            matches!((have.parse(), want.parse()), (Ok(have), Ok(want)) if holds(have, want))
        };
        match self.operator {
            Operator::Equals | Operator::In => value.is_some_and(listed),
            Operator::NotEquals | Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::Gt => compare(|have, want| have > want),
            Operator::Lt => compare(|have, want| have < want),
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, values) = (&self.key, self.values.join(","));
        match self.operator {
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Exists => f.write_str(key),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::Gt => write!(f, "{key}>{values}"),
            Operator::Lt => write!(f, "{key}<{values}"),
        }
    }
}

impl LabelSelector {
    /// From a query parameter.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        labels::parse(text)
    }
    /// From a metav1.LabelSelector; `Value::Null` matches nothing, `{}` everything.
    pub fn from_object(selector: &Value) -> Result<Self, ParseError> {
        labels::from_object(selector)
    }
    /// From a plain map of labels, as in a Service's `spec.selector`. An absent or empty map matches nothing:
    /// a Service without a selector has endpoints that others keep.
    pub fn from_map(labels: &Value) -> Self {
        let Some(map) = labels.as_object().filter(|m| !m.is_empty()) else {
            return Self { requirements: Vec::new(), nothing: true };
        };
        let requirements = map
            .iter()
            .map(|(k, v)| Requirement {
                key: k.clone(),
                operator: Operator::Equals,
                values: vec![v.as_str().unwrap_or("").to_owned()],
            })
            .collect();
        Self::sorted(requirements)
    }
    /// Whether a `metadata.labels` object (or null) matches.
    pub fn matches(&self, labels: &Value) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels))
    }
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }
    fn sorted(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Self { requirements, nothing: false }
    }
}

/// The query-string form. What matches nothing prints as nothing, as upstream's does.
impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            r.fmt(f)?;
        }
        Ok(())
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
        let mut terms = Vec::new();
        for term in split_terms(text) {
            if term.is_empty() {
                continue;
            }
            let invalid = || ParseError(format!("invalid selector: '{text}'; can't understand '{term}'"));
            let (field, equal, value) = split_term(term).ok_or_else(invalid)?;
            terms.push((field.to_owned(), equal, unescape(value)?));
        }
        Ok(Self { terms })
    }
    /// Whether the object matches, `field` giving each field's value. Unknown fields were refused before.
    pub fn matches(&self, field: impl Fn(&str) -> String) -> bool {
        self.terms.iter().all(|(f, equal, v)| (field(f) == *v) == *equal)
    }
    pub fn is_everything(&self) -> bool {
        self.terms.is_empty()
    }
}

/// The parts of `text` between commas that no backslash precedes.
fn split_terms(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut escaped) = (Vec::new(), 0, false);
    for (i, b) in text.bytes().enumerate() {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b',' => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

/// The first of `!=`, `==`, `=` in a term splits it.
fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (i, _) in term.char_indices() {
        let rest = &term[i..];
        for (operator, equal) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = rest.strip_prefix(operator) {
                return Some((&term[..i], equal, value));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, ParseError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(e @ ('\\' | ',' | '=')) => out.push(e),
                Some(e) => {
                    return Err(ParseError(format!(
                        "invalid field selector: invalid escape sequence: \\{e}"
                    )));
                }
                None => {
                    return Err(ParseError(format!(
                        "invalid field selector: unterminated escape sequence at end of {value:?}"
                    )));
                }
            },
            ',' | '=' => {
                return Err(ParseError(format!(
                    "invalid field selector: unescaped {c:?} in {value:?}: write \\{c}"
                )));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_field_selector_compares_and_takes_empty_values() {
        let s = FieldSelector::parse("status.phase!=Failed,spec.nodeName=,metadata.name==a").unwrap();
        assert_eq!(s.terms.len(), 3);
        let field = |phase: &'static str| {
            move |f: &str| match f {
                "status.phase" => phase.to_owned(),
                "metadata.name" => "a".to_owned(),
                _ => String::new(),
            }
        };
        assert!(s.matches(field("Running")));
        assert!(!s.matches(field("Failed")));
        assert!(FieldSelector::parse("").unwrap().is_everything());
    }

    #[test]
    fn a_field_selector_understands_escapes_and_says_what_it_does_not_understand() {
        let s = FieldSelector::parse(r"a=b\,c\=d\\e").unwrap();
        assert_eq!(s.terms, vec![("a".to_owned(), true, r"b,c=d\e".to_owned())]);
        let e = FieldSelector::parse("spec.nodeName").unwrap_err();
        assert_eq!(e.0, "invalid selector: 'spec.nodeName'; can't understand 'spec.nodeName'");
        assert!(FieldSelector::parse(r"a=b\c").is_err());
        assert!(FieldSelector::parse("a=b=c").is_err());
    }

    #[test]
    fn a_map_of_labels_selects_by_equality_and_an_empty_one_selects_nothing() {
        let s = LabelSelector::from_map(&json!({"b": "2", "a": "1"}));
        assert_eq!(s.to_string(), "a=1,b=2");
        assert!(s.matches(&json!({"a": "1", "b": "2", "c": "3"})));
        assert!(!s.matches(&json!({"a": "1"})));
        assert!(!LabelSelector::from_map(&json!({})).matches(&json!({})));
        assert!(!LabelSelector::from_map(&Value::Null).matches(&json!({"a": "1"})));
    }
}
