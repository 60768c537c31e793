//! What the door says about a file: where, which field, what to do.

use insta::assert_snapshot;
use mesh_crds::{Position, Problem, ProblemKind, Severity, decode, parse};

/// All problems of a text as a user sees them.
fn shown(text: &str) -> String {
    let lines: Vec<String> = parse("mesh.yaml", text)
        .problems
        .iter()
        .map(Problem::to_string)
        .collect();
    lines.join("\n")
}

/// The only problem of a text.
fn only(text: &str) -> Problem {
    let mut problems = parse("mesh.yaml", text).problems;
    assert_eq!(problems.len(), 1, "{problems:?}\n{text}");
    problems.remove(0)
}

const HEAD: &str =
    "apiVersion: inferencemesh.dev/v1alpha1\nkind: SovereigntyPolicy\nmetadata: {name: p}\nspec:\n";

/// A spec, the sort of its problem, where it is, and which field.
const EACH_SORT: &[(&str, ProblemKind, Position, &str)] = &[
    (
        "  defaults: {privacy: [Public}\n",
        ProblemKind::Syntax,
        Position {
            line: 5,
            column: 32,
        },
        "spec.defaults.privacy[1]",
    ),
    (
        "  ownership: {homeJurisdictions: [NO]}\n",
        ProblemKind::Ambiguous,
        Position {
            line: 5,
            column: 35,
        },
        "spec.ownership.homeJurisdictions[0]",
    ),
    (
        "  defaults: {}\n  defaults: {}\n",
        ProblemKind::DuplicateKey,
        Position { line: 6, column: 3 },
        "spec",
    ),
    (
        "  preferLocal: {}\n",
        ProblemKind::Missing,
        Position { line: 5, column: 3 },
        "spec.preferLocal.unlessQualityGapExceeds",
    ),
    (
        "  default: {privacy: Public}\n",
        ProblemKind::UnknownKey,
        Position { line: 5, column: 3 },
        "spec.default",
    ),
    (
        "  privacyWeight: hard\n",
        ProblemKind::Schema,
        Position {
            line: 5,
            column: 18,
        },
        "spec.privacyWeight",
    ),
    (
        "  failover:\n    deadline: 1s\n",
        ProblemKind::Rule,
        Position { line: 5, column: 3 },
        "spec.failover.timeToFirstToken",
    ),
    (
        "  budgets: [{per: Subject, tokensPerDay: 1}]\n",
        ProblemKind::NotSupportedYet,
        Position { line: 5, column: 3 },
        "spec.budgets",
    ),
];

#[test]
fn each_sort_of_problem_says_file_line_column_and_field() {
    for (spec, kind, place, field) in EACH_SORT {
        let problem = only(&format!("{HEAD}{spec}"));
        let said = (problem.file.as_str(), problem.kind, problem.field.as_str());
        assert_eq!(said, ("mesh.yaml", *kind, *field), "{problem}");
        if *kind != ProblemKind::Syntax {
            assert_eq!(problem.at, *place, "{problem}");
        }
        assert_eq!(problem.at.line, place.line, "{problem}");
        assert_eq!(problem.severity, Severity::Error);
        assert!(!problem.reason().is_empty());
    }
}

