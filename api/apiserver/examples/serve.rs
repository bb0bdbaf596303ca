//! An API server by itself, over the memory store, to point a kubectl at:
//! `cargo run -p apiserver --example serve -- <dir>` writes `<dir>/kubeconfig` and serves until Ctrl-C.
use apiserver::{ApiServer, Config, StaticTokens, UserInfo};
use machinery::ambient::Ambient;
use pki::Subject;
use std::path::PathBuf;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

#[expect(clippy::disallowed_methods, reason = "a program makes its own ambient")]
fn ambient() -> Ambient {
    let random = || {
        let id = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), 0_u8);
        id.rotate_left(17)
    };
    Ambient::new(jiff::Timestamp::now, random)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "apiserver-example".to_owned()));
    let ambient = ambient();
    let now = ambient.now();
    let ca = pki::ensure_authority(&dir, "ca", "kubernetes", now)?;
    let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "127.0.0.1"];
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let subject = Subject { common_name: "kube-apiserver", organization: None };
    let serving = pki::ensure_serving(&ca, &dir, "apiserver", subject, &names, now)?;
    let admin = Subject { common_name: "kubernetes-admin", organization: Some("system:masters") };
    let admin = pki::ensure_client(&ca, &dir, "admin", admin, now)?;

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let clock = {
        let ambient = ambient.clone();
        Arc::new(move || u64::try_from(ambient.now().as_millisecond()).unwrap_or(0))
    };
    let store = Arc::new(store::MemoryStore::new(clock, store::Retention::default()));
    let mut config = Config::new(store, ambient);
    config.advertise_address = address;
    config.kubelet_client = Some(pki::client_config(ca.certificate_pem(), Some(&admin))?);
    let jane = UserInfo::new("jane", ["developers"]);
    config.authenticators.push(Arc::new(StaticTokens::new([("janes-token".to_owned(), jane)])));
    let server = ApiServer::new(config);
    server.ensure_bootstrap().await?;

    let url = format!("https://{address}");
    let text = pki::kubeconfig("dhow", &url, ca.certificate_pem(), "admin", &admin);
    let path = dir.join("kubeconfig");
    pki::write_private(&path, &text)?;
    println!("serving {url}, KUBECONFIG={}", path.display());

    let shutdown = CancellationToken::new();
    let serving =
        server.serve(listener, pki::server_config(ca.certificate_pem(), &serving)?, shutdown.clone());
    tokio::select! {
        ended = serving => ended?,
        _ = tokio::signal::ctrl_c() => {}
    }
    server.shutdown().await;
    Ok(())
}
