//! The Dockerfile for users must give what `cargo xtask images` gives. Nothing here can pull a base image,
//! so it is read instead: targets, programs, paths, users, labels, versions and the model.

use std::collections::BTreeMap;

use mesh_cluster::NOBODY;

use crate::images::{AUTHORITIES, PROGRAMS, TARGET, VERSION};
use crate::model;

/// One `FROM … AS …` and its instructions, whole.
#[derive(Debug, Default)]
struct Stage {
    base: String,
    lines: Vec<String>,
}

/// What disagrees; empty is good.
pub(crate) fn violations(text: &str, toolchain: &str) -> Vec<String> {
    let stages = stages(text);
    let mut found = Vec::new();
    for (image, program) in PROGRAMS {
        found.extend(image_violations(&stages, image, program));
        for part in [
            format!("--package {program}"),
            format!("/out/{program} /{program}"),
        ] {
            if !text.contains(&part) {
                found.push(format!("`{part}` is missing"));
            }
        }
    }
    found.extend(image_violations(&stages, "worker-floor", "mesh-worker"));
    let finals = PROGRAMS.map(|(image, _)| image);
    let known = ["build", "model", "base", "worker-floor"];
    for name in stages.keys() {
        if !finals.contains(&name.as_str()) && !known.contains(&name.as_str()) {
            found.push(format!("target {name} is none of `cargo xtask images`"));
        }
    }
    let version = format!("rust:{toolchain}-");
    let parts = [
        version.as_str(),
        "--profile image --locked",
        TARGET,
        "-C target-feature=+crt-static",
        "objcopy --strip-all",
        AUTHORITIES,
        model::FILE,
        model::SHA256,
    ];
    let missing = parts.iter().filter(|part| !text.contains(**part));
    found.extend(missing.map(|part| format!("`{part}` is missing")));
    found
}

/// An image is one program on nothing, for nobody's user.
fn image_violations(stages: &BTreeMap<String, Stage>, image: &str, program: &str) -> Vec<String> {
    let Some(lines) = inherited(stages, image) else {
        return vec![format!(
            "there is no target {image} that begins from scratch"
        )];
    };
    let wanted = [
        format!("USER {NOBODY}"),
        format!("ENTRYPOINT [\"/{program}\"]"),
        format!("org.opencontainers.image.title=\"{image}\""),
        format!("org.opencontainers.image.version=\"{VERSION}\""),
        String::from("org.opencontainers.image.licenses=\"Apache-2.0\""),
        format!("COPY --from=build --chmod=0555 /out/{program} /{program}"),
        format!("COPY --from=build --chmod=0444 {AUTHORITIES} {AUTHORITIES}"),
    ];
    let mut found: Vec<String> = wanted
        .iter()
        .filter(|part| !lines.iter().any(|line| line.contains(part.as_str())))
        .map(|part| format!("target {image}: `{part}` is missing"))
        .collect();
    let allowed = ["COPY --from=", "LABEL ", "USER ", "ENTRYPOINT "];
    found.extend(
        lines
            .iter()
            .filter(|line| !allowed.iter().any(|start| line.starts_with(start)))
            .map(|line| {
                format!("target {image}: `{line}` has no place in an image without a shell")
            }),
    );
    if image == "worker-floor"
        && !lines
            .iter()
            .any(|line| *line == "COPY --from=model --chmod=0444 /builtin /builtin")
    {
        found.push(String::from("target worker-floor has no model in /builtin"));
    }
    found
}

/// Instructions of a stage and of those it is made from, down to nothing.
fn inherited<'a>(stages: &'a BTreeMap<String, Stage>, name: &str) -> Option<Vec<&'a String>> {
    let mut lines = Vec::new();
    let mut next = name;
    // No chain is longer than the number of stages.
    for _ in 0..=stages.len() {
        if next == "scratch" {
            return Some(lines);
        }
        let stage = stages.get(next)?;
        lines.extend(&stage.lines);
        next = &stage.base;
    }
    None
}

fn stages(text: &str) -> BTreeMap<String, Stage> {
    let mut stages = BTreeMap::new();
    let mut current = None;
    for line in instructions(text) {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["FROM", base, "AS", name] = words[..] {
            let stage = Stage {
                base: base.to_owned(),
                lines: Vec::new(),
            };
            stages.insert(name.to_owned(), stage);
            current = Some(name.to_owned());
        } else if let Some(stage) = current.as_ref().and_then(|name| stages.get_mut(name)) {
            stage.lines.push(line);
        }
    }
    stages
}

/// Instructions with their continued lines; comments are none.
fn instructions(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    let mut open = false;
    for line in text.lines() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let part = line.trim_end_matches('\\').trim();
        match found.last_mut() {
            Some(last) if open => *last = format!("{last} {part}"),
            _ => found.push(part.to_owned()),
        }
        open = line.ends_with('\\');
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn file(path: &str) -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        std::fs::read_to_string(root.join(path)).unwrap()
    }

    fn toolchain() -> String {
        let text = file("rust-toolchain.toml");
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("channel = "));
        line.unwrap().trim_matches('"').to_owned()
    }

    #[test]
    fn the_dockerfile_makes_what_xtask_makes() {
        let found = violations(&file("deploy/docker/Dockerfile"), &toolchain());
        assert!(found.is_empty(), "{found:#?}");
    }

    #[test]
    fn what_differs_is_found() {
        let good = file("deploy/docker/Dockerfile");
        for (from, to) in [
            ("USER 65532:65532", "USER 0"),
            ("AS gateway", "AS entry"),
            ("--package mesh-worker", ""),
            ("FROM base AS mesh", "FROM debian AS mesh"),
            (
                "/out/mesh-operator /mesh-operator",
                "/out/mesh-operator /bin/operator",
            ),
            ("ENTRYPOINT [\"/mesh-gateway\"]", "RUN [\"/mesh-gateway\"]"),
            ("rust:1.", "rust:0."),
            ("/builtin /builtin", "/builtin /models"),
            ("b179c9523d0e", "000000000000"),
            ("+crt-static", "-crt-static"),
        ] {
            assert!(good.contains(from), "{from}");
            let found = violations(&good.replace(from, to), &toolchain());
            assert!(!found.is_empty(), "{from} -> {to}");
        }
    }
}
