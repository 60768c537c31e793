//! The class of a backend, from evidence (semantics sections 2 and 10, cluster section 2).

use mesh_core::SovereigntyClass::{
    CloudDomestic, CloudForeign, CloudRetained, OwnHardware, RentedHardware,
};
use mesh_core::policy::Ownership;
use mesh_core::{Authority, Backend, BackendId, Endpoint, Place, Proxy};
use mesh_routing::class::inside;
use mesh_routing::{Basis, Derived, derive};

use crate::world::{MESH, claims, cloud, external, floor, now, places};

fn ownership() -> Ownership {
    Ownership {
        nodes: None,
        networks: vec!["192.168.20.0/24".parse().expect("a network")],
        external: vec![(String::from("lab"), String::from("llama"))],
        home_jurisdictions: places(&["DE", "FR"]),
    }
}

fn class_of(backend: &Backend) -> Derived {
    derive(backend, &ownership(), MESH, now())
}

#[test]
fn a_model_in_this_process_is_owned() {
    assert_eq!(class_of(&floor()).class, OwnHardware);
}

#[test]
fn an_external_server_is_owned_where_all_its_addresses_are() {
    let all = class_of(&external("a", &["192.168.20.7", "192.168.20.8"]));
    assert_eq!((all.class, all.basis), (OwnHardware, Basis::Networks));
    for addresses in [
        &["192.168.20.7", "10.0.0.1"][..],
        &["10.0.0.1"],
        &["127.0.0.1"],
        &["::1"],
        &[],
    ] {
        let derived = class_of(&external("a", addresses));
        assert_eq!(derived.class, CloudRetained, "{addresses:?}");
        assert_eq!(derived.basis, Basis::UnknownOperator);
    }
}

#[test]
fn an_owned_address_written_as_ipv6_is_the_same_address() {
    let derived = class_of(&external("a", &["::ffff:192.168.20.7"]));
    assert_eq!(derived.class, OwnHardware);
    let address = "::ffff:192.168.21.7".parse().expect("an address");
    assert!(!inside(address, &ownership().networks));
}

#[test]
fn an_address_of_a_pod_or_a_service_is_nobodys_own_machine() {
    let mut mixed = external("a", &["192.168.20.7", "192.168.20.130"]);
    assert_eq!(class_of(&mixed).basis, Basis::Networks);
    let Place::External(endpoint) = &mut mixed.place else {
        panic!("an external server");
    };
    endpoint.cluster_networks =
        std::sync::Arc::new(["192.168.20.128/25".parse().expect("a network")]);
    let derived = class_of(&mixed);
    assert_eq!(
        (derived.class, derived.basis),
        (CloudRetained, Basis::ClusterNetwork)
    );
    assert!(derived.evidence(&mixed)[0].contains("pods or Services"));
    let Place::External(endpoint) = &mut mixed.place else {
        panic!("an external server");
    };
    endpoint.resolved.truncate(1);
    assert_eq!(class_of(&mixed).class, OwnHardware);
}

#[test]
fn networks_speak_only_for_backends_of_the_mesh_namespace() {
    let mut backend = external("a", &["192.168.20.7"]);
    backend.id = BackendId::foreign("hr", "a");
    assert_eq!(class_of(&backend).class, CloudRetained);
}

#[test]
fn a_listed_external_server_is_owned_wherever_it_is() {
    let mut backend = external("llama", &["203.0.113.9"]);
    assert_eq!(
        class_of(&backend).class,
        CloudRetained,
        "another namespace's name"
    );
    backend.id = BackendId::foreign("lab", "llama");
    assert_eq!(class_of(&backend).basis, Basis::Listed);
    assert_eq!(class_of(&backend).class, OwnHardware);
}

fn endpoint(backend: &mut Backend) -> &mut Endpoint {
    match &mut backend.place {
        Place::External(endpoint) => endpoint,
        Place::Cloud(cloud) => &mut cloud.endpoint,
        Place::InProcess { .. } | Place::Pods(_) | Place::Peer(_) => panic!("an address"),
    }
}

fn behind_a_proxy(mut backend: Backend) -> Backend {
    endpoint(&mut backend).proxy = Some(Proxy {
        url: "http://proxy.example:3128".parse().expect("a url"),
        credentials: None,
    });
    backend
}

fn with_its_own_authority(mut backend: Backend) -> Backend {
    endpoint(&mut backend).authority = Some(Authority::File("ca.pem".into()));
    backend
}

