//! What no compiler looks at: the length of files, traces of one machine, names of package registries,
//! binaries. Looks only at files that git tracks.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::context::Context;
use crate::process::output;

const MAX_LINES: usize = 500;
const MAX_BYTES: usize = 400 * 1024;

/// Split, so that this file does not find itself.
const PATHS: &[&str] = &[concat!("/wo", "rk/"), concat!("/ro", "ot/")];
const REGISTRIES: &[&str] = &[
    concat!("pypi", ".org"),
    concat!("files.python", "hosted.org"),
    concat!("registry.npm", "js.org"),
    concat!("crates", ".io"),
    concat!("proxy.golang", ".org"),
];

/// Every broken rule, one sentence each.
pub(crate) fn violations(context: &Context) -> Result<Vec<String>> {
    let mut git = Command::new("git");
    let listed = output(git.current_dir(&context.root).args(["ls-files", "-z"]))?;
    let mut found = Vec::new();
    for name in listed.split('\0').filter(|name| !name.is_empty()) {
        // A file that is deleted but still tracked is the next commit's business.
        let Ok(bytes) = std::fs::read(context.root.join(name)) else {
            continue;
        };
        found.extend(judge(name, &bytes));
    }
    Ok(found)
}

fn judge(name: &str, bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    if bytes.len() > MAX_BYTES {
        found.push(format!(
            "{name} has {} KiB; the limit is {}",
            bytes.len() / 1024,
            MAX_BYTES / 1024
        ));
    }
    let Ok(text) = std::str::from_utf8(bytes) else {
        return found;
    };
    let kind = Path::new(name)
        .extension()
        .and_then(|kind| kind.to_str())
        .unwrap_or_default();
    let lines = text.lines().count();
    if matches!(kind, "rs" | "py" | "mjs" | "sh") && lines > MAX_LINES {
        found.push(format!("{name} has {lines} lines; split it at {MAX_LINES}"));
    }
    // cargo writes its registry into the lock file; that is its format.
    let locked = name == "Cargo.lock";
    for (number, line) in text.lines().enumerate() {
        let here = || format!("{name}:{}", number + 1);
        for path in PATHS.iter().filter(|path| absolute(line, path)) {
            found.push(format!("{} names the path {path} of one machine", here()));
        }
        for registry in REGISTRIES
            .iter()
            .filter(|registry| !locked && line.contains(*registry))
        {
            found.push(format!("{} names the package registry {registry}", here()));
        }
    }
    found
}

/// True if the line has the path itself, not another path that ends alike.
fn absolute(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        before.is_none_or(|before| !(before.is_alphanumeric() || "._-}~".contains(before)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traces_of_a_machine_and_of_a_registry_are_found() {
        let line = |text: &str| judge("docs/a.md", text.as_bytes()).len();
        assert_eq!(line(concat!("see /wo", "rk/main")), 1);
        assert_eq!(line(concat!("\"/ro", "ot/.cache\"")), 1);
        assert_eq!(line(concat!("https://registry.npm", "js.org/openai")), 1);
        assert_eq!(
            line(concat!(
                "frame/wo",
                "rk/x and $HOME/wo",
                "rk/y and ~/wo",
                "rk/"
            )),
            0
        );
        assert_eq!(
            judge(
                "Cargo.lock",
                concat!("https://github.com/rust-lang/crates", ".io-index").as_bytes()
            )
            .len(),
            0
        );
    }

    #[test]
    fn long_source_and_large_files_are_found() {
        assert_eq!(judge("a.rs", "\n".repeat(MAX_LINES).as_bytes()), [""; 0]);
        assert_eq!(
            judge("a.rs", "\n".repeat(MAX_LINES + 1).as_bytes()).len(),
            1
        );
        assert_eq!(
            judge("crds/a.yaml", "\n".repeat(MAX_LINES + 1).as_bytes()),
            [""; 0]
        );
        assert_eq!(judge("a.bin", &vec![0xff; MAX_BYTES + 1]).len(), 1);
    }
}
