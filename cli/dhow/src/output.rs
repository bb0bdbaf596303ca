//! How objects are shown: tables as the server makes them, JSON, YAML, names.
use anyhow::{Result, bail};
use serde_json::Value;
use std::io::IsTerminal;
use std::str::FromStr;

/// `-o`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Format {
    #[default]
    Table,
    Wide,
    Json,
    Yaml,
    Name,
}

impl FromStr for Format {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "wide" => Ok(Self::Wide),
            "json" => Ok(Self::Json),
            "yaml" => Ok(Self::Yaml),
            "name" => Ok(Self::Name),
            other => Err(format!("{other:?} is none of wide, json, yaml, name")),
        }
    }
}

/// An object as people write it.
pub(crate) fn yaml(value: &Value) -> Result<String> {
    Ok(serde_saphyr::to_string(value)?)
}

pub(crate) fn json(value: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// A meta.k8s.io/v1 Table as text: columns padded, three spaces between them, as kubectl does.
pub(crate) fn table(table: &Value, wide: bool, with_namespace: bool) -> Result<String> {
    Ok(columns(&table_rows(table, wide, with_namespace)?))
}

/// The cells of a Table, the names of its columns first.
pub(crate) fn table_rows(table: &Value, wide: bool, with_namespace: bool) -> Result<Vec<Vec<String>>> {
    let Some(definitions) = table["columnDefinitions"].as_array() else {
        bail!("the server answered with something that is not a table");
    };
    let shown: Vec<usize> = (0..definitions.len())
        .filter(|i| wide || definitions[*i]["priority"].as_i64().unwrap_or(0) == 0)
        .collect();
    let mut rows: Vec<Vec<String>> = Vec::new();
    let mut header: Vec<String> =
        shown.iter().map(|i| definitions[*i]["name"].as_str().unwrap_or_default().to_uppercase()).collect();
    if with_namespace {
        header.insert(0, "NAMESPACE".to_owned());
    }
    rows.push(header);
    for row in table["rows"].as_array().into_iter().flatten() {
        let mut cells: Vec<String> = shown
            .iter()
            .map(|i| match &row["cells"][*i] {
                Value::Null => "<none>".to_owned(),
                Value::String(s) => s.clone(),
                other => other.to_string(),
            })
            .collect();
        if with_namespace {
            cells.insert(0, row["object"]["metadata"]["namespace"].as_str().unwrap_or_default().to_owned());
        }
        rows.push(cells);
    }
    Ok(rows)
}

/// Rows of cells as aligned columns.
pub(crate) fn columns(rows: &[Vec<String>]) -> String {
    columns_at_least(rows, &mut Vec::new())
}

/// The same below others: no column is narrower than it was, and `widths` becomes what it is now.
pub(crate) fn columns_at_least(rows: &[Vec<String>], widths: &mut Vec<usize>) -> String {
    let count = rows.iter().map(Vec::len).max().unwrap_or(0);
    if widths.len() < count {
        widths.resize(count, 0);
    }
    for (column, width) in widths.iter_mut().enumerate() {
        let cells = rows.iter().filter_map(|r| r.get(column));
        *width = cells.map(|c| c.chars().count()).max().unwrap_or(0).max(*width);
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths.iter()) {
            let width = *width;
            line.push_str(&format!("{cell:<width$}   "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `text` in a colour when a person reads it: on a terminal, and NO_COLOR is unset (no-color.org).
pub(crate) fn emphasise(text: &str) -> String {
    if std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[1m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

/// Says an error and its causes, each once, in one line of standard error.
pub(crate) fn error(error: &anyhow::Error) {
    eprintln!("{} {}", emphasise("error:"), sentence(error));
}

/// An error and its causes, each said once.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

/// Lets this process end quietly when whoever reads its output has gone (`| head`), as programs for pipes do: Rust
/// ignores SIGPIPE, and printing would fail instead.
pub(crate) fn end_with_the_reader() {
    // SAFETY: SIG_DFL is a valid disposition, and no thread has been started yet.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn later_rows_stand_below_the_first() {
        let rows = |cells: &[[&str; 2]]| -> Vec<Vec<String>> {
            cells.iter().map(|r| r.iter().map(|c| (*c).to_owned()).collect()).collect()
        };
        let mut widths = Vec::new();
        columns_at_least(&rows(&[["NAME", "AGE"], ["long-name", "1s"]]), &mut widths);
        assert_eq!(columns_at_least(&rows(&[["a", "2s"]]), &mut widths), "a           2s\n");
    }

    #[test]
    fn a_table_shows_wide_columns_only_when_asked() {
        let t = json!({ "columnDefinitions": [{ "name": "Name", "priority": 0 }, { "name": "Node", "priority": 1 }],
            "rows": [{ "cells": ["a-long-name", "n1"], "object": { "metadata": { "namespace": "ns" } } },
                     { "cells": ["b", null], "object": { "metadata": { "namespace": "other" } } }] });
        assert_eq!(table(&t, false, false).expect("a table"), "NAME\na-long-name\nb\n");
        assert_eq!(
            table(&t, true, true).expect("a table"),
            "NAMESPACE   NAME          NODE\nns          a-long-name   n1\nother       b             <none>\n"
        );
    }
}
