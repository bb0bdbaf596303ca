//! `cargo xtask api-tables`: Kubernetes' published API description to the compact tables that
//! `api/machinery` embeds.
//!
//! ```text
//!   swagger.json ──┬─► definitions.json.gz   every definition, with its words: OpenAPI documents
//!   dhow.json ───────┴─► schema.txt.gz         field names, types, merge keys: the schema walk
//!   tags.tsv ────────► protobuf.txt.gz       message, tag, JSON name, type: the protobuf transcoder
//!   pointers.tsv ─────┘                      which zero values are values
//! ```
//!
//! Invariant: the same inputs give the same bytes (sorted, no timestamps), so that a diff shows a change of the
//! API and nothing else. The formats are described where they are read: `machinery::schema`, `machinery::protobuf`.
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// Makes the tables that api/machinery embeds from Kubernetes' OpenAPI v2 document and its protobuf tags
#[derive(clap::Args)]
pub struct Args {
    /// Kubernetes' OpenAPI v2 document (swagger.json), plain or gzipped
    #[arg(long)]
    swagger: PathBuf,
    /// Protobuf facts: lines of message, tag, JSON name, label, type; plain or gzipped
    #[arg(long)]
    tags: PathBuf,
    /// Scalar fields that are pointers in Go: lines of message, JSON name
    #[arg(long, default_value = "xtask/data/pointer-fields.tsv")]
    pointers: PathBuf,
    /// Definitions of our own, beside Kubernetes'
    #[arg(long, default_value = "api/machinery/data/dhow.json")]
    own: PathBuf,
    /// Where the tables go
    #[arg(long, default_value = "api/machinery/data")]
    out: PathBuf,
}

pub fn run(args: &Args) -> Result<()> {
    let swagger: Value =
        serde_json::from_str(&read(&args.swagger)?).context("the swagger file is not JSON")?;
    let mut definitions =
        swagger["definitions"].as_object().context("the swagger file has no definitions")?.clone();
    let own: Map<String, Value> = serde_json::from_str(&read(&args.own)?)
        .with_context(|| format!("{} is not a JSON object", args.own.display()))?;
    definitions.extend(own);
    let schema = schema_table(&definitions)?;
    let protobuf = protobuf_table(&definitions, &read(&args.tags)?, &read(&args.pointers)?)?;
    write_gz(&args.out.join("definitions.json.gz"), &serde_json::to_vec(&definitions)?)?;
    write_gz(&args.out.join("schema.txt.gz"), schema.as_bytes())?;
    write_gz(&args.out.join("protobuf.txt.gz"), protobuf.as_bytes())?;
    println!("{} definitions written to {}", definitions.len(), args.out.display());
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    if !bytes.starts_with(&[0x1f, 0x8b]) {
        return String::from_utf8(bytes).with_context(|| format!("{} is not text", path.display()));
    }
    let mut text = String::new();
    flate2::read::GzDecoder::new(&bytes[..])
        .read_to_string(&mut text)
        .with_context(|| format!("cannot unpack {}", path.display()))?;
    Ok(text)
}

fn write_gz(path: &Path, bytes: &[u8]) -> Result<()> {
    // GzBuilder leaves time and file name out of the header: the bytes depend on the content alone.
    let mut gz = flate2::GzBuilder::new().write(Vec::new(), flate2::Compression::best());
    gz.write_all(bytes)?;
    std::fs::write(path, gz.finish()?).with_context(|| format!("cannot write {}", path.display()))
}

const REF: &str = "#/definitions/";

