//! A loopback HTTP server whose every answer is scripted byte by byte, and a store in a temporary folder.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use mesh_models::{
    ArtifactSpec, CacheSpec, Digest, Progress, Resolver, Settings, SourceSpec, Store,
};
use tempfile::TempDir;

/// What the server was asked.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    headers: Vec<(String, String)>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    /// First byte of the range that was asked for.
    pub(crate) fn from(&self) -> Option<usize> {
        self.header("range")?
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse()
            .ok()
    }
}

/// Answers the n-th request (from 0) by writing to the connection, which is then closed.
pub(crate) type Script = dyn Fn(usize, &Request, &mut TcpStream) -> io::Result<()> + Send + Sync;

pub(crate) struct Server {
    pub(crate) url: String,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub(crate) fn start(
        script: impl Fn(usize, &Request, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let (seen, script): (_, Arc<Script>) = (Arc::clone(&log), Arc::new(script));
        // The thread ends with the test process: it only ever waits for connections.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
                thread::spawn(move || answer(stream, &seen, &*script));
            }
        });
        Self { url, log }
    }

    /// A well-behaved server of one file, with ranges.
    pub(crate) fn of(bytes: Vec<u8>) -> Self {
        Self::start(move |_, request, stream| file(request, stream, &bytes, None))
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    pub(crate) fn source(&self) -> SourceSpec {
        SourceSpec::Http {
            url: format!("{}/", self.url),
            access: mesh_models::Access::default(),
        }
    }
}

fn answer(mut stream: TcpStream, log: &Mutex<Vec<Request>>, script: &Script) {
    let Some(request) = read_request(&mut stream) else {
        return;
    };
    let number = {
        let mut log = log.lock().unwrap();
        log.push(request.clone());
        log.len() - 1
    };
    // A client that left is what some tests are about.
    let _ = script(number, &request, &mut stream);
}

fn read_request(stream: &mut TcpStream) -> Option<Request> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let split = |line: &str| {
        line.split_once(": ")
            .map(|(key, value)| (key.to_lowercase(), value.to_owned()))
    };
    Some(Request {
        path,
        headers: lines.filter_map(split).collect(),
    })
}

/// Writes status line and headers.
pub(crate) fn head(
    stream: &mut TcpStream,
    status: &str,
    headers: &[(&str, String)],
) -> io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\nconnection: close\r\n")?;
    for (key, value) in headers {
        write!(stream, "{key}: {value}\r\n")?;
    }
    stream.write_all(b"\r\n")
}

/// The whole file, or the rest of it from the asked byte on.
pub(crate) fn file(
    request: &Request,
    stream: &mut TcpStream,
    bytes: &[u8],
    etag: Option<&str>,
) -> io::Result<()> {
    let etag = etag.map(|etag| ("etag", etag.to_owned()));
    let unchanged = request
        .header("if-range")
        .is_none_or(|wanted| etag.as_ref().is_some_and(|(_, etag)| etag == wanted));
    let from = request.from().filter(|_| unchanged).unwrap_or(0);
    let total = bytes.len();
    if from > 0 && from >= total {
        return head(
            stream,
            "416 Range Not Satisfiable",
            &[
                ("content-range", format!("bytes */{total}")),
                ("content-length", "0".into()),
            ],
        );
    }
    let mut headers = vec![("content-length", (total - from).to_string())];
    headers.extend(etag);
    let mut status = "200 OK";
    if from > 0 {
        status = "206 Partial Content";
        headers.push((
            "content-range",
            format!("bytes {from}-{}/{total}", total - 1),
        ));
    }
    head(stream, status, &headers)?;
    stream.write_all(&bytes[from..])
}

/// Announces the whole file and breaks off after `sent` bytes.
pub(crate) fn cut(
    stream: &mut TcpStream,
    bytes: &[u8],
    sent: usize,
    etag: Option<&str>,
) -> io::Result<()> {
    let mut headers = vec![("content-length", bytes.len().to_string())];
    headers.extend(etag.map(|etag| ("etag", etag.to_owned())));
    head(stream, "200 OK", &headers)?;
    stream.write_all(&bytes[..sent])
}

/// Keeps the connection open without a word until the client leaves.
pub(crate) fn hang(stream: &mut TcpStream) -> io::Result<()> {
    stream.read(&mut [0]).map(|_| ())
}

/// Bytes that do not repeat with any small period, so that a shifted resume is noticed.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let step = |_| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..length).map(step).collect()
}

pub(crate) struct World {
    pub(crate) folder: TempDir,
    pub(crate) settings: Settings,
    reports: Mutex<Vec<Progress>>,
}

impl World {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            base_dir: folder.path().to_path_buf(),
            home: Some(folder.path().join("home")),
            read_timeout: Duration::from_secs(5),
            retries: 1,
            retry_pause: Duration::ZERO,
            ..Settings::default()
        };
        Self {
            folder,
            settings,
            reports: Mutex::new(Vec::new()),
        }
    }

    pub(crate) fn path(&self, path: &str) -> std::path::PathBuf {
        self.folder.path().join(path)
    }

    /// Another process would make just such a one.
    pub(crate) fn resolver(&self) -> Resolver {
        Resolver::new(
            Store::open(self.path("store")).unwrap(),
            self.settings.clone(),
        )
    }

    pub(crate) fn listen(&self) -> impl Fn(&Progress) + Send + Sync + '_ {
        |report| self.reports.lock().unwrap().push(report.clone())
    }

    pub(crate) fn take_reports(&self) -> Vec<Progress> {
        std::mem::take(&mut self.reports.lock().unwrap())
    }

    /// Names in a folder of the store.
    pub(crate) fn names(&self, folder: &str) -> Vec<String> {
        names(&self.path("store").join(folder))
    }
}

fn names(folder: &Path) -> Vec<String> {
    let name =
        |entry: io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
    let mut names: Vec<String> = std::fs::read_dir(folder).unwrap().map(name).collect();
    names.sort();
    names
}

/// A cache of one artifact `m.gguf`.
pub(crate) fn cache(sha256: Option<Digest>, sources: Vec<SourceSpec>) -> CacheSpec {
    let artifacts = vec![ArtifactSpec {
        path: "m.gguf".parse().unwrap(),
        sha256,
    }];
    CacheSpec {
        name: "tiny".to_owned(),
        artifacts,
        sources,
    }
}
