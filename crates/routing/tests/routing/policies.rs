//! Semantics section 2: which policies apply, and what they say together.

use mesh_core::PrivacyLevel::{Confidential, Internal, Public, Restricted};
use mesh_core::SovereigntyClass::{
    CloudDomestic, CloudForeign, CloudRetained, OwnHardware, RentedHardware,
};
use mesh_core::policy::{
    ClaimField, Failover, Floor, JurisdictionRule, Overflow, Ownership, Policy, PrivacyWeight,
    RetentionRule, Weights,
};
use mesh_core::{LatencyClass, License, PrivacyLevel, SovereigntyClass};
use mesh_routing::EffectivePolicy;

use crate::world::{World, places, policy, selector, silent, team_policy};

fn joined(policies: impl IntoIterator<Item = Policy>) -> EffectivePolicy {
    World::new([], policies).policy()
}

fn minimum(entries: &[(PrivacyLevel, SovereigntyClass)]) -> Policy {
    let mut policy = silent("minimum");
    policy.constraints.minimum_class = entries.iter().copied().collect();
    policy
}

fn named(mut policy: Policy, name: &str) -> Policy {
    name.clone_into(&mut policy.id.name);
    policy
}

fn classes(policy: &EffectivePolicy) -> [SovereigntyClass; 4] {
    PrivacyLevel::ALL.map(|level| policy.minimum_class(level))
}

#[test]
fn without_a_policy_everything_is_confidential_and_stays_on_owned_hardware() {
    let policy = joined([]);
    assert_eq!(policy.base_level(), Confidential);
    assert_eq!(policy.base_source(), None);
    assert_eq!(classes(&policy), [OwnHardware; 4]);
    assert_eq!(policy.incomplete_level(), Restricted);
    assert!(policy.floor().is_none() && policy.policies().is_empty());
}

#[test]
fn a_policy_that_says_nothing_gives_the_built_in_minimum_classes() {
    let policy = joined([silent("a")]);
    assert_eq!(policy.base_level(), Confidential);
    assert_eq!(
        classes(&policy),
        [CloudRetained, CloudDomestic, RentedHardware, OwnHardware]
    );
    assert_eq!(policy.privacy_weight(), PrivacyWeight::Hard);
}

#[test]
fn an_entry_of_the_mesh_replaces_the_built_in_class_even_by_a_laxer_one() {
    let policy = joined([minimum(&[(Internal, CloudForeign)])]);
    assert_eq!(policy.minimum_class(Internal), CloudForeign);
    assert_eq!(policy.minimum_class(Confidential), RentedHardware);
}

#[test]
fn of_several_entries_the_strictest_counts() {
    let policy = joined([
        minimum(&[(Internal, CloudForeign)]),
        named(minimum(&[(Internal, RentedHardware)]), "other"),
    ]);
    assert_eq!(policy.minimum_class(Internal), RentedHardware);
}

#[test]
fn a_higher_level_never_needs_less_than_a_lower_one() {
    let policy = joined([minimum(&[
        (Public, RentedHardware),
        (Restricted, CloudForeign),
    ])]);
    assert_eq!(classes(&policy), [RentedHardware; 4]);
}

#[test]
fn a_team_tightens_and_cannot_loosen() {
    let mut team = team_policy("hr", "team");
    team.constraints.minimum_class = [(Public, OwnHardware), (Restricted, CloudRetained)].into();
    team.default_privacy = Some(Public);
    team.incomplete_level = Some(Public);
    team.ownership = Some(Ownership {
        home_jurisdictions: places(&["US"]),
        ..Ownership::default()
    });
    let policy = World::new([], [policy(), team]).seen_from("hr").policy();
    assert_eq!(classes(&policy), [OwnHardware; 4]);
    assert_eq!(policy.base_level(), Public);
    assert_eq!(policy.incomplete_level(), Restricted);
    assert_eq!(policy.ownership().home_jurisdictions, places(&["DE", "FR"]));
}

