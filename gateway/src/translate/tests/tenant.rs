//! What a tenant may not do, by objects of its own namespace. Translation, joining, classes and decisions
//! are the real ones.

use mesh_core::policy::Overflow;
use mesh_core::{
    Authority, Backend, Caller, Complexity, Credential, DecisionId, Facts, Kept, LatencyClass,
    Needs, PrivacyLevel, Scan, Snapshot, SovereigntyClass, TaskType,
};
use mesh_routing::{AssumedHealth, DecideInput, Decided, decide, derive, join};

use super::*;

const TEAM: &str = "team";

fn external(url: &str, more: &Value) -> Value {
    let mut spec =
        json!({"external": {"url": url, "insecurePlaintext": true}, "models": [{"name": "m"}]});
    for (key, value) in more.as_object().into_iter().flatten() {
        spec["external"][key] = value.clone();
    }
    spec
}

fn peer(address: &str, trust: &str) -> Value {
    let key = "MCowBQYDK2VwAyEAOMiEVTKNEi0mO7ZsHAp9NRb3rIYc9QJOcKWNeRWxRyA=";
    json!({"peer": {"address": address, "identity": key, "trust": trust}, "models": [{"name": "m"}]})
}

/// The mesh: its network is owned, everything else is as it comes.
fn organization() -> Value {
    json!({
        "ownership": {"networks": ["10.0.0.0/8"], "external": [{"namespace": HOME, "name": "floor"}]},
        "floor": {"backendRef": {"name": "floor"}},
    })
}

/// The mesh with its floor, and what a tenant adds.
fn with(backends: &[(&str, Value)], policies: &[(&str, Value)]) -> Snapshot {
    under(organization(), backends, policies)
}

/// The same under another policy of the mesh.
fn under(organization: Value, backends: &[(&str, Value)], policies: &[(&str, Value)]) -> Snapshot {
    let (mut objects, mut declared, mut revisions) = (Vec::new(), Vec::new(), Vec::new());
    let floor = external("http://10.0.0.1:8000/v1", &json!({}));
    objects.push(object("InferenceBackend", HOME, "floor", &floor));
    for (name, spec) in backends {
        objects.push(object("InferenceBackend", TEAM, name, spec));
    }
    let home = (HOME, "organization", organization);
    let team = policies
        .iter()
        .map(|(name, spec)| (TEAM, *name, spec.clone()));
    for (namespace, name, spec) in std::iter::once(home).chain(team) {
        declared.push(object("SovereigntyPolicy", namespace, name, &spec));
        // As if the operator had accepted even what it would not.
        revisions.push(kept(namespace, name, 1, &spec));
    }
    let mut seen = seen(declared, revisions);
    seen.objects = objects;
    seen.snapshot(&|_| Vec::new())
}

fn backend<'s>(snapshot: &'s Snapshot, name: &str) -> Option<&'s Backend> {
    let found = snapshot.backends.iter().find(|one| one.id.name == name);
    found.map(AsRef::as_ref)
}

/// Names of the backends that were kept.
fn left(snapshot: &Snapshot) -> Vec<&str> {
    let names = snapshot.backends.iter();
    let mut names: Vec<&str> = names.map(|backend| backend.id.name.as_str()).collect();
    names.sort_unstable();
    names
}

fn class(snapshot: &Snapshot, name: &str, caller: &str) -> SovereigntyClass {
    let policy = join(snapshot, &Caller::local(caller));
    let backend = backend(snapshot, name).expect("a backend");
    derive(backend, policy.ownership(), HOME, snapshot.created).class
}

