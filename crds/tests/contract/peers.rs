//! Another mesh in a file: which addresses and keys are taken, and what is said of it.

use std::net::IpAddr;

use mesh_core::{Backend, Trust};
use mesh_crds::{
    ConvertInput, Converted, Home, PodMap, Problem, ProblemKind, parse_for, to_snapshot,
};

use crate::{document, said};

const ED25519: &str = "MCowBQYDK2VwAyEAOMiEVTKNEi0mO7ZsHAp9NRb3rIYc9QJOcKWNeRWxRyA=";
const P256: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEyxjjcnay1qD4LSRk/xOpUT7K907zqNeY3nc+LkI/hTo0OX7sv0rauXaOrB7f0cwfOZ7mN2UYeU0hbKDAItQYIg==";

fn peer(address: &str, identity: &str, trust: &str) -> String {
    format!(
        "peer: {{address: \"{address}\", identity: \"{identity}\", trust: {trust}}}\nmodels: [{{name: theirs}}]"
    )
}

fn at(address: &str) -> String {
    peer(address, ED25519, "Open")
}

fn convert(home: Home, namespace: &str, spec: &str) -> Result<Converted, Vec<Problem>> {
    let text = document("InferenceBackend", spec).replace(
        "{name: it}",
        &format!("{{name: it, namespace: {namespace}}}"),
    );
    let parsed = parse_for(home, "it.yaml", &text);
    assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
    let pods = PodMap::new();
    let asked = |name: &str| -> Vec<IpAddr> { unreachable!("{name} was looked up") };
    to_snapshot(
        &parsed.documents,
        &ConvertInput {
            mesh_namespace: "default",
            generation: 1,
            now: "2026-11-22T00:00:00Z".parse().expect("a time"),
            resolve: &asked,
            pods: (home == Home::Cluster).then_some(&pods),
            cluster_networks: &std::sync::Arc::default(),
        },
    )
}

fn read(address: &str) -> (String, u16) {
    let converted = convert(Home::Machine, "default", &at(address)).expect("a snapshot");
    let peer = converted.snapshot.backends[0].peer().expect("a peer");
    (peer.host.to_string(), peer.port)
}

#[test]
fn an_address_is_a_name_or_a_literal_with_a_port_and_no_name_is_looked_up() {
    for (written, host, port) in [
        ("mesh.partner.example:8444", "mesh.partner.example", 8444),
        ("MESH.Partner.example:1", "mesh.partner.example", 1),
        ("partner:65535", "partner", 65535),
        ("a-1.b2.c3d:80", "a-1.b2.c3d", 80),
        ("203.0.113.7:8444", "203.0.113.7", 8444),
        ("[2001:DB8::7]:8444", "[2001:db8::7]", 8444),
        ("[::ffff:203.0.113.7]:8444", "[::ffff:203.0.113.7]", 8444),
    ] {
        let host = host.replace("[::ffff:203.0.113.7]", "[::ffff:cb00:7107]");
        assert_eq!(read(written), (host, port), "{written}");
    }
}

#[test]
fn what_could_be_read_in_two_ways_is_no_address() {
    for address in [
        "mesh.partner.example",
        "mesh.partner.example:0",
        "mesh.partner.example:65536",
        "mesh.partner.example:08444",
        "mesh.partner.example:+1",
        "https://mesh.partner.example:8444",
        "user@mesh.partner.example:8444",
        "mesh.partner.example:8444/v1",
        "mesh..example:8444",
        "-mesh.example:8444",
        "mesh-.example:8444",
        "mesh.example.:8444",
        "mesh_a.example:8444",
        "2001:db8::7:8444",
        "[fe80::1%eth0]:8444",
        // Other spellings of 127.0.0.1.
        "127.1:8444",
        "2130706433:8444",
        "0x7f000001:8444",
        "0x7f.0.0.1:8444",
        "127.0.0.0x1:8444",
        "",
        ":8444",
    ] {
        let refused = said("InferenceBackend", &at(address));
        assert_eq!(refused.len(), 1, "{address}: {refused:?}");
        assert!(refused[0].contains("is not host:port"), "{refused:?}");
    }
    // These have the form, and mean nothing.
    for address in [
        "300.0.113.7:8444",
        "0177.0.0.1:8444",
        "[1:2]:8444",
        "[::1::]:8444",
    ] {
        let spec = at(address);
        if !said("InferenceBackend", &spec).is_empty() {
            continue;
        }
        let problems = convert(Home::Machine, "default", &spec).expect_err(address);
        assert_eq!(problems[0].field, "spec.peer.address", "{address}");
        assert!(problems[0].message.contains("is not host:port"));
    }
}

