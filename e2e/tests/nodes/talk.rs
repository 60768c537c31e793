//! Pods that talk to each other, and what each NetworkPolicy must let them hear.
//!
//! ```text
//! namespace a (team=a)              namespace b (team=b)
//!   server on n1, near on n1          stranger on n2
//!   far on n2
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use mesh_cluster::Cluster;
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_mins(1);
/// How soon a policy has to act.
const SOON: Duration = Duration::from_secs(20);
const CLIENTS: [(&str, &str); 3] = [("a", "near"), ("a", "far"), ("b", "stranger")];

/// Who hears what of the server: its ports 8080 (named `web`) and 9090, 5353 by UDP, and port 80 of its
/// Service, which is 8080; and whether the server itself may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) near: [bool; 4],
    pub(super) far: [bool; 4],
    pub(super) stranger: [bool; 4],
    pub(super) server_calls: bool,
}

const YES: [bool; 4] = [true; 4];
const NO: [bool; 4] = [false; 4];
/// Port 8080, also by the Service.
const WEB: [bool; 4] = [true, false, false, true];

impl Seen {
    pub(super) fn all() -> Self {
        Self::by(YES, YES, YES)
    }

    pub(super) fn none() -> Self {
        Self {
            server_calls: false,
            ..Self::by(NO, NO, NO)
        }
    }

    fn by(near: [bool; 4], far: [bool; 4], stranger: [bool; 4]) -> Self {
        Self {
            near,
            far,
            stranger,
            server_calls: true,
        }
    }
}

/// Policies of namespace `a`, and what is heard then.
pub(super) struct Case {
    name: &'static str,
    policies: Vec<Value>,
    seen: Seen,
}

/// What the server lets in.
fn ingress(name: &'static str, rules: &Value, seen: Seen) -> Case {
    let spec = json!({"podSelector": {"matchLabels": {"app": "server"}}, "policyTypes": ["Ingress"], "ingress": rules});
    Case {
        name,
        policies: vec![spec],
        seen,
    }
}

/// Peers and ports of ingress.
fn ingress_cases() -> Vec<Case> {
    let ports = |ports: Value| json!([{"ports": ports}]);
    let only = |seen| Seen::by(seen, seen, seen);
    vec![
        ingress("nothing is allowed", &json!([]), only(NO)),
        ingress(
            "pods by label",
            &json!([{"from": [{"podSelector": {"matchLabels": {"role": "near"}}}]}]),
            Seen::by(YES, NO, NO),
        ),
        ingress(
            "a namespace by label",
            &json!([{"from": [{"namespaceSelector": {"matchLabels": {"team": "b"}}}]}]),
            Seen::by(NO, NO, YES),
        ),
        ingress(
            "both selectors of one peer must match, one of several peers is enough",
            &json!([{"from": [
                {"namespaceSelector": {"matchLabels": {"team": "b"}}, "podSelector": {"matchLabels": {"role": "near"}}},
                {"podSelector": {"matchExpressions": [{"key": "role", "operator": "In", "values": ["far"]}]}}]}]),
            Seen::by(NO, YES, NO),
        ),
        ingress(
            "a block of addresses with an exception",
            &json!([{"from": [{"ipBlock": {"cidr": "10.78.0.0/16", "except": ["10.78.2.0/24"]}}]}]),
            Seen::by(YES, NO, NO),
        ),
        ingress("a port", &ports(json!([{"port": 8080}])), only(WEB)),
        ingress("a named port", &ports(json!([{"port": "web"}])), only(WEB)),
        ingress(
            "a range of ports",
            &ports(json!([{"port": 9000, "endPort": 9100}])),
            only([false, true, false, false]),
        ),
        ingress(
            "a protocol",
            &ports(json!([{"protocol": "UDP"}])),
            only([false, false, true, false]),
        ),
    ]
}

/// Egress, directions that are not said, and policies that add up.
fn other_cases() -> Vec<Case> {
    let selected = |label: &str, value: &str| json!({"matchLabels": {label: value}});
    let server = selected("app", "server");
    let near = json!({"podSelector": server, "ingress": [{"from": [{"podSelector": selected("role", "near")}]}]});
    let stranger = json!({"podSelector": server, "ingress": [{"from": [{"namespaceSelector": selected("team", "b")}], "ports": [{"port": 8080}]}]});
    vec![
        Case {
            name: "egress to a named port of pods by label",
            policies: vec![
                json!({"podSelector": selected("app", "client"), "policyTypes": ["Egress"],
                "egress": [{"to": [{"podSelector": server}], "ports": [{"port": "web"}]}]}),
            ],
            seen: Seen::by(WEB, WEB, YES),
        },
        Case {
            name: "who may not call may still answer",
            policies: vec![json!({"podSelector": server, "policyTypes": ["Egress"]})],
            seen: Seen {
                server_calls: false,
                ..Seen::all()
            },
        },
        Case {
            name: "a policy that does not say is about ingress, and about egress if it has such rules",
            policies: vec![json!({"podSelector": server, "egress": [{"ports": [{"port": 9999}]}]})],
            seen: Seen::none(),
        },
        Case {
            name: "a policy with ingress rules alone leaves egress free",
            policies: vec![json!({"podSelector": server, "ingress": []})],
            seen: Seen::by(NO, NO, NO),
        },
        Case {
            name: "policies add up",
            policies: vec![near, stranger],
            seen: Seen::by(YES, NO, WEB),
        },
    ]
}

pub(super) fn cases() -> Vec<Case> {
    let mut all = ingress_cases();
    all.extend(other_cases());
    all
}

