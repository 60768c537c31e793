//! From objects to the snapshot: references, values, and what one file alone cannot show.

use std::cell::RefCell;
use std::net::IpAddr;

use mesh_core::{Capabilities, Credential, Place};
use mesh_crds::convert::{AccessSpec, CredentialsSpec, SourceSpec};
use mesh_crds::{
    ConvertInput, Converted, Document, Home, Problem, ProblemKind, parse, parse_for, to_snapshot,
};

use crate::document;

const CACHE: &str = "license: MIT\nartifacts: [{path: m}]\nsources: [{file: {path: ~/m}}]\ncapabilities: {contextTokens: 4096, tasks: [{name: Chat, quality: \"0.2\", source: us}]}";
const FLOOR: &str = "inCluster: {modelRef: {name: it}, contextTokens: 2048, kvMemory: 64Mi}\nmodels: [{name: a}, {name: b, license: X11, capabilities: {contextTokens: 1}}]";

pub(crate) fn documents(texts: &[(&str, &str, &str)]) -> Vec<Document> {
    let mut all = Vec::new();
    for (file, kind, spec) in texts {
        let parsed = parse(file, &document(kind, spec));
        assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
        all.extend(parsed.documents);
    }
    all
}

pub(crate) fn convert_with(
    documents: &[Document],
    resolve: &dyn Fn(&str) -> Vec<IpAddr>,
) -> Result<Converted, Vec<Problem>> {
    let now = "2026-11-22T00:00:00Z".parse().expect("a time");
    to_snapshot(
        documents,
        &ConvertInput {
            mesh_namespace: "default",
            generation: 1,
            now,
            resolve,
            pods: None,
            cluster_networks: &std::sync::Arc::default(),
        },
    )
}

fn convert(texts: &[(&str, &str, &str)]) -> Result<Converted, Vec<Problem>> {
    convert_with(&documents(texts), &|_| Vec::new())
}

