//! A page of the documentation, run as a reader would: its shell lines one by one, in order. What stands behind `→` in a
//! comment must be in what the line prints, what stands behind `refused:` in why it fails. Refuses a block of a
//! language that it cannot run, so that none is passed over.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use mesh_cluster::tool;

use crate::world::World;

/// A block of a page.
#[derive(Debug, Clone)]
pub(crate) enum Block {
    /// Shell lines.
    Shell(Vec<Line>),
    /// A manifest.
    Yaml(String),
    /// A program.
    Python(String),
}

/// A shell line and what the page says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) command: String,
    claim: Claim,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Claim {
    Works,
    Prints(String),
    Refused(String),
}

/// Blocks of a section, by its heading; the sections in order.
pub(crate) fn sections(page: &str) -> Vec<(String, Vec<Block>)> {
    let mut sections: Vec<(String, Vec<Block>)> = Vec::new();
    let mut open: Option<(&str, String)> = None;
    for line in page.lines() {
        if let Some(language) = line.strip_prefix("```") {
            match open.take() {
                None => open = Some((language, String::new())),
                Some((language, text)) => {
                    let (_, blocks) = sections.last_mut().expect("a block has a heading");
                    blocks.push(block(language, text));
                }
            }
        } else if let Some((_, text)) = &mut open {
            text.push_str(line);
            text.push('\n');
        } else if let Some(heading) = line.strip_prefix("## ") {
            sections.push((heading.to_owned(), Vec::new()));
        }
    }
    assert!(open.is_none(), "a block does not end");
    sections
}

fn block(language: &str, text: String) -> Block {
    match language {
        "sh" => Block::Shell(text.lines().filter_map(line).collect()),
        "yaml" => Block::Yaml(text),
        "python" => Block::Python(text),
        other => panic!("nobody runs blocks of language {other:?}"),
    }
}

fn line(text: &str) -> Option<Line> {
    let (command, comment) = text.split_once(" # ").unwrap_or((text, ""));
    let (command, comment) = (command.trim(), comment.trim());
    if command.is_empty() || command.starts_with('#') {
        return None;
    }
    let claim = match (comment.strip_prefix('→'), comment.strip_prefix("refused:")) {
        (Some(words), _) => Claim::Prints(words.trim().to_owned()),
        (_, Some(words)) => Claim::Refused(words.trim().to_owned()),
        _ => Claim::Works,
    };
    Some(Line {
        command: command.to_owned(),
        claim,
    })
}

/// Where the lines of a page are run: a checkout, and the programs that a reader has.
pub(crate) struct Reader<'w> {
    world: &'w World,
    programs: tempfile::TempDir,
}

impl<'w> Reader<'w> {
    pub(crate) fn new(world: &'w World) -> Self {
        let programs = tempfile::tempdir().unwrap();
        let images = std::env::var_os("MESH_IMAGES").unwrap();
        let own = Path::new(&images).join("programs/mesh");
        for (name, program) in [
            ("helm", tool::path("helm").unwrap()),
            ("kubectl", tool::path("kubectl").unwrap()),
            ("mesh", own.canonicalize().unwrap()),
        ] {
            symlink(program, programs.path().join(name)).unwrap();
        }
        Self { world, programs }
    }

    /// Runs a line, as it is or with something added, and gives what it wrote if that is what the page says.
    pub(crate) fn run(&self, line: &Line, added: &str) -> String {
        let script = format!("{} {added}", line.command);
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}", self.programs.path().display());
        let mut shell = self.world.cluster.command(&PathBuf::from("/bin/bash"));
        let done = shell
            .args(["-euo", "pipefail", "-c", &script])
            .env("PATH", path)
            .env_remove("MESH_API_KEY")
            .current_dir(self.world.path(""))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (wrote, complained) = (words(&done.stdout), words(&done.stderr));
        let worked = done.status.success();
        match &line.claim {
            Claim::Works => assert!(worked, "{script}: {wrote}{complained}"),
            Claim::Prints(words) => assert!(
                worked && wrote.contains(words),
                "{script}: {words} is not in {wrote}{complained}"
            ),
            Claim::Refused(words) => assert!(
                !worked && complained.contains(words),
                "{script}: {words} is not in {wrote}{complained}"
            ),
        }
        wrote + &complained
    }
}

/// What a page claims is read as it is written.
pub(crate) fn check() {
    let page = "# P\n## One\n```sh\n# only words\na b   # → c d\ne # refused: f\ng # h\n```\n## Two\n```python\ni\n```\n";
    let sections = sections(page);
    assert_eq!(sections.len(), 2);
    let Block::Shell(lines) = &sections[0].1[0] else {
        panic!("{sections:?}");
    };
    let expected = [
        ("a b", Claim::Prints(String::from("c d"))),
        ("e", Claim::Refused(String::from("f"))),
        ("g", Claim::Works),
    ];
    let expected = expected.map(|(command, claim)| Line {
        command: command.to_owned(),
        claim,
    });
    assert_eq!(lines, &expected);
    assert!(matches!(&sections[1].1[..], [Block::Python(text)] if text == "i\n"));
}