fn asked(snapshot: &Snapshot, caller: &str, level: PrivacyLevel) -> Decided {
    let facts = Facts {
        level,
        task: TaskType::Chat,
        complexity: Complexity::new(0.5),
        latency: LatencyClass::Standard,
        needs: Needs::default(),
        scan: Scan::default(),
        findings: Vec::new(),
        entries: Vec::new(),
    };
    decide(&DecideInput {
        snapshot,
        policy: &join(snapshot, &Caller::local(caller)),
        facts: &facts,
        model: "auto",
        health: &AssumedHealth::well(),
        now: snapshot.created,
        id: &DecisionId(String::from("01JTEST0000000000000000000")),
    })
}

/// Names of the backends that would be asked.
fn plan(decided: &Decided) -> Vec<String> {
    let candidates = decided.decision.candidates.iter();
    let admitted = candidates.filter(|candidate| candidate.refusal.is_none());
    admitted
        .map(|candidate| candidate.backend.to_string())
        .collect()
}

#[test]
fn a_tenant_cannot_use_variables_files_or_addresses_of_the_gateway() {
    let credentials =
        |credentials: Value| external("https://a.example/v1", &json!({"credentials": credentials}));
    let snapshot = with(
        &[
            ("env", credentials(json!({"env": "HOME"}))),
            (
                "file",
                credentials(json!({"file": "/var/run/secrets/kubernetes.io/serviceaccount/token"})),
            ),
            ("loopback", external("http://127.0.0.1:8081/v1", &json!({}))),
            ("name", external("http://localhost:8081/v1", &json!({}))),
            ("six", external("http://[::1]:8081/v1", &json!({}))),
            (
                "mapped",
                external("http://[::ffff:127.0.0.1]:8081/v1", &json!({})),
            ),
            (
                "identity",
                external("http://169.254.169.254/v1", &json!({})),
            ),
            ("nothing", external("http://0.0.0.0:8081/v1", &json!({}))),
            ("fine", external("https://a.example/v1", &json!({}))),
        ],
        &[],
    );
    assert_eq!(left(&snapshot), ["fine", "floor"]);
}

#[test]
fn a_tenants_proxy_is_no_address_of_the_gateway_and_leads_to_none() {
    let over = |url: &str, proxy: &str| external(url, &json!({"proxy": {"url": proxy}}));
    let good = "https://a.example/v1";
    let kept = |credentials: Value| {
        let proxy = json!({"url": "http://proxy.example:3128", "credentials": credentials});
        external(good, &json!({"proxy": proxy}))
    };
    let through = "http://proxy.example:3128";
    let snapshot = with(
        &[
            ("loopback", over(good, "http://127.0.0.1:8081")),
            ("name", over(good, "http://localhost:3128")),
            ("mapped", over(good, "http://[::ffff:127.0.0.1]:3128")),
            ("identity", over(good, "http://169.254.169.254")),
            ("nothing", over(good, "https://0.0.0.0:3128")),
            ("behind", over("https://127.0.0.1/v1", through)),
            ("beside", over("https://169.254.169.254/v1", through)),
            ("plain", over("http://a.example/v1", through)),
            ("env", kept(json!({"env": "HOME"}))),
            ("file", kept(json!({"file": "/var/run/token"}))),
            ("fine", over(good, through)),
        ],
        &[],
    );
    assert_eq!(left(&snapshot), ["fine", "floor"]);
    assert_eq!(
        class(&snapshot, "fine", TEAM),
        SovereigntyClass::CloudRetained
    );
}

#[test]
fn a_tenant_trusts_what_its_own_namespace_holds_and_no_file_of_the_gateway() {
    let trusting = |ca: Value| external("https://a.example/v1", &json!({"tls": {"caRef": ca}}));
    let snapshot = with(
        &[
            ("file", trusting(json!({"file": "/etc/ssl/ca.pem"}))),
            (
                "foreign",
                trusting(json!({"configMap": {"namespace": HOME, "name": "ca", "key": "ca.crt"}})),
            ),
            (
                "mine",
                trusting(json!({"configMap": {"name": "ca", "key": "ca.crt"}})),
            ),
        ],
        &[],
    );
    assert!(backend(&snapshot, "file").is_none() && backend(&snapshot, "foreign").is_none());
    let endpoint = backend(&snapshot, "mine").and_then(Backend::endpoint);
    let Some(Authority::Entry {
        kept, namespace, ..
    }) = &endpoint.expect("an endpoint").authority
    else {
        panic!("an entry")
    };
    assert_eq!((*kept, namespace.as_str()), (Kept::ConfigMap, TEAM));
}