#[test]
fn a_team_alone_cannot_open_what_the_mesh_did_not() {
    let mut team = team_policy("hr", "team");
    team.constraints.minimum_class = [(Public, CloudRetained)].into();
    team.default_privacy = Some(Public);
    let policy = World::new([], [team]).seen_from("hr").policy();
    assert_eq!(classes(&policy), [OwnHardware; 4]);
    assert_eq!(policy.base_level(), Confidential);
}

#[test]
fn the_base_level_is_the_most_specific_policys_and_a_team_may_raise_it() {
    let mut specific = silent("specific");
    specific.namespaces = selector("team", "hr");
    specific.default_privacy = Some(Internal);
    let mut team = team_policy("hr", "team");
    team.default_privacy = Some(Restricted);
    let mut world = World::new([], [policy(), specific.clone()]).seen_from("hr");
    assert_eq!(world.policy().base_level(), Public, "not selected by label");
    world
        .caller
        .tenant_labels
        .insert(String::from("team"), String::from("hr"));
    assert_eq!(world.policy().base_level(), Internal);
    let mut raised = World::new([], [policy(), specific, team]);
    raised.caller = world.caller;
    assert_eq!(raised.policy().base_level(), Restricted);
    assert_eq!(
        raised.policy().base_source().map(ToString::to_string),
        Some(String::from("hr/team"))
    );
}

#[test]
fn policies_of_other_namespaces_and_other_accounts_do_not_apply() {
    let mut bot = silent("bot");
    bot.service_accounts = vec![String::from("bot")];
    let policies = || [policy(), bot.clone(), team_policy("lab", "lab")];
    let mut world = World::new([], policies()).seen_from("hr");
    let names = |world: &World| -> Vec<String> {
        let joined = world.policy();
        joined
            .policies()
            .iter()
            .map(|one| one.name.to_string())
            .collect()
    };
    assert_eq!(names(&world), ["policy"]);
    world.caller.service_account = Some(String::from("bot"));
    assert_eq!(names(&world), ["bot", "policy"]);
}

#[test]
fn the_most_specific_is_team_then_account_then_selector_then_the_rest() {
    let mut account = silent("b-account");
    account.service_accounts = vec![String::from("bot")];
    let mut selecting = silent("a-selector");
    selecting.namespaces = selector("kubernetes.io/metadata.name", "hr");
    let mut world = World::new(
        [],
        [
            silent("z"),
            silent("c"),
            selecting,
            account,
            team_policy("hr", "zz"),
        ],
    )
    .seen_from("hr");
    world.caller.service_account = Some(String::from("bot"));
    let joined = world.policy();
    let names: Vec<String> = joined
        .policies()
        .iter()
        .map(|one| one.name.to_string())
        .collect();
    assert_eq!(names, ["hr/zz", "b-account", "a-selector", "c", "z"]);
}

#[test]
fn of_equally_specific_policies_the_strictest_comes_first() {
    let strict = named(minimum(&[(Public, OwnHardware)]), "z-strict");
    let joined = joined([silent("a"), strict]);
    assert_eq!(joined.policies()[0].name.name, "z-strict");
}

#[test]
fn preferences_come_group_by_group_from_the_most_specific_policy_that_has_them() {
    let mut team = team_policy("hr", "team");
    team.weights = Some(Weights {
        quality: 1.0,
        ..Weights::default()
    });
    let mut mesh = policy();
    mesh.weights = Some(Weights {
        quality: 0.0,
        ..Weights::default()
    });
    mesh.default_latency = Some(LatencyClass::Batch);
    mesh.failover = Some(Failover {
        max_attempts: 9,
        ..Failover::default()
    });
    let joined = World::new([], [mesh, team]).seen_from("hr").policy();
    assert!((joined.weights().quality - 1.0).abs() < 1e-9);
    assert_eq!(joined.failover().max_attempts, 9);
    assert_eq!(joined.default_latency(), Some(LatencyClass::Batch));
    assert_eq!(
        joined.floor().map(|floor| floor.backend.1.as_str()),
        Some("floor")
    );
}

