//! Between a client and the API server: plain HTTP on one side, TLS with the client's own certificate on
//! the other. It can hold a chosen request, before the API server sees it or before its answer comes back,
//! answer in the API server's place, or let nothing through. Knows HTTP/1.1 and nothing of Kubernetes.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};

use crate::story;

type Upstream = BufReader<StreamOwned<ClientConnection, TcpStream>>;

/// A request as it came.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// `GET`, `PATCH`, ….
    pub method: String,
    /// Path and query.
    pub target: String,
    pub(crate) bytes: Vec<u8>,
}

/// As whom a kubeconfig's user acts: that is in headers, which pass.
fn acts_as(config: &Value) -> Value {
    let user = config["users"][0]["user"].as_object().into_iter().flatten();
    let kept = user.filter(|(key, _)| key.starts_with("as"));
    Value::Object(
        kept.map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
    )
}

impl Request {
    /// True if this is a change.
    pub fn writes(&self) -> bool {
        self.method != "GET"
    }

    /// True if the path, without the query, contains this.
    pub fn path(&self, part: &str) -> bool {
        let path = self.target.split('?').next().unwrap_or_default();
        path.contains(part)
    }

    /// What it carries, if that is JSON.
    pub fn json(&self) -> Value {
        let end = self.bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let body = end.map_or(&[][..], |end| &self.bytes[end + 4..]);
        serde_json::from_slice(body).unwrap_or_default()
    }
}

/// When a request is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The API server has not seen it.
    Before,
    /// The API server has done it; the client does not know.
    After,
}

type Matcher = Box<dyn Fn(&Request) -> bool + Send>;
type Chooser = Box<dyn Fn(&Request) -> Option<Moment> + Send>;

enum Rule {
    /// Holds the first that matches.
    Hold(Moment, Matcher),
    /// Holds each for which it says when.
    Each(Chooser),
    /// Answers the next that match, so many, with this status and body.
    Answer(usize, u16, String, Matcher),
}

