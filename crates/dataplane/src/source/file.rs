//! Reads a directory of kinds (or one file) and gives the snapshot they declare, or everything that
//! is wrong with them. Only files that end in `.yaml`, `.yml` or `.json` are read, not those in
//! folders below, and none larger than a configuration can be.

use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use mesh_core::Snapshot;
use mesh_crds::{
    ConvertInput, Document, ModelSpec, Position, Problem, ProblemKind, Severity, decode, parse,
    to_snapshot,
};

use crate::source::accept;

/// Largest file that is read, in bytes.
const FILE_LIMIT: u64 = 4 << 20;
/// Most files that are read.
const FILES_LIMIT: usize = 1000;

/// A directory (or one file) of kinds.
#[derive(Debug, Clone)]
pub struct FileSource {
    path: PathBuf,
    mesh_namespace: String,
}

/// What a directory declares, accepted.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What the data plane decides from.
    pub snapshot: Snapshot,
    /// The models, for whoever fetches files and runs engines.
    pub models: Vec<ModelSpec>,
    /// What somebody should look at.
    pub warnings: Vec<Problem>,
}

/// A directory that cannot be used, with everything that is wrong.
#[derive(Debug, Clone, thiserror::Error)]
pub struct Rejected {
    /// In order of file and line; at least one is an error.
    pub problems: Vec<Problem>,
}

impl Rejected {
    /// The reason in PascalCase.
    pub fn reason(&self) -> &'static str {
        self.problems
            .first()
            .map_or("ConfigurationRejected", Problem::reason)
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

/// What was read, before it is judged as a whole.
struct Texts {
    documents: Vec<Document>,
    problems: Vec<Problem>,
}

impl FileSource {
    /// A source over a directory or one file; `mesh_namespace` is that of objects that name none.
    pub fn new(path: impl Into<PathBuf>, mesh_namespace: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            mesh_namespace: mesh_namespace.into(),
        }
    }

    /// The directory or file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where relative paths in the files start.
    pub fn base_dir(&self) -> &Path {
        if self.path.is_dir() {
            &self.path
        } else {
            self.path.parent().unwrap_or_else(|| Path::new("."))
        }
    }

    /// Reads, checks, translates, and runs the policies' own tests.
    ///
    /// # Errors
    /// If anything is wrong that keeps the whole from being used.
    pub fn load(&self, now: Timestamp) -> Result<Loaded, Rejected> {
        let (documents, loaded) = self.translate(now)?;
        let judged = accept::judge(&documents, &loaded.snapshot, now);
        let mut problems = loaded.warnings;
        problems.extend(judged);
        if problems.iter().any(Problem::error) {
            return Err(rejected(problems));
        }
        Ok(Loaded {
            warnings: problems,
            ..loaded
        })
    }

    /// As [`load`](Self::load), without the policies' own tests and promises.
    ///
    /// # Errors
    /// If the files cannot be read as objects that fit together.
    pub fn translate(&self, now: Timestamp) -> Result<(Vec<Document>, Loaded), Rejected> {
        let Texts {
            documents,
            mut problems,
        } = self.read();
        if problems.iter().any(Problem::error) {
            return Err(rejected(problems));
        }
        let input = ConvertInput {
            mesh_namespace: &self.mesh_namespace,
            generation: 0,
            now,
            resolve: &resolve,
            pods: None,
            cluster_networks: &std::sync::Arc::default(),
        };
        match to_snapshot(&documents, &input) {
            Ok(converted) => {
                problems.extend(converted.warnings);
                let loaded = Loaded {
                    snapshot: converted.snapshot,
                    models: converted.model_caches,
                    warnings: problems,
                };
                Ok((documents, loaded))
            }
            Err(found) => {
                problems.extend(found);
                Err(rejected(problems))
            }
        }
    }

    /// The files to read, sorted by name.
    pub(super) fn files(&self) -> io::Result<Vec<PathBuf>> {
        if self.path.is_file() {
            return Ok(vec![self.path.clone()]);
        }
        let mut files: Vec<PathBuf> = fs::read_dir(&self.path)?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| declares(path))
            .collect();
        files.sort();
        Ok(files)
    }

    fn read(&self) -> Texts {
        let mut texts = Texts {
            documents: Vec::new(),
            problems: Vec::new(),
        };
        let files = match self.files() {
            Ok(files) if files.is_empty() => {
                let message = "holds no file that ends in .yaml, .yml or .json: name another directory, or start from \
                               deploy/samples/standalone";
                texts.problems.push(problem(&self.path, message.to_owned()));
                return texts;
            }
            Ok(files) if files.len() > FILES_LIMIT => {
                let message = format!(
                    "holds more than {FILES_LIMIT} files: name a directory with configuration only"
                );
                texts.problems.push(problem(&self.path, message));
                return texts;
            }
            Ok(files) => files,
            Err(error) => {
                texts
                    .problems
                    .push(problem(&self.path, format!("could not be read: {error}")));
                return texts;
            }
        };
        for path in files {
            match read_file(&path) {
                Ok(bytes) => self.read_text(&path, &bytes, &mut texts),
                Err(message) => texts.problems.push(problem(&path, message)),
            }
        }
        texts
    }

    fn read_text(&self, path: &Path, bytes: &[u8], texts: &mut Texts) {
        let name = path
            .strip_prefix(&self.path)
            .ok()
            .filter(|rest| !rest.as_os_str().is_empty())
            .unwrap_or(path);
        let name = name.display().to_string();
        match decode(&name, bytes) {
            // An editor that empties a file before it writes it must not take a policy away.
            Ok(text) if text.trim().is_empty() => {
                let message = "is empty: fill it, or remove it";
                texts
                    .problems
                    .push(problem(Path::new(&name), message.to_owned()));
            }
            Ok(text) => {
                let parsed = parse(&name, text);
                texts.documents.extend(parsed.documents);
                texts.problems.extend(parsed.problems);
            }
            Err(found) => texts.problems.push(*found),
        }
    }
}

fn rejected(mut problems: Vec<Problem>) -> Rejected {
    problems.sort_by(|a, b| (a.severity, &a.file, a.at).cmp(&(b.severity, &b.file, b.at)));
    Rejected { problems }
}

fn declares(path: &Path) -> bool {
    let hidden = path
        .file_name()
        .is_none_or(|name| name.to_string_lossy().starts_with('.'));
    let ending = path.extension().and_then(|ending| ending.to_str());
    !hidden && matches!(ending, Some("yaml" | "yml" | "json")) && path.is_file()
}

fn read_file(path: &Path) -> Result<Vec<u8>, String> {
    let metadata = fs::metadata(path).map_err(|error| format!("could not be read: {error}"))?;
    if metadata.len() > FILE_LIMIT {
        return Err(format!(
            "is larger than {FILE_LIMIT} bytes: not a configuration"
        ));
    }
    fs::read(path).map_err(|error| format!("could not be read: {error}"))
}

fn problem(path: &Path, message: String) -> Problem {
    Problem {
        file: path.display().to_string(),
        at: Position::START,
        field: String::new(),
        kind: ProblemKind::Syntax,
        severity: Severity::Error,
        message,
    }
}

/// Asks the system for the addresses of a host; none if it is unknown.
fn resolve(host: &str) -> Vec<IpAddr> {
    (host, 0)
        .to_socket_addrs()
        .map(|found| found.map(|address| address.ip()).collect())
        .unwrap_or_default()
}
