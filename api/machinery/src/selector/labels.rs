//! Reading label selectors: a lexer and a parser by recursive descent, and metav1.LabelSelector.
use super::{LabelSelector, Operator, ParseError, Requirement};
use crate::field::{Error as FieldError, Path};
use crate::validation;
use serde_json::Value;
use std::collections::BTreeSet;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Open,
    Close,
    Comma,
    Not,
    Equals,
    DoubleEquals,
    NotEquals,
    Greater,
    Less,
    In,
    NotIn,
    Word,
    End,
}

/// Whether `in` and `notin` are operators here, or words like any other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Context {
    Operator,
    Word,
}

fn is_symbol(b: u8) -> bool {
    matches!(b, b'=' | b'!' | b'(' | b')' | b',' | b'>' | b'<')
}

fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\r' | b'\n')
}

/// The tokens of a selector, with the text of each.
fn lex(text: &str) -> Vec<(Token, &str)> {
    const SYMBOLS: [(&str, Token); 9] = [
        ("==", Token::DoubleEquals),
        ("!=", Token::NotEquals),
        ("(", Token::Open),
        (")", Token::Close),
        (",", Token::Comma),
        ("!", Token::Not),
        ("=", Token::Equals),
        (">", Token::Greater),
        ("<", Token::Less),
    ];
    let (bytes, mut at, mut tokens) = (text.as_bytes(), 0, Vec::new());
    while at < bytes.len() {
        if is_space(bytes[at]) {
            at += 1;
        } else if let Some((s, t)) = SYMBOLS.iter().find(|(s, _)| bytes[at..].starts_with(s.as_bytes())) {
            tokens.push((*t, *s));
            at += s.len();
        } else {
            let len =
                bytes[at..].iter().position(|b| is_symbol(*b) || is_space(*b)).unwrap_or(bytes.len() - at);
            // Symbols and spaces are ASCII, so both ends lie between characters.
            let word = &text[at..at + len];
            let token = match word {
                "in" => Token::In,
                "notin" => Token::NotIn,
                _ => Token::Word,
            };
            tokens.push((token, word));
            at += len;
        }
    }
    tokens
}

