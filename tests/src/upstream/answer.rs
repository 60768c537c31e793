//! How a scripted upstream answers: which pieces, how fast, and how it ends.

use std::time::Duration;

use serde_json::{Map, Value, json};

/// An answer, piece by piece.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "four parts of a stream that can be left out one by one"
)]
pub struct Answer {
    pub(super) pieces: Vec<Piece>,
    /// Before the first piece, after the headers.
    pub(super) first_delay: Duration,
    /// Before every further piece.
    pub(super) delay: Duration,
    pub(super) role_first: bool,
    pub(super) comments: bool,
    pub(super) finish: Option<String>,
    pub(super) done: bool,
    pub(super) usage: bool,
    pub(super) end: End,
    pub(super) headers: Vec<(String, String)>,
    pub(super) dimensions: usize,
}

/// One piece.
#[derive(Debug, Clone)]
pub(super) enum Piece {
    Text(String),
    Reasoning(String),
    ToolCall(Value),
    /// Sent as the data of an event, whatever it is.
    Raw(String),
}

/// What comes after the last piece.
#[derive(Debug, Clone)]
pub(super) enum End {
    /// Finish reason, usage, `[DONE]`.
    Complete,
    /// The connection breaks.
    Cut,
    /// The body ends as if all were well.
    Quiet,
    /// Nothing, for ever.
    Stall,
    /// An error object within the 200.
    Error(Value),
}

impl Answer {
    /// Answers with a text, one piece per word.
    pub fn text(text: &str) -> Self {
        Self::pieces(
            text.split_inclusive(' ')
                .map(|word| Piece::Text(word.to_owned())),
        )
    }

    /// Answers with `count` pieces of text.
    pub fn tokens(count: usize) -> Self {
        Self::pieces((0..count).map(|number| Piece::Text(format!("t{number} "))))
    }

    /// Answers with a call of a function.
    pub fn tool_call(name: &str, arguments: &Value) -> Self {
        let call = json!({
            "index": 0, "id": "call_1", "type": "function",
            "function": {"name": name, "arguments": arguments.to_string()},
        });
        Self::pieces([Piece::ToolCall(call)]).finish("tool_calls")
    }

    pub(super) fn garbage() -> Self {
        Self::pieces([Piece::Raw(String::from("{\"choices\": [oops"))])
    }

    fn pieces(pieces: impl IntoIterator<Item = Piece>) -> Self {
        Self {
            pieces: pieces.into_iter().collect(),
            first_delay: Duration::ZERO,
            delay: Duration::ZERO,
            role_first: true,
            comments: false,
            finish: Some(String::from("stop")),
            done: true,
            usage: true,
            end: End::Complete,
            headers: Vec::new(),
            dimensions: 4,
        }
    }

    /// Reasons before it answers.
    #[must_use]
    pub fn reasoning(mut self, text: &str) -> Self {
        self.pieces.insert(0, Piece::Reasoning(text.to_owned()));
        self
    }

    /// Sends `data` as one more event of the stream, whatever it is.
    #[must_use]
    pub fn raw_event(mut self, data: &str) -> Self {
        self.pieces.push(Piece::Raw(data.to_owned()));
        self
    }

    /// Waits before the first piece (headers and the role come at once).
    #[must_use]
    pub const fn first_after(mut self, delay: Duration) -> Self {
        self.first_delay = delay;
        self
    }

    /// Waits before every further piece.
    #[must_use]
    pub const fn every(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Starts without a role-only delta.
    #[must_use]
    pub const fn without_role(mut self) -> Self {
        self.role_first = false;
        self
    }

    /// Sends a comment before every event.
    #[must_use]
    pub const fn with_comments(mut self) -> Self {
        self.comments = true;
        self
    }

    /// Ends with this finish reason.
    #[must_use]
    pub fn finish(mut self, reason: &str) -> Self {
        self.finish = Some(reason.to_owned());
        self
    }

    /// Ends without a finish reason, as if all were well.
    #[must_use]
    pub fn without_finish(mut self) -> Self {
        self.finish = None;
        self
    }

    /// Ends without `[DONE]`.
    #[must_use]
    pub const fn without_done(mut self) -> Self {
        self.done = false;
        self
    }

    /// Says nothing of usage.
    #[must_use]
    pub const fn without_usage(mut self) -> Self {
        self.usage = false;
        self
    }

    /// Sends headers and a role, and then nothing.
    #[must_use]
    pub fn hang_before_first_token(self) -> Self {
        self.stall_after(0)
    }

    /// The connection breaks after `count` pieces.
    #[must_use]
    pub fn cut_after(self, count: usize) -> Self {
        self.end_after(count, End::Cut)
    }

    /// The body ends after `count` pieces, without finish reason or `[DONE]`.
    #[must_use]
    pub fn end_quietly_after(self, count: usize) -> Self {
        self.end_after(count, End::Quiet)
    }

    /// Falls silent after `count` pieces.
    #[must_use]
    pub fn stall_after(self, count: usize) -> Self {
        self.end_after(count, End::Stall)
    }

    /// Reports an error within the 200 after `count` pieces.
    #[must_use]
    pub fn error_after(self, count: usize, error: Value) -> Self {
        let event = Map::from_iter([(String::from("error"), error)]);
        self.end_after(count, End::Error(Value::Object(event)))
    }

    fn end_after(mut self, count: usize, end: End) -> Self {
        self.pieces.truncate(count);
        self.end = end;
        self
    }

    /// Sends a response header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Length of the vectors it makes for embeddings requests (default 4).
    #[must_use]
    pub const fn dimensions(mut self, dimensions: usize) -> Self {
        self.dimensions = dimensions;
        self
    }
}
