//! The OpenAPI v2 document as gnostic's protobuf message `openapi.v2.Document`: as much of it as our document
//! uses. Tags are those of gnostic's `OpenAPIv2.proto`.
use serde_json::Value;

/// Encodes a document that [`super::v2::document`] made.
pub(super) fn encode(document: &Value) -> Vec<u8> {
    let mut m = Message::default();
    m.string(1, &document["swagger"]);
    m.message(2, &document["info"], |m, info| {
        m.string(1, &info["title"]);
        m.string(2, &info["version"]);
    });
    m.message(8, &document["paths"], |m, paths| m.named(2, paths, path_item));
    m.message(9, &document["definitions"], |m, d| m.named(1, d, schema));
    m.0
}

fn path_item(m: &mut Message, item: &Value) {
    for (tag, method) in [(2, "get"), (3, "put"), (4, "post"), (5, "delete"), (8, "patch")] {
        m.message(tag, &item[method], operation);
    }
    m.each(9, &item["parameters"], parameters_item);
}

fn operation(m: &mut Message, o: &Value) {
    m.strings(1, &o["tags"]);
    m.string(3, &o["description"]);
    m.string(5, &o["operationId"]);
    m.strings(6, &o["produces"]);
    m.strings(7, &o["consumes"]);
    m.each(8, &o["parameters"], parameters_item);
    // Responses → NamedResponseValue → ResponseValue.response → Response.
    m.message(9, &o["responses"], |m, responses| {
        m.named(1, responses, |m, response| {
            m.message(1, response, |m, r| {
                m.string(1, &r["description"]);
                m.message(2, &r["schema"], |m, s| m.message(1, s, schema));
            });
        });
    });
    m.strings(10, &o["schemes"]);
    m.extensions(13, o);
}

/// ParametersItem.parameter → Parameter.{body_parameter, non_body_parameter → {query, path}}.
fn parameters_item(m: &mut Message, p: &Value) {
    m.message(1, p, |m, p| match p["in"].as_str() {
        Some("body") => m.message(1, p, |m, p| {
            m.string(2, &p["name"]);
            m.string(3, &p["in"]);
            m.bool(4, &p["required"]);
            m.message(5, &p["schema"], schema);
        }),
        Some("query") => m.message(2, p, |m, p| {
            m.message(3, p, |m, p| {
                m.non_body(p);
                m.string(6, &p["type"]);
                m.bool(20, &p["uniqueItems"]);
            });
        }),
        _ => m.message(2, p, |m, p| {
            m.message(4, p, |m, p| {
                m.non_body(p);
                m.string(5, &p["type"]);
                m.bool(19, &p["uniqueItems"]);
            });
        }),
    });
}

fn schema(m: &mut Message, s: &Value) {
    m.string(1, &s["$ref"]);
    m.string(2, &s["format"]);
    m.string(4, &s["description"]);
    m.strings(19, &s["required"]);
    m.message(21, &s["additionalProperties"], |m, inner| m.message(1, inner, schema));
    if s["type"].is_string() {
        m.message(22, s, |m, s| m.string(1, &s["type"]));
    }
    m.message(23, &s["items"], |m, inner| m.message(1, inner, schema));
    m.message(25, &s["properties"], |m, properties| m.named(1, properties, schema));
    m.extensions(31, s);
}

/// A message under construction. What is absent or null is not written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }
    fn delimited(&mut self, tag: u32, bytes: &[u8]) {
        self.varint(u64::from(tag << 3 | 2));
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }
    fn string(&mut self, tag: u32, v: &Value) {
        if let Some(s) = v.as_str() {
            self.delimited(tag, s.as_bytes());
        }
    }
    fn strings(&mut self, tag: u32, v: &Value) {
        for s in v.as_array().into_iter().flatten() {
            self.string(tag, s);
        }
    }
    fn bool(&mut self, tag: u32, v: &Value) {
        if v.as_bool() == Some(true) {
            self.varint(u64::from(tag << 3));
            self.varint(1);
        }
    }
    fn message(&mut self, tag: u32, v: &Value, fill: impl FnOnce(&mut Message, &Value)) {
        if !v.is_null() {
            let mut inner = Message::default();
            fill(&mut inner, v);
            self.delimited(tag, &inner.0);
        }
    }
    fn each(&mut self, tag: u32, v: &Value, fill: impl Fn(&mut Message, &Value)) {
        for item in v.as_array().into_iter().flatten() {
            self.message(tag, item, &fill);
        }
    }
    /// A map, as gnostic writes them: messages of a name (1) and a value (2).
    fn named(&mut self, tag: u32, v: &Value, fill: impl Fn(&mut Message, &Value)) {
        for (name, value) in v.as_object().into_iter().flatten() {
            let mut inner = Message::default();
            inner.delimited(1, name.as_bytes());
            inner.message(2, value, &fill);
            self.delimited(tag, &inner.0);
        }
    }
    /// `x-…` keys: NamedAny { name, value: Any { yaml } }. JSON is YAML.
    fn extensions(&mut self, tag: u32, v: &Value) {
        for (name, value) in v.as_object().into_iter().flatten().filter(|(k, _)| k.starts_with("x-")) {
            let mut any = Message::default();
            any.delimited(2, format!("{value}\n").as_bytes());
            let mut named = Message::default();
            named.delimited(1, name.as_bytes());
            named.delimited(2, &any.0);
            self.delimited(tag, &named.0);
        }
    }
    /// What query and path parameters have at the same tags.
    fn non_body(&mut self, p: &Value) {
        self.bool(1, &p["required"]);
        self.string(2, &p["in"]);
        self.string(3, &p["description"]);
        self.string(4, &p["name"]);
    }
}