#[test]
fn a_tenant_gets_secrets_of_its_own_namespace_only() {
    let named = json!({"credentials": {"secretRef": {"name": "cloud-key", "key": "apiKey"}}});
    let snapshot = with(&[("mine", external("https://a.example/v1", &named))], &[]);
    let endpoint = backend(&snapshot, "mine").and_then(Backend::endpoint);
    let Some(Credential::Secret { namespace, .. }) = &endpoint.expect("an endpoint").credentials
    else {
        panic!("a Secret")
    };
    assert_eq!(namespace, TEAM);
    // There is no way to name another namespace's.
    let foreign = json!({"credentials": {"secretRef": {"namespace": HOME, "name": "cloud-key", "key": "apiKey"}}});
    let snapshot = with(&[("mine", external("https://a.example/v1", &foreign))], &[]);
    assert!(backend(&snapshot, "mine").is_none());
}

#[test]
fn a_tenant_cannot_declare_its_server_owned() {
    let owned = json!({"ownership": {"networks": ["10.0.0.0/8"], "external": [{"namespace": TEAM, "name": "mine"}]}});
    let mine = || ("mine", external("http://10.0.0.7:8000/v1", &json!({})));
    for policies in [&[][..], &[("owner", owned)]] {
        let snapshot = with(&[mine()], policies);
        for caller in [TEAM, HOME] {
            assert_eq!(
                class(&snapshot, "mine", caller),
                SovereigntyClass::CloudRetained
            );
            assert_eq!(
                class(&snapshot, "floor", caller),
                SovereigntyClass::OwnHardware
            );
        }
        assert_eq!(
            plan(&asked(&snapshot, TEAM, PrivacyLevel::Restricted)),
            ["floor"]
        );
    }
}

#[test]
fn a_tenant_cannot_loosen_a_policy() {
    let loose = json!({
        "defaults": {"privacy": "Public"},
        "constraints": {"minimumClass": {"restricted": "CloudRetained", "confidential": "CloudRetained", "internal": "CloudRetained", "public": "CloudRetained"}},
        "classification": {"incompleteLevel": "Public"},
    });
    let mine = ("mine", external("https://a.example/v1", &json!({})));
    let (before, after) = (
        with(std::slice::from_ref(&mine), &[]),
        with(&[mine], &[("loose", loose)]),
    );
    let (before, after) = (
        join(&before, &Caller::local(TEAM)),
        join(&after, &Caller::local(TEAM)),
    );
    for level in PrivacyLevel::ALL {
        assert_eq!(
            after.minimum_class(level),
            before.minimum_class(level),
            "{level:?}"
        );
    }
    assert_eq!(after.base_level(), PrivacyLevel::Confidential);
    assert_eq!(after.incomplete_level(), PrivacyLevel::Restricted);
    assert_eq!(after.ownership(), before.ownership());
}

