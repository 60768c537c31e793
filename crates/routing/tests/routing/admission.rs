//! Hard constraints (semantics sections 2, 3, 5).

use mesh_core::PrivacyLevel::{Confidential, Internal, Public, Restricted};
use mesh_core::SovereigntyClass::OwnHardware;
use mesh_core::policy::{ClaimField, JurisdictionRule, Policy, RetentionRule};
use mesh_core::{Backend, BackendId, Constraint, Facts, Feature, License, PrivacyLevel, ToolNeed};

use crate::world::{
    World, claims, cloud, external, facts, floor, places, planned, policy, refused, selector,
};

/// What refuses `backend` under `policy` for `facts` by `auto`.
fn verdict(policy: Policy, backend: Backend, facts: &Facts) -> Option<Constraint> {
    let name = backend.id.to_string();
    let decided = World::new([backend], [policy]).decide("auto", facts);
    refused(&decided.decision, &name)
}

fn at(level: PrivacyLevel, backend: Backend) -> Option<Constraint> {
    verdict(policy(), backend, &facts(level))
}

fn strange(backend: &mut Backend) -> &mut mesh_core::ServedModel {
    &mut backend.models[0]
}

#[test]
fn the_minimum_class_of_the_level_refuses() {
    assert_eq!(at(Internal, cloud("a", 0.8)), None);
    assert_eq!(
        at(Confidential, cloud("a", 0.8)),
        Some(Constraint::MinimumClass)
    );
    assert_eq!(at(Restricted, floor()), None);
    assert_eq!(at(Restricted, external("a", &["192.168.20.7"])), None);
    assert_eq!(
        at(Internal, external("a", &["10.0.0.1"])),
        Some(Constraint::MinimumClass)
    );
}

#[test]
fn a_cloud_whose_claims_expired_is_refused_for_internal_data() {
    let mut expired = cloud("a", 0.8);
    claims(&mut expired).expires = "2026-11-22T00:00:00Z".parse().expect("an instant");
    assert_eq!(
        at(Internal, expired.clone()),
        Some(Constraint::MinimumClass)
    );
    assert_eq!(at(Public, expired), None);
}

#[test]
fn the_backends_own_ceiling_refuses() {
    let mut own = floor();
    own.max_privacy = Internal;
    assert_eq!(at(Internal, own.clone()), None);
    assert_eq!(at(Confidential, own), Some(Constraint::MaxPrivacy));
}

#[test]
fn facts_below_the_policys_base_count_as_the_base() {
    let mut strict = policy();
    strict.default_privacy = Some(Restricted);
    assert_eq!(
        verdict(strict, cloud("a", 0.8), &facts(Public)),
        Some(Constraint::MinimumClass)
    );
}

fn jurisdictions(deny: &[&str], allow: Option<&[&str]>, fields: &[ClaimField]) -> Policy {
    let mut policy = policy();
    policy.constraints.jurisdictions = Some(JurisdictionRule {
        deny: places(deny),
        allow: allow.map(places),
        apply_to: fields.to_vec(),
    });
    policy
}

#[test]
fn a_denied_jurisdiction_refuses_by_any_overlap_in_the_named_fields() {
    let seat = [ClaimField::Seat];
    let mut american = cloud("a", 0.8);
    claims(&mut american).seat = places(&["DE", "US"]);
    let at = |policy, backend: &Backend| verdict(policy, backend.clone(), &facts(Public));
    assert_eq!(
        at(jurisdictions(&["US"], None, &seat), &american),
        Some(Constraint::Jurisdiction)
    );
    assert_eq!(
        at(jurisdictions(&["EU"], None, &seat), &american),
        Some(Constraint::Jurisdiction)
    );
    assert_eq!(
        at(
            jurisdictions(&["US"], None, &[ClaimField::DataCenters]),
            &american
        ),
        None
    );
    assert_eq!(
        at(jurisdictions(&["US"], None, &[]), &american),
        Some(Constraint::Jurisdiction),
        "no field named = all fields"
    );
}

#[test]
fn a_union_is_denied_with_any_of_its_members() {
    let mut wide = cloud("a", 0.8);
    claims(&mut wide).data_centers = places(&["EU"]);
    let rule = jurisdictions(&["FR"], None, &[ClaimField::DataCenters]);
    let refused = verdict(rule, wide, &facts(Public));
    assert_eq!(refused, Some(Constraint::Jurisdiction));
}