#[test]
fn a_key_is_pinned_whole_and_has_one_spelling() {
    for key in [ED25519, P256] {
        let spec = peer("a.example:1", key, "Invited");
        let converted = convert(Home::Machine, "default", &spec).expect("a snapshot");
        let found = converted.snapshot.backends[0].peer().expect("a peer");
        assert_eq!(
            (found.identity.as_str(), found.trust),
            (key, Trust::Invited)
        );
    }
    let other_bits = ED25519.replace("RyA=", "RyB=");
    let raw = &ED25519[16..];
    let pem = format!("-----BEGIN PUBLIC KEY-----{ED25519}");
    let twice = format!("{ED25519}{ED25519}");
    let cut = &P256[..120];
    for key in [
        "a-public-key",
        "",
        raw,
        cut,
        other_bits.as_str(),
        pem.as_str(),
        twice.as_str(),
        "sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ] {
        let refused = said("InferenceBackend", &peer("a.example:1", key, "Open"));
        assert!(
            refused
                .iter()
                .any(|line| line.contains("is not a public key")),
            "{key}: {refused:?}"
        );
    }
}

#[test]
fn every_part_of_a_peer_is_asked_for() {
    let bare = "peer: {}\nmodels: [{name: theirs}]";
    let refused = said("InferenceBackend", bare).join("\n");
    for part in ["address", "identity", "trust"] {
        assert!(refused.contains(part), "{part}: {refused}");
    }
    let word = said("InferenceBackend", &peer("a.example:1", ED25519, "Friend")).join("\n");
    assert!(word.contains("use one of Invited, Open"), "{word}");
}

#[test]
fn in_a_cluster_a_peer_is_never_the_gateway_itself_and_on_one_machine_it_may_be() {
    for address in [
        "127.0.0.1:8444",
        "127.9.9.9:8444",
        "0.0.0.0:8444",
        "169.254.169.254:80",
        "[::1]:8444",
        "[::]:8444",
        "[fe80::1]:8444",
        "[::ffff:127.0.0.1]:8444",
        "localhost:8444",
        "LocalHost:8444",
        "a.localhost:8444",
    ] {
        let problems = convert(Home::Cluster, "team", &at(address)).expect_err(address);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert_eq!(problems[0].kind, ProblemKind::NotInCluster, "{address}");
        assert_eq!(problems[0].field, "spec.peer.address");
        assert!(convert(Home::Machine, "default", &at(address)).is_ok());
    }
    assert!(convert(Home::Cluster, "team", &at("10.0.0.7:8444")).is_ok());
}

#[test]
fn a_peer_is_taken_with_a_warning_and_an_invitation_elsewhere_with_another() {
    let warnings = |namespace: &str, trust: &str| -> Vec<String> {
        let spec = peer("a.example:1", ED25519, trust);
        let converted = convert(Home::Machine, namespace, &spec).expect("a snapshot");
        let shown = converted.warnings.iter().map(ToString::to_string);
        shown.collect()
    };
    let later = "it.yaml:5:3: warning: spec.peer: not supported yet: requests are not sent to other meshes; this backend is judged and shown, never asked";
    assert_eq!(warnings("default", "Invited"), [later]);
    assert_eq!(warnings("team", "Open"), [later]);
    assert_eq!(
        warnings("team", "Invited"),
        [
            later,
            "it.yaml:5:115: warning: spec.peer.trust: only those who write to namespace default invite others: it counts as Open here",
        ]
    );
}

#[test]
fn a_peer_has_no_address_that_anything_could_be_sent_to() {
    let converted = convert(Home::Machine, "default", &at("a.example:1")).expect("a snapshot");
    let backend: &Backend = &converted.snapshot.backends[0];
    assert!(backend.endpoint().is_none() && backend.provider().is_none());
}