/// One line a definition (`D name shape`), one line a field (`name type [patch]`).
fn schema_table(definitions: &Map<String, Value>) -> Result<String> {
    let index: BTreeMap<&str, usize> = definitions.keys().enumerate().map(|(i, n)| (n.as_str(), i)).collect();
    let mut out = String::new();
    for (name, d) in definitions {
        let properties = d.get("properties").and_then(Value::as_object);
        let short = name.rsplit('.').next().unwrap_or(name);
        let shape = match short {
            "Quantity" => "q",
            "Time" => "t",
            "MicroTime" => "u",
            "IntOrString" => "x",
            "JSON"
            | "JSONSchemaPropsOrArray"
            | "JSONSchemaPropsOrBool"
            | "JSONSchemaPropsOrStringArray"
            | "FieldsV1"
            | "RawExtension"
            | "Patch" => "*",
            _ if d["type"] == "object" => "o",
            _ => bail!("definition {name} has no type that the schema walk knows"),
        };
        writeln!(out, "D {name} {shape}")?;
        for (field, p) in properties.into_iter().flatten() {
            write!(out, "{field} {}", type_code(p, &index).with_context(|| format!("{name}.{field}"))?)?;
            let strategy = p.get("x-kubernetes-patch-strategy").and_then(Value::as_str).unwrap_or("");
            let key = p.get("x-kubernetes-patch-merge-key").and_then(Value::as_str);
            if !strategy.is_empty() {
                write!(out, " {strategy}")?;
                if let Some(key) = key {
                    write!(out, " {key}")?;
                }
            }
            out.push('\n');
        }
    }
    Ok(out)
}

fn type_code(p: &Value, index: &BTreeMap<&str, usize>) -> Result<String> {
    if let Some(r) = p.get("$ref").and_then(Value::as_str) {
        let name = r.strip_prefix(REF).context("a $ref that leads elsewhere")?;
        return Ok(format!(">{}", index.get(name).with_context(|| format!("no definition {name}"))?));
    }
    let format = p.get("format").and_then(Value::as_str).unwrap_or("");
    Ok(match (p.get("type").and_then(Value::as_str).unwrap_or(""), format) {
        ("string", "byte") => "y".to_owned(),
        ("string", _) => "s".to_owned(),
        ("boolean", _) => "b".to_owned(),
        ("integer", "int32") => "i".to_owned(),
        ("integer", _) => "l".to_owned(),
        ("number", _) => "d".to_owned(),
        ("array", _) => format!("[{}", type_code(&p["items"], index)?),
        ("object", _) if p.get("additionalProperties").is_some() => {
            format!("{{{}", type_code(&p["additionalProperties"], index)?)
        }
        ("object", _) => "*".to_owned(),
        other => bail!("unknown type {other:?}"),
    })
}

/// One line of the tags file.
struct Tag<'a> {
    tag: u32,
    name: &'a str,
    label: &'a str,
    kind: &'a str,
}

/// The OpenAPI name of a protobuf message: `k8s.io.api.core.v1.Pod` is `io.k8s.api.core.v1.Pod`.
fn definition_name(message: &str) -> String {
    format!("io.k8s.{}", message.strip_prefix("k8s.io.").unwrap_or(message))
}

/// Messages that the transcoder knows by their shape, not by their fields.
fn special(message: &str) -> Option<&'static str> {
    let (package, name) = message.rsplit_once('.')?;
    Some(match (package.rsplit('.').next()?, name) {
        ("resource", "Quantity") if package.contains("apimachinery") => "q",
        ("v1", "Time") => "t",
        ("v1", "MicroTime") => "u",
        ("intstr", "IntOrString") => "x",
        ("v1", "FieldsV1") | ("runtime", "RawExtension") => "r",
        (_, "ExtraValue" | "AttestationValue") | ("v1", "Verbs") => "e",
        _ => return None,
    })
}

