use super::plan::{File, VolumePlan, plan_volume};
use super::*;
use crate::env::{Objects, PodFacts};
use client::k8s_openapi::api::core::v1 as core;
use serde_json::json;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::Arc;

fn volume(v: serde_json::Value) -> core::Volume {
    serde_json::from_value(v).unwrap()
}

fn objects() -> Objects {
    let cm: core::ConfigMap =
        serde_json::from_value(json!({ "data": { "a": "1", "b": "2" }, "binaryData": { "c": "AAE=" } }))
            .unwrap();
    Objects { config_maps: [("cm".into(), Some(Arc::new(cm)))].into(), secrets: BTreeMap::new() }
}

fn plan(v: serde_json::Value) -> Result<Vec<String>, String> {
    let pod: core::Pod =
        serde_json::from_value(json!({ "metadata": { "name": "p", "labels": { "k": "v" } } })).unwrap();
    match plan_volume(&pod, &volume(v), &objects(), &PodFacts::default())? {
        VolumePlan::Files { files, .. } => Ok(files
            .into_iter()
            .map(|(k, f)| format!("{k} {:o} {}", f.mode, String::from_utf8_lossy(&f.bytes).escape_debug()))
            .collect()),
        other => Ok(vec![format!("{other:?}")]),
    }
}

#[test]
fn a_config_map_volume_shows_all_keys_or_the_items_named() {
    assert_eq!(
        plan(json!({ "name": "v", "configMap": { "name": "cm" } })).unwrap(),
        ["a 644 1", "b 644 2", "c 644 \\0\\u{1}"]
    );
    assert_eq!(
        plan(json!({ "name": "v", "configMap": { "name": "cm", "defaultMode": 256,
            "items": [{ "key": "a", "path": "x/y" }, { "key": "b", "path": "z", "mode": 384 }] } }))
        .unwrap(),
        ["x/y 400 1", "z 600 2"]
    );
}

#[test]
fn what_a_volume_lacks_is_said_and_optional_sources_may_lack() {
    let cases = [
        (json!({ "name": "v", "configMap": { "name": "no" } }), "configmap \"no\" not found"),
        (json!({ "name": "v", "secret": { "secretName": "no" } }), "secret \"no\" not found"),
        (
            json!({ "name": "v", "configMap": { "name": "cm", "items": [{ "key": "q", "path": "q" }] } }),
            "configmap references non-existent configmap key: q",
        ),
        (
            json!({ "name": "v", "configMap": { "name": "cm", "items": [{ "key": "a", "path": "../a" }] } }),
            "invalid path \"../a\" in a volume",
        ),
    ];
    for (v, why) in cases {
        assert_eq!(plan(v).unwrap_err(), why);
    }
    assert!(
        plan(json!({ "name": "v", "nfs": { "server": "s", "path": "/" } }))
            .unwrap_err()
            .contains("not supported")
    );
    assert_eq!(
        plan(json!({ "name": "v", "configMap": { "name": "no", "optional": true } })).unwrap().len(),
        0
    );
}

#[test]
fn a_projected_volume_gathers_its_sources() {
    let v = json!({ "name": "v", "projected": { "sources": [
        { "configMap": { "name": "cm", "items": [{ "key": "a", "path": "a" }] } },
        { "downwardAPI": { "items": [{ "path": "labels", "fieldRef": { "fieldPath": "metadata.labels" } }] } },
    ] } });
    assert_eq!(plan(v).unwrap(), ["a 644 1", "labels 644 k=\\\"v\\\""]);
}

fn files(list: &[(&str, &str)]) -> BTreeMap<String, File> {
    list.iter().map(|(k, v)| (k.to_string(), File { bytes: v.as_bytes().to_vec(), mode: 0o644 })).collect()
}

#[test]
fn an_update_swaps_all_files_at_once_and_removes_what_is_gone() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path().join("v");
    assert!(atomic::write(&dir, &files(&[("a", "1"), ("d/e", "2")])).unwrap());
    assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "1");
    assert_eq!(fs::read_to_string(dir.join("d/e")).unwrap(), "2");
    assert!(!atomic::write(&dir, &files(&[("a", "1"), ("d/e", "2")])).unwrap(), "nothing changed");
    let link = fs::read_link(dir.join("..data")).unwrap();
    assert!(atomic::write(&dir, &files(&[("a", "3"), ("f", "4")])).unwrap());
    assert_ne!(fs::read_link(dir.join("..data")).unwrap(), link);
    assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "3");
    let mut names: Vec<String> =
        fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["..data", "..v2", "a", "f"]);
}

#[test]
fn an_update_that_died_half_way_is_finished_by_the_next() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = tmp.path();
    atomic::write(dir, &files(&[("a", "1")])).unwrap();
    fs::create_dir(dir.join("..v9")).unwrap();
    symlink("..v9", dir.join("..data_tmp")).unwrap();
    assert!(atomic::write(dir, &files(&[("a", "2")])).unwrap());
    assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "2");
}

