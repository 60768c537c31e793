//! What the caller is told where nothing is planned.

use mesh_core::PrivacyLevel::{Internal, Public, Restricted};
use mesh_core::{BackendId, Constraint, ToolNeed, Verdict};
use mesh_routing::usable_names;

use crate::world::{World, cloud, facts, floor, planned, policy};

#[test]
fn an_unknown_name_is_answered_with_the_usable_ones() {
    let mut hidden = cloud("b", 0.5);
    hidden.id = BackendId::foreign("hr", "b");
    let mut aliased = floor();
    aliased.models[0].aliases = vec![String::from("small")];
    let decided = World::of([cloud("a", 0.9), hidden, aliased]).ask("gpt-9", Public);
    let Verdict::ModelNotFound { usable } = &decided.decision.verdict else {
        panic!("{:?}", decided.decision.verdict);
    };
    assert_eq!(usable, &["auto", "local", "a-model", "small", "smollm2"]);
    assert!(planned(&decided).is_empty() && decided.decision.candidates.is_empty());
}

#[test]
fn a_name_that_only_another_namespace_serves_is_unknown() {
    let mut hidden = cloud("b", 0.5);
    hidden.id = BackendId::foreign("hr", "b");
    let world = World::of([hidden, floor()]);
    assert!(matches!(
        world.ask("b-model", Public).decision.verdict,
        Verdict::ModelNotFound { .. }
    ));
    let own = world.seen_from("hr");
    assert_eq!(planned(&own.ask("b-model", Public)), ["hr/b", "floor"]);
    assert!(usable_names(&own.snapshot, &own.policy()).contains(&String::from("b-model")));
}

#[test]
fn names_are_case_sensitive_and_the_star_is_no_name() {
    let mut catching = cloud("a", 0.9);
    catching.models[0].aliases = vec![String::from("*")];
    let world = World::of([cloud("b", 0.9), floor()]);
    for name in ["B-MODEL", "AUTO", "", "*"] {
        assert!(
            matches!(
                world.ask(name, Public).decision.verdict,
                Verdict::ModelNotFound { .. }
            ),
            "{name}"
        );
    }
    let names = usable_names(&World::of([catching]).snapshot, &world.policy());
    assert_eq!(names, ["auto", "local", "a-model"]);
}

#[test]
fn policy_that_refuses_everything_is_named_with_its_constraints() {
    let mut ceiling = cloud("b", 0.5);
    ceiling.max_privacy = Public;
    let mut lax = policy();
    lax.constraints.minimum_class = [(Internal, mesh_core::SovereigntyClass::CloudRetained)].into();
    let mut narrow = cloud("a", 0.5);
    narrow.models[0].license = None;
    lax.constraints.licenses_allow = Some(vec![]);
    let decided = World::new([narrow, ceiling], [lax]).ask("auto", Internal);
    assert_eq!(
        decided.decision.verdict,
        Verdict::PolicyDenied {
            constraints: vec![Constraint::MaxPrivacy, Constraint::License]
        }
    );
}

#[test]
fn without_any_policy_a_cloud_is_denied_and_the_process_serves() {
    let world = World::new([cloud("a", 0.9)], []);
    assert!(matches!(
        world.ask("auto", Public).decision.verdict,
        Verdict::PolicyDenied { .. }
    ));
    let own = World::new([cloud("a", 0.9), floor()], []).ask("auto", Public);
    assert_eq!(planned(&own), ["floor"]);
    assert_eq!(own.decision.privacy, mesh_core::PrivacyLevel::Confidential);
}

#[test]
fn a_missing_feature_is_named() {
    let mut facts = facts(Restricted);
    facts.needs.vision = true;
    facts.needs.tools = ToolNeed::Hard;
    let decided = World::of([cloud("a", 0.9), floor()]).decide("auto", &facts);
    let Verdict::NoBackend { message } = &decided.decision.verdict else {
        panic!("{:?}", decided.decision.verdict);
    };
    assert!(message.contains("vision input") && message.contains("required tool calls"));
    assert!(!message.contains("JSON"));
}

#[test]
fn an_empty_mesh_says_that_nothing_is_declared() {
    let decided = World::of([]).ask("auto", Public);
    assert_eq!(
        decided.decision.verdict,
        Verdict::NoBackend {
            message: String::from("no backend is declared")
        }
    );
}

#[test]
fn unknown_fields_for_a_named_cloud_above_public_are_the_callers_to_drop() {
    let mut unknown = facts(Internal);
    unknown.needs.unknown_fields = vec![String::from("provider"), String::from("route")];
    let world = World::of([cloud("a", 0.9), floor()]);
    let decided = world.decide("a-model", &unknown);
    assert_eq!(
        decided.decision.verdict,
        Verdict::UnsupportedParameter {
            fields: unknown.needs.unknown_fields.clone()
        }
    );
    assert!(planned(&decided).is_empty(), "the floor does not stand in");
    assert_eq!(
        planned(&world.decide("auto", &unknown)),
        ["floor"],
        "auto finds who may"
    );
    let only_cloud = World::of([cloud("a", 0.9)]).decide("auto", &unknown);
    assert!(matches!(
        only_cloud.decision.verdict,
        Verdict::UnsupportedParameter { .. }
    ));
}

#[test]
fn unknown_fields_for_a_named_cloud_are_at_fault_at_every_level_above_public() {
    let world = World::of([cloud("a", 0.9), floor()]);
    for level in [Internal, mesh_core::PrivacyLevel::Confidential, Restricted] {
        let mut unknown = facts(level);
        unknown.needs.unknown_fields = vec![String::from("provider")];
        let decided = world.decide("a-model", &unknown);
        let verdict = &decided.decision.verdict;
        assert!(
            matches!(verdict, Verdict::UnsupportedParameter { fields } if fields == &["provider"]),
            "{level}: {verdict:?}"
        );
        assert!(planned(&decided).is_empty());
        assert_eq!(planned(&world.decide("smollm2", &unknown)), ["floor"]);
    }
}

#[test]
fn a_prompt_larger_than_every_admitted_window_is_the_callers_error() {
    let mut huge = facts(Restricted);
    huge.needs.prompt_tokens = 20_000;
    let decided = World::of([cloud("a", 0.9), floor()]).decide("auto", &huge);
    assert_eq!(
        decided.decision.verdict,
        Verdict::ContextLengthExceeded { largest: 8_192 },
        "the cloud's window does not count: it is not admitted"
    );
    huge.level = Public;
    huge.needs.prompt_tokens = 300_000;
    let decided = World::of([cloud("a", 0.9), floor()]).decide("auto", &huge);
    assert_eq!(
        decided.decision.verdict,
        Verdict::ContextLengthExceeded { largest: 200_000 }
    );
}