/// One line a message (`M name shape`), one line a field (`tag name type [k]`). `k`: an empty value is a value.
fn protobuf_table(definitions: &Map<String, Value>, tags: &str, pointers: &str) -> Result<String> {
    let mut messages: BTreeMap<&str, Vec<Tag>> = BTreeMap::new();
    for line in tags.lines().filter(|l| !l.starts_with('#') && !l.is_empty()) {
        let columns: Vec<&str> = line.split('\t').collect();
        let [message, tag, name, label, kind] = columns[..] else { bail!("not five columns: {line:?}") };
        let tag = tag.parse().with_context(|| format!("not a tag: {line:?}"))?;
        messages.entry(message).or_default().push(Tag { tag, name, label, kind });
    }
    let pointers: BTreeSet<(&str, &str)> =
        pointers.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split_once('\t')).collect();

    // The messages of every described kind, and what they hold.
    let mut wanted: BTreeSet<&str> = BTreeSet::new();
    let mut queue: Vec<&str> =
        messages.keys().copied().filter(|m| definitions.contains_key(&definition_name(m))).collect();
    while let Some(message) = queue.pop() {
        if wanted.insert(message) && special(message).is_none() {
            for t in messages.get(message).into_iter().flatten() {
                queue.extend(child(&messages, message, t.kind));
            }
        }
    }
    let index: BTreeMap<&str, usize> = wanted.iter().enumerate().map(|(i, m)| (*m, i)).collect();

    let mut out = String::new();
    for message in &wanted {
        let shape = special(message);
        writeln!(out, "M {message} {}", shape.unwrap_or("o"))?;
        if shape.is_some() {
            continue;
        }
        let definition = definitions.get(&definition_name(message));
        let properties = definition.and_then(|d| d["properties"].as_object());
        let required: Vec<&str> = definition
            .and_then(|d| d["required"].as_array())
            .map(|a| a.iter().filter_map(Value::as_str).collect())
            .unwrap_or_default();
        let Some(fields) = messages.get(message) else { continue };
        for t in fields {
            // Some names begin with a capital in the .proto file (Go names of fields with odd JSON tags).
            let name = match properties {
                Some(p) if !p.contains_key(t.name) => {
                    p.keys().find(|k| k.eq_ignore_ascii_case(t.name)).map_or(t.name, String::as_str)
                }
                _ => t.name,
            };
            let inner = child(&messages, message, t.kind);
            let inline = properties.is_some_and(|p| {
                !p.contains_key(name)
                    && t.label == "optional"
                    && inner.is_some_and(|m| is_inline(&messages, m, p))
            });
            let code = if inline {
                format!("^{}", index[inner.context("inline field without a message")?])
            } else {
                wire_code(t, inner, &index).with_context(|| format!("{message}.{}", t.name))?
            };
            write!(out, "{} {name} {code}", t.tag)?;
            if required.contains(&name) || pointers.contains(&(message, t.name)) {
                out.push_str(" k");
            }
            out.push('\n');
        }
    }
    Ok(out)
}

/// Whether a message is a struct embedded in Go, so that its fields stand in the outer JSON object.
fn is_inline(messages: &BTreeMap<&str, Vec<Tag>>, message: &str, outer: &Map<String, Value>) -> bool {
    let fields = messages.get(message).map(Vec::as_slice).unwrap_or_default();
    let known = fields.iter().filter(|f| outer.contains_key(f.name)).count();
    known > 0 && known * 2 >= fields.len()
}

/// The message inside a field's type, if there is one, by its full name.
fn child<'a>(messages: &BTreeMap<&'a str, Vec<Tag<'a>>>, message: &str, kind: &'a str) -> Option<&'a str> {
    let kind = map_values(kind).unwrap_or(kind).trim_start_matches('.');
    if let Some((full, _)) = messages.get_key_value(kind) {
        return Some(full);
    }
    let package = message.rsplit_once('.')?.0;
    let near = format!("{package}.{kind}");
    if let Some((full, _)) = messages.get_key_value(near.as_str()) {
        return Some(full);
    }
    // A message without fields has no line of its own; a full name says that it is one all the same.
    kind.contains('.').then_some(kind)
}

/// The type of the values, for a map.
fn map_values(kind: &str) -> Option<&str> {
    kind.strip_prefix("map<string, ")?.strip_suffix('>')
}

