//! What a scripted upstream does with a request.

use serde_json::{Value, json};

use super::Answer;

/// What a scripted upstream does with a request.
#[derive(Debug, Clone)]
pub enum Behavior {
    /// Answers, more or less well: a stream if it was asked for one.
    Answer(Answer),
    /// Sends exactly this.
    Raw {
        /// Status.
        status: u16,
        /// Headers, content type included.
        headers: Vec<(String, String)>,
        /// Body.
        body: Vec<u8>,
    },
    /// Takes the request and never says anything.
    HangBeforeHeaders,
    /// Closes the connection instead of answering.
    Close,
}

impl Behavior {
    /// A status with an OpenAI error object.
    pub fn status(status: u16) -> Self {
        Self::error(
            status,
            &json!({"error": {"message": "scripted", "type": "server_error", "param": null, "code": null}}),
        )
    }

    /// A status with a body of its own.
    pub fn error(status: u16, body: &Value) -> Self {
        Self::raw(status, "application/json", body.to_string())
    }

    /// A status, content type and body.
    pub fn raw(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::Raw {
            status,
            headers: vec![(String::from("content-type"), content_type.to_owned())],
            body: body.into(),
        }
    }

    /// 429 that asks for a rest of so many seconds.
    pub fn rate_limited(seconds: u64) -> Self {
        Self::status(429).header("retry-after", &seconds.to_string())
    }

    /// 307 to another address.
    pub fn redirect(location: &str) -> Self {
        Self::raw(307, "text/plain", "").header("location", location)
    }

    /// 200 with nothing.
    pub const fn empty() -> Self {
        Self::Raw {
            status: 200,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// 200 with the right content type and no JSON; fits streams as well as whole answers.
    pub fn garbage() -> Self {
        Self::Answer(Answer::garbage())
    }

    /// 200 with a page for people.
    pub fn wrong_type() -> Self {
        Self::raw(200, "text/html", "<html>welcome</html>")
    }

    /// 400 in OpenAI's words for a prompt that is too long.
    pub fn context_length() -> Self {
        Self::error(
            400,
            &json!({"error": {
                "message": "This model's maximum context length is 16 tokens.",
                "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded",
            }}),
        )
    }

    /// Adds a header to what is sent raw; an answer has its own
    /// [`header`](super::Answer::header).
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        let header = (name.to_owned(), value.to_owned());
        match &mut self {
            Self::Raw { headers, .. } => headers.push(header),
            Self::Answer(answer) => answer.headers.push(header),
            Self::HangBeforeHeaders | Self::Close => {}
        }
        self
    }
}

impl From<Answer> for Behavior {
    fn from(answer: Answer) -> Self {
        Self::Answer(answer)
    }
}
