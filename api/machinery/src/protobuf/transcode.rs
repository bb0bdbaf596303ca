//! From messages to JSON, along the table.
use super::reader::{Reader, Wire};
use super::table::{self, Field, Kind, Label, Message, Shape};
use super::{Error, MAGIC, MAX_DEPTH, MAX_VALUES, Object};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Number, Value};

pub(super) struct Transcoder<'a> {
    body: Reader<'a>,
    values: usize,
}

/// First and last second of the years 1 to 9999, which is what RFC 3339 can say.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

impl<'a> Transcoder<'a> {
    pub(super) fn new(body: &'a [u8]) -> Self {
        Self { body: Reader::new(body), values: 0 }
    }

    /// Decodes the body: the magic number and a runtime.Unknown.
    pub(super) fn unknown(&mut self, depth: usize) -> Result<Object, Error> {
        let body = self.body;
        self.envelope(body, depth)
    }

    fn envelope(&mut self, mut body: Reader<'a>, depth: usize) -> Result<Object, Error> {
        if !body.bytes().starts_with(MAGIC) {
            return Err(Error::Magic);
        }
        body.take(MAGIC.len())?;
        let (mut api_version, mut kind, mut raw) = ("", "", None);
        while let Some((tag, wire)) = body.field()? {
            match (tag, wire) {
                (1, Wire::Bytes(mut type_meta)) => {
                    while let Some((tag, wire)) = type_meta.field()? {
                        match (tag, wire) {
                            (1, Wire::Bytes(text)) => api_version = text.text()?,
                            (2, Wire::Bytes(text)) => kind = text.text()?,
                            _ => {}
                        }
                    }
                }
                (2, Wire::Bytes(bytes)) => raw = Some(bytes),
                (3, Wire::Bytes(encoding)) if !encoding.is_empty() => {
                    return Err(encoding.error("the object has an encoding of its own"));
                }
                _ => {}
            }
        }
        let Some(number) = table::get().of_kind(api_version, kind) else {
            return Err(Error::UnknownKind { api_version: api_version.to_owned(), kind: kind.to_owned() });
        };
        let mut object = Object::new();
        if let Some(raw) = raw {
            self.fields(table::get().message(number), raw, &mut object, depth + 1)?;
        }
        object.insert("apiVersion".to_owned(), api_version.into());
        object.insert("kind".to_owned(), kind.into());
        Ok(object)
    }

    /// Reads a message's fields into `object`.
    fn fields(
        &mut self,
        message: &Message,
        mut body: Reader<'a>,
        object: &mut Object,
        depth: usize,
    ) -> Result<(), Error> {
        if depth > MAX_DEPTH {
            return Err(body.error("messages are nested too deep"));
        }
        while let Some((tag, wire)) = body.field()? {
            // A field that is not in the table is newer than this server; Go's decoder skips it as well.
            let Some(field) = message.field(tag) else { continue };
            self.values += 1;
            if self.values > MAX_VALUES {
                return Err(body.error("too many values"));
            }
            match field.label {
                Label::One => self.one(field, wire, &body, object, depth)?,
                Label::Repeated => {
                    let list = object.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                    if let Value::Array(list) = list {
                        self.repeated(field, wire, &body, list, depth)?;
                    }
                }
                Label::Map => {
                    let Wire::Bytes(entry) = wire else { return Err(wrong_wire(&body)) };
                    let (key, value) = self.map_entry(field, entry, depth)?;
                    let map = object.entry(field.name).or_insert_with(|| Value::Object(Object::new()));
                    if let Value::Object(map) = map {
                        map.insert(key, value);
                    }
                }
            }
        }
        Ok(())
    }

