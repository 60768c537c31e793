//! Every validation rule of every kind, accepted and refused by a real API server, and the fields that a
//! cluster does not have.

#[path = "../../crds/tests/contract/cases.rs"]
#[cfg(test)]
mod cases;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use mesh_cluster::Tier;
    use mesh_e2e::api_server::{ApiServer, KINDS};
    use serde_json::{Value, json};

    use crate::cases::{CHANGED, Case, SHA, cases};

    /// What only one machine has, as a cluster says it.
    const HOMES: [(&str, &str); 7] = [
        ("{file: {path: /m}}", "{builtin: {}}"),
        ("file: {path: /m}, ", "builtin: {}, "),
        (
            "credentials: {file: /k}",
            "credentials: {secretRef: {name: k, key: k}}",
        ),
        (
            "caRef: {file: /ca.pem}",
            "caRef: {configMap: {name: c, key: k}}",
        ),
        ("secret, configMap and file", "secret and configMap"),
        ("of builtin, file, huggingFace", "of builtin, huggingFace"),
        ("SHA", SHA),
    ];

    fn at_home(text: &str) -> String {
        HOMES
            .iter()
            .fold(text.to_owned(), |text, (machine, cluster)| {
                text.replace(machine, cluster)
            })
    }

    fn document(kind: &str, name: &str, spec: &str) -> String {
        let spec = at_home(spec).replace('\n', "\n  ");
        format!(
            "apiVersion: inferencemesh.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: default}}\nspec:\n  {spec}\n---\n"
        )
    }

    /// Every rule of the kinds as the API server has them: kind, rule, message.
    fn rules(server: &ApiServer) -> Vec<(String, String)> {
        fn find(schema: &Value, found: &mut Vec<(String, String)>) {
            match schema {
                Value::Object(map) => {
                    let own = map
                        .get("x-kubernetes-validations")
                        .and_then(Value::as_array);
                    found.extend(own.into_iter().flatten().map(|rule| {
                        let text = |key: &str| rule[key].as_str().unwrap_or_default().to_owned();
                        (text("rule"), text("message"))
                    }));
                    map.values().for_each(|inner| find(inner, found));
                }
                Value::Array(items) => items.iter().for_each(|inner| find(inner, found)),
                _ => {}
            }
        }
        let mut found = Vec::new();
        for kind in KINDS {
            let crd = format!("crd/{kind}.inferencemesh.dev");
            find(&server.get(&[&crd]).unwrap(), &mut found);
        }
        found
    }

    /// What the API server says of many objects at once, without keeping any.
    fn tried(server: &ApiServer, documents: &str) -> (String, String) {
        let file = server.file("tried.yaml", documents).unwrap();
        let said = server
            .run(&[
                "create",
                "--dry-run=server",
                "--validate=strict",
                "-o",
                "name",
                "-f",
                &file,
            ])
            .unwrap();
        (said.out, said.err)
    }

    fn every_rule_has_a_case(all: &[(String, String)], known: &[(&Case, String)]) {
        let proven: BTreeSet<&str> = known
            .iter()
            .map(|(_, message)| message.as_str())
            .chain([CHANGED])
            .collect();
        assert!(all.len() > 40, "{}", all.len());
        for (rule, message) in all {
            assert!(
                proven.contains(message.as_str()),
                "no case for {rule}: {message}"
            );
        }
    }

    #[test]
    fn every_rule_accepts_and_refuses_on_the_api_server() {
        let Some(server) = ApiServer::start("rulesall", Tier::ControlPlane).unwrap() else {
            return;
        };
        let all = rules(&server);
        // A choice that a cluster does not have is no rule there: the fields themselves are unknown.
        let known: Vec<(&Case, String)> = cases()
            .map(|case| (case, at_home(case.3)))
            .filter(|(_, message)| all.iter().any(|(_, rule)| rule == message))
            .collect();
        every_rule_has_a_case(&all, &known);
        let mut documents = String::new();
        for (number, ((kind, good, bad, _), _)) in known.iter().enumerate() {
            documents += &document(kind, &format!("good-{number}"), good);
            documents += &document(kind, &format!("bad-{number}"), bad);
        }
        let (good, refused) = tried(&server, &documents);
        for (number, (case, message)) in known.iter().enumerate() {
            let name = format!("/good-{number}\n");
            assert!(
                good.contains(&name),
                "{}\n{}\n{refused}",
                case.0,
                at_home(case.1)
            );
            let name = format!("\"bad-{number}\"");
            let said = refused
                .split("Error from server")
                .find(|said| said.contains(&name));
            let said = said.unwrap_or_else(|| panic!("accepted: {}\n{refused}", at_home(case.2)));
            assert!(said.contains(message.as_str()), "{message}\n{said}");
            assert!(!good.contains(&format!("/bad-{number}\n")), "{}", case.2);
        }
        changes(&server);
        unknown_fields(&server);
    }

    /// The rule about a change.
    fn changes(server: &ApiServer) {
        let model = |spec: Value| json!({"apiVersion": "inferencemesh.dev/v1alpha1", "kind": "ModelCache", "metadata": {"name": "t", "namespace": "default"}, "spec": spec});
        let spec =
            json!({"type": "Model", "artifacts": [{"path": "a"}], "sources": [{"builtin": {}}]});
        server.apply(&model(spec.clone()), "one").unwrap();
        let mut more = spec.clone();
        more["license"] = json!("MIT");
        server.apply(&model(more), "one").unwrap();
        let mut adapter = spec;
        adapter["type"] = json!("Adapter");
        adapter["base"] = json!({"name": "m", "sha256": SHA});
        let said = server
            .apply(&model(adapter), "one")
            .unwrap_err()
            .to_string();
        assert!(said.contains(CHANGED), "{said}");
    }

    /// Variables and files of the gateway's own process cannot even be written down.
    fn unknown_fields(server: &ApiServer) {
        let cloud = |credentials: &str| {
            format!(
                "cloud: {{provider: p, url: \"https://a.example\", credentials: {credentials}}}\nmodels: [{{name: a}}]"
            )
        };
        let special = |way: &str| {
            format!("external: {{url: \"https://a.example\", {way}}}\nmodels: [{{name: a}}]")
        };
        let policy =
            "classification: {dictionaries: [{name: a, level: Restricted, terms: [{file: /t}]}]}";
        let cache = "artifacts: [{path: m}]\nsources: [{file: {path: /etc}}]";
        let external =
            "external: {url: \"https://a.example\", credentials: {file: /k}}\nmodels: [{name: a}]";
        for (kind, spec, field) in [
            (
                "InferenceBackend",
                cloud("{env: HOME}").as_str(),
                "credentials.env",
            ),
            (
                "InferenceBackend",
                &cloud("{file: /var/run/secrets/token}"),
                "credentials.file",
            ),
            ("InferenceBackend", external, "credentials.file"),
            (
                "InferenceBackend",
                &special("tls: {caRef: {file: /etc/passwd}}"),
                "caRef.file",
            ),
            (
                "InferenceBackend",
                &special("proxy: {url: \"http://p:1\", credentials: {file: /k}}"),
                "proxy.credentials.file",
            ),
            ("SovereigntyPolicy", policy, "terms[0].file"),
            ("ModelCache", cache, "sources[0].file"),
        ] {
            let spec = spec.replace('\n', "\n  ");
            let text = format!(
                "apiVersion: inferencemesh.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: u, namespace: default}}\nspec:\n  {spec}\n"
            );
            let file = server.file("unknown.yaml", &text).unwrap();
            for validate in ["--validate=strict", "--validate=ignore"] {
                let said = server
                    .run(&["create", "--dry-run=server", validate, "-f", &file])
                    .unwrap();
                assert!(!said.good, "{kind} {field} {validate}: {}", said.out);
                let strict = validate == "--validate=strict";
                assert!(!strict || said.err.contains(field), "{field}: {}", said.err);
            }
        }
    }
}
