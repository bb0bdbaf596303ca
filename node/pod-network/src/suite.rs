//! What every network does, run against each of them.
use crate::{Error, PodNetwork};
use std::collections::BTreeSet;

/// Whether sandboxes have addresses of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    Own,
    Shared,
}

/// Panics where `make`'s networks do not behave.
pub async fn run<N: PodNetwork>(make: impl Fn() -> N, addresses: Addresses) {
    repeating_a_call_changes_nothing(make()).await;
    if addresses == Addresses::Own {
        sandboxes_never_share_an_address(make()).await;
        a_restart_keeps_what_is_held(make(), make()).await;
    }
}

async fn repeating_a_call_changes_nothing(network: impl PodNetwork) {
    network.ready().expect("ready");
    let first = network.allocate("a").await.expect("allocate");
    assert_eq!(network.allocate("a").await.expect("allocate again"), first);
    network.adopt("a", &first).await.expect("adopting what is held");
    assert_eq!(network.list().await, [("a".to_string(), first)]);
    network.release("a").await.expect("release");
    network.release("a").await.expect("release again");
    network.release("never seen").await.expect("release of nothing");
    assert!(network.list().await.is_empty());
}

async fn sandboxes_never_share_an_address(network: impl PodNetwork) {
    let mut held = BTreeSet::new();
    for round in 0..3 {
        for i in 0..50 {
            let sandbox = format!("{round}-{i}");
            let ip = network.allocate(&sandbox).await.expect("allocate").ip;
            assert!(held.insert(ip), "{ip} was given out twice");
            if i % 2 == 0 {
                network.release(&sandbox).await.expect("release");
                held.remove(&ip);
            }
        }
    }
    assert_eq!(network.list().await.len(), held.len());
}

async fn a_restart_keeps_what_is_held(before: impl PodNetwork, after: impl PodNetwork) {
    let mut held = BTreeSet::new();
    for i in 0..10 {
        held.insert(before.allocate(&format!("s{i}")).await.expect("allocate").ip);
    }
    for (sandbox, attachment) in before.list().await {
        after.adopt(&sandbox, &attachment).await.expect("adopt");
    }
    for i in 0..10 {
        let ip = after.allocate(&format!("new{i}")).await.expect("allocate").ip;
        assert!(held.insert(ip), "{ip} is held by an older sandbox");
    }
    let taken = before.allocate("s0").await.expect("allocate");
    assert!(matches!(after.adopt("thief", &taken).await, Err(Error::Taken { .. })));
}
