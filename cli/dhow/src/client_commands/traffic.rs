//! `dhow traffic`.
use crate::client_commands::function::{self, revision_name, shares};
use crate::connect::Cluster;
use anyhow::{Context, Result, bail};
use client::dhow::v1alpha1::{Function, LATEST, TrafficTarget};
use serde_json::{Value, json};

/// Divide the requests of a function between its revisions, or show how they are divided
///
/// Revisions are named r3 or hello-r3; latest is the newest one that is ready. The percents make 100. A revision that
/// is not running is started, and the requests move when all that are named are ready.
///
/// Examples:
///   dhow traffic hello                                    # who serves what
///   dhow traffic hello r3=90,r4=10                        # nine of ten requests to r3
///   dhow traffic hello r3=100 --header x-canary=1:r4      # those with the header x-canary: 1 go to r4
///   dhow traffic hello latest=100                         # new revisions take over by themselves again
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    /// The function's name
    name: String,
    /// REVISION=PERCENT, several with commas between them
    #[arg(value_name = "SHARES")]
    shares: Option<String>,
    /// Requests with this header go to the revision; may be given again
    #[arg(long, value_name = "NAME=VALUE:REVISION")]
    header: Vec<String>,
    /// Seconds to wait until the requests have moved
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    timeout: u64,
}

pub(crate) async fn run(cluster: &Cluster, args: Args) -> Result<()> {
    let connection = cluster.connect().await?;
    let f = function::get(&connection, &args.name).await?;
    if args.shares.is_none() && args.header.is_empty() {
        println!("{} serves {}", args.name, shares(&f.status.unwrap_or_default().traffic));
        return Ok(());
    }
    let targets = targets(&f, args.shares.as_deref(), &args.header)?;
    let revisions = function::revisions(&connection, &f).await?;
    for target in targets.iter().filter(|t| t.revision != LATEST) {
        if !revisions.iter().any(|r| r.metadata.name.as_ref() == Some(&target.revision)) {
            bail!(
                "{} has no revision {}; `dhow revisions {}` lists them",
                args.name,
                target.revision,
                args.name
            );
        }
    }
    let follows_latest = matches!(&targets[..], [only] if only.revision == LATEST && only.headers.is_empty() && only.percent == Some(100));
    let traffic = if follows_latest { Value::Null } else { json!(targets) };
    let written =
        function::merge(&connection, &args.name, &json!({ "spec": { "traffic": traffic } })).await?;
    let moved = function::traffic_moved(&connection, &written, args.timeout).await?;
    println!("{} serves {}", args.name, shares(&moved.status.unwrap_or_default().traffic));
    Ok(())
}

/// What is wanted from now on. Without shares those of now stay, and the headers come beside them.
fn targets(f: &Function, shares: Option<&str>, headers: &[String]) -> Result<Vec<TrafficTarget>> {
    let name = f.metadata.name.as_deref().unwrap_or_default();
    let mut targets = match shares {
        Some(text) => text.split(',').map(|word| share(name, word)).collect::<Result<Vec<_>>>()?,
        None => f.spec.traffic.iter().filter(|t| t.headers.is_empty()).cloned().collect(),
    };
    if targets.is_empty() {
        targets.push(TrafficTarget {
            revision: LATEST.into(),
            percent: Some(100),
            ..TrafficTarget::default()
        });
    }
    let sum: i32 = targets.iter().filter_map(|t| t.percent).fold(0, i32::saturating_add);
    if sum != 100 {
        bail!("the percents must make 100, these make {sum}");
    }
    for word in headers {
        targets.push(by_header(name, word)?);
    }
    Ok(targets)
}

fn share(function: &str, word: &str) -> Result<TrafficTarget> {
    let (revision, percent) = word
        .trim()
        .split_once('=')
        .with_context(|| format!("{word:?} is not REVISION=PERCENT, such as r3=90"))?;
    let percent: i32 = percent
        .trim_end_matches('%')
        .parse()
        .ok()
        .filter(|n| (0..=100).contains(n))
        .with_context(|| format!("{percent:?} is not a percentage between 0 and 100"))?;
    Ok(TrafficTarget {
        revision: revision_name(function, revision)?,
        percent: Some(percent),
        ..TrafficTarget::default()
    })
}

/// A value may hold colons, a revision's name does not.
fn by_header(function: &str, word: &str) -> Result<TrafficTarget> {
    let parts =
        word.rsplit_once(':').and_then(|(header, revision)| Some((header.split_once('=')?, revision)));
    let Some(((name, value), revision)) = parts.filter(|((name, _), _)| !name.is_empty()) else {
        bail!("{word:?} is not NAME=VALUE:REVISION, such as x-canary=1:r4");
    };
    Ok(TrafficTarget {
        revision: revision_name(function, revision)?,
        percent: None,
        headers: [(name.to_owned(), value.to_owned())].into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::dhow::v1alpha1::FunctionSpec;

    fn read(now: Vec<TrafficTarget>, shares: Option<&str>, headers: &[&str]) -> Result<Value> {
        let f = Function::new("default", "f", FunctionSpec { traffic: now, ..FunctionSpec::default() });
        let headers: Vec<String> = headers.iter().map(|h| (*h).to_owned()).collect();
        targets(&f, shares, &headers).map(|t| json!(t))
    }

    #[test]
    fn shares_and_headers_are_read() {
        let split = json!([{ "revision": "f-r3", "percent": 90 }, { "revision": "f-r4", "percent": 10 }]);
        assert_eq!(read(vec![], Some("r3=90,r4=10%"), &[]).expect("shares"), split);
        let by_header = json!([{ "revision": "latest", "percent": 100 },
            { "revision": "f-r4", "headers": { "x-a": "b:c" } }]);
        assert_eq!(read(vec![], None, &["x-a=b:c:r4"]).expect("a header"), by_header);
        let now = serde_json::from_value(split.clone()).expect("targets");
        assert_eq!(read(now, None, &["x=1:latest"]).expect("a header")[1], split[1]);
    }

    #[test]
    fn what_makes_no_hundred_or_no_sense_is_refused() {
        for bad in
            ["", "r3", "r3=90", "r3=90,r4=20", "r3=101", "r3=-1,r4=101", "r3=x", "other-r1=100", "=100"]
        {
            assert!(read(vec![], Some(bad), &[]).is_err(), "{bad}");
        }
        for bad in ["x=1", "x:r1", "=1:r1", "x=1:", "x=1:y"] {
            assert!(read(vec![], None, &[bad]).is_err(), "{bad}");
        }
    }
}
