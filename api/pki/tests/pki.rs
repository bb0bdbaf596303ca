//! Certificates on disk and on the wire.
use jiff::{SignedDuration, Timestamp};
use pki::{Authority, Subject, ensure_authority, ensure_client, ensure_service_account_key, ensure_serving};
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

const NOW: Timestamp = Timestamp::constant(1_800_000_000, 0);
const ADMIN: Subject<'_> = Subject { common_name: "kubernetes-admin", organization: Some("system:masters") };
const SERVER: Subject<'_> = Subject { common_name: "kube-apiserver", organization: None };

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}
fn days(n: i64) -> SignedDuration {
    SignedDuration::from_hours(24 * n)
}

#[test]
fn a_client_certificate_names_its_user_and_group() {
    let ca = Authority::generate("kubernetes", NOW).unwrap();
    let client = ca.issue_client(ADMIN, NOW).unwrap();
    let who = pki::peer_identity(&client.chain().unwrap()[0]).unwrap();
    assert_eq!(who.common_name, "kubernetes-admin");
    assert_eq!(who.organizations, ["system:masters"]);
}

#[test]
fn keys_are_readable_by_their_owner_only_and_no_temporary_file_stays() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ensure_authority(dir.path(), "ca", "kubernetes", NOW).unwrap();
    ensure_client(&ca, dir.path(), "admin", ADMIN, NOW).unwrap();
    ensure_service_account_key(dir.path()).unwrap();
    let mut seen: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.ends_with(".key") {
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{name}");
        }
        seen.push(name);
    }
    seen.sort();
    assert_eq!(seen, ["admin.crt", "admin.key", "ca.crt", "ca.key", "sa.key", "sa.pub"]);
}

#[test]
fn ensuring_twice_keeps_everything() {
    let dir = tempfile::tempdir().unwrap();
    let sans = names(&["localhost", "127.0.0.1", "::1"]);
    let make = || {
        let ca = ensure_authority(dir.path(), "ca", "kubernetes", NOW).unwrap();
        let serving = ensure_serving(&ca, dir.path(), "apiserver", SERVER, &sans, NOW).unwrap();
        let client = ensure_client(&ca, dir.path(), "admin", ADMIN, NOW).unwrap();
        (ca.certificate_pem().to_owned(), serving, client, ensure_service_account_key(dir.path()).unwrap())
    };
    assert_eq!(make(), make());
}

#[test]
fn a_serving_certificate_is_made_anew_when_a_name_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ensure_authority(dir.path(), "ca", "kubernetes", NOW).unwrap();
    let one = ensure_serving(&ca, dir.path(), "s", SERVER, &names(&["localhost"]), NOW).unwrap();
    let two = ensure_serving(&ca, dir.path(), "s", SERVER, &names(&["localhost", "10.0.0.1"]), NOW).unwrap();
    assert_ne!(one, two);
    assert_eq!(two.facts().unwrap().alternative_names, ["localhost", "10.0.0.1"]);
}

#[test]
fn leaves_are_renewed_when_less_than_a_fifth_of_their_life_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ensure_authority(dir.path(), "ca", "kubernetes", NOW).unwrap();
    let at = |day| ensure_client(&ca, dir.path(), "admin", ADMIN, NOW + days(day)).unwrap();
    let first = at(0);
    assert_eq!(first, at(291));
    assert_ne!(first, at(293));
}

#[test]
fn a_renewed_authority_keeps_its_key_so_that_what_it_signed_stays_good() {
    let dir = tempfile::tempdir().unwrap();
    let old = ensure_authority(dir.path(), "ca", "kubernetes", NOW).unwrap();
    let later = NOW + days(3650 - 365);
    let leaf = old.issue_client(ADMIN, later).unwrap();
    let new = ensure_authority(dir.path(), "ca", "kubernetes", later).unwrap();
    assert_ne!(old.certificate_pem(), new.certificate_pem());
    assert_eq!(old.key_pem(), new.key_pem());
    assert!(new.signed(&leaf.facts().unwrap()));
}

