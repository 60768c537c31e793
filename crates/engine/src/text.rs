//! From tokens to what a caller may see: whole characters, and nothing past a stop string.
//!
//! Tokens are bytes; a character or a stop string may be spread over several. [`Detokenizer`] gives out only whole characters,
//! [`StopMatcher`] keeps back what may still become a stop string. Both give the same text however it was cut into tokens.

/// Joins token bytes into text. Bytes that can never become a character turn into U+FFFD, as in `String::from_utf8_lossy`.
#[derive(Default)]
pub struct Detokenizer {
    /// The beginning of a character whose rest has not come: at most three bytes.
    pending: Vec<u8>,
}

impl Detokenizer {
    /// Starts with nothing pending.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the bytes of a token and gives the characters that are complete now, maybe none.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, broken) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = broken;
                    let Some(length) = error.error_len() else {
                        break;
                    };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = rest.get(length..).unwrap_or_default();
                }
            }
        }
        self.pending = rest.to_vec();
        text
    }

    /// Ends the text: a character cut off by the end becomes one U+FFFD.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

/// What came of a piece of text.
#[derive(PartialEq, Eq)]
#[cfg_attr(test, derive(Debug))]
pub struct Stopped {
    /// Text that may go out now; it ends before the stop string if one was found.
    pub text: String,
    /// Which of the stop strings ended the text.
    pub stop: Option<usize>,
}

/// Searches a growing text for several stop strings at once, in time linear in the text.
///
/// The stop string that is complete first wins; of those complete at the same place the longest, so that no part of it
/// goes out. That is also the earliest moment at which generation can end.
pub struct StopMatcher {
    stops: Vec<Stop>,
    /// Text that is the beginning of a stop string so far.
    held: String,
    stopped: Option<usize>,
}

/// One stop string with its automaton (Knuth, Morris and Pratt).
struct Stop {
    bytes: Vec<u8>,
    /// For each prefix: the length of its longest proper suffix that is a prefix too.
    failure: Vec<usize>,
    matched: usize,
}

impl StopMatcher {
    /// Takes the stop strings of a request; empty ones stop nothing.
    pub fn new<S: AsRef<str>>(stops: &[S]) -> Self {
        let stops = stops.iter().map(|stop| Stop::new(stop.as_ref())).collect();
        Self {
            stops,
            held: String::new(),
            stopped: None,
        }
    }

    /// Takes the next text and says what may go out. After a stop nothing more comes.
    pub fn push(&mut self, text: &str) -> Stopped {
        if let Some(stop) = self.stopped {
            return Stopped {
                text: String::new(),
                stop: Some(stop),
            };
        }
        let before = self.held.len();
        self.held.push_str(text);
        for (at, &byte) in text.as_bytes().iter().enumerate() {
            let complete = self
                .stops
                .iter_mut()
                .enumerate()
                .filter_map(|(index, stop)| Some((stop.step(byte)?, index)));
            // Every automaton takes its step; of equally long ones the first listed is reported.
            let longest =
                complete.max_by_key(|&(length, index)| (length, std::cmp::Reverse(index)));
            if let Some((length, index)) = longest {
                return self.stop(index, (before + at + 1).saturating_sub(length));
            }
        }
        let hold = self
            .stops
            .iter()
            .map(|stop| stop.matched)
            .max()
            .unwrap_or(0);
        let rest = self.held.split_off(self.held.len().saturating_sub(hold));
        Stopped {
            text: std::mem::replace(&mut self.held, rest),
            stop: None,
        }
    }

    /// Ends the text: gives what was held back for a stop string that never came.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    fn stop(&mut self, index: usize, start: usize) -> Stopped {
        self.stopped = Some(index);
        let mut text = std::mem::take(&mut self.held);
        text.truncate(start);
        Stopped {
            text,
            stop: Some(index),
        }
    }
}

impl Stop {
    fn new(text: &str) -> Self {
        let bytes = text.as_bytes().to_vec();
        let mut failure = vec![0; bytes.len()];
        let mut length = 0;
        for at in 1..bytes.len() {
            while length > 0 && bytes[at] != bytes[length] {
                length = failure[length - 1];
            }
            length += usize::from(bytes[at] == bytes[length]);
            failure[at] = length;
        }
        Self {
            bytes,
            failure,
            matched: 0,
        }
    }

    /// Takes one byte; gives the length of the stop string when it is complete.
    fn step(&mut self, byte: u8) -> Option<usize> {
        if self.bytes.is_empty() {
            return None;
        }
        while self.matched > 0 && self.bytes[self.matched] != byte {
            self.matched = self.failure[self.matched - 1];
        }
        self.matched += usize::from(self.bytes[self.matched] == byte);
        (self.matched == self.bytes.len()).then_some(self.bytes.len())
    }
}

#[cfg(test)]
mod tests;
