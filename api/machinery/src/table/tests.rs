use super::*;
use crate::resource;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn config_map() -> Value {
    json!({
        "metadata": { "name": "a", "namespace": "ns", "creationTimestamp": "1970-01-01T00:00:00Z" },
        "data": { "k": "v" },
    })
}

#[test]
fn a_table_has_a_cell_for_each_column_of_each_row() {
    for r in resource::all() {
        let obj = json!({ "metadata": { "name": "a" } });
        let table = to_table(r, &[&obj, &obj], json!({}), IncludeObject::None, "v1", true, at(0));
        let columns = table["columnDefinitions"].as_array().unwrap().len();
        assert!(columns > 0, "{}", r.plural);
        assert_eq!(table["rows"].as_array().unwrap().len(), 2);
        for row in table["rows"].as_array().unwrap() {
            assert_eq!(row["cells"].as_array().unwrap().len(), columns, "{}", r.plural);
        }
        // The column of format `name` is what kubectl prints with -o name.
        let name = r.columns.iter().position(|c| c.format == "name").unwrap();
        assert_eq!(table["rows"][0]["cells"][name], "a", "{}", r.plural);
    }
}

#[test]
fn a_row_carries_what_was_asked_of_the_object() {
    let r = resource::lookup("", "v1", "configmaps").unwrap();
    let obj = config_map();
    let row = |include, version| {
        to_table(r, &[&obj], json!({ "resourceVersion": "7" }), include, version, true, at(125))["rows"][0]
            .clone()
    };
    assert_eq!(row(IncludeObject::None, "v1")["object"], Value::Null);
    assert_eq!(
        row(IncludeObject::Metadata, "v1beta1")["object"],
        json!({
            "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1beta1", "metadata": obj["metadata"],
        })
    );
    let whole = &row(IncludeObject::Object, "v1")["object"];
    assert_eq!(
        (&whole["kind"], &whole["apiVersion"], &whole["data"]),
        (&json!("ConfigMap"), &json!("v1"), &obj["data"])
    );
}

#[test]
fn columns_are_left_out_of_all_but_the_first_event_of_a_watch() {
    let r = resource::lookup("", "v1", "configmaps").unwrap();
    let obj = config_map();
    let table =
        to_table(r, &[&obj], json!({ "resourceVersion": "7" }), IncludeObject::Metadata, "v1", false, at(0));
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["apiVersion"], "meta.k8s.io/v1");
    assert_eq!(table["metadata"]["resourceVersion"], "7");
    assert_eq!(table["columnDefinitions"], json!([]));
    assert!(!table["rows"][0]["cells"].as_array().unwrap().is_empty());
}

#[test]
fn durations_read_as_kubectl_prints_them() {
    const M: i64 = 60;
    const H: i64 = 60 * M;
    const D: i64 = 24 * H;
    const Y: i64 = 365 * D;
    for (seconds, text) in [
        (-2, "<invalid>"),
        (-1, "0s"),
        (0, "0s"),
        (119, "119s"),
        (2 * M, "2m"),
        (2 * M + 10, "2m10s"),
        (10 * M - 1, "9m59s"),
        (10 * M + 5, "10m"),
        (3 * H - 1, "179m"),
        (3 * H, "3h"),
        (3 * H + 5 * M, "3h5m"),
        (8 * H - 1, "7h59m"),
        (8 * H + 59 * M, "8h"),
        (2 * D - 1, "47h"),
        (2 * D, "2d"),
        (4 * D + 2 * H, "4d2h"),
        (8 * D - 1, "7d23h"),
        (8 * D + 5 * H, "8d"),
        (2 * Y - 1, "729d"),
        (2 * Y, "2y"),
        (2 * Y + 5 * D, "2y5d"),
        (8 * Y - 1, "7y364d"),
        (8 * Y + 5 * D, "8y"),
        (i64::MIN, "<invalid>"),
    ] {
        assert_eq!(human_duration(seconds), text, "{seconds}");
    }
}