struct Parser<'a> {
    tokens: Vec<(Token, &'a str)>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self, context: Context) -> (Token, &'a str) {
        match self.tokens.get(self.at) {
            None => (Token::End, ""),
            Some((Token::In | Token::NotIn, s)) if context == Context::Word => (Token::Word, s),
            Some(t) => *t,
        }
    }
    fn next(&mut self, context: Context) -> (Token, &'a str) {
        let t = self.peek(context);
        self.at += 1;
        t
    }

    fn selector(&mut self) -> Result<Vec<Requirement>, String> {
        let mut out = Vec::new();
        loop {
            match self.peek(Context::Word) {
                (Token::Word | Token::Not, _) => {
                    out.push(self.requirement().map_err(|e| format!("unable to parse requirement: {e}"))?);
                    match self.next(Context::Word) {
                        (Token::End, _) => return Ok(out),
                        (Token::Comma, _) => {
                            let (t, l) = self.peek(Context::Word);
                            if !matches!(t, Token::Word | Token::Not) {
                                return Err(format!("found '{l}', expected: identifier after ','"));
                            }
                        }
                        (_, l) => return Err(format!("found '{l}', expected: ',' or 'end of string'")),
                    }
                }
                (Token::End, _) => return Ok(out),
                (_, l) => return Err(format!("found '{l}', expected: !, identifier, or 'end of string'")),
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, String> {
        let (mut token, mut key) = self.next(Context::Word);
        let negated = token == Token::Not;
        if negated {
            (token, key) = self.next(Context::Word);
        }
        if token != Token::Word {
            return Err(format!("found '{key}', expected: identifier"));
        }
        check_key(Path::root(), key).map_err(|e| e.to_string())?;
        if negated {
            return new_requirement(key, Operator::DoesNotExist, Default::default(), &Path::root());
        }
        if matches!(self.peek(Context::Word).0, Token::End | Token::Comma) {
            return new_requirement(key, Operator::Exists, Default::default(), &Path::root());
        }
        let operator = self.operator()?;
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => BTreeSet::from([self.exact_value()?]),
        };
        new_requirement(key, operator, values, &Path::root())
    }

    fn operator(&mut self) -> Result<Operator, String> {
        Ok(match self.next(Context::Operator) {
            (Token::In, _) => Operator::In,
            (Token::NotIn, _) => Operator::NotIn,
            (Token::Equals | Token::DoubleEquals, _) => Operator::Equals,
            (Token::NotEquals, _) => Operator::NotEquals,
            (Token::Greater, _) => Operator::Gt,
            (Token::Less, _) => Operator::Lt,
            (_, l) => return Err(format!("found '{l}', expected: in, notin, =, ==, !=, gt, lt")),
        })
    }

    /// `(a,b)`; empty places are empty values, `()` is none at all.
    fn values(&mut self) -> Result<BTreeSet<String>, String> {
        let (t, l) = self.next(Context::Word);
        if t != Token::Open {
            return Err(format!("found '{l}' expected: '('"));
        }
        match self.peek(Context::Word) {
            (Token::Close, _) => {
                self.at += 1;
                return Ok(BTreeSet::new());
            }
            (Token::Word | Token::Comma, _) => {}
            (_, l) => return Err(format!("found '{l}', expected: ',', ')' or identifier")),
        }
        let mut values = BTreeSet::new();
        loop {
            let value = match self.peek(Context::Word) {
                (Token::Word, l) => {
                    self.at += 1;
                    l
                }
                (Token::Comma | Token::Close, _) => "",
                (_, l) => return Err(format!("found '{l}', expected: ',', or identifier")),
            };
            values.insert(value.to_owned());
            match self.next(Context::Word) {
                (Token::Comma, _) => {}
                (Token::Close, _) => return Ok(values),
                (_, l) => return Err(format!("found '{l}', expected: ',' or ')'")),
            }
        }
    }

    fn exact_value(&mut self) -> Result<String, String> {
        match self.peek(Context::Word) {
            (Token::End | Token::Comma, _) => Ok(String::new()),
            (Token::Word, l) => {
                self.at += 1;
                Ok(l.to_owned())
            }
            (_, l) => Err(format!("found '{l}', expected: identifier")),
        }
    }
}

fn check_key(path: Path, key: &str) -> Result<(), FieldError> {
    validation::qualified_name(key).map_err(|errors| FieldError::invalid(path, key, &errors.join("; ")))
}

fn new_requirement(
    key: &str,
    operator: Operator,
    values: BTreeSet<String>,
    path: &Path,
) -> Result<Requirement, String> {
    check_key(path.child("key"), key).map_err(|e| e.to_string())?;
    let path = path.child("values");
    let refuse = |why: &str| {
        let shown = Value::from(values.iter().cloned().collect::<Vec<_>>());
        Err(FieldError::invalid(path.clone(), shown, why).to_string())
    };
    match operator {
        Operator::In | Operator::NotIn if values.is_empty() => {
            return refuse("for 'in', 'notin' operators, values set can't be empty");
        }
        Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
            return refuse("values set must be empty for exists and does not exist");
        }
        Operator::Gt | Operator::Lt if !values.iter().all(|v| v.parse::<i64>().is_ok()) => {
            return refuse("for 'Gt', 'Lt' operators, the value must be an integer");
        }
        _ => {}
    }
    for (i, v) in values.iter().enumerate() {
        validation::label_value(v).map_err(|errors| {
            FieldError::invalid(path.index(i).key(key), v.as_str(), &errors.join("; ")).to_string()
        })?;
    }
    Ok(Requirement { key: key.to_owned(), operator, values: values.into_iter().collect() })
}

pub(super) fn parse(text: &str) -> Result<LabelSelector, ParseError> {
    let mut parser = Parser { tokens: lex(text), at: 0 };
    parser.selector().map(LabelSelector::sorted).map_err(ParseError)
}