#[test]
fn a_leaf_of_another_authority_or_a_damaged_one_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let other = Authority::generate("kubernetes", NOW).unwrap();
    let foreign = ensure_client(&other, dir.path(), "admin", ADMIN, NOW).unwrap();
    let ca = ensure_authority(dir.path(), "ca", "kubernetes", NOW).unwrap();
    let own = ensure_client(&ca, dir.path(), "admin", ADMIN, NOW).unwrap();
    assert_ne!(foreign, own);
    std::fs::write(dir.path().join("admin.crt"), "").unwrap();
    let again = ensure_client(&ca, dir.path(), "admin", ADMIN, NOW).unwrap();
    assert!(ca.signed(&again.facts().unwrap()));
}

#[test]
fn a_damaged_authority_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    ensure_authority(dir.path(), "ca", "kubernetes", NOW).unwrap();
    let path = dir.path().join("ca.crt");
    std::fs::write(&path, "not a certificate").unwrap();
    let error = ensure_authority(dir.path(), "ca", "kubernetes", NOW).err().unwrap();
    assert!(error.to_string().contains("ca.crt"), "{error}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "not a certificate");
    std::fs::remove_file(dir.path().join("ca.key")).unwrap();
    let error = ensure_authority(dir.path(), "ca", "kubernetes", NOW).err().unwrap();
    assert!(matches!(error, pki::Error::KeyMissing { .. }), "{error}");
}

/// A TLS handshake over a pipe; gives the client's certificate as the server sees it.
async fn handshake(
    server: Arc<rustls::ServerConfig>,
    client: rustls::ClientConfig,
    name: &'static str,
) -> std::io::Result<Option<Vec<u8>>> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (a, b) = tokio::io::duplex(64 * 1024);
    let server = async {
        let mut stream = tokio_rustls::TlsAcceptor::from(server).accept(a).await?;
        let peer = stream.get_ref().1.peer_certificates().map(|c| c[0].to_vec());
        stream.write_all(b"ok").await?;
        stream.shutdown().await?;
        Ok::<_, std::io::Error>(peer)
    };
    let client = async {
        let name = rustls::pki_types::ServerName::try_from(name).unwrap();
        let mut stream = tokio_rustls::TlsConnector::from(Arc::new(client)).connect(name, b).await?;
        let mut buffer = Vec::new();
        stream.read_to_end(&mut buffer).await.map(|_| ())
    };
    let (server, client) = tokio::join!(server, client);
    client?;
    server
}

#[tokio::test]
async fn a_client_is_known_by_its_certificate_and_may_come_without_one_but_not_with_a_foreign_one() {
    #[expect(
        clippy::disallowed_methods,
        reason = "TLS looks at the wall clock, so these certificates are for the real now"
    )]
    let now = Timestamp::now();
    let ca = Authority::generate("kubernetes", now).unwrap();
    let serving = ca.issue_serving(SERVER, &names(&["localhost", "127.0.0.1"]), now).unwrap();
    let server = pki::server_config(ca.certificate_pem(), &serving).unwrap();
    let admin = ca.issue_client(ADMIN, now).unwrap();

    let known = pki::client_config(ca.certificate_pem(), Some(&admin)).unwrap();
    let der = handshake(server.clone(), known, "127.0.0.1").await.unwrap().unwrap();
    assert_eq!(pki::peer_identity(&der).unwrap().common_name, "kubernetes-admin");

    let nobody = pki::client_config(ca.certificate_pem(), None).unwrap();
    assert_eq!(handshake(server.clone(), nobody, "localhost").await.unwrap(), None);

    let other = Authority::generate("kubernetes", now).unwrap();
    let foreign = other.issue_client(ADMIN, now).unwrap();
    let foreign = pki::client_config(ca.certificate_pem(), Some(&foreign)).unwrap();
    assert!(handshake(server.clone(), foreign, "localhost").await.is_err());

    let wrong_name = pki::client_config(ca.certificate_pem(), None).unwrap();
    assert!(handshake(server, wrong_name, "example.com").await.is_err());
}

#[test]
fn a_kubeconfig_holds_everything_inside() {
    let ca = Authority::generate("kubernetes", NOW).unwrap();
    let admin = ca.issue_client(ADMIN, NOW).unwrap();
    let text = pki::kubeconfig("dhow", "https://127.0.0.1:6443", ca.certificate_pem(), "admin", &admin);
    assert!(text.contains("server: \"https://127.0.0.1:6443\""));
    assert_eq!(text.matches("-data: ").count(), 3);
}
