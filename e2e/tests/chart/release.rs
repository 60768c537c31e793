//! Releases beside each other, after each other, and what stays.

use super::world::World;

const HOME: &str = "mesh-system";
const TEAM: &str = "team";
/// The hook needs a node to run on; the real cluster's story runs it.
const NO_HOOKS: &str = "--no-hooks";

fn install(world: &World, namespace: &str, args: &[&str]) -> Result<String, String> {
    world.helm(
        "install",
        "mesh",
        &[&["-n", namespace, NO_HOOKS], args].concat(),
    )
}

fn uninstall(world: &World, namespace: &str) {
    world
        .helm("uninstall", "mesh", &["-n", namespace, NO_HOOKS])
        .unwrap();
}

const NAMESPACED: [&str; 4] = ["--set", "scope=namespaced", "--set", "crds.install=false"];

/// What an installation of one namespace may do, and where that ends.
fn rights_end_at_the_namespace(world: &World) {
    let own = ["-n", TEAM];
    for account in ["mesh-operator", "mesh-gateway"] {
        let account = (TEAM, account);
        assert!(world.may(account, "list", "inferencebackends.inferencemesh.dev", &own));
        for (verb, resource) in [
            ("list", "inferencebackends.inferencemesh.dev"),
            ("list", "nodes"),
            ("list", "namespaces"),
            ("list", "pods"),
            ("get", "secrets"),
            ("create", "deployments.apps"),
            ("list", "endpointslices.discovery.k8s.io"),
        ] {
            let anywhere = ["--all-namespaces"];
            assert!(
                !world.may(account, verb, resource, &anywhere),
                "{account:?} may {verb} {resource}"
            );
            assert!(
                !world.may(account, verb, resource, &["-n", HOME]),
                "{account:?} may {verb} {resource} elsewhere"
            );
        }
    }
    assert!(world.may((TEAM, "mesh-operator"), "patch", "deployments.apps", &own));
    assert!(world.may(
        (TEAM, "mesh-gateway"),
        "get",
        &format!("namespaces/{TEAM}"),
        &own
    ));
}

#[test]
fn a_second_release_is_refused_or_keeps_to_its_namespace_and_kinds_outlive_both() {
    let Some(world) = World::start("chartrelease") else {
        return;
    };
    world.namespace(HOME);
    world.namespace(TEAM);
    let notes = install(&world, HOME, &[]).unwrap();
    assert!(notes.contains("kubectl wait -n mesh-system"), "{notes}");
    assert!(notes.contains("counts as rented"), "{notes}");

    // Two for the whole cluster would both answer for everything.
    let said = install(&world, TEAM, &["--set", "crds.install=false"]).unwrap_err();
    assert!(
        said.contains("invalid ownership metadata") && said.contains("mesh-operator"),
        "{said}"
    );
    let notes = install(&world, TEAM, &NAMESPACED).unwrap();
    for words in [
        "for this namespace only",
        "rented hardware at best",
        "No ValidatingAdmissionPolicy",
        "kubectl label namespace team inferencemesh.dev/mesh=own",
    ] {
        assert!(notes.contains(words), "{words}: {notes}");
    }
    rights_end_at_the_namespace(&world);

    upgrade(&world);
    own_mesh_is_left_alone(&world);

    uninstall(&world, TEAM);
    world.kubectl(&["get", "clusterrole/mesh-operator", "-n", HOME]);
    kept_and_taken_over(&world);
}

/// The same version with other values, and back.
fn upgrade(world: &World) {
    let with = |args: &[&str]| {
        let all = [&["-n", HOME, NO_HOOKS], args].concat();
        world.helm("upgrade", "mesh", &all).unwrap()
    };
    let replicas = || {
        let path = "jsonpath={.spec.replicas} {.spec.template.spec.terminationGracePeriodSeconds}";
        world.kubectl(&["get", "-n", HOME, "deployment/mesh-gateway", "-o", path])
    };
    with(&[
        "--set",
        "gateway.replicas=4",
        "--set",
        "gateway.drainTimeoutSeconds=30",
        "--set",
        "networkPolicy.enabled=false",
    ]);
    assert_eq!(replicas(), "4 45");
    let policies = || world.kubectl(&["get", "networkpolicies", "-n", HOME, "-o", "name"]);
    assert!(policies().trim().is_empty(), "{}", policies());
    with(&["--reset-values"]);
    assert_eq!(replicas(), "2 135");
    assert!(policies().contains("mesh-gateway"), "{}", policies());
}

/// The admission policies of a mesh of the cluster do not bind a namespace with a mesh of its own.
fn own_mesh_is_left_alone(world: &World) {
    let file = world.file(
        "own.yaml",
        "apiVersion: inferencemesh.dev/v1alpha1\nkind: SovereigntyPolicy\nmetadata: {name: own, namespace: team}\nspec:\n  ownership: {networks: [10.1.0.0/16]}\n",
    );
    let apply = || world.try_kubectl(&["apply", "--server-side", "-f", &file]);
    let mut said = String::new();
    // The API server takes a moment until it keeps a new admission policy.
    for _ in 0..100 {
        match apply() {
            Err(words) if words.contains("may say what is owned") => {
                said = words;
                break;
            }
            _ => std::thread::sleep(std::time::Duration::from_millis(200)),
        }
    }
    assert!(
        said.contains("may say what is owned"),
        "a tenant said what is owned"
    );
    world.kubectl(&["label", "namespace", TEAM, "inferencemesh.dev/mesh=own"]);
    apply().unwrap();
}

/// The kinds and everybody's objects stay; who installs again takes them up.
fn kept_and_taken_over(world: &World) {
    uninstall(world, HOME);
    let kinds = world.kubectl(&[
        "get",
        "crd",
        "-l",
        "app.kubernetes.io/part-of=inference-mesh",
        "-o",
        "name",
    ]);
    assert_eq!(kinds.lines().count(), 3, "{kinds}");
    world.kubectl(&["get", "-n", TEAM, "sovereigntypolicy/own"]);
    install(world, HOME, &[]).unwrap();
    uninstall(world, HOME);
    let said = install(world, TEAM, &[]).unwrap_err();
    assert!(said.contains("invalid ownership metadata"), "{said}");
    install(world, TEAM, &["--take-ownership"]).unwrap();
    world.kubectl(&["get", "-n", TEAM, "sovereigntypolicy/own"]);
}
