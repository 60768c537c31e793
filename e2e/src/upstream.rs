//! A model server with a fixed answer, as fast as a socket allows: one thread per connection, nothing
//! parsed but lengths. For measuring what stands between a caller and it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

const TEXT: &str = "The answer is forty-two.";

/// A running upstream. Its threads wait for connections until the process ends.
#[derive(Debug)]
pub struct Upstream {
    /// `http://127.0.0.1:PORT`.
    pub url: String,
    served: Arc<AtomicU64>,
}

impl Upstream {
    /// Starts one that answers `delay` after the request.
    pub fn start(delay: Duration) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}", listener.local_addr()?);
        let served = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&served);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let count = Arc::clone(&count);
                // A caller that goes away ends its connection's thread, nothing else.
                std::thread::spawn(move || drop(serve(stream, delay, &count)));
            }
        });
        Ok(Self { url, served })
    }

    /// Requests answered so far.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

fn serve(stream: TcpStream, delay: Duration, served: &AtomicU64) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some((path, body)) = request(&mut reader)? {
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        let (kind, answer) = if path.ends_with("/models") {
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
        served.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Path and body of the next request; none at the end of the connection.
fn request(reader: &mut BufReader<TcpStream>) -> Result<Option<(String, Vec<u8>)>> {
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
        let Some((name, value)) = line.trim_end().split_once(':') else {
            break;
        };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse()?,
            "transfer-encoding" => chunked = true,
            _ => {}
        }
    }
    if chunked {
        return Ok(Some((path, chunks(reader)?)));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
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
            (whole.status, streamed.status, upstream.served()),
            (200, 200, 2)
        );
    }
}
