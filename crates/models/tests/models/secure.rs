//! A TLS server with an authority of its own, and a proxy that only passes bytes on.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

/// Answers every request with one file, over TLS.
pub(crate) struct Front {
    pub(crate) port: u16,
    /// PEM of the authority that signed its certificate.
    pub(crate) authority: String,
}

impl Front {
    pub(crate) fn start(bytes: Vec<u8>) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["localhost".to_owned()])
            .unwrap()
            .signed_by(&key, &authority)
            .unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![leaf.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let config = Arc::new(config);
        // The threads end with the test process: they only wait for connections.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, bytes) = (Arc::clone(&config), bytes.clone());
                thread::spawn(move || {
                    let connection = ServerConnection::new(config).unwrap();
                    // A client that does not trust us is what some tests are about.
                    let _ = answer(StreamOwned::new(connection, stream), &bytes);
                });
            }
        });
        Self {
            port,
            authority: authority.pem(),
        }
    }
}

fn answer(
    mut stream: StreamOwned<ServerConnection, TcpStream>,
    bytes: &[u8],
) -> std::io::Result<()> {
    read_head(&mut stream)?;
    let head = format!(
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        bytes.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(bytes)?;
    stream.conn.send_close_notify();
    stream.flush()
}

fn read_head(stream: &mut impl Read) -> std::io::Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Passes bytes on to where CONNECT says.
pub(crate) struct Proxy {
    pub(crate) url: String,
    seen: Arc<Mutex<Vec<String>>>,
}

impl Proxy {
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

pub(crate) fn proxy() -> Proxy {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&seen);
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let head = read_head(&mut stream).unwrap();
            let line = head.lines().next().unwrap().to_owned();
            log.lock().unwrap().push(line.clone());
            let target = line.split(' ').nth(1).unwrap().to_owned();
            thread::spawn(move || tunnel(stream, &target));
        }
    });
    Proxy { url, seen }
}

fn tunnel(mut near: TcpStream, target: &str) {
    let Ok(mut far) = TcpStream::connect(target) else {
        return;
    };
    near.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").unwrap();
    let (mut near_in, mut far_in) = (near.try_clone().unwrap(), far.try_clone().unwrap());
    let up = thread::spawn(move || std::io::copy(&mut near_in, &mut far_in));
    let _ = std::io::copy(&mut far, &mut near);
    let _ = near.shutdown(std::net::Shutdown::Both);
    let _ = up.join();
}
