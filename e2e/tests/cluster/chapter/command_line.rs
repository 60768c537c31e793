//! `mesh status` and `mesh why` on a platform engineer's machine, with nothing but a kubeconfig.

use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::chapter::ask::{self, CLOUD};
use crate::world::{HOME, TEAM, World};

const CARD: &str = "4111 1111 1111 1111";

/// The program of image `mesh`, which is static.
fn mesh(world: &World, args: &[&str]) -> Output {
    let images = std::env::var_os("MESH_IMAGES").unwrap();
    let program = Path::new(&images).join("programs/mesh");
    let mut command = world.cluster.command(&program);
    command
        .args(args)
        .env_remove("MESH_API_KEY")
        .output()
        .unwrap()
}

pub(crate) fn good(world: &World, args: &[&str]) -> Value {
    let done = mesh(world, args);
    let errors = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "mesh {}: {errors}", args.join(" "));
    serde_json::from_slice(&done.stdout).unwrap()
}

pub(crate) fn status(world: &World) {
    let caller = format!("{TEAM}/app");
    let said = good(
        world,
        &["status", "--cluster", "--caller", &caller, "--output=json"],
    );
    let objects = said["objects"].as_array().unwrap();
    let floor = objects.iter().find(|one| {
        one["kind"] == "InferenceBackend" && one["namespace"] == HOME && one["name"] == "floor"
    });
    let floor = floor.unwrap();
    assert_eq!(floor["ready"], "True", "{floor}");
    assert_eq!(floor["class"], "OwnHardware", "{floor}");
    let listed = world.get(&["mesh", "--all-namespaces"]);
    let listed = listed["items"].as_array().unwrap();
    assert_eq!(objects.len(), listed.len(), "everything is there, once");
    let seen = said["gateway"]["backends"].as_array();
    let seen = seen.unwrap_or_else(|| panic!("no gateway was asked: {said}"));
    assert!(seen.iter().any(|one| one["floor"] == true), "{said}");
    // For a person.
    let done = mesh(world, &["status", "--cluster", "--caller", &caller]);
    let text = String::from_utf8_lossy(&done.stdout);
    for part in ["mesh-system/floor", "OwnHardware", "gateway mesh-gateway-"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

pub(crate) fn why(world: &World) {
    ask::with_cloud(world);
    let caller = format!("{TEAM}/app");
    let text = format!("Charge {CARD}");
    let args = ["why", "--cluster", "--caller", &caller, "--output=json"];
    let said = good(world, &[&args[..], &[&text]].concat());
    assert_eq!(said["privacy"], "restricted", "{said}");
    let plan = said["plan"].as_array().unwrap();
    assert_eq!(plan.last().unwrap()["backend"], "floor", "{said}");
    assert!(plan.iter().all(|one| one["backend"] != CLOUD), "{said}");
    let cloud = said["candidates"].as_array().unwrap().iter();
    let mut cloud = cloud.filter(|one| one["backend"] == CLOUD);
    let cloud = cloud.next().unwrap();
    assert!(cloud["refusal"]["constraint"].is_string(), "{cloud}");
    assert!(!said.to_string().contains("4111"), "{said}");
    // Who does not exist cannot be asked as.
    let done = mesh(
        world,
        &["why", "--cluster", "--caller", "team/nobody", "Hello"],
    );
    let errors = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.status.code(), Some(2), "{errors}");
    assert!(errors.contains("no token could be made"), "{errors}");
    // Nor is a mesh found where there is none.
    let elsewhere = [
        "status",
        "--cluster",
        "--mesh-namespace",
        "default",
        "--caller",
        &caller,
    ];
    let done = mesh(world, &elsewhere);
    let text = String::from_utf8_lossy(&done.stdout);
    assert!(
        text.contains("no gateway in namespace default is ready"),
        "{text}"
    );
}
