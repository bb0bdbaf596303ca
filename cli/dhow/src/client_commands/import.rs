//! Local files: a module goes to every node's image store through the API server, so that no registry is needed.
use crate::client_commands::push::{self, component_info};
use crate::connect::{Connection, explain};
use anyhow::{Context, Result, bail};
use http::Request;
use machinery::interface::{OFFERS_ANNOTATION, list, missing};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::time::Duration;

/// Largest module sent: the runtime's own limit on a wasm layer.
const MAX_BYTES: u64 = 256 << 20;
/// To read an artifact's configuration: some round trips.
const PEEK_TIMEOUT: Duration = Duration::from_secs(5);

/// An image to run: a reference for a registry, or a file here.
pub(crate) enum Source {
    Reference(String),
    File(std::path::PathBuf),
}

/// What the word on the command line means: a file if there is one of that name.
pub(crate) fn source(word: &str) -> Result<Source> {
    let path = Path::new(word);
    if path.is_dir() {
        bail!("{word} is a directory; name a .wasm file in it");
    }
    if path.is_file() {
        return Ok(Source::File(path.to_owned()));
    }
    let looks_like_a_file = path.extension().is_some_and(|e| e == "wasm" || e == "wat")
        || word.starts_with('.')
        || word.starts_with('/');
    if looks_like_a_file {
        bail!("there is no file {word}");
    }
    Ok(Source::Reference(word.to_owned()))
}

/// A name for objects made from an image: `hello` of `registry:5000/team/hello:1` or `./hello.wasm`.
pub(crate) fn base_name(word: &str) -> String {
    let last = word.trim_end_matches(".wasm").trim_end_matches(".wat").rsplit('/').next().unwrap_or_default();
    let last = last.split(['@', ':']).next().unwrap_or_default().to_ascii_lowercase();
    let name: String = last.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    // 40 leaves room for the suffixes of generated names within a label's 63 characters.
    let name: String = name.trim_matches('-').chars().take(40).collect();
    let name = name.trim_matches('-').to_owned();
    if name.is_empty() { "module".to_owned() } else { name }
}

/// What an image is wanted for; a file that is something else is refused before it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// `dhow run`: a program that ends.
    Command,
    /// `dhow deploy`: one that answers HTTP.
    Http,
}

/// Whether an export's name is that of a server's entry, of WASI 0.2 or 0.3.
pub(crate) fn is_http_handler(export: &str) -> bool {
    ["wasi:http/incoming-handler@", "wasi:http/handler@"].iter().any(|entry| export.starts_with(entry))
}

/// Whether a binary can be used so. Text (`.wat`) is left to the node.
fn check_use(word: &str, bytes: &[u8], wanted: Use) -> Result<()> {
    if !bytes.starts_with(b"\0asm") {
        return Ok(());
    }
    let exports = component_info(bytes).map(|info| info.exports).unwrap_or_default();
    let serves = exports.iter().any(|name| is_http_handler(name));
    match wanted {
        Use::Command if serves => {
            bail!("{word} answers HTTP requests and never ends by itself: use `dhow deploy {word}`")
        }
        Use::Http if !serves => {
            bail!(
                "{word} does not answer HTTP (it exports neither wasi:http/incoming-handler nor wasi:http/handler): use `dhow run {word}`"
            )
        }
        _ => Ok(()),
    }
}

/// An image that the cluster can run.
pub(crate) struct Imported {
    pub(crate) reference: String,
    /// The interfaces it imports, where that is known without fetching all of it.
    pub(crate) imports: Option<Vec<String>>,
}

async fn nodes(connection: &Connection) -> Result<Value> {
    connection.client.request(Request::get("/api/v1/nodes").body(Vec::new())?).await.map_err(explain)
}

/// The first of `imports` for which no node can be found that offers all of them, as far as nodes tell what they offer.
fn offered_nowhere<'a>(nodes: &Value, imports: &'a [String]) -> Option<&'a str> {
    let nodes = nodes["items"].as_array().into_iter().flatten();
    let missing: Vec<Option<&str>> = nodes
        .map(|node| {
            let offers = node["metadata"]["annotations"][OFFERS_ANNOTATION].as_str()?;
            let offers: Vec<&str> = list(offers).collect();
            missing(imports.iter().map(String::as_str), &offers)
        })
        .collect();
    // One that misses nothing, or does not tell, may take it.
    if missing.iter().any(Option::is_none) { None } else { missing.into_iter().flatten().next() }
}

/// What the component of a registry's image imports. It is the nodes that pull it, perhaps with another password or
/// along another way: what cannot be read here is left to them.
async fn imports_of(reference: &str) -> Option<Vec<String>> {
    let asked = async {
        let parsed: images::Reference = reference.parse().ok()?;
        let credential = push::credential(&parsed).await.ok()?;
        images::component_of(&images::RegistryConfig::default(), reference, &credential).await.ok()?
    };
    let component = tokio::time::timeout(PEEK_TIMEOUT, asked).await.ok().flatten();
    component.map(|component| component.imports)
}

