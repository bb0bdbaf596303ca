//! The walk of an object along its schema.
use super::table::{self, Object, Schema, Shape};
use super::{TypeError, UnknownField, time};
use crate::field::Path;
use crate::quantity::Quantity;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde_json::Value;

/// Deepest nesting of an object. JSON bodies are cut off at 128 by the parser and protobuf bodies by the
/// transcoder; a patch may add as much again.
const MAX_DEPTH: usize = 256;

/// Most unknown fields that are reported; kube-apiserver's limit of its strict decoder's errors. The rest is
/// dropped all the same.
const MAX_UNKNOWN: usize = 100;

/// Go's `base64.StdEncoding`: padded, and lenient about the last character's unused bits.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// Checks the types of `obj`, drops fields the schema does not know, and drops nulls as Go's decoder does.
/// Gives back the fields it dropped, in document order: the caller refuses, warns or ignores them
/// (`fieldValidation`). Quantities, times and IntOrString are checked for form too.
pub fn decode(schema: &Schema, obj: &mut Value) -> Result<Vec<UnknownField>, TypeError> {
    let mut walk = Walk { path: Vec::new(), structs: Vec::new(), unknown: Vec::new() };
    walk.value(schema, obj)?;
    Ok(walk.unknown)
}

enum Segment {
    Field(&'static str),
    Key(String),
    Index(usize),
}

struct Walk {
    path: Vec<Segment>,
    /// The Go structs whose fields the path names, outermost first.
    structs: Vec<&'static str>,
    unknown: Vec<UnknownField>,
}

impl Walk {
    fn value(&mut self, schema: &Schema, value: &mut Value) -> Result<(), TypeError> {
        if self.path.len() > MAX_DEPTH {
            return Err(TypeError("exceeded max depth".to_owned()));
        }
        match schema.shape {
            Shape::Object(number) => self.object(table::get().object(number), value),
            Shape::Map(values) => self.map(schema, table::get().node(values), value),
            Shape::List(items) => self.list(schema, table::get().node(items), value),
            Shape::Any => Ok(()),
            Shape::String if value.is_string() => Ok(()),
            Shape::Bool if value.is_boolean() => Ok(()),
            Shape::Double if value.is_number() => Ok(()),
            Shape::Int32 if value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => Ok(()),
            Shape::Int64 if value.as_i64().is_some() => Ok(()),
            Shape::IntOrString if value.is_string() => Ok(()),
            Shape::IntOrString if value.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => Ok(()),
            Shape::Bytes => self.bytes(value),
            Shape::Quantity => self.quantity(value),
            Shape::Time | Shape::MicroTime => self.time(schema.shape, value),
            Shape::String
            | Shape::Bool
            | Shape::Double
            | Shape::Int32
            | Shape::Int64
            | Shape::IntOrString => Err(self.mismatch(value, &go_type(schema))),
        }
    }

    fn object(&mut self, object: &'static Object, value: &mut Value) -> Result<(), TypeError> {
        let Value::Object(map) = value else { return Err(self.mismatch(value, object.go_type())) };
        let mut result = Ok(());
        map.retain(|name, inner| {
            if result.is_err() {
                return true;
            }
            let Some((name, schema)) = object.field(name) else {
                self.unknown_field(name);
                return false;
            };
            if inner.is_null() {
                return false;
            }
            self.path.push(Segment::Field(name));
            self.structs.push(object.go_name());
            result = self.value(schema, inner);
            self.structs.pop();
            self.path.pop();
            true
        });
        result
    }

    fn map(&mut self, schema: &Schema, values: &Schema, value: &mut Value) -> Result<(), TypeError> {
        let Value::Object(map) = value else { return Err(self.mismatch(value, &go_type(schema))) };
        for (key, inner) in map {
            if inner.is_null() {
                *inner = zero(values);
                continue;
            }
            // Only objects can hold unknown fields, so only they need the key in the path.
            let nested = matches!(values.shape, Shape::Object(_) | Shape::Map(_) | Shape::List(_));
            self.path.push(Segment::Key(if nested { key.clone() } else { String::new() }));
            let result = self.value(values, inner);
            self.path.pop();
            result?;
        }
        Ok(())
    }

    fn list(&mut self, schema: &Schema, items: &Schema, value: &mut Value) -> Result<(), TypeError> {
        let Value::Array(list) = value else { return Err(self.mismatch(value, &go_type(schema))) };
        for (i, inner) in list.iter_mut().enumerate() {
            if inner.is_null() {
                *inner = zero(items);
                continue;
            }
            self.path.push(Segment::Index(i));
            let result = self.value(items, inner);
            self.path.pop();
            result?;
        }
        Ok(())
    }

