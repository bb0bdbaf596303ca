//! The API server as a client of the soak sees it.
use anyhow::{Context, Result};
use client::Client;
use http::{Method, Request};
use serde_json::{Value, json};

#[derive(Clone)]
pub(crate) struct Api(pub(crate) Client);

impl Api {
    async fn ask(&self, method: Method, path: &str, kind: &str, body: &Value) -> Result<Value> {
        let bytes = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        let request = Request::builder()
            .method(&method)
            .uri(path)
            .header(http::header::CONTENT_TYPE, kind)
            .body(bytes)?;
        self.0.request(request).await.with_context(|| format!("{method} {path}"))
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value> {
        self.ask(Method::GET, path, "application/json", &Value::Null).await
    }
    pub(crate) async fn create(&self, path: &str, object: &Value) -> Result<Value> {
        self.ask(Method::POST, path, "application/json", object).await
    }
    pub(crate) async fn merge(&self, path: &str, patch: &Value) -> Result<Value> {
        self.ask(Method::PATCH, path, "application/merge-patch+json", patch).await
    }
    pub(crate) async fn delete(&self, path: &str) -> Result<()> {
        self.ask(Method::DELETE, path, "application/json", &Value::Null).await.map(drop)
    }

    /// Makes a namespace.
    pub(crate) async fn namespace(&self, name: &str) -> Result<()> {
        let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
        self.create("/api/v1/namespaces", &object).await.map(drop)
    }

    /// Whether something is there.
    pub(crate) async fn exists(&self, path: &str) -> Result<bool> {
        match self.0.request::<Value>(Request::get(path).body(Vec::new())?).await {
            Ok(_) => Ok(true),
            Err(error) if client::is_not_found(&error) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a module to the node; its reference.
    pub(crate) async fn import(&self, node: &str, name: &str, wasm: Vec<u8>) -> Result<String> {
        let reference = format!("localhost/{name}:soak");
        let path = format!("/api/v1/nodes/{node}/proxy/images/import?ref={reference}");
        let request =
            Request::post(path).header(http::header::CONTENT_TYPE, "application/wasm").body(wasm)?;
        self.0.request_text(request).await.with_context(|| format!("sending {name} to the node"))?;
        Ok(reference)
    }
}