impl Rule {
    fn fate(&mut self, request: &Request) -> Option<Fate> {
        match self {
            Self::Hold(moment, matcher) => matcher(request).then_some(Fate::Hold(*moment)),
            Self::Each(chooser) => chooser(request).map(Fate::Hold),
            Self::Answer(times, status, body, matcher) => {
                if *times == 0 || !matcher(request) {
                    return None;
                }
                *times -= 1;
                Some(Fate::Answer(*status, body.clone()))
            }
        }
    }
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    held: VecDeque<Request>,
    /// Nothing is let through; what comes waits.
    closed: bool,
    streams: Vec<TcpStream>,
    ended: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    server: SocketAddr,
    config: Arc<ClientConfig>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds this request until everything ends: whoever sent it never hears of it.
    fn hold(&self, request: Request) {
        let mut state = self.lock();
        state.held.push_back(request);
        self.changed.notify_all();
        while !state.ended {
            state = self
                .changed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A running proxy; ended with this value.
pub struct Proxy {
    shared: Arc<Shared>,
    address: SocketAddr,
    kubeconfig: PathBuf,
}

impl Proxy {
    /// Starts one in front of the API server of a kubeconfig, with its user; writes the kubeconfig of its
    /// clients into `folder`.
    pub fn start(kubeconfig: &Path, folder: &Path) -> Result<Self> {
        let config: Value = serde_json::from_slice(&std::fs::read(kubeconfig)?)?;
        let server = config["clusters"][0]["cluster"]["server"].as_str();
        let server = server.and_then(|url| url.strip_prefix("https://"));
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            server: server.context("a kubeconfig names an address")?.parse()?,
            config: Arc::new(tls(&config)?),
        });
        let file = folder.join(format!("proxy-{}.kubeconfig", address.port()));
        let own = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "mesh",
            "clusters": [{"name": "mesh", "cluster": {"server": format!("http://{address}")}}],
            "users": [{"name": "user", "user": acts_as(&config)}],
            "contexts": [{"name": "mesh", "context": {"cluster": "mesh", "user": "user"}}],
        });
        std::fs::write(&file, own.to_string())?;
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || accept(&listener, &accepting));
        Ok(Self {
            shared,
            address,
            kubeconfig: file,
        })
    }

    /// The kubeconfig of its clients.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Holds the first request that matches, for good.
    pub fn hold(&self, moment: Moment, matcher: impl Fn(&Request) -> bool + Send + 'static) {
        let rule = Rule::Hold(moment, Box::new(matcher));
        self.shared.lock().rules.push(rule);
    }

    /// Holds, for good, each request for which `chooser` says when.
    pub fn hold_each(&self, chooser: impl Fn(&Request) -> Option<Moment> + Send + 'static) {
        let rule = Rule::Each(Box::new(chooser));
        self.shared.lock().rules.push(rule);
    }

    /// Answers the next `times` requests that match.
    pub fn answer(
        &self,
        times: usize,
        status: u16,
        body: &Value,
        matcher: impl Fn(&Request) -> bool + Send + 'static,
    ) {
        let rule = Rule::Answer(times, status, body.to_string(), Box::new(matcher));
        self.shared.lock().rules.push(rule);
    }

    /// How many answers of [`Proxy::answer`] are still to be given.
    pub fn unanswered(&self) -> usize {
        let state = self.shared.lock();
        let left = state.rules.iter().map(|rule| match rule {
            Rule::Answer(times, ..) => *times,
            Rule::Hold(..) | Rule::Each(_) => 0,
        });
        left.sum()
    }

    /// Waits until a request is held; gives it.
    pub fn held(&self, limit: Duration) -> Result<Request> {
        let waiting = |state: &mut State| state.held.is_empty();
        let (mut state, _) = self
            .shared
            .changed
            .wait_timeout_while(self.shared.lock(), limit, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        state
            .held
            .pop_front()
            .with_context(|| format!("no request was held within {limit:?}"))
    }

    /// Ends every connection; new ones are let in.
    pub fn sever(&self) {
        for stream in self.shared.lock().streams.drain(..) {
            // It may have ended already.
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    /// From now on nothing is let through, as if the network were cut: nobody is told.
    pub fn close(&self) {
        self.shared.lock().closed = true;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
        self.sever();
        // Wakes the accepting thread, which then ends.
        drop(TcpStream::connect(self.address));
    }
}

/// PEM that a kubeconfig names by a file, or has in itself.
fn pem(of: &Value, name: &str) -> Result<Vec<u8>> {
    if let Some(data) = of[format!("{name}-data")].as_str() {
        return Ok(STANDARD.decode(data)?);
    }
    match of[name].as_str() {
        Some(file) => Ok(std::fs::read(file)?),
        // A given cluster's owner may enter by a token.
        None => story::skip(&format!(
            "its kubeconfig has no {name}, which this proxy needs"
        )),
    }
}

fn tls(config: &Value) -> Result<ClientConfig> {
    let user = &config["users"][0]["user"];
    let mut roots = RootCertStore::empty();
    let authority = pem(&config["clusters"][0]["cluster"], "certificate-authority")?;
    for certificate in CertificateDer::pem_slice_iter(&authority) {
        roots.add(certificate?)?;
    }
    let chain = pem(user, "client-certificate")?;
    let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<_, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(&pem(user, "client-key")?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?)
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        let mut state = shared.lock();
        if state.ended {
            return;
        }
        let Ok(stream) = stream else { continue };
        state.streams.extend(stream.try_clone());
        let shared = Arc::clone(shared);
        // A connection that fails is the client's to notice.
        std::thread::spawn(move || drop(serve(&stream, &shared)));
    }
}

/// What becomes of a request.
enum Fate {
    Pass,
    Hold(Moment),
    Answer(u16, String),
}

fn fate(shared: &Shared, request: &Request) -> Fate {
    let mut state = shared.lock();
    if state.closed {
        return Fate::Hold(Moment::Before);
    }
    let mut rules = state.rules.iter_mut().enumerate();
    let found = rules.find_map(|(at, rule)| Some((at, rule.fate(request)?)));
    let Some((at, fate)) = found else {
        return Fate::Pass;
    };
    if matches!(state.rules[at], Rule::Hold(..)) {
        state.rules.remove(at);
    }
    fate
}

/// One connection of a client, to its end.
fn serve(client: &TcpStream, shared: &Shared) -> Result<()> {
    client.set_nodelay(true)?;
    let mut upstream = None;
    let done = exchange(client, &mut upstream, shared);
    // Both may have ended already.
    drop(client.shutdown(Shutdown::Both));
    if let Some(server) = upstream {
        drop(server.get_ref().sock.shutdown(Shutdown::Both));
    }
    done
}

fn exchange(client: &TcpStream, upstream: &mut Option<Upstream>, shared: &Shared) -> Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut client = client.try_clone()?;
    while let Some(request) = receive(&mut reader)? {
        let fate = fate(shared, &request);
        match &fate {
            Fate::Hold(Moment::Before) => {
                shared.hold(request);
                return Ok(());
            }
            Fate::Answer(status, body) => {
                write!(
                    client,
                    "HTTP/1.1 {status} Scripted\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                )?;
                continue;
            }
            Fate::Pass | Fate::Hold(Moment::After) => {}
        }
        let server = match upstream {
            Some(server) => server,
            None => upstream.insert(connect(shared)?),
        };
        server.get_mut().write_all(&request.bytes)?;
        server.get_mut().flush()?;
        if matches!(fate, Fate::Hold(_)) {
            relay(server, &mut std::io::sink())?;
            shared.hold(request);
            return Ok(());
        }
        relay(server, &mut client)?;
    }
    Ok(())
}

fn connect(shared: &Shared) -> Result<Upstream> {
    let stream = TcpStream::connect(shared.server)?;
    stream.set_nodelay(true)?;
    shared.lock().streams.extend(stream.try_clone());
    let name = ServerName::from(shared.server.ip());
    let session = ClientConnection::new(Arc::clone(&shared.config), name)?;
    Ok(BufReader::new(StreamOwned::new(session, stream)))
}

/// A line with its end; none at the end of the stream.
fn line(reader: &mut impl BufRead) -> Result<Option<Vec<u8>>> {
    let mut bytes = Vec::new();
    Ok((reader.read_until(b'\n', &mut bytes)? > 0).then_some(bytes))
}

/// A head, as bytes and as lines in lower case.
fn head(reader: &mut impl BufRead) -> Result<Option<(Vec<u8>, Vec<String>)>> {
    let (mut bytes, mut lines) = (Vec::new(), Vec::new());
    loop {
        let Some(line) = line(reader)? else {
            return Ok(None);
        };
        bytes.extend_from_slice(&line);
        let text = String::from_utf8_lossy(&line).trim_end().to_owned();
        if text.is_empty() {
            return Ok(Some((bytes, lines)));
        }
        lines.push(text);
    }
}

fn field<'a>(lines: &'a [String], name: &str) -> Option<&'a str> {
    lines.iter().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

