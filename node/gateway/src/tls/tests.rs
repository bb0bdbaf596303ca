use super::*;
use client::k8s_openapi::ByteString;
use serde_json::json;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

fn authority() -> Arc<pki::Authority> {
    let now = jiff::Timestamp::from_second(1_800_000_000).expect("a time");
    Arc::new(pki::Authority::generate("test", now).expect("an authority"))
}

fn signed(authority: &pki::Authority, names: &[&str]) -> pki::KeyedCertificate {
    let now = jiff::Timestamp::from_second(1_800_000_000).expect("a time");
    let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
    let subject = pki::Subject { common_name: "test", organization: None };
    authority.issue_serving(subject, &names, now).expect("a certificate")
}

struct Bench {
    certificates: Arc<Certificates>,
    authority: Arc<pki::Authority>,
    issued: Arc<AtomicUsize>,
    secrets: HashMap<String, Arc<Secret>>,
}

fn bench(table: RouteTable) -> Bench {
    let (authority, issued) = (authority(), Arc::new(AtomicUsize::new(0)));
    let (signer, counted) = (authority.clone(), issued.clone());
    let issue: Issue = Arc::new(move |names: &[String]| {
        counted.fetch_add(1, Relaxed);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let own = signed(&signer, &names);
        Ok(Keyed { chain_pem: own.certificate_pem, key_pem: own.key_pem })
    });
    let certificates =
        Certificates::new(issue, Arc::new(ArcSwap::from_pointee(table))).expect("certificates");
    Bench { certificates, authority, issued, secrets: HashMap::new() }
}

impl Bench {
    fn put(&mut self, name: &str, version: u32, chain: &str, key: &str) {
        let mut secret = Secret::default();
        secret.metadata.resource_version = Some(version.to_string());
        let data = [("tls.crt", chain), ("tls.key", key)];
        secret.data =
            Some(data.iter().map(|(k, v)| ((*k).to_owned(), ByteString(v.as_bytes().to_vec()))).collect());
        self.secrets.insert(name.to_owned(), Arc::new(secret));
    }

    /// What is complained of when one Ingress names Secret `s` for `x.example` and `*.x.example`.
    fn follow(&self) -> Vec<String> {
        let ingress = json!({ "metadata": { "name": "i", "namespace": "n" },
            "spec": { "tls": [{ "hosts": ["x.example", "*.x.example"], "secretName": "s" }] } });
        let ingress = Arc::new(serde_json::from_value(ingress).expect("an ingress"));
        let complaints = self.certificates.follow(&[ingress], |_, name| self.secrets.get(name).cloned());
        complaints.into_iter().map(|c| c.message).collect()
    }

    /// The names in the certificate that is shown for `host`.
    fn shown(&self, host: &str) -> Vec<String> {
        let certificate = self.certificates.find(host);
        pki::certificate::Facts::from_der(&certificate.cert[0]).expect("facts").alternative_names
    }
}

fn routed() -> RouteTable {
    let function = json!({ "metadata": { "name": "f", "namespace": "default" }, "spec": {} });
    let function = serde_json::from_value(function).expect("a function");
    let world = crate::World { functions: &[Arc::new(function)], services: &[], slices: &[], ingresses: &[] };
    crate::routes::routes(&world, &RouteTable::default())
}

#[test]
fn each_name_is_shown_its_certificate_and_a_changed_secret_is_taken_up() {
    let mut bench = bench(RouteTable::default());
    let first = signed(&bench.authority, &["x.example", "first.example"]);
    bench.put("s", 1, &first.certificate_pem, &first.key_pem);
    assert_eq!(bench.follow(), [""; 0]);
    assert!(bench.shown("X.example").contains(&"first.example".to_owned()));
    assert!(bench.shown("a.x.example").contains(&"first.example".to_owned()));
    assert!(bench.shown("a.b.x.example").contains(&"localhost".to_owned()));
    let second = signed(&bench.authority, &["x.example", "second.example"]);
    bench.put("s", 2, &second.certificate_pem, &second.key_pem);
    assert_eq!(bench.follow(), [""; 0]);
    assert!(bench.shown("x.example").contains(&"second.example".to_owned()));
    // Nobody asks for it any more.
    assert!(bench.certificates.follow(&[], |_, _| None).is_empty());
    assert!(bench.shown("x.example").contains(&"localhost".to_owned()));
}

#[test]
fn what_is_wrong_is_said_and_the_old_certificate_stays() {
    let mut bench = bench(RouteTable::default());
    let says = |bench: &Bench, what: &str| {
        let said = bench.follow();
        assert!(said.len() == 1 && said[0].contains(what), "{said:?}");
    };
    says(&bench, "no such Secret");
    assert!(bench.shown("x.example").contains(&"localhost".to_owned()));
    let good = signed(&bench.authority, &["x.example"]);
    bench.put("s", 1, &good.certificate_pem, &good.key_pem);
    assert_eq!(bench.follow(), [""; 0]);
    let other = signed(&bench.authority, &["other.example"]);
    for (version, chain, key, what) in [
        (2, good.certificate_pem.as_str(), "", "it has no tls.key"),
        (3, "", good.key_pem.as_str(), "it has no tls.crt"),
        (4, "text", good.key_pem.as_str(), "no certificate in PEM form"),
        (5, good.certificate_pem.as_str(), "text", "no private key in PEM form"),
        (6, other.certificate_pem.as_str(), good.key_pem.as_str(), "not the key of its tls.crt"),
    ] {
        bench.put("s", version, chain, key);
        says(&bench, what);
        says(&bench, "the one before stays in use");
        assert_eq!(bench.shown("x.example"), ["x.example"]);
    }
    bench.secrets.clear();
    says(&bench, "no such Secret");
    assert_eq!(bench.shown("x.example"), ["x.example"]);
}

#[test]
fn a_routed_name_below_localhost_gets_a_certificate_of_our_own_once() {
    let bench = bench(routed());
    assert_eq!(bench.shown("f.localhost"), ["f.localhost"]);
    assert_eq!(bench.shown("F.localhost"), ["f.localhost"]);
    assert_eq!(bench.issued.load(Relaxed), 2, "the default and this one");
    for n in 0..100 {
        assert!(bench.shown(&format!("nobody-{n}.localhost")).contains(&"*.localhost".to_owned()));
    }
    assert_eq!(bench.issued.load(Relaxed), 2, "strangers cannot make us sign");
}