#[test]
fn an_allow_list_wants_every_place_wholly_inside() {
    let all = [
        ClaimField::Seat,
        ClaimField::DataCenters,
        ClaimField::GoverningLaw,
    ];
    let mut wide = cloud("a", 0.8);
    claims(&mut wide).data_centers = places(&["EU"]);
    let at = |allow: &[&str], backend: &Backend| {
        verdict(
            jurisdictions(&[], Some(allow), &all),
            backend.clone(),
            &facts(Public),
        )
    };
    assert_eq!(at(&["EU"], &wide), None);
    assert_eq!(at(&["DE"], &wide), Some(Constraint::Jurisdiction));
    assert_eq!(at(&[], &cloud("b", 0.8)), Some(Constraint::Jurisdiction));
}

#[test]
fn claims_that_are_absent_or_expired_fail_where_a_jurisdiction_rule_stands() {
    let rule = || jurisdictions(&["XX"], None, &[ClaimField::Seat]);
    let mut expired = cloud("a", 0.8);
    claims(&mut expired).expires = "2026-01-01T00:00:00Z".parse().expect("an instant");
    let mut unsaid = cloud("b", 0.8);
    claims(&mut unsaid).seat = places(&[]);
    for backend in [expired, unsaid, external("c", &["10.0.0.1"])] {
        assert_eq!(
            verdict(rule(), backend, &facts(Public)),
            Some(Constraint::Jurisdiction)
        );
    }
    for owned in [floor(), external("d", &["192.168.20.7"])] {
        assert_eq!(verdict(rule(), owned, &facts(Public)), None);
    }
    assert_eq!(
        verdict(
            jurisdictions(&[], None, &[]),
            external("c", &[]),
            &facts(Public)
        ),
        None,
        "a rule that denies and allows nothing is none"
    );
}

#[test]
fn retention_rules_hold_from_their_level_on() {
    let mut strict = policy();
    strict.constraints.retention = vec![RetentionRule {
        from: Internal,
        max_days: 30,
        allow_training: false,
    }];
    strict.constraints.minimum_class =
        [(Internal, mesh_core::SovereigntyClass::CloudRetained)].into();
    let with = |days, training| {
        let mut backend = cloud("a", 0.8);
        claims(&mut backend).retention_days = days;
        claims(&mut backend).training = training;
        backend
    };
    let at = |level, backend| verdict(strict.clone(), backend, &facts(level));
    assert_eq!(at(Internal, with(Some(30), Some(false))), None);
    for backend in [
        with(Some(31), Some(false)),
        with(None, Some(false)),
        with(Some(0), Some(true)),
        with(Some(0), None),
        external("b", &[]),
    ] {
        assert_eq!(at(Internal, backend.clone()), Some(Constraint::Retention));
        assert_eq!(at(Public, backend), None);
    }
    assert_eq!(at(Restricted, floor()), None);
}

#[test]
fn a_denied_license_refuses_and_an_allow_list_wants_a_known_one() {
    let license = |text: &str| License(text.to_owned());
    let mut deny = policy();
    deny.constraints.licenses_deny = vec![license("apache-2.0")];
    let mut allow = policy();
    allow.constraints.licenses_allow = Some(vec![license("MIT")]);
    let mut unknown = floor();
    unknown.models[0].license = None;
    let at = |policy: &Policy, backend: &Backend| {
        verdict(policy.clone(), backend.clone(), &facts(Public))
    };
    assert_eq!(at(&deny, &floor()), Some(Constraint::License));
    assert_eq!(at(&deny, &unknown), None);
    assert_eq!(at(&allow, &floor()), Some(Constraint::License));
    assert_eq!(at(&allow, &unknown), Some(Constraint::License));
}

type Change = fn(&mut Facts);

#[test]
fn hard_needs_refuse_who_does_not_enforce_them_and_soft_tools_refuse_nobody() {
    let need = |change: Change| {
        let mut facts = facts(Public);
        change(&mut facts);
        facts
    };
    let cases: [(Change, Feature); 3] = [
        (|facts| facts.needs.vision = true, Feature::Vision),
        (|facts| facts.needs.tools = ToolNeed::Hard, Feature::Tools),
        (|facts| facts.needs.json = true, Feature::JsonSchema),
    ];
    for (change, feature) in cases {
        let facts = need(change);
        let mut able = floor();
        strange(&mut able).capabilities.features = vec![feature];
        assert_eq!(verdict(policy(), able, &facts), None, "{feature:?}");
        assert_eq!(
            verdict(policy(), floor(), &facts),
            Some(Constraint::Feature)
        );
    }
    let soft = need(|facts| facts.needs.tools = ToolNeed::Soft);
    assert_eq!(verdict(policy(), floor(), &soft), None);
    let audio = need(|facts| facts.needs.other_media = true);
    assert_eq!(
        verdict(policy(), cloud("a", 0.8), &audio),
        Some(Constraint::Feature)
    );
}

