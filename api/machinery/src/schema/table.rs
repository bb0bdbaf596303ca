//! The embedded table of definitions, unpacked once.
//!
//! Format of `data/schema.txt.gz`, one record a line, fields separated by a blank:
//!
//! ```text
//!   D io.k8s.api.apps.v1.DeploymentSpec o      definition: name, shape; its number is the count of D lines before
//!   replicas i                                 field: name, type
//!   template >412                              … of the definition with that number
//!   strategy >97 retainKeys                    … with its strategic merge patch strategy
//!   conditions [>96 merge type                 … and merge key; "[" is a list of, "{" a map of
//! ```
//! Types: `s` string, `y` base64 bytes, `b` bool, `i` int32, `l` int64, `d` double, `*` any JSON.
//! Shapes of definitions: `o` object, `q` Quantity, `t` Time, `u` MicroTime, `x` IntOrString, `*` any JSON.
use super::ListPatch;
use std::collections::HashMap;
use std::sync::OnceLock;

/// What a value may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// An object with the fields of the definition of this number.
    Object(u32),
    /// An object whose values are of the node of this number.
    Map(u32),
    /// An array whose items are of the node of this number.
    List(u32),
    String,
    Bytes,
    Bool,
    Int32,
    Int64,
    Double,
    Quantity,
    Time,
    MicroTime,
    IntOrString,
    Any,
}

/// What a value at some place of an object may be, and how a patch merges it. Lives in the embedded table; cheap
/// to pass around.
#[derive(Debug)]
pub struct Schema {
    pub(super) shape: Shape,
    merge: bool,
    merge_key: Option<&'static str>,
    retain_keys: bool,
}

impl Schema {
    /// The schema of the field `name` (of the values, for a map). `None` where unknown or free-form.
    pub fn field(&self, name: &str) -> Option<&'static Schema> {
        match self.shape {
            Shape::Object(d) => get().object(d).field(name).map(|(_, schema)| schema),
            Shape::Map(values) => Some(get().node(values)),
            _ => None,
        }
    }
    /// The schema of a list's items.
    pub fn items(&self) -> Option<&'static Schema> {
        match self.shape {
            Shape::List(items) => Some(get().node(items)),
            _ => None,
        }
    }
    /// How a strategic merge patch treats this list.
    pub fn list_patch(&self) -> ListPatch {
        match (self.merge, self.merge_key) {
            (false, _) => ListPatch::Replace,
            (true, Some(key)) => ListPatch::MergeByKey(key.to_owned()),
            (true, None) => ListPatch::MergeSet,
        }
    }
    /// Whether a strategic merge patch keeps only the keys named in `$retainKeys`-style unions
    /// (`x-kubernetes-patch-strategy: retainKeys`).
    pub fn retain_keys(&self) -> bool {
        self.retain_keys
    }
}

/// A definition with fields.
#[derive(Debug)]
pub(super) struct Object {
    /// Its full name: `io.k8s.api.core.v1.Pod`.
    pub(super) name: &'static str,
    /// Fields by name, sorted, with the numbers of their nodes.
    fields: Vec<(&'static str, u32)>,
}

impl Object {
    pub(super) fn field(&self, name: &str) -> Option<(&'static str, &'static Schema)> {
        let at = self.fields.binary_search_by_key(&name, |(n, _)| *n).ok()?;
        let (name, node) = self.fields[at];
        Some((name, get().node(node)))
    }
    /// The Go type: `v1.Pod`.
    pub(super) fn go_type(&self) -> &'static str {
        let kind = self.name.rfind('.').unwrap_or(0);
        let version = self.name[..kind].rfind('.').map_or(0, |i| i + 1);
        &self.name[version..]
    }
    /// The Go type without its package: `Pod`.
    pub(super) fn go_name(&self) -> &'static str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }
}

