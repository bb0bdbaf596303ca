use super::*;
#[test]
fn throwaway_upstream_vectors() {
    let Ok(dir) = std::env::var("VECTORS") else { return };
    let mut bad = 0; let mut n = 0;
    for e in std::fs::read_dir(dir).unwrap() {
        let p = e.unwrap().path();
        if p.extension().and_then(|e| e.to_str()) != Some("pb") { continue }
        let want: Value = serde_json::from_slice(&std::fs::read(p.with_extension("json")).unwrap()).unwrap();
        n += 1;
        match decode(&std::fs::read(&p).unwrap()) {
            Err(e) => { println!("{}: {e}", p.display()); bad += 1 }
            Ok(got) => if got != want {
                bad += 1;
                println!("{}:", p.file_name().unwrap().to_str().unwrap());
                diff("", &got, &want);
            }
        }
    }
    panic!("{bad} of {n}");
}
fn diff(p: &str, a: &Value, b: &Value) {
    match (a, b) {
        (Value::Object(x), Value::Object(y)) => {
            for (k, v) in x { match y.get(k) { Some(w) => diff(&format!("{p}.{k}"), v, w), None => println!("  {p}.{k} extra {v}") } }
            for (k, v) in y { if !x.contains_key(k) { println!("  {p}.{k} missing {v}") } }
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => for (i, (v, w)) in x.iter().zip(y).enumerate() { diff(&format!("{p}[{i}]"), v, w) },
        _ => if a != b { println!("  {p}: {a} want {b}") }
    }
}
