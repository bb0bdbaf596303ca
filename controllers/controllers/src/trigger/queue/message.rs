//! A stream's entry as an HTTP request: CloudEvents 1.0, HTTP protocol binding, binary content mode
//! (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md>). Pure.
//!
//! An entry is a list of fields. One called `data` alone, or beside a `content-type`, is the body as it is; any other
//! entry becomes a JSON object of its fields.
use super::super::call::TRIGGER;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, header};
use serde_json::{Map, Value};

/// The field that is a body by itself.
const DATA: &str = "data";
/// The field beside it that says what kind.
const CONTENT_TYPE: &str = "content-type";
/// `ce-type` of every message.
const EVENT_TYPE: &str = "dev.dhow.redis.stream.message";

/// An entry of a stream.
pub(super) type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// What a message is delivered with beside its fields.
#[derive(Clone, Copy, Debug)]
pub(super) struct Envelope<'a> {
    /// The entry's ID.
    pub(super) id: &'a str,
    pub(super) stream: &'a str,
    /// Where it comes from: `redis://HOST:PORT/DATABASE`, without a password.
    pub(super) redis: &'a str,
    pub(super) trigger: &'a str,
    /// Counted from 1.
    pub(super) attempt: u64,
    pub(super) max_attempts: u64,
}

/// Percent-encodes what an attribute may not hold (section 3.1.3.2: all but printable ASCII, and space, `"`, `%`).
fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'"' | b'%' => out.push_str(&format!("%{byte:02X}")),
            0x21..=0x7e => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// The headers and the body of the request. The error says why there can be none.
pub(super) fn request(
    fields: Fields,
    envelope: Envelope<'_>,
) -> Result<(Vec<(HeaderName, HeaderValue)>, Bytes), String> {
    let (content_type, body) = body(fields)?;
    let attributes: [(&'static str, String); 7] = [
        ("ce-specversion", "1.0".to_owned()),
        ("ce-id", encoded(envelope.id)),
        ("ce-source", format!("{}/{}", encoded(envelope.redis), encoded(envelope.stream))),
        ("ce-type", EVENT_TYPE.to_owned()),
        ("ce-stream", encoded(envelope.stream)),
        ("ce-attempt", envelope.attempt.to_string()),
        ("ce-maxattempts", envelope.max_attempts.to_string()),
    ];
    let mut headers = vec![
        (header::USER_AGENT, HeaderValue::from_static("dhow-queue")),
        (header::CONTENT_TYPE, content_type),
    ];
    let trigger = (TRIGGER, encoded(envelope.trigger));
    let attributes = attributes.into_iter().map(|(name, value)| (HeaderName::from_static(name), value));
    for (name, value) in attributes.chain([trigger]) {
        // Encoded, it is printable ASCII.
        headers.push((name, HeaderValue::try_from(value).map_err(|e| e.to_string())?));
    }
    Ok((headers, body))
}

fn body(mut fields: Fields) -> Result<(HeaderValue, Bytes), String> {
    let named = |fields: &Fields, name: &str| fields.iter().position(|(own, _)| own == name.as_bytes());
    let own_type = (fields.len() == 2).then(|| named(&fields, CONTENT_TYPE)).flatten();
    if let Some(at) = named(&fields, DATA).filter(|_| fields.len() == 1 || own_type.is_some()) {
        let content_type = match own_type {
            Some(at) => HeaderValue::from_bytes(&fields[at].1)
                .map_err(|_| "its field content-type is no value of an HTTP header".to_owned())?,
            None => HeaderValue::from_static("application/octet-stream"),
        };
        return Ok((content_type, Bytes::from(fields.swap_remove(at).1)));
    }
    let mut object = Map::new();
    for (name, value) in fields {
        let text = |bytes: Vec<u8>| {
            String::from_utf8(bytes).map_err(|_| {
                "one of its fields is not UTF-8; bytes can be sent as the only field, called data".to_owned()
            })
        };
        let (name, value) = (text(name)?, Value::String(text(value)?));
        match object.get_mut(&name) {
            None => drop(object.insert(name, value)),
            // The same name several times: a list of its values.
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    let body = Value::Object(object).to_string();
    Ok((HeaderValue::from_static("application/json"), body.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(all: &[(&str, &str)]) -> Fields {
        all.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    fn made(all: &[(&str, &str)]) -> (String, String) {
        let (content_type, body) = body(fields(all)).unwrap();
        (content_type.to_str().unwrap().to_owned(), String::from_utf8(body.to_vec()).unwrap())
    }

    #[test]
    fn fields_become_json_and_data_is_the_body_itself() {
        let json = "application/json".to_owned();
        assert_eq!(made(&[("id", "7"), ("to", "a\"b")]), (json.clone(), r#"{"id":"7","to":"a\"b"}"#.into()));
        let bytes = "application/octet-stream".to_owned();
        assert_eq!(made(&[("data", "x\n")]), (bytes, "x\n".into()));
        assert_eq!(made(&[("content-type", "text/csv"), ("data", "1,2")]), ("text/csv".into(), "1,2".into()));
        assert_eq!(made(&[("data", "1"), ("to", "2")]), (json.clone(), r#"{"data":"1","to":"2"}"#.into()));
        assert_eq!(
            made(&[("a", "1"), ("a", "2"), ("a", "3")]),
            (json.clone(), r#"{"a":["1","2","3"]}"#.into())
        );
        assert_eq!(made(&[("data", "1"), ("data", "2")]), (json.clone(), r#"{"data":["1","2"]}"#.into()));
        assert_eq!(made(&[]), (json, "{}".into()));
    }

    #[test]
    fn what_cannot_be_said_is_refused_with_the_reason() {
        let refused = body(vec![(b"a".to_vec(), vec![0xff])]).unwrap_err();
        assert!(refused.contains("called data"), "{refused}");
        assert!(body(vec![(b"data".to_vec(), vec![0xff])]).is_ok());
        let refused = body(fields(&[("data", ""), ("content-type", "a\r\nb: c")])).unwrap_err();
        assert!(refused.contains("content-type"), "{refused}");
    }

    #[test]
    fn the_attributes_are_those_of_a_cloud_event() {
        let envelope = Envelope {
            id: "17-0",
            stream: "käse %",
            redis: "redis://r:6379/0",
            trigger: "t",
            attempt: 2,
            max_attempts: 5,
        };
        let (headers, _) = request(fields(&[("data", "x")]), envelope).unwrap();
        let shown: Vec<String> =
            headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        assert_eq!(
            shown,
            [
                "user-agent: dhow-queue",
                "content-type: application/octet-stream",
                "ce-specversion: 1.0",
                "ce-id: 17-0",
                "ce-source: redis://r:6379/0/k%C3%A4se%20%25",
                "ce-type: dev.dhow.redis.stream.message",
                "ce-stream: k%C3%A4se%20%25",
                "ce-attempt: 2",
                "ce-maxattempts: 5",
                "x-dhow-trigger: t",
            ]
        );
    }
}
