use super::plan::{Plan, plan_namespace};
use client::k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use client::k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

fn namespace() -> Namespace {
    Namespace {
        metadata: ObjectMeta { name: Some("a".into()), ..ObjectMeta::default() },
        ..Namespace::default()
    }
}

#[test]
fn a_new_namespace_gets_both_and_a_complete_one_nothing() {
    let p = plan_namespace(&namespace(), None, None, "PEM");
    let account = p.create_account.unwrap();
    let ca = p.create_ca.unwrap();
    assert_eq!(account.metadata.namespace.as_deref(), Some("a"));
    assert_eq!(ca.data.as_ref().unwrap()["ca.crt"], "PEM");
    assert_eq!(plan_namespace(&namespace(), Some(&account), Some(&ca), "PEM"), Plan::default());
}

#[test]
fn another_certificate_authority_is_written() {
    let old = ConfigMap {
        metadata: ObjectMeta { resource_version: Some("7".into()), ..ObjectMeta::default() },
        data: Some([("ca.crt".to_owned(), "OLD".to_owned())].into()),
        ..ConfigMap::default()
    };
    let p = plan_namespace(&namespace(), Some(&ServiceAccount::default()), Some(&old), "NEW");
    let new = p.update_ca.unwrap();
    assert_eq!(
        (new.data.unwrap()["ca.crt"].as_str(), new.metadata.resource_version.as_deref()),
        ("NEW", Some("7"))
    );
}

#[test]
fn a_terminating_namespace_gets_nothing_and_no_authority_means_no_config_map() {
    let mut ns = namespace();
    assert_eq!(plan_namespace(&ns, Some(&ServiceAccount::default()), None, ""), Plan::default());
    ns.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
    assert_eq!(plan_namespace(&ns, None, None, "PEM"), Plan::default());
}
