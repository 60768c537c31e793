//! `docs/quickstart/cluster.md`, run line by line: the installation of the first chapter is its first section, the
//! end of the story its last one. What is put in for a reader's own is the application's image, which is the host's
//! Python here, a shorter time between canaries, and the folders of that Python.

use serde_json::{Value, json};

use crate::chapter::confine;
use crate::page::{self, Block, Reader};
use crate::world::World;

const INSTALL: &str = "Install";
const TEST: &str = "See that it answers, and refuses";
const UNINSTALL: &str = "Uninstall";
const SHOP: &str = "shop";

fn sections(world: &World) -> Vec<(String, Vec<Block>)> {
    page::check();
    let page = std::fs::read_to_string(world.path("docs/quickstart/cluster.md")).unwrap();
    let sections = page::sections(&page);
    for known in [INSTALL, TEST, UNINSTALL] {
        assert!(sections.iter().any(|(heading, _)| heading == known));
    }
    sections
}

/// Runs the shell lines of a section that has nothing else; what they wrote.
fn lines(world: &World, wanted: &str, added: impl Fn(&str) -> String) -> String {
    let reader = Reader::new(world);
    let sections = sections(world);
    let (_, blocks) = sections.iter().find(|(name, _)| name == wanted).unwrap();
    let mut wrote = String::new();
    for block in blocks {
        let Block::Shell(lines) = block else {
            panic!("{wanted}: {block:?}");
        };
        for line in lines {
            wrote.push_str(&reader.run(line, &added(&line.command)));
        }
    }
    assert!(!wrote.is_empty(), "{wanted}");
    wrote
}

/// The first section. Nobody shall have to wait for a canary for long, and applications of these tests read their
/// host's Python, also where they are confined.
pub(crate) fn install(world: &World) {
    let folders = world.python.host_paths().join(",");
    let forbidden = format!("dns://{}", confine::RESOLVER);
    let more = format!(
        "--set confine.canary.interval=10s --set 'confine.hostPaths={{{folders}}}' --set 'confine.canary.forbidden={{{forbidden}}}'"
    );
    lines(world, INSTALL, |command| {
        if command.starts_with("helm install ") {
            more.clone()
        } else {
            String::new()
        }
    });
}

/// The last one.
pub(crate) fn uninstall(world: &World) {
    lines(world, UNINSTALL, |_| String::new());
}

/// A completion and two refusals, one of which is hardware's own answer where nodes are owned.
pub(crate) fn helm_test(world: &World) {
    let said = lines(world, TEST, |_| String::new());
    for words in [
        "refused (401 invalid_api_key)",
        "by floor, OwnHardware, confidential",
        "by floor, OwnHardware, restricted",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let left = world.kubectl(&[
        "get",
        "pods",
        "-n",
        "mesh-system",
        "-l",
        "app.kubernetes.io/component=test",
        "-o",
        "name",
    ]);
    assert!(left.trim().is_empty(), "{left}");
}

/// Everything between.
pub(crate) fn told(world: &World) {
    let reader = Reader::new(world);
    let own = [INSTALL, TEST, UNINSTALL];
    let mut count = 0;
    let mut pod = String::new();
    for (heading, blocks) in sections(world) {
        if own.contains(&heading.as_str()) {
            continue;
        }
        for block in blocks {
            count += 1;
            match block {
                Block::Shell(lines) => lines.iter().for_each(|line| drop(reader.run(line, ""))),
                Block::Yaml(text) => pod = started(world, &text),
                Block::Python(text) => answered(world, &pod, &text),
            }
        }
    }
    assert!(count >= 9, "only {count} blocks were found");
}

/// Applies the page's pod with an application that sleeps; its name.
fn started(world: &World, manifest: &str) -> String {
    let written: Value = serde_saphyr::from_str(manifest).unwrap();
    let own = |path: &str| written.pointer(path).cloned().unwrap_or_default();
    assert_eq!(own("/metadata/namespace"), SHOP);
    let name = own("/metadata/name").as_str().unwrap().to_owned();
    assert_eq!(own("/spec/containers/0/image"), "your/application");
    let image = mesh_cluster::Cluster::PAUSE_IMAGE;
    let sleeps = ["-c", "import signal; signal.pause()"];
    let host = world.python.pod(SHOP, &name, image, &sleeps);
    let mut pod = written.clone();
    let container = &mut pod["spec"]["containers"][0];
    for field in [
        "image",
        "imagePullPolicy",
        "command",
        "args",
        "securityContext",
    ] {
        container[field] = host["spec"]["containers"][0][field].clone();
    }
    add(
        &mut container["volumeMounts"],
        &host["spec"]["containers"][0]["volumeMounts"],
    );
    add(&mut pod["spec"]["volumes"], &host["spec"]["volumes"]);
    pod["spec"]["terminationGracePeriodSeconds"] = json!(0);
    world.apply(&pod);
    name
}

/// What the host's Python needs, and nothing that the page has to bring itself.
fn add(list: &mut Value, more: &Value) {
    let mut all = list.as_array().cloned().unwrap_or_default();
    let more = more.as_array().unwrap().iter();
    all.extend(more.filter(|one| one["name"] != "token").cloned());
    *list = Value::Array(all);
}

fn answered(world: &World, pod: &str, program: &str) {
    let python = world.python.command();
    let wrote = world.kubectl(&[
        "exec", "-n", SHOP, pod, "-c", "app", "--", &python, "-c", program,
    ]);
    assert!(!wrote.trim().is_empty(), "{pod} was told nothing");
}