fn wire_code(t: &Tag, inner: Option<&str>, index: &BTreeMap<&str, usize>) -> Result<String> {
    let map = map_values(t.kind);
    let element = map.unwrap_or(t.kind);
    let code = match (inner, element) {
        (Some(m), _) => format!(">{}", index.get(m).with_context(|| format!("no message {m}"))?),
        (None, "string") => "s".to_owned(),
        (None, "bytes") => "y".to_owned(),
        (None, "bool") => "b".to_owned(),
        (None, "int32") => "i".to_owned(),
        (None, "int64") => "l".to_owned(),
        (None, "double") => "d".to_owned(),
        // A message without fields (BasicSchedulingPolicy).
        (None, other) if other.starts_with(|c: char| c.is_ascii_uppercase()) => "-".to_owned(),
        (None, other) => bail!("unknown wire type {other}"),
    };
    Ok(match (map, t.label) {
        (Some(_), _) => format!("{{{code}"),
        (None, "repeated") => format!("[{code}"),
        _ => code,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn definitions() -> Map<String, Value> {
        json!({
            "io.k8s.api.core.v1.Volume": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": { "type": "string" },
                    "hostPath": { "$ref": "#/definitions/io.k8s.api.core.v1.VolumeSource" },
                    "sizes": {
                        "type": "array", "items": { "type": "integer", "format": "int32" },
                        "x-kubernetes-patch-strategy": "merge",
                    },
                },
            },
            "io.k8s.api.core.v1.VolumeSource": {
                "type": "object",
                "properties": { "labels": { "type": "object", "additionalProperties": { "type": "string" } } },
            },
        })
        .as_object()
        .cloned()
        .unwrap()
    }

    #[test]
    fn definitions_become_one_line_a_field() {
        assert_eq!(
            schema_table(&definitions()).unwrap(),
            "D io.k8s.api.core.v1.Volume o\nhostPath >1\nname s\nsizes [i merge\n\
             D io.k8s.api.core.v1.VolumeSource o\nlabels {s\n"
        );
    }

    #[test]
    fn a_reference_to_nothing_is_refused() {
        let mut definitions = definitions();
        definitions.remove("io.k8s.api.core.v1.VolumeSource");
        let error = schema_table(&definitions).unwrap_err();
        assert!(format!("{error:#}").contains("no definition io.k8s.api.core.v1.VolumeSource"), "{error:#}");
    }

    #[test]
    fn messages_know_embedded_structs_and_which_zeroes_are_values() {
        let tags = "# facts\n\
            k8s.io.api.core.v1.Volume\t1\tname\toptional\tstring\n\
            k8s.io.api.core.v1.Volume\t2\tvolumeSource\toptional\tVolumeSource\n\
            k8s.io.api.core.v1.Volume\t3\tsizes\trepeated\tint32\n\
            k8s.io.api.core.v1.VolumeSource\t1\thostPath\toptional\tVolumeSource\n\
            k8s.io.api.core.v1.VolumeSource\t2\tname\t\tmap<string, string>\n\
            k8s.io.api.core.v1.VolumeSource\t3\tkept\toptional\tint64\n\
            k8s.io.api.other.v1.Unused\t1\tname\toptional\tstring\n";
        let pointers = "k8s.io.api.core.v1.VolumeSource\tkept\n";
        assert_eq!(
            protobuf_table(&definitions(), tags, pointers).unwrap(),
            "M k8s.io.api.core.v1.Volume o\n1 name s k\n2 volumeSource ^1\n3 sizes [i\n\
             M k8s.io.api.core.v1.VolumeSource o\n1 hostPath >1\n2 name {s\n3 kept l k\n"
        );
    }

    #[test]
    fn the_committed_tables_can_be_read_back() {
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../api/machinery/data");
        let definitions: Map<String, Value> =
            serde_json::from_str(&read(&data.join("definitions.json.gz")).unwrap()).unwrap();
        assert_eq!(schema_table(&definitions).unwrap(), read(&data.join("schema.txt.gz")).unwrap());
        let own: Map<String, Value> = serde_json::from_str(&read(&data.join("dhow.json")).unwrap()).unwrap();
        for (name, definition) in own {
            assert_eq!(definitions.get(&name), Some(&definition), "run `cargo xtask api-tables`");
        }
    }
}