    fn one(
        &mut self,
        field: &Field,
        wire: Wire<'a>,
        at: &Reader<'a>,
        object: &mut Object,
        depth: usize,
    ) -> Result<(), Error> {
        match (field.kind, wire) {
            (Kind::Inline(number), Wire::Bytes(inner)) => {
                self.fields(table::get().message(number), inner, object, depth + 1)
            }
            // A message that comes in parts is put together.
            (Kind::Message(number), Wire::Bytes(inner))
                if table::get().message(number).shape == Shape::Fields =>
            {
                let value = object.entry(field.name).or_insert_with(|| Value::Object(Object::new()));
                let Value::Object(map) = value else { return Ok(()) };
                self.fields(table::get().message(number), inner, map, depth + 1)
            }
            (kind, wire) => {
                let value = self.value(kind, wire, at, depth)?;
                if value.is_null() || (!field.keeps_zero && drops_zero(kind) && is_zero(&value)) {
                    object.remove(field.name);
                } else {
                    object.insert(field.name.to_owned(), value);
                }
                Ok(())
            }
        }
    }

    fn repeated(
        &mut self,
        field: &Field,
        wire: Wire<'a>,
        at: &Reader<'a>,
        list: &mut Vec<Value>,
        depth: usize,
    ) -> Result<(), Error> {
        // Numbers may come packed into one field.
        if let (Kind::Bool | Kind::Int32 | Kind::Int64 | Kind::Double, &Wire::Bytes(mut packed)) =
            (field.kind, &wire)
        {
            while !packed.is_empty() {
                let wire = match field.kind {
                    Kind::Double => Wire::Fixed64(packed.fixed64()?),
                    _ => Wire::Varint(packed.varint()?),
                };
                self.values += 1;
                if self.values > MAX_VALUES {
                    return Err(packed.error("too many values"));
                }
                list.push(self.value(field.kind, wire, at, depth)?);
            }
            return Ok(());
        }
        list.push(self.value(field.kind, wire, at, depth)?);
        Ok(())
    }

    fn map_entry(
        &mut self,
        field: &Field,
        mut entry: Reader<'a>,
        depth: usize,
    ) -> Result<(String, Value), Error> {
        let (mut key, mut value) = ("", None);
        while let Some((tag, wire)) = entry.field()? {
            match (tag, wire) {
                (1, Wire::Bytes(text)) => key = text.text()?,
                (2, wire) => value = Some(self.value(field.kind, wire, &entry, depth)?),
                _ => {}
            }
        }
        let value = match value {
            Some(value) => value,
            None => zero(field.kind),
        };
        Ok((key.to_owned(), value))
    }

    fn value(&mut self, kind: Kind, wire: Wire<'a>, at: &Reader<'a>, depth: usize) -> Result<Value, Error> {
        Ok(match (kind, wire) {
            (Kind::String, Wire::Bytes(text)) => Value::from(text.text()?),
            (Kind::Bytes, Wire::Bytes(bytes)) => Value::from(STANDARD.encode(bytes.bytes())),
            (Kind::Bool, Wire::Varint(n)) => Value::from(n != 0),
            // Negative numbers are written with all 64 bits; int32 takes the lower half, as Go does.
            (Kind::Int32, Wire::Varint(n)) => Value::from(n as i32),
            (Kind::Int64, Wire::Varint(n)) => Value::from(n as i64),
            (Kind::Double, Wire::Fixed64(n)) => Number::from_f64(f64::from_bits(n))
                .map(Value::Number)
                .ok_or_else(|| at.error("a number is not finite"))?,
            (Kind::Empty, Wire::Bytes(_)) => Value::Object(Object::new()),
            (Kind::Message(number) | Kind::Inline(number), Wire::Bytes(inner)) => {
                let message = table::get().message(number);
                match message.shape {
                    Shape::Fields => {
                        let mut object = Object::new();
                        self.fields(message, inner, &mut object, depth + 1)?;
                        Value::Object(object)
                    }
                    Shape::Quantity => match text_field(inner)? {
                        "" => Value::from("0"),
                        text => Value::from(text),
                    },
                    Shape::Time | Shape::MicroTime => time(message.shape, inner)?,
                    Shape::IntOrString => int_or_string(inner)?,
                    Shape::Raw => self.raw(inner, depth)?,
                    Shape::Strings => self.strings(inner)?,
                }
            }
            _ => return Err(wrong_wire(at)),
        })
    }

