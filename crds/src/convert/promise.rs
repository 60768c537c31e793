//! The tests that a policy carries: what it promises.

use mesh_core::policy_test::{Expectation, PolicyTest, TestRequest};

use super::{World, warning};
use crate::kind::Kind;
use crate::parse::Document;
use crate::policy_test as test;
use crate::problem::{Problem, ProblemKind};

pub(super) fn tests(
    world: &World<'_>,
    document: &Document,
    spec: &[test::PolicyTest],
    problems: &mut Vec<Problem>,
) -> Vec<PolicyTest> {
    let namespace = document
        .object
        .namespace()
        .unwrap_or(world.input.mesh_namespace);
    for (index, test) in spec.iter().enumerate() {
        for (position, name) in test
            .given
            .iter()
            .flat_map(|given| &given.unavailable)
            .enumerate()
        {
            let (place, bare) = name.split_once('/').unwrap_or((namespace, name));
            let known = world.find(Kind::InferenceBackend, place, bare).is_some()
                || world
                    .find(Kind::InferenceBackend, world.input.mesh_namespace, bare)
                    .is_some();
            if !known {
                let field = format!("spec.tests[{index}].given.unavailable[{position}]");
                let message =
                    format!("no InferenceBackend {name}: assuming that it is down changes nothing");
                problems.push(warning(document, ProblemKind::Reference, &field, message));
            }
        }
    }
    spec.iter().map(policy_test).collect()
}

fn policy_test(spec: &test::PolicyTest) -> PolicyTest {
    PolicyTest {
        name: spec.name.clone(),
        request: TestRequest {
            text: spec.request.text.clone(),
            privacy: spec.request.privacy.map(Into::into),
            model: spec.request.model.clone(),
            task: spec.request.task.map(Into::into),
            service_account: spec.request.as_.as_ref().map(|caller| {
                (
                    caller.service_account.namespace.0.clone(),
                    caller.service_account.name.0.clone(),
                )
            }),
        },
        unavailable: spec
            .given
            .as_ref()
            .map(|given| given.unavailable.clone())
            .unwrap_or_default(),
        expect: Expectation {
            privacy: spec.expect.privacy.map(Into::into),
            lowest_class: spec.expect.lowest_class.map(Into::into),
            served_by: spec.expect.served_by.clone(),
            denied: spec.expect.denied,
        },
    }
}