fn refused(texts: &[(&str, &str, &str)]) -> String {
    let problems = convert(texts).expect_err("a problem");
    problems
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

#[test]
fn what_the_model_cache_says_flows_into_every_name_that_says_nothing_itself() {
    let converted = convert(&[
        ("m.yaml", "ModelCache", CACHE),
        ("b.yaml", "InferenceBackend", FLOOR),
    ])
    .expect("a snapshot");
    let backend = &converted.snapshot.backends[0];
    assert!(matches!(
        backend.place,
        Place::InProcess {
            kv_bytes: Some(67_108_864),
            context_tokens: Some(2048),
            ..
        }
    ));
    let [first, second] = backend.models.as_slice() else {
        panic!("two names")
    };
    assert_eq!(
        first.license.as_ref().map(|license| license.0.as_str()),
        Some("MIT")
    );
    assert_eq!(
        first.capabilities.context_tokens,
        Some(2048),
        "the window that is served, not the file's"
    );
    assert_eq!(first.capabilities.tasks.len(), 1);
    assert_eq!(
        second.license.as_ref().map(|license| license.0.as_str()),
        Some("X11")
    );
    assert_eq!(
        second.capabilities,
        Capabilities {
            context_tokens: Some(1),
            ..Capabilities::default()
        }
    );
}

#[test]
fn references_to_nothing_say_where_they_stand_and_what_there_is() {
    let message = refused(&[
        (
            "b.yaml",
            "InferenceBackend",
            &FLOOR.replace("{name: it}", "{name: mm}"),
        ),
        ("m.yaml", "ModelCache", CACHE),
    ]);
    assert_eq!(
        message,
        "b.yaml:5:32: spec.inCluster.modelRef.name: no ModelCache mm in namespace default (there is it): add it or correct the name"
    );
    let message = refused(&[(
        "p.yaml",
        "SovereigntyPolicy",
        "floor: {backendRef: {name: flor}}",
    )]);
    assert_eq!(
        message,
        "p.yaml:5:30: spec.floor.backendRef.name: no InferenceBackend flor in namespace default (there is none): add it or correct the name"
    );
}

#[test]
fn a_cloud_cannot_be_the_floor() {
    let cloud = "cloud: {provider: p, url: \"https://a.example/v1\"}\nmodels: [{name: a}]";
    let message = refused(&[
        ("c.yaml", "InferenceBackend", cloud),
        (
            "p.yaml",
            "SovereigntyPolicy",
            "floor: {backendRef: {name: it}}",
        ),
    ]);
    assert!(
        message.starts_with("p.yaml:5:30: spec.floor.backendRef.name: it is a cloud;"),
        "{message}"
    );
}

#[test]
fn a_floor_is_drilled_at_the_interval_that_is_said_and_else_never() {
    let backend = ("f.yaml", "InferenceBackend", FLOOR);
    for (said, read) in [("", None), (", drill: {interval: 1h30m}", Some(5400))] {
        let policy = format!("floor: {{backendRef: {{name: it}}{said}}}");
        let texts = [("m.yaml", "ModelCache", CACHE), backend];
        let converted = convert(&[texts[0], texts[1], ("p.yaml", "SovereigntyPolicy", &policy)]);
        let policies = converted.expect("a snapshot").snapshot.policies;
        let floor = policies[0].floor.as_ref().expect("a floor");
        assert_eq!(floor.drill.map(|drill| drill.as_secs()), read, "{said}");
    }
}

#[test]
fn the_second_object_of_a_name_is_refused_and_names_the_first() {
    let message = refused(&[
        ("a.yaml", "ModelCache", CACHE),
        ("b.yaml", "ModelCache", CACHE),
    ]);
    assert_eq!(
        message,
        "b.yaml:3:18: metadata.name: ModelCache it exists already in a.yaml:3: rename or remove one"
    );
}

#[test]
fn two_backends_may_serve_the_same_name() {
    let text = |name: &str| {
        document(
            "InferenceBackend",
            "external: {url: \"https://a.example/v1\"}\nmodels: [{name: a}]",
        )
        .replace("name: it", &format!("name: {name}"))
    };
    let both = format!("{}---\n{}", text("b"), text("a"));
    let converted =
        convert_with(&parse("b.yaml", &both).documents, &|_| Vec::new()).expect("a snapshot");
    let names: Vec<String> = converted
        .snapshot
        .backends
        .iter()
        .map(|backend| backend.id.to_string())
        .collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn only_names_are_resolved_and_addresses_stand_for_themselves() {
    let asked = RefCell::new(Vec::new());
    let found: IpAddr = "192.168.20.7".parse().expect("an address");
    let resolve = |name: &str| {
        asked.borrow_mut().push(name.to_owned());
        vec![found]
    };
    let external = |url: &str| {
        format!(
            "external: {{url: \"{url}\", insecurePlaintext: true, credentials: {{env: KEY}}, authHeader: X-Key}}\nmodels: [{{name: a}}]"
        )
    };
    for (url, expected) in [
        ("http://llama.lab:8080/v1", "192.168.20.7"),
        ("http://10.0.0.1/v1", "10.0.0.1"),
        ("http://[::1]:1/v1", "::1"),
    ] {
        let documents = documents(&[("b.yaml", "InferenceBackend", &external(url))]);
        let converted = convert_with(&documents, &resolve).expect("a snapshot");
        let endpoint = converted.snapshot.backends[0]
            .endpoint()
            .expect("an endpoint");
        assert_eq!(
            endpoint.resolved,
            [expected.parse::<IpAddr>().expect("an address")]
        );
        assert_eq!(
            endpoint.credentials,
            Some(Credential::Env("KEY".to_owned()))
        );
        assert_eq!(endpoint.auth_header.as_deref(), Some("x-key"));
        assert!(endpoint.insecure_plaintext);
    }
    assert_eq!(*asked.borrow(), ["llama.lab"]);
}

#[test]
fn claims_count_through_their_last_day_and_a_past_one_is_a_warning() {
    let cloud = |day: &str| {
        format!(
            "cloud: {{provider: p, url: \"https://a.example/v1\", claims: {{seat: [DE], expires: \"{day}\"}}}}\nmodels: [{{name: a}}]"
        )
    };
    let today =
        convert(&[("c.yaml", "InferenceBackend", &cloud("2026-11-22"))]).expect("a snapshot");
    assert!(today.warnings.is_empty());
    let Place::Cloud(place) = &today.snapshot.backends[0].place else {
        panic!("a cloud")
    };
    assert_eq!(
        place
            .claims
            .as_ref()
            .map(|claims| claims.expires.to_string())
            .as_deref(),
        Some("2026-11-23T00:00:00Z")
    );
    let past =
        convert(&[("c.yaml", "InferenceBackend", &cloud("2026-11-21"))]).expect("a snapshot");
    assert_eq!(past.warnings.len(), 1);
    assert!(
        past.warnings[0].to_string().starts_with("c.yaml:5:"),
        "{}",
        past.warnings[0]
    );
    assert!(!past.warnings[0].error());
}

#[test]
fn a_request_s_own_fields_cannot_be_overridden() {
    let external = "external:\n  url: https://a.example/v1\n  requestOverrides:\n    store: false\n    messages: []\nmodels: [{name: a}]";
    let message = refused(&[("b.yaml", "InferenceBackend", external)]);
    assert!(
        message.starts_with(
            "b.yaml:9:7: spec.external.requestOverrides.messages: `messages` belongs to the caller"
        ),
        "{message}"
    );
    let allowed = convert(&[(
        "b.yaml",
        "InferenceBackend",
        &external.replace("    messages: []\n", ""),
    )])
    .expect("a snapshot");
    assert_eq!(
        allowed.snapshot.backends[0].request_overrides.get("store"),
        Some(&false.into())
    );
}

#[test]
fn ownership_is_said_in_the_mesh_namespace_only() {
    let text = document("SovereigntyPolicy", "ownership: {homeJurisdictions: [DE]}")
        .replace("{name: it}", "{name: it, namespace: team}");
    let problems =
        convert_with(&parse("p.yaml", &text).documents, &|_| Vec::new()).expect_err("a problem");
    assert_eq!(problems.len(), 1);
    assert_eq!(
        (problems[0].field.as_str(), problems[0].at.line),
        ("spec.ownership", 5)
    );
}

#[test]
fn from_which_level_on_records_must_be_durable_is_said_anywhere() {
    let spec = "audit: {durableFrom: Internal}";
    let converted = convert(&[("p.yaml", "SovereigntyPolicy", spec)]).expect("a snapshot");
    let from = |converted: &Converted| converted.snapshot.policies[0].durable_from;
    assert_eq!(from(&converted), Some(mesh_core::PrivacyLevel::Internal));
    let text =
        document("SovereigntyPolicy", spec).replace("{name: it}", "{name: it, namespace: team}");
    let team =
        convert_with(&parse("p.yaml", &text).documents, &|_| Vec::new()).expect("a snapshot");
    assert_eq!(from(&team), Some(mesh_core::PrivacyLevel::Internal));
}

#[test]
fn a_limit_of_concentration_is_said_in_the_mesh_namespace_only() {
    let spec = "concentration: {maxShare: \"0.75\"}";
    let converted = convert(&[("p.yaml", "SovereigntyPolicy", spec)]).expect("a snapshot");
    assert_eq!(converted.snapshot.policies[0].max_share, Some(0.75));
    let text =
        document("SovereigntyPolicy", spec).replace("{name: it}", "{name: it, namespace: team}");
    let problems =
        convert_with(&parse("p.yaml", &text).documents, &|_| Vec::new()).expect_err("a problem");
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].field, "spec.concentration.maxShare");
}