#[test]
fn a_sub_path_never_leaves_its_volume() {
    let tmp = tempfile::tempdir().unwrap();
    let volume = tmp.path().join("v");
    fs::create_dir(&volume).unwrap();
    assert_eq!(subpath::resolve(&volume, "a/b").unwrap(), volume.canonicalize().unwrap().join("a/b"));
    assert!(volume.join("a/b").is_dir());
    symlink("/etc", volume.join("out")).unwrap();
    symlink("a", volume.join("inside")).unwrap();
    assert!(subpath::resolve(&volume, "out/passwd").is_err());
    assert!(subpath::resolve(&volume, "../x").is_err());
    assert!(subpath::resolve(&volume, "/etc").is_err());
    assert!(subpath::resolve(&volume, "inside/b").unwrap().ends_with("a/b"));
}

#[test]
fn host_paths_are_checked_against_their_type() {
    let tmp = tempfile::tempdir().unwrap();
    let at = |p: &str| tmp.path().join(p).to_string_lossy().into_owned();
    fs::write(tmp.path().join("file"), "").unwrap();
    let ensure = |path: String, kind: &str| {
        let plan = VolumePlan::HostPath { path, kind: kind.into() };
        apply::ensure_volume(tmp.path(), "u", "v", &plan).map_err(|e| e.to_string())
    };
    assert!(ensure(at("file"), "File").is_ok());
    assert!(ensure(at("new"), "DirectoryOrCreate").is_ok() && tmp.path().join("new").is_dir());
    let e = ensure(at("file"), "Directory").unwrap_err();
    assert!(e.starts_with("MountVolume.SetUp failed for volume \"v\" : hostPath type check failed: "), "{e}");
    assert!(ensure(at("gone"), "Directory").is_err());
}

#[test]
fn an_empty_dir_may_be_written_by_all() {
    let tmp = tempfile::tempdir().unwrap();
    let dir =
        apply::ensure_volume(tmp.path(), "u", "v", &VolumePlan::EmptyDir { memory_bytes: None }).unwrap();
    assert_eq!(dir, volume_dir(tmp.path(), "u", "empty-dir", "v"));
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o777);
}

#[test]
fn no_other_user_of_the_node_reaches_the_volumes_of_pods() {
    let root = tempfile::tempdir().unwrap();
    let pods = root.path().join("pods");
    fs::create_dir(&pods).unwrap();
    fs::set_permissions(&pods, fs::Permissions::from_mode(0o755)).unwrap();
    let made =
        apply::ensure_volume(root.path(), "uid", "v", &VolumePlan::EmptyDir { memory_bytes: None }).unwrap();
    assert!(made.starts_with(&pods), "{}", made.display());
    assert_eq!(fs::metadata(&pods).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn an_empty_dir_in_memory_is_as_large_as_the_least_limit_says() {
    let plan = |volume: serde_json::Value, limits: serde_json::Value| {
        let containers = json!([{ "name": "a", "resources": { "limits": limits } }, { "name": "b",
            "resources": { "limits": { "memory": "1Mi" } } }]);
        let pod: core::Pod =
            serde_json::from_value(json!({ "metadata": {}, "spec": { "containers": containers } })).unwrap();
        let facts = PodFacts { allocatable: [("memory".into(), "1Gi".into())].into(), ..PodFacts::default() };
        plan_volume(
            &pod,
            &super::tests::volume(json!({ "name": "v", "emptyDir": volume })),
            &objects(),
            &facts,
        )
    };
    let memory = |bytes| Ok(VolumePlan::EmptyDir { memory_bytes: Some(bytes) });
    assert_eq!(plan(json!({ "medium": "Memory" }), json!({})), memory(1 << 30));
    assert_eq!(plan(json!({ "medium": "Memory" }), json!({ "memory": "3Mi" })), memory(4 << 20));
    assert_eq!(
        plan(json!({ "medium": "Memory", "sizeLimit": "2Mi" }), json!({ "memory": "3Mi" })),
        memory(2 << 20)
    );
    assert_eq!(
        plan(json!({ "sizeLimit": "2Mi" }), json!({})),
        Ok(VolumePlan::EmptyDir { memory_bytes: None })
    );
    assert!(plan(json!({ "medium": "HugePages" }), json!({})).unwrap_err().contains("not supported"));
}

#[test]
fn an_empty_dir_in_memory_takes_no_more_than_its_size_and_is_gone_with_its_pod() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED, not tested here: mounting a tmpfs needs root");
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let plan = VolumePlan::EmptyDir { memory_bytes: Some(1 << 20) };
    let dir = apply::ensure_volume(root.path(), "u", "v", &plan).unwrap();
    fs::write(dir.join("fits"), vec![0; 512 << 10]).unwrap();
    // As a kubelet that was started anew does.
    assert_eq!(apply::ensure_volume(root.path(), "u", "v", &plan).unwrap(), dir);
    assert!(dir.join("fits").exists());
    let error = fs::write(dir.join("too much"), vec![0; 1 << 20]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o777);
    apply::remove_pod_dirs(&[pod_dir(root.path(), "u")]).unwrap();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(root.path().to_str().unwrap()), "it is still mounted");
    assert!(!pod_dir(root.path(), "u").exists());
}
