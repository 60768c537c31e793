//! How a place outside is reached, as its author says it: by whose certificates, over which proxy, with keys of which home.

use std::cell::RefCell;

use mesh_core::{Authority, Credential, Endpoint};
use mesh_crds::{Home, parse_for};

use crate::convert::{convert_with, documents};
use crate::document;

/// The endpoint of an `external` backend with this beside its address, on one machine, where names are looked up.
fn external(url: &str, way: &str) -> (Endpoint, Vec<String>) {
    let spec = format!("external: {{url: \"{url}\"{way}}}\nmodels: [{{name: a}}]");
    let asked = RefCell::new(Vec::new());
    let resolve = |name: &str| {
        asked.borrow_mut().push(name.to_owned());
        vec!["192.168.20.7".parse().expect("an address")]
    };
    let documents = documents(&[("b.yaml", "InferenceBackend", &spec)]);
    let mut converted = convert_with(&documents, &resolve).expect("a snapshot");
    let backend = converted.snapshot.backends.remove(0);
    let endpoint = backend.endpoint().expect("an endpoint").clone();
    (endpoint, asked.into_inner())
}

#[test]
fn on_one_machine_an_authority_is_a_file_and_a_proxy_has_its_key_where_others_have_it() {
    let way = ", tls: {caRef: {file: /etc/ca.pem}}, proxy: {url: \"http://proxy:3128\", credentials: {file: /etc/proxy}}";
    let (endpoint, asked) = external("https://vllm.lab.example/v1", way);
    assert_eq!(
        endpoint.authority,
        Some(Authority::File("/etc/ca.pem".into()))
    );
    let proxy = endpoint.proxy.expect("a proxy");
    assert_eq!(proxy.url.as_str(), "http://proxy:3128/");
    assert_eq!(
        proxy.credentials,
        Some(Credential::File("/etc/proxy".into()))
    );
    assert!(
        asked.is_empty() && endpoint.resolved.is_empty(),
        "what the proxy looks up is not looked up here: {asked:?}"
    );
    let (endpoint, asked) = external("https://vllm.lab.example/v1", "");
    assert_eq!((endpoint.resolved.len(), asked.len()), (1, 1));
    assert!(endpoint.authority.is_none() && endpoint.proxy.is_none());
}

#[test]
fn an_authority_and_keys_are_taken_from_where_the_home_has_them() {
    let parsed = |home: Home, way: &str| {
        let spec =
            format!("external: {{url: \"https://a.example/v1\", {way}}}\nmodels: [{{name: a}}]");
        let problems = parse_for(home, "b.yaml", &document("InferenceBackend", &spec)).problems;
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        text.join("; ")
    };
    let entry = "{name: ca, key: ca.crt}";
    for (way, instead, home) in [
        (
            format!("tls: {{caRef: {{secret: {entry}}}}}"),
            "use file",
            Home::Machine,
        ),
        (
            format!("tls: {{caRef: {{configMap: {entry}}}}}"),
            "use file",
            Home::Machine,
        ),
        (
            format!("proxy: {{url: \"http://p:1\", credentials: {{secretRef: {entry}}}}}"),
            "use env or file",
            Home::Machine,
        ),
        (
            String::from("tls: {caRef: {file: /ca.pem}}"),
            "use configMap or secret",
            Home::Cluster,
        ),
        (
            String::from("proxy: {url: \"http://p:1\", credentials: {env: PROXY}}"),
            "use secretRef",
            Home::Cluster,
        ),
        (
            String::from("proxy: {url: \"http://p:1\", credentials: {file: /k}}"),
            "use secretRef",
            Home::Cluster,
        ),
    ] {
        let refused = parsed(home, &way);
        assert!(refused.contains(instead), "{home:?} {way}: {refused}");
        let other = match home {
            Home::Machine => Home::Cluster,
            Home::Cluster => Home::Machine,
        };
        assert_eq!(parsed(other, &way), "", "{way}");
    }
    let open = parsed(Home::Machine, "proxy: {url: \"http://user:secret@p:1\"}");
    assert!(open.contains("without user"), "{open}");
    for unfilled in ["${PROXY_HOST}", "{{proxy}}", "a`b", "a\\\"b"] {
        let refused = parsed(
            Home::Machine,
            &format!("proxy: {{url: \"http://{unfilled}:3128\"}}"),
        );
        assert!(
            refused.contains("is not an address"),
            "{unfilled}: {refused}"
        );
    }
}

#[test]
fn a_source_of_files_has_no_password_for_its_proxy_yet() {
    for home in [Home::Machine, Home::Cluster] {
        let spec = "artifacts: [{path: m.gguf}]\nsources: [{http: {url: https://e.example/, proxy: {url: http://p:1, credentials: {secretRef: {name: a, key: b}}}}}]";
        let problems = parse_for(home, "m.yaml", &document("ModelCache", spec)).problems;
        let text: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(
            text.len() == 1
                && text[0].contains("not supported yet: spec.sources[0].http.proxy.credentials"),
            "{text:?}"
        );
    }
}
