//! A model server with a fixed answer, as fast as a socket allows: one thread per connection, nothing
//! parsed but lengths. For measuring what stands between a caller and it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

const TEXT: &str = "The answer is forty-two.";

/// A running upstream. Its threads wait for connections until the process ends.
#[derive(Debug)]
pub struct Upstream {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    seen: Arc<Seen>,
}

/// What reached the upstream.
#[derive(Debug, Default)]
struct Seen {
    chats: AtomicU64,
    /// Request lines, headers and bodies, one after the other.
    bytes: Mutex<Vec<u8>>,
}

/// Enough for any test that looks at the bytes; a load test must not fill the memory.
const KEPT: usize = 4 << 20;

impl Upstream {
    /// Starts one that answers `delay` after the request.
    pub fn start(delay: Duration) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let seen = Arc::new(Seen::default());
        let shared = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let seen = Arc::clone(&shared);
                // A caller that goes away ends its connection's thread, nothing else.
                std::thread::spawn(move || drop(serve(stream, delay, &seen)));
            }
        });
        Ok(Self { url, seen })
    }

    /// Requests for an answer so far, whatever was answered.
    pub fn chats(&self) -> u64 {
        self.seen.chats.load(Ordering::SeqCst)
    }

    /// True if these bytes arrived in any request's line, headers or body (of the first 4 MiB).
    pub fn saw(&self, part: &str) -> bool {
        contains(
            &self
                .seen
                .bytes
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
            part.as_bytes(),
        )
    }
}

impl Seen {
    fn note(&self, bytes: &[u8]) {
        let mut kept = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let room = KEPT.saturating_sub(kept.len()).min(bytes.len());
        kept.extend_from_slice(&bytes[..room]);
    }
}

fn serve(stream: TcpStream, delay: Duration, seen: &Seen) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some((path, body)) = request(&mut reader, seen)? {
        let model_list = path.ends_with("/models");
        if !model_list {
            seen.chats.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(delay);
        }
        let (kind, answer) = if model_list {
            ("application/json", models())
        } else if contains(&body, br#""stream":true"#) || contains(&body, br#""stream": true"#) {
            ("text/event-stream", stream_body())
        } else {
            ("application/json", whole_body())
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
            answer.len()
        );
        reader
            .get_mut()
            .write_all(format!("{head}{answer}").as_bytes())?;
    }
    Ok(())
}

/// Path and body of the next request; none at the end of the connection.
fn request(reader: &mut BufReader<TcpStream>, seen: &Seen) -> Result<Option<(String, Vec<u8>)>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line
        .split(' ')
        .nth(1)
        .context("not a request line")?
        .to_owned();
    let (mut length, mut chunked) = (0, false);
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        seen.note(line.as_bytes());
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse()?,
            "transfer-encoding" => chunked = true,
            _ => {}
        }
    }
    let body = if chunked {
        chunks(reader)?
    } else {
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        body
    };
    seen.note(&body);
    Ok(Some((path, body)))
}

fn chunks(reader: &mut BufReader<TcpStream>) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    let mut line = String::new();
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let size = usize::from_str_radix(line.trim(), 16)?;
        let start = body.len();
        body.resize(start + size + 2, 0);
        reader.read_exact(&mut body[start..])?;
        body.truncate(start + size);
        if size == 0 {
            return Ok(body);
        }
    }
}

fn contains(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

fn models() -> String {
    r#"{"object":"list","data":[{"id":"big","object":"model","created":0,"owned_by":"bench"}]}"#
        .to_owned()
}

fn whole_body() -> String {
    format!(
        concat!(
            r#"{{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"big","choices":[{{"index":0,"#,
            r#""message":{{"role":"assistant","content":"{}"}},"finish_reason":"stop"}}],"#,
            r#""usage":{{"prompt_tokens":1000,"completion_tokens":6,"total_tokens":1006}}}}"#
        ),
        TEXT
    )
}

fn stream_body() -> String {
    let chunk = |choices: &str, usage: &str| {
        format!(
            "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"big\",\"choices\":[{choices}],\"usage\":{usage}}}\n\n"
        )
    };
    let delta = |delta: &str, finish: &str| {
        format!(r#"{{"index":0,"delta":{delta},"finish_reason":{finish}}}"#)
    };
    let mut body = chunk(
        &delta(r#"{"role":"assistant","content":""}"#, "null"),
        "null",
    );
    for word in TEXT.split_inclusive(' ') {
        body.push_str(&chunk(
            &delta(&format!(r#"{{"content":"{word}"}}"#), "null"),
            "null",
        ));
    }
    body.push_str(&chunk(&delta("{}", r#""stop""#), "null"));
    body.push_str(&chunk(
        "",
        r#"{"prompt_tokens":1000,"completion_tokens":6,"total_tokens":1006}"#,
    ));
    body.push_str("data: [DONE]\n\n");
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Connection;

    #[test]
    fn it_answers_whole_or_streamed_on_a_kept_connection() {
        let upstream = Upstream::start(Duration::ZERO).unwrap();
        let mut connection = Connection::open(&upstream.url).unwrap();
        let whole = connection
            .post("/v1/chat/completions", &[], r#"{"stream":false}"#)
            .unwrap();
        assert!(whole.text().contains(TEXT));
        let streamed = connection
            .post("/v1/chat/completions", &[], r#"{"stream":true}"#)
            .unwrap();
        assert_eq!(streamed.header("content-type"), Some("text/event-stream"));
        assert!(streamed.text().ends_with("data: [DONE]\n\n"));
        assert_eq!(
            (whole.status, streamed.status, upstream.chats()),
            (200, 200, 2)
        );
        assert!(upstream.saw("\"stream\":true") && !upstream.saw("anything else"));
    }
}