#[test]
fn nothing_behind_a_proxy_is_owned_hardware() {
    let inside = behind_a_proxy(external("a", &["192.168.20.7"]));
    let derived = class_of(&inside);
    assert_eq!(
        (derived.class, derived.basis),
        (CloudRetained, Basis::BehindProxy)
    );
    let mut listed = external("llama", &["203.0.113.9"]);
    listed.id = BackendId::foreign("lab", "llama");
    let listed = behind_a_proxy(listed);
    let derived = class_of(&listed);
    assert_eq!(
        (derived.class, derived.basis),
        (RentedHardware, Basis::ListedBehindProxy)
    );
    let lines = derived.evidence(&listed);
    assert!(lines.iter().any(|line| line.contains("over a proxy")));
    assert!(
        !lines.iter().any(|line| line.contains("proxy.example")),
        "callers see these lines: {lines:?}"
    );
}

#[test]
fn an_authority_of_its_own_changes_nothing_of_a_server_and_takes_a_clouds_claims_away() {
    let plain = || cloud("a", 0.8);
    let owned = with_its_own_authority(external("a", &["192.168.20.7"]));
    assert_eq!(class_of(&owned).class, OwnHardware);
    assert_eq!(class_of(&behind_a_proxy(plain())).class, CloudDomestic);
    for inspected in [
        with_its_own_authority(plain()),
        with_its_own_authority(behind_a_proxy(plain())),
    ] {
        let derived = class_of(&inspected);
        assert_eq!(
            (derived.class, derived.basis),
            (CloudRetained, Basis::Inspected)
        );
        let lines = derived.evidence(&inspected);
        assert!(lines[0].contains("read along"), "{lines:?}");
    }
}

#[test]
fn a_cloud_is_domestic_only_if_seat_centers_and_law_all_are() {
    assert_eq!(class_of(&cloud("a", 0.8)).class, CloudDomestic);
    for field in 0..3 {
        for codes in [&["US"][..], &["DE", "US"], &["EU"], &[]] {
            let mut backend = cloud("a", 0.8);
            let claims = claims(&mut backend);
            *[
                &mut claims.seat,
                &mut claims.data_centers,
                &mut claims.governing_law,
            ][field] = places(codes);
            assert_eq!(class_of(&backend).class, CloudForeign, "{field} {codes:?}");
        }
    }
}

#[test]
fn retention_or_training_known_or_unknown_makes_a_cloud_retained() {
    for (days, training) in [
        (Some(1), Some(false)),
        (None, Some(false)),
        (Some(0), Some(true)),
        (Some(0), None),
    ] {
        let mut backend = cloud("a", 0.8);
        claims(&mut backend).retention_days = days;
        claims(&mut backend).training = training;
        assert_eq!(
            class_of(&backend).class,
            CloudRetained,
            "{days:?} {training:?}"
        );
    }
}

#[test]
fn claims_count_until_the_instant_they_expire() {
    let mut backend = cloud("a", 0.8);
    claims(&mut backend).expires = now();
    assert_eq!(class_of(&backend).class, CloudRetained);
    assert_eq!(class_of(&backend).basis, Basis::Expired);
    claims(&mut backend).expires = now() + jiff::SignedDuration::from_nanos(1);
    assert_eq!(class_of(&backend).class, CloudDomestic);
}

#[test]
fn a_cloud_without_claims_is_the_worst_class_even_at_an_owned_address() {
    let mut backend = cloud("a", 0.8);
    let Place::Cloud(cloud) = &mut backend.place else {
        panic!("a cloud");
    };
    cloud.claims = None;
    cloud.endpoint.resolved = vec!["192.168.20.7".parse().expect("an address")];
    assert_eq!(class_of(&backend).class, CloudRetained);
    assert_eq!(class_of(&backend).basis, Basis::NoClaims);
}

#[test]
fn evidence_names_what_was_looked_at() {
    let lines = class_of(&cloud("a", 0.8)).evidence(&cloud("a", 0.8));
    assert!(
        lines[1].contains("seat DE") && lines[1].contains("retention 0 days"),
        "{lines:?}"
    );
    let unknown = external("a", &[]);
    let lines = class_of(&unknown).evidence(&unknown);
    assert!(lines[0].contains("nothing is known") && lines[1].contains("none known"));
}