/// Every definition.
pub(super) struct Table {
    nodes: Vec<Schema>,
    objects: Vec<Object>,
    definitions: HashMap<&'static str, u32>,
}

impl Table {
    pub(super) fn definition(&self, name: &str) -> Option<&Schema> {
        self.definitions.get(name).map(|&n| self.node(n))
    }
    /// A node by a number that the table itself holds.
    pub(super) fn node(&self, number: u32) -> &Schema {
        &self.nodes[number as usize]
    }
    /// A definition by a number that the table itself holds.
    pub(super) fn object(&self, number: u32) -> &Object {
        &self.objects[number as usize]
    }

    /// Reads the table's text. A line that makes no sense is a bug of this crate's data, which a test would show;
    /// it is read as free-form rather than bringing the server down.
    fn parse(text: &'static str) -> Self {
        let shapes: Vec<Shape> = text
            .lines()
            .filter_map(|l| l.strip_prefix("D "))
            .zip(0..)
            .map(|(l, number)| match l.rsplit(' ').next() {
                Some("o") => Shape::Object(number),
                Some("q") => Shape::Quantity,
                Some("t") => Shape::Time,
                Some("u") => Shape::MicroTime,
                Some("x") => Shape::IntOrString,
                _ => Shape::Any,
            })
            .collect();
        let mut table = Self {
            nodes: Vec::with_capacity(shapes.len() * 6),
            objects: Vec::with_capacity(shapes.len()),
            definitions: HashMap::with_capacity(shapes.len()),
        };
        for line in text.lines() {
            if let Some(definition) = line.strip_prefix("D ") {
                let name = definition.split(' ').next().unwrap_or_default();
                let node = table.add(Schema {
                    shape: shapes[table.objects.len()],
                    merge: false,
                    merge_key: None,
                    retain_keys: false,
                });
                table.definitions.insert(name, node);
                table.objects.push(Object { name, fields: Vec::new() });
                continue;
            }
            let mut words = line.split(' ');
            let (Some(name), Some(code)) = (words.next(), words.next()) else { continue };
            let (strategy, merge_key) = (words.next().unwrap_or_default(), words.next());
            let shape = table.shape(code, &shapes);
            let node = table.add(Schema {
                shape,
                merge: strategy.split(',').any(|s| s == "merge"),
                merge_key,
                retain_keys: strategy.split(',').any(|s| s == "retainKeys"),
            });
            if let Some(object) = table.objects.last_mut() {
                object.fields.push((name, node));
            }
        }
        for object in &mut table.objects {
            object.fields.sort_unstable();
        }
        table
    }

    fn add(&mut self, schema: Schema) -> u32 {
        self.nodes.push(schema);
        self.nodes.len() as u32 - 1
    }

    fn shape(&mut self, code: &str, shapes: &[Shape]) -> Shape {
        let rest = code.get(1..).unwrap_or_default();
        match code.as_bytes().first() {
            Some(b'>') => rest.parse().ok().and_then(|n: usize| shapes.get(n).copied()).unwrap_or(Shape::Any),
            Some(b'[') | Some(b'{') => {
                let shape = self.shape(rest, shapes);
                let inner = self.add(Schema { shape, merge: false, merge_key: None, retain_keys: false });
                if code.starts_with('[') { Shape::List(inner) } else { Shape::Map(inner) }
            }
            Some(b's') => Shape::String,
            Some(b'y') => Shape::Bytes,
            Some(b'b') => Shape::Bool,
            Some(b'i') => Shape::Int32,
            Some(b'l') => Shape::Int64,
            Some(b'd') => Shape::Double,
            _ => Shape::Any,
        }
    }
}

/// The embedded table.
pub(super) fn get() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    static TEXT: OnceLock<String> = OnceLock::new();
    TABLE.get_or_init(|| {
        Table::parse(TEXT.get_or_init(|| crate::embedded::text(include_bytes!("../../data/schema.txt.gz"))))
    })
}