/// The names of the nodes that are Ready.
pub(crate) async fn ready_nodes(connection: &Connection) -> Result<Vec<String>> {
    let nodes = nodes(connection).await?;
    let ready = |node: &&Value| {
        node["status"]["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    let nodes = nodes["items"].as_array().into_iter().flatten().filter(ready);
    Ok(nodes.filter_map(|node| node["metadata"]["name"].as_str()).map(str::to_owned).collect())
}

/// Makes the image of `word` usable in the cluster and gives back its reference: sends a file to every node, leaves a
/// registry's reference as it is.
pub(crate) async fn image(connection: &Connection, word: &str, wanted: Use) -> Result<Imported> {
    let path = match source(word)? {
        Source::Reference(reference) => {
            let imports = imports_of(&reference).await;
            check_imports(connection, word, imports.as_deref()).await?;
            return Ok(Imported { reference, imports });
        }
        Source::File(path) => path,
    };
    let size = std::fs::metadata(&path).with_context(|| format!("reading {word}"))?.len();
    if size > MAX_BYTES {
        bail!("{word} is {} MiB large; modules may have {} MiB", size >> 20, MAX_BYTES >> 20);
    }
    let bytes = std::fs::read(&path).with_context(|| format!("reading {word}"))?;
    let is_wasm = bytes.starts_with(b"\0asm") || path.extension().is_some_and(|e| e == "wat");
    if !is_wasm {
        bail!("{word} is not a WebAssembly module (it does not begin with \\0asm)");
    }
    check_use(word, &bytes, wanted)?;
    let imports = component_info(&bytes).map(|component| component.imports);
    check_imports(connection, word, imports.as_deref()).await?;
    let digest = hex::encode(Sha256::digest(&bytes));
    let reference = format!("localhost/{}:{}", base_name(word), &digest[..12]);
    let mut sent = 0;
    for name in ready_nodes(connection).await? {
        let path = format!("/api/v1/nodes/{name}/proxy/images/import?ref={reference}");
        let request =
            Request::post(path).header(http::header::CONTENT_TYPE, "application/wasm").body(bytes.clone())?;
        connection
            .client
            .request_text(request)
            .await
            .map_err(explain)
            .with_context(|| format!("node {name} did not take {word}"))?;
        sent += 1;
    }
    if sent == 0 {
        bail!("no node is Ready to take {word}; `dhow get nodes` shows them");
    }
    Ok(Imported { reference, imports })
}

async fn check_imports(connection: &Connection, word: &str, imports: Option<&[String]>) -> Result<()> {
    let Some(imports) = imports else { return Ok(()) };
    if let Some(import) = offered_nowhere(&nodes(connection).await?, imports) {
        bail!(
            "{word} imports {import}, which no node of the cluster offers; `dhow describe node` shows what they do"
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_last_part_and_are_labels() {
        for (word, name) in [
            ("./target/Hello_World.wasm", "hello-world"),
            ("127.0.0.1:5000/team/hello:1.2", "hello"),
            ("registry/x@sha256:abc", "x"),
            ("---.wasm", "module"),
        ] {
            assert_eq!(base_name(word), name);
        }
    }

    #[test]
    fn an_import_is_missed_where_no_node_has_all_of_them() {
        let nodes = |offers: &[Option<&str>]| {
            let node = |offers: &Option<&str>| match offers {
                Some(offers) => serde_json::json!({"metadata": {"annotations": {OFFERS_ANNOTATION: offers}}}),
                None => serde_json::json!({"metadata": {}}),
            };
            serde_json::json!({"items": offers.iter().map(node).collect::<Vec<_>>()})
        };
        let imports = ["wasi:io/poll@0.2.3".to_owned(), "a:b/c@1.0.0".to_owned()];
        for (offers, missed) in [
            (&[Some("wasi:io/poll@0.2,a:b/c@1")][..], None),
            (&[Some("wasi:io/poll@0.2"), Some("wasi:io/poll@0.2,a:b/c@1")], None),
            (&[Some("wasi:io/poll@0.2"), Some("a:b/c@1")], Some("a:b/c@1.0.0")),
            (&[Some("wasi:io/poll@0.2"), None], None),
            (&[], None),
        ] {
            assert_eq!(offered_nowhere(&nodes(offers), &imports), missed, "{offers:?}");
        }
    }

    #[test]
    fn a_command_is_not_deployed() {
        let module = b"\0asm\x01\0\0\0";
        assert!(check_use("tool.wasm", module, Use::Command).is_ok());
        let refused = check_use("tool.wasm", module, Use::Http).expect_err("a core module");
        assert!(refused.to_string().contains("dhow run tool.wasm"), "{refused}");
        assert!(is_http_handler("wasi:http/incoming-handler@0.2.3"));
        assert!(is_http_handler("wasi:http/handler@0.3.0"), "of WASI 0.3");
        assert!(!is_http_handler("wasi:http/types@0.2.3"));
    }

    #[test]
    fn a_file_that_is_not_there_is_not_taken_for_an_image() {
        for word in ["nothing-here.wasm", "./nothing-here", "/nothing/here"] {
            assert!(source(word).is_err(), "{word}");
        }
        assert!(matches!(source("registry/team/x:1"), Ok(Source::Reference(_))));
    }
}
