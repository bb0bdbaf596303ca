//! `dhow deploy`.
use crate::client_commands::{get::query, import, rollout, run};
use crate::connect::{Cluster, Connection, explain};
use anyhow::{Context, Result, bail};
use client::dhow::v1alpha1::{Function, FunctionSpec};
use http::Request;
use serde_json::{Value, json};
use std::time::Duration;

/// Make a program that answers HTTP reachable under a URL
///
/// Makes or changes a Function, waits until it serves, and prints its URL.
///
/// Examples:
///   dhow deploy ./hello.wasm
///   dhow deploy registry.example/hello:2 --name hello --replicas 3
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// An image of a registry, or a .wasm file
    image: String,
    /// The function's name [default: the image's]
    #[arg(long)]
    name: Option<String>,
    /// A variable of its environment; may be given again [default: none, or what it has]
    #[arg(short, long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// How many pods serve it [default: 1, or what it has]
    #[arg(long)]
    replicas: Option<u32>,
    /// Seconds to wait until it serves
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout: u64,
}

const LOOK_AGAIN: Duration = Duration::from_millis(20);

pub(crate) async fn run(cluster: &Cluster, args: Args) -> Result<()> {
    let env = run::env(&args.env)?;
    let connection = cluster.connect().await?;
    let image = import::image(&connection, &args.image, import::Use::Http).await?;
    let name = args.name.clone().unwrap_or_else(|| import::base_name(&args.image));
    let path = format!("/apis/dhow.dev/v1alpha1/namespaces/{}/functions", connection.namespace);
    let mut spec = json!({ "image": image });
    if !env.is_empty() {
        spec["env"] = json!(env);
    }
    if let Some(replicas) = args.replicas {
        spec["replicas"] = json!(replicas);
    }
    let existing =
        connection.client.request::<Value>(Request::get(format!("{path}/{name}")).body(Vec::new())?).await;
    let request = match existing {
        Ok(_) => Request::patch(format!("{path}/{name}?fieldManager=dhow-deploy"))
            .header(http::header::CONTENT_TYPE, "application/merge-patch+json")
            .body(serde_json::to_vec(&json!({ "spec": spec }))?)?,
        Err(e) if client::is_not_found(&e) => {
            let mut function =
                serde_json::to_value(Function::new(&connection.namespace, &name, FunctionSpec::default()))?;
            function["spec"] = spec;
            Request::post(format!("{path}?fieldManager=dhow-deploy"))
                .header(http::header::CONTENT_TYPE, "application/json")
                .body(serde_json::to_vec(&function)?)?
        }
        Err(e) => return Err(explain(e)),
    };
    let function: Value = connection.client.request(request).await.map_err(explain)?;
    let generation = function["metadata"]["generation"].as_i64().unwrap_or(0);
    let waiting = serving(&connection, &path, &name, generation);
    let url = match tokio::time::timeout(Duration::from_secs(args.timeout), waiting).await {
        Ok(url) => url?,
        Err(_) => bail!(
            "{name} does not serve after {} s; `dhow describe fn {name}` and `dhow get pods` say why",
            args.timeout
        ),
    };
    println!("{url}");
    Ok(())
}

