//! Bytes in, events out.

use std::fmt;

/// One event with data. Events without data are dropped, as the standard says.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct SseEvent {
    /// The `event` field; empty = `message`.
    pub event: String,
    /// All `data` lines, joined by newlines.
    pub data: String,
    /// The `id` field of this event.
    pub id: Option<String>,
    /// The `retry` field of this event, in milliseconds.
    pub retry: Option<u64>,
}

impl fmt::Debug for SseEvent {
    /// Never shows the data.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SseEvent")
            .field("event", &self.event.len())
            .field("data", &self.data.len())
            .finish_non_exhaustive()
    }
}

/// Bounds of one stream, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest line.
    pub line: usize,
    /// Largest event: all its data, its name and id.
    pub event: usize,
}

impl Limits {
    /// The same bound for lines and events.
    pub const fn of(bytes: usize) -> Self {
        Self {
            line: bytes,
            event: bytes,
        }
    }
}

/// A stream that is over its bounds. Nothing can be read after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A line is too long.
    #[error("a line of the event stream is longer than {limit} bytes")]
    Line {
        /// The bound.
        limit: usize,
    },
    /// An event is too large.
    #[error("an event of the stream is larger than {limit} bytes")]
    Event {
        /// The bound.
        limit: usize,
    },
}

impl Error {
    /// Name of the cause.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Line { .. } => "LineTooLong",
            Self::Event { .. } => "EventTooLarge",
        }
    }
}

/// Reads one stream. The same bytes give the same events, however they are cut into pieces.
#[derive(Debug)]
pub struct Reader {
    limits: Limits,
    /// An unfinished line; lines that lie whole in one piece never pass through here.
    line: Vec<u8>,
    event: SseEvent,
    /// `data` was seen: an event with empty data is none, but a second data line needs its newline.
    has_data: bool,
    /// The last byte was `\r`; a `\n` right after it belongs to the same line end.
    after_cr: bool,
    /// Nothing but a possible byte order mark was read.
    at_start: bool,
}

const BOM: &[u8] = b"\xEF\xBB\xBF";

impl Reader {
    /// A reader at the beginning of a stream.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            line: Vec::new(),
            event: SseEvent::default(),
            has_data: false,
            after_cr: false,
            at_start: true,
        }
    }

    /// Reads the next piece and appends the events that it completes.
    ///
    /// # Errors
    /// If a line or an event is over its bound. The events before it are in `events`.
    pub fn read(&mut self, mut bytes: &[u8], events: &mut Vec<SseEvent>) -> Result<(), Error> {
        if self.after_cr && !bytes.is_empty() {
            self.after_cr = false;
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            let (line, ended_by) = (&bytes[..end], bytes[end]);
            bytes = &bytes[end + 1..];
            if ended_by == b'\r' {
                match bytes.first() {
                    Some(b'\n') => bytes = &bytes[1..],
                    Some(_) => {}
                    None => self.after_cr = true,
                }
            }
            self.end_line(line, events)?;
        }
        self.keep(bytes)
    }

    /// The stream is over: gives the event that lacks only its blank line, if there is one.
    ///
    /// # Errors
    /// If it is over its bound.
    pub fn finish(&mut self) -> Result<Option<SseEvent>, Error> {
        let mut events = Vec::new();
        if !self.line.is_empty() {
            self.end_line(&[], &mut events)?;
        }
        self.dispatch(&mut events);
        Ok(events.pop())
    }

    fn keep(&mut self, rest: &[u8]) -> Result<(), Error> {
        if self.line.len() + rest.len() > self.limits.line + BOM.len() {
            return Err(self.line_too_long());
        }
        self.line.extend_from_slice(rest);
        Ok(())
    }

    fn end_line(&mut self, rest: &[u8], events: &mut Vec<SseEvent>) -> Result<(), Error> {
        if self.line.is_empty() {
            return self.line(rest, events);
        }
        self.keep(rest)?;
        let line = std::mem::take(&mut self.line);
        let read = self.line(&line, events);
        // The room is used again for the next cut line.
        self.line = line;
        self.line.clear();
        read
    }

    fn line(&mut self, mut line: &[u8], events: &mut Vec<SseEvent>) -> Result<(), Error> {
        if self.at_start {
            self.at_start = false;
            line = line.strip_prefix(BOM).unwrap_or(line);
        }
        if line.len() > self.limits.line {
            return Err(self.line_too_long());
        }
        if line.is_empty() {
            self.dispatch(events);
            return Ok(());
        }
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = match colon {
            // A comment.
            Some(0) => return Ok(()),
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &[][..]),
        };
        self.field(name, value.strip_prefix(b" ").unwrap_or(value))
    }

    fn field(&mut self, name: &[u8], value: &[u8]) -> Result<(), Error> {
        match name {
            b"data" => {
                if self.has_data {
                    self.event.data.push('\n');
                }
                self.has_data = true;
                push_lossy(&mut self.event.data, value);
            }
            b"event" => {
                self.event.event.clear();
                push_lossy(&mut self.event.event, value);
            }
            b"id" if !value.contains(&0) => {
                self.event.id = Some(String::from_utf8_lossy(value).into_owned());
            }
            b"retry" => self.event.retry = digits(value).or(self.event.retry),
            // Unknown fields are ignored, as the standard says.
            _ => {}
        }
        let id = self.event.id.as_ref().map_or(0, String::len);
        if self.event.data.len() + self.event.event.len() + id > self.limits.event {
            return Err(Error::Event {
                limit: self.limits.event,
            });
        }
        Ok(())
    }

    fn dispatch(&mut self, events: &mut Vec<SseEvent>) {
        let event = std::mem::take(&mut self.event);
        self.has_data = false;
        if !event.data.is_empty() {
            events.push(event);
        }
    }

    const fn line_too_long(&self) -> Error {
        Error::Line {
            limit: self.limits.line,
        }
    }
}

/// Appends bytes as text; what is not UTF-8 becomes the replacement character.
fn push_lossy(text: &mut String, bytes: &[u8]) {
    match std::str::from_utf8(bytes) {
        Ok(piece) => text.push_str(piece),
        Err(_) => text.push_str(&String::from_utf8_lossy(bytes)),
    }
}

/// A number of ASCII digits only.
fn digits(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}
