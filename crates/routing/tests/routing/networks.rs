//! Networks of a cluster's own pods and Services.

use std::sync::Arc;

use ipnet::IpNet;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

/// Mostly none, as on one machine.
pub(crate) fn cluster_networks() -> BoxedStrategy<Arc<[IpNet]>> {
    of(select(vec![
        "192.168.20.0/26",
        "127.0.0.0/16",
        "10.96.0.0/16",
    ]))
    .prop_map(|network| {
        network
            .iter()
            .map(|text| text.parse().expect("a network"))
            .collect()
    })
    .boxed()
}