/// Waits until the controller says that the function is ready and the gateway carries a request to it. Its URL.
async fn serving(connection: &Connection, path: &str, name: &str, generation: i64) -> Result<String> {
    loop {
        let function: Value = connection
            .client
            .request(Request::get(format!("{path}/{name}")).body(Vec::new())?)
            .await
            .map_err(explain)?;
        let status = &function["status"];
        let ready = status["conditions"]
            .as_array()
            .into_iter()
            .flatten()
            .any(|c| c["type"] == "Ready" && c["status"] == "True");
        let observed = status["observedGeneration"].as_i64().unwrap_or(0) >= generation;
        if let (true, true, Some(url)) = (ready, observed, status["url"].as_str())
            && answers(url).await
        {
            return Ok(url.to_owned());
        }
        if observed && let Some(why) = failure(connection, name).await? {
            bail!(
                "{name} cannot start: {why}; `dhow describe fn {name}` shows more, `dhow rm {name}` removes it"
            );
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Why no pod of the newest revision will ever run, if that is so.
async fn failure(connection: &Connection, name: &str) -> Result<Option<String>> {
    let namespace = format!("namespaces/{}", connection.namespace);
    let of_function = query(&[("labelSelector", Some(&format!("dhow.dev/function={name}")))]);
    let get = async |path: String| -> Result<Value> {
        connection.client.request(Request::get(path).body(Vec::new())?).await.map_err(explain)
    };
    let sets = get(format!("/apis/apps/v1/{namespace}/replicasets{of_function}")).await?;
    let deployments = get(format!("/apis/apps/v1/{namespace}/deployments{of_function}")).await?;
    let Some(hash) = newest_hash(&deployments["items"], &sets["items"]) else { return Ok(None) };
    let pods = get(format!("/api/v1/{namespace}/pods{of_function}")).await?;
    let of_newest = |pod: &&Value| pod["metadata"]["labels"][POD_TEMPLATE_HASH] == hash;
    for pod in pods["items"].as_array().into_iter().flatten().filter(of_newest) {
        let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
        let reason = waiting["reason"].as_str().unwrap_or_default();
        // A function is to serve: one that ends again and again will not.
        if run::HOPELESS.contains(&reason) || reason == "CrashLoopBackOff" {
            return Ok(Some(format!("{reason}: {}", waiting["message"].as_str().unwrap_or("no message"))));
        }
    }
    Ok(None)
}

const POD_TEMPLATE_HASH: &str = "pod-template-hash";

/// The hash of the newest ReplicaSet, once the Deployment has seen its own newest template; what older revisions
/// suffer from is over.
fn newest_hash(deployments: &Value, sets: &Value) -> Option<String> {
    let settled =
        |d: &Value| d["status"]["observedGeneration"].as_i64() >= d["metadata"]["generation"].as_i64();
    if !deployments.as_array()?.iter().all(settled) {
        return None;
    }
    let newest = sets.as_array()?.iter().max_by_key(|set| rollout::revision(set))?;
    newest["metadata"]["labels"][POD_TEMPLATE_HASH].as_str().map(str::to_owned)
}

/// Whether the gateway has a route and a pod for the URL. The host is `*.localhost`, so it is the gateway of this
/// machine that is asked (RFC 6761 section 6.3).
async fn answers(url: &str) -> bool {
    let Ok(uri) = url.parse::<http::Uri>() else { return false };
    let (Some(host), port) = (uri.host(), uri.port_u16().unwrap_or(80)) else { return false };
    let ask = async {
        let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let io = hyper_util::rt::TokioIo::new(stream);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.ok()?;
        let request = Request::head("/")
            .header(http::header::HOST, format!("{host}:{port}"))
            .body(http_body_util::Empty::<bytes::Bytes>::new())
            .ok()?;
        tokio::select! {
            response = sender.send_request(request) => response.ok().map(|r| r.status().as_u16()),
            _ = connection => None,
        }
    };
    let status = tokio::time::timeout(Duration::from_secs(5), ask).await.ok().flatten();
    // 502 and 503 are the gateway's own: no pod, or not yet. A function's own 404 means that it answers, the
    // gateway's that it has no route; both come without a body here, so a route is asked for once more by GET.
    matches!(status, Some(code) if code != 502 && code != 503 && code != 404)
        || (status == Some(404) && routed(host, port).await)
}

/// Whether a 404 is the function's own.
async fn routed(host: &str, port: u16) -> bool {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.context("connect")?;
        stream
            .write_all(
                format!("GET / HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n").as_bytes(),
            )
            .await?;
        let mut text = Vec::new();
        stream.take(4096).read_to_end(&mut text).await?;
        anyhow::Ok(String::from_utf8_lossy(&text).contains("no function or service answers"))
    };
    !tokio::time::timeout(Duration::from_secs(5), ask).await.is_ok_and(|r| r.unwrap_or(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_older_revision_suffers_from_does_not_count() {
        let set = |revision: &str, hash: &str| {
            json!({ "metadata": { "labels": { "pod-template-hash": hash },
                "annotations": { "deployment.kubernetes.io/revision": revision } } })
        };
        let sets = json!([set("9", "old"), set("10", "new")]);
        let deployment = |seen: i64| json!([{ "metadata": { "generation": 2 }, "status": { "observedGeneration": seen } }]);
        assert_eq!(newest_hash(&deployment(2), &sets).as_deref(), Some("new"));
        assert_eq!(newest_hash(&deployment(1), &sets), None);
    }
}