#[test]
fn a_tenant_cannot_become_the_floor_or_serve_others() {
    let claims = json!({"floor": {"backendRef": {"name": "mine"}, "compete": true}});
    let mine = ("mine", external("https://a.example/v1", &json!({})));
    let snapshot = with(&[mine], &[("floor", claims)]);
    for caller in [HOME, "other"] {
        let floor = join(&snapshot, &Caller::local(caller)).floor().cloned();
        let floor = floor.expect("a floor");
        assert_eq!(floor.backend, (HOME.to_owned(), String::from("floor")));
        assert_eq!(floor.overflow, Overflow::TrimHistory);
        for level in PrivacyLevel::ALL {
            assert!(!plan(&asked(&snapshot, caller, level)).contains(&String::from("team/mine")));
        }
    }
    // Even for its own namespace it is admitted only where its class is enough.
    let restricted = asked(&snapshot, TEAM, PrivacyLevel::Restricted);
    assert_eq!(plan(&restricted), ["floor"]);
    let mine = ("mine", external("https://a.example/v1", &json!({})));
    let mut open = organization();
    open["defaults"] = json!({"privacy": "Public"});
    let public = asked(&under(open, &[mine], &[]), TEAM, PrivacyLevel::Public);
    assert!(
        plan(&public).contains(&String::from("team/mine")),
        "{:?}",
        public.decision.candidates
    );
}

#[test]
fn an_address_of_a_service_is_not_owned_though_the_networks_of_the_mesh_hold_it() {
    let class = |networks: &[&str]| {
        let floor = external("http://10.96.0.20:8000/v1", &json!({}));
        let organization = json!({"ownership": {"networks": ["10.0.0.0/8"]}});
        let mut seen = seen(
            vec![object(
                "SovereigntyPolicy",
                HOME,
                "organization",
                &organization,
            )],
            vec![kept(HOME, "organization", 1, &organization)],
        );
        seen.objects = vec![object("InferenceBackend", HOME, "server", &floor)];
        seen.cluster_networks = networks
            .iter()
            .map(|one| one.parse().expect("a network"))
            .collect();
        let snapshot = seen.snapshot(&|_| Vec::new());
        let policy = join(&snapshot, &Caller::local(HOME));
        let server = backend(&snapshot, "server").expect("a backend");
        derive(server, policy.ownership(), HOME, snapshot.created).class
    };
    assert_eq!(class(&[]), SovereigntyClass::OwnHardware);
    assert_eq!(class(&["10.97.0.0/16"]), SovereigntyClass::OwnHardware);
    assert_eq!(class(&["10.96.0.0/16"]), SovereigntyClass::CloudRetained);
}

#[test]
fn a_tenant_can_neither_invite_a_peer_nor_own_one_nor_make_one_its_floor() {
    let owned = json!({"ownership": {"networks": ["10.0.0.0/8"], "external": [{"namespace": TEAM, "name": "mine"}]}});
    let floor = json!({"floor": {"backendRef": {"name": "mine"}, "compete": true}});
    let mut open = organization();
    open["defaults"] = json!({"privacy": "Public"});
    open["ownership"]["external"] =
        json!([{"namespace": HOME, "name": "floor"}, {"namespace": TEAM, "name": "mine"}]);
    for trust in ["Invited", "Open"] {
        let mine = ("mine", peer("10.0.0.7:8444", trust));
        let policies = [("owner", owned.clone()), ("floor", floor.clone())];
        let snapshot = under(open.clone(), &[mine], &policies);
        for caller in [TEAM, HOME] {
            assert_eq!(
                class(&snapshot, "mine", caller),
                SovereigntyClass::OpenSwarm,
                "whatever is written, also by the organization"
            );
            for level in PrivacyLevel::ALL {
                let decided = asked(&snapshot, caller, level);
                assert_eq!(plan(&decided), ["floor"], "{caller} {level}");
            }
        }
    }
}

#[test]
fn a_tenant_cannot_name_the_gateway_itself_as_a_peer() {
    let snapshot = with(
        &[
            ("loopback", peer("127.0.0.1:8443", "Open")),
            ("name", peer("localhost:8443", "Open")),
            ("six", peer("[::1]:8443", "Open")),
            ("mapped", peer("[::ffff:127.0.0.1]:8443", "Open")),
            ("identity", peer("169.254.169.254:80", "Open")),
            ("fine", peer("mesh.partner.example:8444", "Open")),
        ],
        &[],
    );
    assert_eq!(left(&snapshot), ["fine", "floor"]);
}