fn receive(reader: &mut impl BufRead) -> Result<Option<Request>> {
    let Some((mut bytes, lines)) = head(reader)? else {
        return Ok(None);
    };
    let mut words = lines.first().context("a request line")?.split(' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let (method, target) = (word(), word());
    if field(&lines, "transfer-encoding").is_some() {
        bail!("requests in chunks are not expected here");
    }
    let length: usize = field(&lines, "content-length").unwrap_or("0").parse()?;
    let start = bytes.len();
    bytes.resize(start + length, 0);
    reader.read_exact(&mut bytes[start..])?;
    Ok(Some(Request {
        method,
        target,
        bytes,
    }))
}

/// Hands one answer on, as it comes.
fn relay(server: &mut impl BufRead, client: &mut impl Write) -> Result<()> {
    let (bytes, lines) = head(server)?.context("the API server ended the connection")?;
    client.write_all(&bytes)?;
    client.flush()?;
    let chunked = field(&lines, "transfer-encoding").is_some_and(|value| value.contains("chunked"));
    if !chunked {
        let length: u64 = field(&lines, "content-length").unwrap_or("0").parse()?;
        std::io::copy(&mut server.by_ref().take(length), client)?;
        return Ok(client.flush()?);
    }
    loop {
        let size = line(server)?.context("an answer was cut")?;
        client.write_all(&size)?;
        let text = String::from_utf8_lossy(&size);
        let size = text.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16)?;
        if size == 0 {
            let end = line(server)?.context("an answer was cut")?;
            client.write_all(&end)?;
            return Ok(client.flush()?);
        }
        std::io::copy(&mut server.by_ref().take(size + 2), client)?;
        client.flush()?;
    }
}