#[test]
fn a_prompt_that_leaves_no_room_for_an_answer_is_refused() {
    let with = |tokens| {
        let mut facts = facts(Public);
        facts.needs.prompt_tokens = tokens;
        facts
    };
    assert_eq!(verdict(policy(), floor(), &with(8_191)), None);
    assert_eq!(
        verdict(policy(), floor(), &with(8_192)),
        Some(Constraint::ContextWindow)
    );
    assert_eq!(
        verdict(policy(), floor(), &with(u32::MAX)),
        Some(Constraint::ContextWindow)
    );
    let mut unlimited = floor();
    strange(&mut unlimited).capabilities.context_tokens = None;
    assert_eq!(verdict(policy(), unlimited, &with(u32::MAX)), None);
}

#[test]
fn unknown_fields_leave_owned_hardware_only_at_public() {
    let with = |level| {
        let mut facts = facts(level);
        facts.needs.unknown_fields = vec![String::from("provider")];
        facts
    };
    assert_eq!(verdict(policy(), cloud("a", 0.8), &with(Public)), None);
    assert_eq!(
        verdict(policy(), cloud("a", 0.8), &with(Internal)),
        Some(Constraint::UnknownFields)
    );
    assert_eq!(verdict(policy(), floor(), &with(Restricted)), None);
}

#[test]
fn hosted_tools_and_remote_addresses_are_refused_everywhere() {
    let mut hosted = facts(Public);
    hosted.needs.hosted_tools = vec![String::from("web_search")];
    let mut remote = facts(Public);
    remote.needs.remote_urls = true;
    for facts in [hosted, remote] {
        let decided = World::of([cloud("a", 0.8), floor()]).decide("auto", &facts);
        assert!(planned(&decided).is_empty());
        for name in ["a", "floor"] {
            assert_eq!(
                refused(&decided.decision, name),
                Some(Constraint::HostedTool)
            );
        }
        let message = &decided.decision.candidates[0]
            .refusal
            .as_ref()
            .expect("refused")
            .message;
        assert!(message.starts_with("not supported yet:"), "{message}");
    }
}

#[test]
fn a_backend_serves_the_namespaces_it_is_available_to() {
    let mut narrow = cloud("a", 0.8);
    narrow.available_to = selector("kubernetes.io/metadata.name", "hr");
    let world = |tenant| World::of([narrow.clone()]).seen_from(tenant);
    let hr = world("hr").ask("auto", Public);
    assert_eq!(planned(&hr), ["a"]);
    let lab = world("lab").ask("auto", Public);
    assert_eq!(refused(&lab.decision, "a"), Some(Constraint::Availability));
    assert!(planned(&lab).is_empty());
}

#[test]
fn a_backend_of_another_namespace_serves_that_namespace_only_and_is_not_shown_elsewhere() {
    let mut foreign = cloud("a", 0.8);
    foreign.id = BackendId::foreign("hr", "a");
    let world = |tenant| World::of([foreign.clone()]).seen_from(tenant);
    assert_eq!(planned(&world("hr").ask("auto", Public)), ["hr/a"]);
    assert!(
        world("lab")
            .ask("auto", Public)
            .decision
            .candidates
            .is_empty()
    );
}

#[test]
fn the_first_failing_constraint_in_the_fixed_order_is_reported() {
    let mut all = policy();
    all.constraints.licenses_deny = vec![License(String::from("Apache-2.0"))];
    all.constraints.minimum_class = [(Public, OwnHardware)].into();
    let mut facts = facts(Public);
    facts.needs.vision = true;
    facts.needs.prompt_tokens = 1_000_000;
    assert_eq!(
        verdict(all.clone(), cloud("a", 0.8), &facts),
        Some(Constraint::MinimumClass)
    );
    assert_eq!(
        verdict(all.clone(), floor(), &facts),
        Some(Constraint::License)
    );
    all.constraints.licenses_deny.clear();
    assert_eq!(verdict(all, floor(), &facts), Some(Constraint::Feature));
}