#[test]
fn whose_hardware_and_whose_model_it_is_comes_from_what_is_declared() {
    let cache = format!("family: llama\n{CACHE}").replace("file: {path: ~/m}", "builtin: {}");
    let cloud = "cloud: {provider: p, url: \"https://a.example/v1\"}\nhardwareVendor: google\nmodels: [{name: c, family: gemini}, {name: d}]";
    let (accelerated, silent) = (
        "inCluster: {modelRef: {name: it}, accelerator: {vendor: Amd, count: 1}}\nmodels: [{name: e}, {name: f, family: qwen}]",
        "external: {url: \"https://b.example/v1\"}\nmodels: [{name: g}]",
    );
    let texts = [
        ("m.yaml", "ModelCache", cache.as_str(), "it"),
        ("c.yaml", "InferenceBackend", cloud, "c"),
        ("a.yaml", "InferenceBackend", accelerated, "a"),
        ("f.yaml", "InferenceBackend", FLOOR, "f"),
        ("s.yaml", "InferenceBackend", silent, "s"),
    ];
    let mut documents = Vec::new();
    for (file, kind, spec, name) in texts {
        let text =
            document(kind, spec).replace("{name: it}\nspec", &format!("{{name: {name}}}\nspec"));
        let parsed = parse_for(Home::Cluster, file, &text);
        assert!(parsed.problems.is_empty(), "{:?}", parsed.problems);
        documents.extend(parsed.documents);
    }
    let converted = convert_with(&documents, &|_| Vec::new()).expect("a snapshot");
    let of = |name: &str| {
        let backend = converted
            .snapshot
            .backends
            .iter()
            .find(|one| one.id.name == name);
        let backend = backend.expect("a backend");
        let families: Vec<_> = backend
            .models
            .iter()
            .map(|one| one.family.as_deref())
            .collect();
        (backend.hardware_vendor.as_deref(), families)
    };
    assert_eq!(of("c"), (Some("google"), vec![Some("gemini"), None]));
    assert_eq!(of("a"), (Some("amd"), vec![Some("llama"), Some("qwen")]));
    assert_eq!(of("f"), (Some("cpu"), vec![Some("llama"), Some("llama")]));
    assert_eq!(of("s"), (None, vec![None]));
}