#[test]
fn the_floor_is_protected_if_any_policy_protects_it() {
    let mut team = team_policy("hr", "team");
    team.floor = Some(Floor {
        drill: None,
        backend: (String::from("hr"), String::from("own")),
        protect: false,
        compete: true,
        overflow: Overflow::Refuse,
    });
    let joined = World::new([], [policy(), team]).seen_from("hr").policy();
    let floor = joined.floor().expect("a floor");
    assert_eq!(floor.backend.1, "own");
    assert!(floor.protect && floor.compete);
}

#[test]
fn hard_wins_over_weighted() {
    let weighted = |name| {
        let mut policy = silent(name);
        policy.privacy_weight = Some(PrivacyWeight::Weighted);
        policy
    };
    let mut hard = silent("hard");
    hard.privacy_weight = Some(PrivacyWeight::Hard);
    assert_eq!(
        joined([weighted("a"), silent("b")]).privacy_weight(),
        PrivacyWeight::Weighted
    );
    assert_eq!(
        joined([weighted("a"), hard]).privacy_weight(),
        PrivacyWeight::Hard
    );
}

#[test]
fn deny_lists_unite_and_allow_lists_intersect() {
    let license = |text: &str| License(text.to_owned());
    let mut one = silent("one");
    one.constraints.licenses_deny = vec![license("A")];
    one.constraints.licenses_allow = Some(vec![license("MIT"), license("Apache-2.0")]);
    let mut two = silent("two");
    two.constraints.licenses_deny = vec![license("B")];
    two.constraints.licenses_allow = Some(vec![license("apache-2.0")]);
    two.constraints.jurisdictions = Some(JurisdictionRule {
        deny: places(&["US"]),
        allow: None,
        apply_to: vec![ClaimField::Seat],
    });
    two.constraints.retention = vec![RetentionRule {
        from: Internal,
        max_days: 0,
        allow_training: false,
    }];
    let joined = joined([one, two, silent("three")]);
    assert_eq!(joined.licenses_deny(), [license("A"), license("B")]);
    assert_eq!(
        joined.licenses_allow(),
        Some([license("apache-2.0")].as_slice())
    );
    assert_eq!(joined.jurisdictions().len(), 1);
    assert_eq!(joined.retention(Public).count(), 0);
    assert_eq!(joined.retention(Restricted).count(), 1);
}

#[test]
fn several_policies_that_say_what_is_owned_intersect() {
    let owning = |name: &str, networks: &[&str], home: &[&str]| {
        let mut policy = silent(name);
        policy.ownership = Some(Ownership {
            nodes: None,
            networks: networks
                .iter()
                .map(|net| net.parse().expect("a network"))
                .collect(),
            external: vec![(String::from("lab"), name.to_owned())],
            home_jurisdictions: places(home),
        });
        policy
    };
    let joined = joined([
        owning("a", &["10.0.0.0/8", "192.168.0.0/16"], &["EU", "CH"]),
        owning("b", &["10.1.0.0/16", "172.16.0.0/12"], &["DE", "US"]),
        silent("c"),
    ]);
    let owned = joined.ownership();
    assert_eq!(owned.networks, ["10.1.0.0/16".parse().expect("a network")]);
    assert_eq!(owned.home_jurisdictions, places(&["DE"]));
    assert!(owned.external.is_empty());
}

#[test]
fn ownership_in_a_policy_that_selects_some_does_not_count() {
    let mut selecting = policy();
    selecting.service_accounts = vec![String::from("bot")];
    let mut world = World::new([], [selecting]);
    world.caller.service_account = Some(String::from("bot"));
    assert_eq!(world.policy().policies().len(), 1);
    assert_eq!(world.policy().ownership(), &Ownership::default());
}

#[test]
fn the_incomplete_level_is_the_strictest_said_by_the_mesh() {
    let said = |name, level| {
        let mut policy = silent(name);
        policy.incomplete_level = Some(level);
        policy
    };
    assert_eq!(
        joined([said("a", Public), silent("b")]).incomplete_level(),
        Public
    );
    let both = joined([said("a", Public), said("b", Confidential)]);
    assert_eq!(both.incomplete_level(), Confidential);
}