#[test]
fn a_message_says_what_to_do() {
    assert_snapshot!(shown(&format!(
        "{HEAD}  ownership: {{homeJurisdictions: [de], networks: [10.0.0.1]}}
  weights: {{quality: 0.3, cost: \"-1\"}}
  preferLocl: {{}}
  references: {{latency: 5 seconds}}
  privacyWeight: hard
  constraints: {{minimumClass: {{restricted: own}}, retention: [{{from: Public, maxDays: \"0\"}}]}}
  failover: {{maxAttempts: 99, midStream: Continue, substitution: Equivalents, betweenTokens: 30s}}
  tests:
  - {{name: a, request: {{text: hi}}, expect: {{servedBy: x}}}}
  - {{name: a, request: hi, expect: {{servedBy: x}}}}
"
    )));
}

#[test]
fn a_backend_with_many_mistakes_gets_all_of_them_back() {
    assert_snapshot!(shown(
        "apiVersion: inferencemesh.dev/v1alpha1
kind: InferenceBackend
metadata:
  name: Cloud_1
  lables: {}
spec:
  cloud:
    provider: example
    url: ftp://api.example.com
    credentials: {secretRef: {name: example, key: apiKey}}
    claims: {seat: [USA], expires: 2027-02-30}
    proxy: {url: https://proxy.example}
  models:
  - name: auto
    price: {inputPerMillion: 2, outputPerMillion: \"8.00\", currency: usd}
    capabilities: {features: [Tool], contextTokens: many}
  maxPrivacy: secret
  limits: {concurrentRequests: 0, tokensPerMinute: 5}
"
    ));
}

#[test]
fn a_document_that_is_not_ours_is_told_apart_from_a_misspelled_one() {
    assert_snapshot!(shown(
        "apiVersion: v1
kind: Secret
metadata: {name: key}
---
apiVersion: inferencemesh.dev/v1alpha1
kind: SovereigntyPolcy
metadata: {name: p}
---
apiVersion: inferencemesh.dev/v1
kind: ModelCache
metadata: {name: m}
---
apiVersion: example.com/v1
kind: Widget
---
kind: ModelCache
---
apiVersion: inferencemesh.dev/v1alpha1
---
apiVersion: inferencemesh.dev/v1alpha1
kind: FederatedRound
---
apiVersion: inferencemesh.dev/v1alpha1
kind: ModelCache
---
apiVersion: inferencemesh.dev/v1alpha1
kind: ModelCache
metadata: {name: m}
---
- a
- b
---
text
"
    ));
}

#[test]
fn a_kind_of_kubernetes_is_a_warning_and_the_rest_of_the_file_works() {
    let text = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata: {{name: x}}\n---\n{HEAD}  defaults: {{privacy: Public}}\n"
    );
    let parsed = parse("mesh.yaml", &text);
    assert!(parsed.usable());
    assert_eq!(parsed.documents.len(), 1);
    assert_eq!(parsed.problems[0].severity, Severity::Warning);
}

#[test]
fn old_booleans_and_octals_are_refused_everywhere_and_fine_in_quotes() {
    for word in [
        "y", "Y", "n", "N", "yes", "Yes", "YES", "no", "No", "NO", "on", "On", "ON", "off", "Off",
        "OFF", "0755",
    ] {
        let policy = |word: &str| {
            format!("{HEAD}  selector: {{namespaceSelector: {{matchLabels: {{a: {word}}}}}}}\n")
        };
        let problem = only(&policy(word));
        assert_eq!(problem.kind, ProblemKind::Ambiguous, "{problem}");
        assert!(problem.message.contains(word), "{problem}");
        assert!(
            parse("mesh.yaml", &policy(&format!("\"{word}\""))).usable(),
            "{word}"
        );
    }
    let key = only(&format!(
        "{HEAD}  selector: {{namespaceSelector: {{matchLabels: {{on: \"a\"}}}}}}\n"
    ));
    assert_eq!(key.kind, ProblemKind::Ambiguous);
}

#[test]
fn every_later_field_of_the_contract_is_refused_by_its_path() {
    let cases = [
        (
            "  failover: {hedge: {after: 1500ms}}",
            "not supported yet: spec.failover.hedge",
        ),
        (
            "  failover: {midStream: Restart}",
            "not supported yet: spec.failover.midStream: Restart (use Fail)",
        ),
        (
            "  failover: {safetyRefusals: FailOver}",
            "not supported yet: spec.failover.safetyRefusals: FailOver (use Keep)",
        ),
        (
            "  redaction: {restricted: Mask}",
            "not supported yet: spec.redaction.restricted: Mask (use RouteLocal)",
        ),
        (
            "  egress: {confine: true}",
            "not supported yet: spec.egress.confine: true (NetworkPolicies confine the pods of a cluster)",
        ),
        (
            "  budgets: [{per: Subject, tokensPerDay: 1}]",
            "not supported yet: spec.budgets",
        ),
    ];
    for (spec, message) in cases {
        assert_eq!(only(&format!("{HEAD}{spec}\n")).message, message);
    }
}

#[test]
fn what_is_supported_beside_a_later_field_is_not_in_its_way() {
    for spec in [
        "redaction: {restricted: RouteLocal}",
        "egress: {confine: false}",
        "overrides: []",
        "failover: {midStream: Fail}",
        "audit:",
        "audit: {durableFrom: Confidential}",
    ] {
        assert!(
            parse("mesh.yaml", &format!("{HEAD}  {spec}\n")).usable(),
            "{spec}"
        );
    }
}

#[test]
fn a_document_with_a_problem_is_held_back_and_its_neighbors_are_not() {
    let good = format!("{HEAD}  defaults: {{privacy: Public}}\n");
    let text = format!(
        "{good}---\n{HEAD}  defaults: {{privacy: Open}}\n---\n{HEAD}  defaults: {{}}\n  defaults: {{}}\n---\n{good}"
    );
    let parsed = parse("mesh.yaml", &text);
    assert!(!parsed.usable());
    assert_eq!(parsed.documents.len(), 2, "{:?}", parsed.problems);
    assert_eq!(
        parsed.documents[1].position("spec.defaults.privacy"),
        Position {
            line: 24,
            column: 23
        }
    );
}

#[test]
fn objects_as_the_cluster_prints_them_are_read() {
    let text = format!(
        "{}spec: {{defaults: {{privacy: Public}}}}\nstatus: {{digest: abc}}\n",
        HEAD.replace("{name: p}\nspec:\n", "{name: p, uid: 1-2, resourceVersion: \"5\", creationTimestamp: null, managedFields: [{a: b}]}\n")
    );
    let parsed = parse("mesh.yaml", &text);
    assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
    assert_eq!(parsed.documents[0].object.name(), "p");
}

#[test]
fn bytes_that_are_no_text_are_refused_with_their_place() {
    let problem = decode("mesh.yaml", b"a: 1\nb: \xff\n").expect_err("not text");
    assert_eq!(
        problem.to_string(),
        "mesh.yaml:2:4: not UTF-8 text: save the file as UTF-8"
    );
    assert_eq!(decode("mesh.yaml", "a: ü".as_bytes()), Ok("a: ü"));
}
