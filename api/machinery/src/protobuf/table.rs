//! The embedded table of messages, unpacked once.
//!
//! Format of `data/protobuf.txt.gz`, one record a line, fields separated by a blank:
//!
//! ```text
//!   M k8s.io.api.core.v1.Volume o     message: name, shape; its number is the count of M lines before it
//!   1 name s k                        field: tag, JSON name, type, and `k` where an empty value is a value
//!   2 volumeSource ^434               … whose fields stand in the outer JSON object (a struct embedded in Go)
//! ```
//! Types: `s` string, `y` bytes, `b` bool, `i` int32, `l` int64, `d` double, `-` a message without fields,
//! `>N` the message of that number; before them `[` repeated, `{` a map from strings.
//! Shapes: `o` fields, `q` Quantity, `t` Time, `u` MicroTime, `x` IntOrString, `r` raw JSON, `e` a list of strings.
use std::collections::HashMap;
use std::sync::OnceLock;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    String,
    Bytes,
    Bool,
    Int32,
    Int64,
    Double,
    Empty,
    Message(u32),
    Inline(u32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Label {
    One,
    Repeated,
    Map,
}

#[derive(Debug)]
pub(super) struct Field {
    pub(super) tag: u32,
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) label: Label,
    /// Whether an empty value is a value, not an absence.
    pub(super) keeps_zero: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Fields,
    Quantity,
    Time,
    MicroTime,
    IntOrString,
    Raw,
    Strings,
}

#[derive(Debug)]
pub(super) struct Message {
    pub(super) shape: Shape,
    fields: Vec<Field>,
}

impl Message {
    pub(super) fn field(&self, tag: u32) -> Option<&Field> {
        let at = self.fields.binary_search_by_key(&tag, |f| f.tag).ok()?;
        self.fields.get(at)
    }
}

pub(super) struct Table {
    messages: Vec<Message>,
    names: HashMap<&'static str, u32>,
}

impl Table {
    /// A message by a number that the table itself holds.
    pub(super) fn message(&self, number: u32) -> &Message {
        &self.messages[number as usize]
    }

    /// The message of an `apiVersion` and `kind`.
    pub(super) fn of_kind(&self, api_version: &str, kind: &str) -> Option<u32> {
        let (group, version) = api_version.split_once('/').unwrap_or(("core", api_version));
        // Packages are named after the first part of the group, with one exception.
        let package = match group {
            "internal.apiserver.k8s.io" => "apiserverinternal",
            other => other.split('.').next().unwrap_or(other),
        };
        let own = format!("k8s.io.api.{package}.{version}.{kind}");
        // DeleteOptions and its kin exist in every group version, and are one message.
        let meta = format!("k8s.io.apimachinery.pkg.apis.meta.v1.{kind}");
        let is_meta = kind.ends_with("Options") || api_version == "v1" || api_version == "meta.k8s.io/v1";
        self.names.get(own.as_str()).or_else(|| self.names.get(meta.as_str()).filter(|_| is_meta)).copied()
    }

    /// Reads the table's text; a line that makes no sense is a bug of this crate's data, which a test would show.
    fn parse(text: &'static str) -> Self {
        let mut table = Self { messages: Vec::new(), names: HashMap::new() };
        for line in text.lines() {
            let mut words = line.split(' ');
            let (Some(first), Some(name), Some(code)) = (words.next(), words.next(), words.next()) else {
                continue;
            };
            if first == "M" {
                let shape = match code {
                    "q" => Shape::Quantity,
                    "t" => Shape::Time,
                    "u" => Shape::MicroTime,
                    "x" => Shape::IntOrString,
                    "r" => Shape::Raw,
                    "e" => Shape::Strings,
                    _ => Shape::Fields,
                };
                table.names.insert(name, table.messages.len() as u32);
                table.messages.push(Message { shape, fields: Vec::new() });
                continue;
            }
            let (label, code) = match code.as_bytes().first() {
                Some(b'[') => (Label::Repeated, &code[1..]),
                Some(b'{') => (Label::Map, &code[1..]),
                _ => (Label::One, code),
            };
            let number = || code.get(1..).and_then(|n| n.parse().ok());
            let kind = match code.as_bytes().first() {
                Some(b's') => Kind::String,
                Some(b'y') => Kind::Bytes,
                Some(b'b') => Kind::Bool,
                Some(b'i') => Kind::Int32,
                Some(b'l') => Kind::Int64,
                Some(b'd') => Kind::Double,
                Some(b'>') => number().map_or(Kind::Empty, Kind::Message),
                Some(b'^') => number().map_or(Kind::Empty, Kind::Inline),
                _ => Kind::Empty,
            };
            let keeps_zero = words.next() == Some("k");
            if let (Some(message), Ok(tag)) = (table.messages.last_mut(), first.parse()) {
                message.fields.push(Field { tag, name, kind, label, keeps_zero });
            }
        }
        for message in &mut table.messages {
            message.fields.sort_unstable_by_key(|f| f.tag);
        }
        table
    }
}

/// The embedded table.
pub(super) fn get() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    static TEXT: OnceLock<String> = OnceLock::new();
    TABLE.get_or_init(|| {
        Table::parse(TEXT.get_or_init(|| crate::embedded::text(include_bytes!("../../data/protobuf.txt.gz"))))
    })
}