/// A pod that answers on all ports of the story.
pub(super) fn pod(namespace: &str, name: &str, node: Option<&str>) -> Value {
    let app = if name == "server" { "server" } else { "client" };
    json!({"apiVersion": "v1", "kind": "Pod",
    "metadata": {"namespace": namespace, "name": name, "labels": {"app": app, "role": name}},
    "spec": {
        "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false, "nodeName": node,
        "containers": [{"name": "talk", "image": Cluster::TALK_IMAGE, "imagePullPolicy": "Never",
            "args": ["serve", "8080", "9090", "5353/udp"],
            "ports": [{"name": "web", "containerPort": 8080}]}],
    }})
}

pub(super) struct World<'c> {
    pub(super) cluster: &'c Cluster,
    addresses: std::cell::OnceCell<(String, String, String)>,
}

impl<'c> World<'c> {
    pub(super) fn new(cluster: &'c Cluster) -> Self {
        Self {
            cluster,
            addresses: std::cell::OnceCell::new(),
        }
    }

    pub(super) fn kubectl(&self, args: &[&str]) -> String {
        self.cluster
            .kubectl(args)
            .unwrap_or_else(|said| panic!("kubectl {}: {said}", args.join(" ")))
    }

    pub(super) fn apply(&self, object: &Value) {
        self.cluster
            .apply(object, "nodes")
            .unwrap_or_else(|said| panic!("apply: {said}"));
    }

    pub(super) fn ready(&self, namespace: &str, pod: &str) {
        let pod = format!("pod/{pod}");
        self.kubectl(&[
            "wait",
            "-n",
            namespace,
            &pod,
            "--for=condition=Ready",
            "--timeout=60s",
        ]);
    }

    pub(super) fn delete(&self, namespace: &str, pods: &[&str]) {
        self.kubectl(
            &[
                &["delete", "pod", "-n", namespace, "--ignore-not-found"],
                pods,
            ]
            .concat(),
        );
    }

    pub(super) fn exec(&self, namespace: &str, pod: &str, args: &[&str]) -> String {
        self.kubectl(&[&["exec", "-n", namespace, pod, "--", "/talk"], args].concat())
    }

    /// Everybody of the story.
    pub(super) fn people(&self) {
        for namespace in ["a", "b"] {
            self.apply(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": {"team": namespace}}}));
            until("a namespace has its ServiceAccount", LIMIT, || {
                let args = ["get", "serviceaccount", "default", "-n", namespace];
                self.cluster.kubectl(&args).ok()
            });
        }
        self.apply(&json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "a", "name": "server"},
            "spec": {"selector": {"app": "server"}, "ports": [{"port": 80, "targetPort": "web"}]}}));
        for (namespace, name, node) in [
            ("a", "server", "n1"),
            ("a", "near", "n1"),
            ("a", "far", "n2"),
            ("b", "stranger", "n2"),
        ] {
            self.apply(&pod(namespace, name, Some(node)));
        }
        for (namespace, name) in [
            ("a", "server"),
            ("a", "near"),
            ("a", "far"),
            ("b", "stranger"),
        ] {
            self.ready(namespace, name);
        }
    }

    fn addresses(&self) -> &(String, String, String) {
        self.addresses.get_or_init(|| {
            let get = |kind: &str, name: &str, path: &str| {
                self.kubectl(&["get", kind, name, "-n", "a", "-o", path])
            };
            (
                get("pod", "server", "jsonpath={.status.podIP}"),
                get("service", "server", "jsonpath={.spec.clusterIP}"),
                get("pod", "near", "jsonpath={.status.podIP}"),
            )
        })
    }

    fn dial(&self, namespace: &str, pod: &str, targets: &[String]) -> Vec<bool> {
        let words: Vec<&str> = targets.iter().map(String::as_str).collect();
        let said = self.exec(namespace, pod, &[&["dial"], &words[..]].concat());
        let heard: BTreeMap<String, bool> = serde_json::from_str(&said).unwrap();
        targets.iter().map(|target| heard[target]).collect()
    }

    fn look(&self) -> Seen {
        let (server, service, near) = self.addresses();
        let targets = [
            format!("{server}:8080"),
            format!("{server}:9090"),
            format!("{server}:5353/udp"),
            format!("{service}:80"),
        ];
        let ask = |(namespace, pod): (&str, &str)| -> [bool; 4] {
            self.dial(namespace, pod, &targets).try_into().unwrap()
        };
        Seen {
            near: ask(CLIENTS[0]),
            far: ask(CLIENTS[1]),
            stranger: ask(CLIENTS[2]),
            server_calls: self.dial("a", "server", &[format!("{near}:8080")]) == [true],
        }
    }

    /// Waits until exactly this is heard.
    pub(super) fn sees(&self, what: &str, wanted: Seen) {
        let begun = Instant::now();
        loop {
            let seen = self.look();
            if seen == wanted {
                println!("  {what}: after {:.1} s", begun.elapsed().as_secs_f32());
                return;
            }
            assert!(
                begun.elapsed() < SOON,
                "{what}:\n {seen:?} instead of\n {wanted:?}"
            );
        }
    }

    pub(super) fn policy(&self, name: &str, spec: &Value) {
        self.apply(
            &json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
            "metadata": {"namespace": "a", "name": name}, "spec": spec}),
        );
    }

    pub(super) fn no_policy(&self, name: &str) {
        self.kubectl(&["delete", "networkpolicy", "-n", "a", name]);
    }

    pub(super) fn holds(&self, case: &Case) {
        for (number, spec) in case.policies.iter().enumerate() {
            self.policy(&format!("p{number}"), spec);
        }
        self.sees(case.name, case.seen);
        for number in 0..case.policies.len() {
            self.no_policy(&format!("p{number}"));
        }
    }
}

/// Looks until `found` gives something. For what kubectl cannot wait for.
pub(super) fn until<T>(what: &str, limit: Duration, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