    /// RawExtension and FieldsV1: JSON, or an object in an envelope of its own.
    fn raw(&mut self, mut message: Reader<'a>, depth: usize) -> Result<Value, Error> {
        let mut raw = None;
        while let Some((tag, wire)) = message.field()? {
            if let (1, Wire::Bytes(bytes)) = (tag, wire) {
                raw = Some(bytes);
            }
        }
        let Some(raw) = raw.filter(|r| !r.is_empty()) else { return Ok(Value::Null) };
        if depth > MAX_DEPTH {
            return Err(raw.error("messages are nested too deep"));
        }
        if raw.bytes().starts_with(MAGIC) {
            return self.envelope(raw, depth + 1).map(Value::Object);
        }
        serde_json::from_slice(raw.bytes()).map_err(|_| raw.error("an embedded object is not JSON"))
    }

    /// A message that is but a list of strings: ExtraValue, Verbs.
    fn strings(&mut self, mut message: Reader<'a>) -> Result<Value, Error> {
        let mut list = Vec::new();
        while let Some((tag, wire)) = message.field()? {
            if let (1, Wire::Bytes(text)) = (tag, wire) {
                self.values += 1;
                if self.values > MAX_VALUES {
                    return Err(message.error("too many values"));
                }
                list.push(Value::from(text.text()?));
            }
        }
        Ok(Value::Array(list))
    }
}

fn wrong_wire(at: &Reader<'_>) -> Error {
    at.error("a field has the wire type of another")
}

/// The string in field 1.
fn text_field(mut message: Reader<'_>) -> Result<&str, Error> {
    let mut text = "";
    while let Some((tag, wire)) = message.field()? {
        if let (1, Wire::Bytes(bytes)) = (tag, wire) {
            text = bytes.text()?;
        }
    }
    Ok(text)
}

/// Time and MicroTime; null where the message is empty, which is Go's zero time.
fn time(shape: Shape, mut message: Reader<'_>) -> Result<Value, Error> {
    if message.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0i64, 0i32);
    while let Some((tag, wire)) = message.field()? {
        match (tag, wire) {
            (1, Wire::Varint(n)) => seconds = n as i64,
            (2, Wire::Varint(n)) => nanos = n as i32,
            _ => {}
        }
    }
    let at = Some(seconds)
        .filter(|s| SECONDS.contains(s))
        .and_then(|s| jiff::Timestamp::new(s, nanos).ok())
        .ok_or_else(|| message.error("a time is out of range"))?;
    Ok(Value::from(if shape == Shape::MicroTime {
        crate::meta::micro_time(at)
    } else {
        crate::meta::time(at)
    }))
}

fn int_or_string(mut message: Reader<'_>) -> Result<Value, Error> {
    let (mut is_string, mut number, mut text) = (false, 0, "");
    while let Some((tag, wire)) = message.field()? {
        match (tag, wire) {
            (1, Wire::Varint(n)) => is_string = n == 1,
            (2, Wire::Varint(n)) => number = n as i32,
            (3, Wire::Bytes(bytes)) => text = bytes.text()?,
            _ => {}
        }
    }
    Ok(if is_string { Value::from(text) } else { Value::from(number) })
}

/// Whether Go's JSON encoder leaves an empty value of this kind out (`omitempty` does nothing for structs).
fn drops_zero(kind: Kind) -> bool {
    match kind {
        Kind::Message(number) => table::get().message(number).shape == Shape::IntOrString,
        Kind::Empty | Kind::Inline(_) => false,
        _ => true,
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        _ => false,
    }
}

/// The value of a map entry that has none.
fn zero(kind: Kind) -> Value {
    match kind {
        Kind::String | Kind::Bytes => Value::from(""),
        Kind::Bool => Value::from(false),
        Kind::Int32 | Kind::Int64 | Kind::Double => Value::from(0),
        Kind::Empty | Kind::Inline(_) => Value::Object(Object::new()),
        Kind::Message(number) => match table::get().message(number).shape {
            Shape::Fields => Value::Object(Object::new()),
            Shape::Quantity => Value::from("0"),
            Shape::Strings => Value::Array(Vec::new()),
            Shape::IntOrString => Value::from(0),
            Shape::Time | Shape::MicroTime | Shape::Raw => Value::Null,
        },
    }
}