    fn bytes(&mut self, value: &mut Value) -> Result<(), TypeError> {
        let Value::String(text) = value else { return Err(self.mismatch(value, "[]uint8")) };
        let has_breaks = text.contains(['\r', '\n']);
        let compact = if has_breaks { text.replace(['\r', '\n'], "") } else { std::mem::take(text) };
        let decoded = BASE64.decode(&compact);
        *text = match (&decoded, has_breaks) {
            (Ok(bytes), true) => BASE64.encode(bytes),
            _ => compact,
        };
        decoded.map(drop).map_err(|e| {
            let at = match e {
                base64::DecodeError::InvalidByte(at, _)
                | base64::DecodeError::InvalidLength(at)
                | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                base64::DecodeError::InvalidPadding => text.len(),
            };
            TypeError(format!("illegal base64 data at input byte {at}"))
        })
    }

    fn quantity(&mut self, value: &mut Value) -> Result<(), TypeError> {
        let canonical = match &*value {
            Value::String(text) => Quantity::canonical(text.trim()),
            other => Quantity::canonical(&other.to_string()),
        };
        *value = Value::String(canonical.map_err(|e| TypeError(e.to_string()))?);
        Ok(())
    }

    fn time(&mut self, shape: Shape, value: &mut Value) -> Result<(), TypeError> {
        let Value::String(text) = value else { return Err(self.mismatch(value, "string")) };
        let at = time::parse(text).map_err(TypeError)?;
        let canonical =
            if shape == Shape::MicroTime { crate::meta::micro_time(at) } else { crate::meta::time(at) };
        *text = canonical;
        Ok(())
    }

    fn unknown_field(&mut self, name: &str) {
        if self.unknown.len() >= MAX_UNKNOWN {
            return;
        }
        let mut path = Path::root();
        for segment in &self.path {
            path = match segment {
                Segment::Field(name) => path.child(name),
                Segment::Key(key) => path.child(key),
                Segment::Index(i) => path.index(*i),
            };
        }
        self.unknown.push(UnknownField(path.child(name)));
    }

    /// Go's `json.UnmarshalTypeError`: it names the innermost struct and all fields on the way, without indices.
    fn mismatch(&self, value: &Value, go_type: &str) -> TypeError {
        let is_integer = matches!(go_type, "int32" | "int64");
        let shown = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(n) if is_integer => format!("number {n}"),
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        let fields: Vec<&str> = self
            .path
            .iter()
            .filter_map(|s| if let Segment::Field(name) = s { Some(*name) } else { None })
            .collect();
        TypeError(match self.structs.last() {
            Some(name) => format!(
                "json: cannot unmarshal {shown} into Go struct field {name}.{} of type {go_type}",
                fields.join(".")
            ),
            None => format!("json: cannot unmarshal {shown} into Go value of type {go_type}"),
        })
    }
}

/// The Go type of a schema, as errors print it.
fn go_type(schema: &Schema) -> String {
    match schema.shape {
        Shape::Object(number) => table::get().object(number).go_type().to_owned(),
        Shape::Map(values) => format!("map[string]{}", go_type(table::get().node(values))),
        Shape::List(items) => format!("[]{}", go_type(table::get().node(items))),
        Shape::String => "string".to_owned(),
        Shape::Bytes => "[]uint8".to_owned(),
        Shape::Bool => "bool".to_owned(),
        // IntOrString tries an int32 when the value is not a string.
        Shape::Int32 | Shape::IntOrString => "int32".to_owned(),
        Shape::Int64 => "int64".to_owned(),
        Shape::Double => "float64".to_owned(),
        Shape::Quantity => "resource.Quantity".to_owned(),
        Shape::Time => "v1.Time".to_owned(),
        Shape::MicroTime => "v1.MicroTime".to_owned(),
        Shape::Any => "interface {}".to_owned(),
    }
}

/// What a null becomes as an item of a list or a value of a map: Go's zero value.
fn zero(schema: &Schema) -> Value {
    match schema.shape {
        Shape::Object(_) | Shape::Map(_) => Value::Object(serde_json::Map::new()),
        Shape::List(_) => Value::Array(Vec::new()),
        Shape::String | Shape::Bytes => Value::String(String::new()),
        Shape::Bool => Value::Bool(false),
        Shape::Int32 | Shape::Int64 | Shape::Double | Shape::IntOrString => Value::from(0),
        Shape::Quantity => Value::String("0".to_owned()),
        Shape::Time | Shape::MicroTime | Shape::Any => Value::Null,
    }
}