pub(super) fn from_object(selector: &Value) -> Result<LabelSelector, ParseError> {
    if selector.is_null() {
        return Ok(LabelSelector { requirements: Vec::new(), nothing: true });
    }
    let mut out = Vec::new();
    for (k, v) in selector["matchLabels"].as_object().into_iter().flatten() {
        let values = BTreeSet::from([v.as_str().unwrap_or("").to_owned()]);
        out.push(new_requirement(k, Operator::Equals, values, &Path::root()).map_err(ParseError)?);
    }
    for e in selector["matchExpressions"].as_array().into_iter().flatten() {
        let operator = match e["operator"].as_str().unwrap_or("") {
            "In" => Operator::In,
            "NotIn" => Operator::NotIn,
            "Exists" => Operator::Exists,
            "DoesNotExist" => Operator::DoesNotExist,
            other => return Err(ParseError(format!("{other:?} is not a valid label selector operator"))),
        };
        let values = e["values"].as_array().into_iter().flatten();
        let values = values.map(|v| v.as_str().unwrap_or("").to_owned()).collect();
        let key = e["key"].as_str().unwrap_or("");
        out.push(new_requirement(key, operator, values, &Path::root()).map_err(ParseError)?);
    }
    Ok(LabelSelector::sorted(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_operator_of_the_query_form_is_read_printed_and_matched() {
        let labels = json!({"app": "web", "tier": "front", "weight": "7", "in": "x"});
        for (text, printed, matches) in [
            ("", "", true),
            ("app=web", "app=web", true),
            ("app==web", "app=web", true),
            ("app != web", "app!=web", false),
            ("missing!=web", "missing!=web", true),
            ("app in (api, web)", "app in (api,web)", true),
            ("app notin (api,web)", "app notin (api,web)", false),
            ("app in (,web)", "app in (,web)", true),
            ("app", "app", true),
            ("!app", "!app", false),
            ("weight>6", "weight>6", true),
            ("weight<7", "weight<7", false),
            ("app>6", "app>6", false),
            ("tier=front,app=web", "app=web,tier=front", true),
            ("missing=", "missing=", false),
            ("in=x", "in=x", true),
            ("in in (x)", "in in (x)", true),
        ] {
            let s = parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(s.to_string(), printed, "{text}");
            assert_eq!(s.matches(&labels), matches, "{text}");
            assert_eq!(parse(printed).unwrap(), s, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_answered_in_upstreams_words() {
        for (text, error) in [
            ("app=web,", "found '', expected: identifier after ','"),
            ("a=b=c", "found '=', expected: ',' or 'end of string'"),
            ("=a", "found '=', expected: !, identifier, or 'end of string'"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
            (
                "a in ()",
                "unable to parse requirement: values: Invalid value: []: \
                 for 'in', 'notin' operators, values set can't be empty",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err().0, error, "{text}");
        }
        let e = parse("a=b@").unwrap_err().0;
        assert!(
            e.starts_with(
                "unable to parse requirement: values[0][a]: Invalid value: \"b@\": a valid label must be"
            ),
            "{e}"
        );
        let e = parse("-a=b").unwrap_err().0;
        assert!(
            e.starts_with("unable to parse requirement: <nil>: Invalid value: \"-a\": name part must"),
            "{e}"
        );
    }

    #[test]
    fn the_object_form_matches_nothing_when_absent_and_everything_when_empty() {
        assert!(!from_object(&Value::Null).unwrap().matches(&json!({})));
        assert!(from_object(&json!({})).unwrap().matches(&json!({})));
        let s = from_object(&json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "In", "values": ["b", "a"]},
                {"key": "old", "operator": "DoesNotExist"}
            ]
        }))
        .unwrap();
        assert_eq!(s.to_string(), "app=web,!old,tier in (a,b)");
        assert!(s.matches(&json!({"app": "web", "tier": "a"})));
        assert!(!s.matches(&json!({"app": "web", "tier": "a", "old": ""})));
        let e = from_object(&json!({"matchExpressions": [{"key": "a", "operator": "Like"}]})).unwrap_err();
        assert_eq!(e.0, "\"Like\" is not a valid label selector operator");
    }
}