#[test]
fn a_digest_is_of_what_is_meant_and_not_of_how_it_is_written() {
    let digest = |spec: &str| {
        let converted = convert(&[("p.yaml", "SovereigntyPolicy", spec)]).expect("a snapshot");
        converted.snapshot.policies[0].digest.clone()
    };
    let first = digest("defaults: {privacy: Public}\nfailover: {maxAttempts: 4}");
    assert_eq!(first.len(), 64);
    assert_eq!(
        first,
        digest("# the same\nfailover:\n  deadline: 60s\ndefaults:\n  privacy: \"Public\"\n")
    );
    assert_ne!(
        first,
        digest("defaults: {privacy: Internal}\nfailover: {maxAttempts: 4}")
    );
}

#[test]
fn a_test_that_assumes_an_unknown_backend_is_down_is_a_warning() {
    let spec = "tests: [{name: a, request: {text: hi}, given: {unavailable: [cloud]}, expect: {privacy: Public}}]";
    let converted = convert(&[("p.yaml", "SovereigntyPolicy", spec)]).expect("a snapshot");
    assert_eq!(converted.warnings.len(), 1);
    assert_eq!(converted.warnings[0].kind, ProblemKind::Reference);
    assert_eq!(
        converted.snapshot.policies[0].tests[0].unavailable,
        ["cloud"]
    );
}

#[test]
fn sources_with_keys_of_this_machine_are_understood_and_a_clusters_are_refused() {
    const SOURCES: &str = "artifacts: [{path: m.gguf}]\nsources:\n\
        - s3: {endpoint: https://s3.example, bucket: models, region: eu-1, credentials: {env: KEY}}\n\
        - oci: {reference: \"r.example/a:1\", credentials: {file: ~/key}, proxy: {url: http://proxy:3128}}\n\
        - huggingFace: {repo: o/n, files: {m.gguf: x/y.gguf}, credentials: {file: key}}\n\
        - http: {url: https://e.example/, credentials: {env: KEY}}";
    let mut found = convert(&[("m.yaml", "ModelCache", SOURCES)])
        .expect("understood")
        .model_caches
        .remove(0)
        .sources;
    let env = AccessSpec {
        credentials: Some(CredentialsSpec::Env(String::from("KEY"))),
        proxy: None,
    };
    let file = |path: &str, proxy: Option<&str>| AccessSpec {
        credentials: Some(CredentialsSpec::File(path.into())),
        proxy: proxy.map(str::to_owned),
    };
    assert!(
        matches!(&found[0], SourceSpec::S3 { bucket, access, .. } if bucket == "models" && *access == env)
    );
    let oci = file("~/key", Some("http://proxy:3128"));
    assert!(matches!(&found[1], SourceSpec::Oci { access, .. } if *access == oci));
    assert!(
        matches!(&found[2], SourceSpec::HuggingFace { files, access, .. } if files["m.gguf"] == "x/y.gguf" && *access == file("key", None))
    );
    assert!(matches!(found.remove(3), SourceSpec::Http { access, .. } if access == env));

    for (from, to, part) in [
        (
            "{file: ~/key}",
            "{secretRef: {name: s, key: k}}",
            "spec.sources[1].oci.credentials.secretRef (use env or file",
        ),
        (
            "region: eu-1",
            "tls: {caRef: {configMap: {name: s, key: k}}}",
            "spec.sources[0].s3.tls (a Secret or ConfigMap",
        ),
    ] {
        let spec = SOURCES.replace(from, to);
        let problems = parse("m.yaml", &document("ModelCache", &spec)).problems;
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(text.len() == 1 && text[0].contains(part), "{text:?}");
    }
}
