//! What the kinds promise to those who write them: the public API of mesh-crds.
#![expect(
    clippy::expect_used,
    clippy::unwrap_in_result,
    reason = "helpers of tests fail like tests"
)]

mod cases;
mod convert;
mod door;
mod hostile;
mod manifests;
mod peers;
mod rules;
mod samples;
mod ways;

use mesh_crds::{Parsed, parse};

/// A document of `kind` named `it` with this spec.
fn document(kind: &str, spec: &str) -> String {
    let spec = spec.trim_matches('\n').replace('\n', "\n  ");
    format!(
        "apiVersion: inferencemesh.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: it}}\nspec:\n  {spec}\n"
    )
}

/// What the door says about a document, without warnings.
fn said(kind: &str, spec: &str) -> Vec<String> {
    let Parsed {
        documents,
        problems,
    } = parse("it.yaml", &document(kind, spec));
    let said: Vec<String> = problems
        .iter()
        .filter(|problem| problem.error())
        .map(|problem| problem.message.clone())
        .collect();
    assert_eq!(
        documents.len(),
        usize::from(said.is_empty()),
        "an object comes out exactly if nothing is wrong: {said:?}"
    );
    said
}
