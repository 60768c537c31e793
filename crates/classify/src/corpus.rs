//! Everything a request says, as one buffer of segments that the detectors read in one pass.
//!
//! ```text
//! segment 0 | 0x01 | segment 1 | 0x01 | … | joined segments
//! ```
//! The byte 0x01 between segments is in no pattern, so that nothing matches across two segments by
//! accident; values that a caller split over the parts of one message, or over two messages, are
//! found in the joined segments. A place never holds text of the request: a name that the mesh does not know is written
//! as its position (`#3`). This module does not look at JSON; that is `walk`'s work.

/// Between two segments; no detector accepts it inside a value.
pub(crate) const SEAM: u8 = 1;

/// Places of unread parts that are listed one by one; the rest is counted.
const UNREAD_LISTED: usize = 16;

/// Who speaks in a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Voice {
    /// A user's message, a prompt, the input of an embedding.
    User,
    /// System and developer messages.
    System,
    /// Earlier answers.
    Assistant,
    /// Results and arguments of tools.
    Tool,
    /// Definitions of tools and answer formats.
    Definition,
    /// Anything else.
    Other,
}

/// One string of the request in the buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Segment {
    /// First byte in the buffer.
    pub start: usize,
    /// First byte after it.
    pub end: usize,
    /// Who speaks.
    pub voice: Voice,
    /// Index of the message, if it is part of one.
    pub message: Option<usize>,
    place: (usize, usize),
    /// Index into `joins` if this segment repeats others.
    join: Option<usize>,
}

/// A copied piece inside a joined segment: where it starts there, and where it came from.
#[derive(Debug, Clone, Copy)]
struct Piece {
    at: usize,
    origin: usize,
    segment: usize,
}

/// A stretch of the original text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spot<'a> {
    /// Where the string stands in the request.
    pub place: &'a str,
    /// First byte in that string.
    pub start: usize,
    /// First byte after it.
    pub end: usize,
}

/// The buffer, its segments, and what could not be read.
#[derive(Default)]
pub(crate) struct Corpus {
    text: String,
    segments: Vec<Segment>,
    places: String,
    joins: Vec<Vec<Piece>>,
    unread: Vec<String>,
    unread_more: usize,
    parts: u32,
    bytes: u64,
    limit: usize,
    full: bool,
}

impl Corpus {
    /// An empty buffer that takes at most `limit` bytes of text.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            ..Self::default()
        }
    }

    /// Adds a string. What is beyond the limit is left out and said to be unread.
    pub(crate) fn push(&mut self, place: &str, text: &str, voice: Voice, message: Option<usize>) {
        let room = self.limit.saturating_sub(self.text.len());
        let taken = if text.len() <= room {
            text
        } else {
            self.overflow(place);
            &text[..text.floor_char_boundary(room)]
        };
        if taken.is_empty() {
            return;
        }
        self.parts = self.parts.saturating_add(1);
        self.bytes += taken.len() as u64;
        let from = self.places.len();
        self.places.push_str(place);
        let start = self.text.len();
        self.text.push_str(taken);
        self.segments.push(Segment {
            start,
            end: self.text.len(),
            voice,
            message,
            place: (from, self.places.len()),
            join: None,
        });
        self.text.push(char::from(SEAM));
    }

    fn overflow(&mut self, place: &str) {
        if !self.full {
            self.full = true;
            let limit = self.limit;
            self.skip(place, &format!("beyond the scan limit of {limit} bytes"));
        }
    }

    /// Says that something was not read, and why. `cause` must hold no text of the request.
    pub(crate) fn skip(&mut self, place: &str, cause: &str) {
        if self.unread.len() < UNREAD_LISTED {
            self.unread.push(format!("{place}: {cause}"));
        } else {
            self.unread_more += 1;
        }
    }

    /// Adds the listed segments once more with `between` instead of a seam. Long ones only with their
    /// first and last `end` bytes: a value that crosses a border is near it.
    pub(crate) fn join(&mut self, members: &[usize], between: &str, end: usize) {
        if members.len() < 2 {
            return;
        }
        let start = self.text.len();
        let mut pieces = Vec::with_capacity(members.len() + 1);
        for &segment in members {
            let Some(&Segment {
                start: from,
                end: to,
                ..
            }) = self.segments.get(segment)
            else {
                continue;
            };
            if self.text.len() > self.limit.saturating_mul(2) {
                self.overflow("");
                break;
            }
            if !pieces.is_empty() {
                self.text.push_str(between);
            }
            if to - from <= 2 * end {
                self.repeat(from, to, segment, &mut pieces);
            } else {
                let head = self.text.floor_char_boundary(from + end);
                let tail = self.text.ceil_char_boundary(to - end);
                self.repeat(from, head, segment, &mut pieces);
                self.text.push(char::from(SEAM));
                self.repeat(tail, to, segment, &mut pieces);
            }
        }
        let voice = Voice::Other;
        self.joins.push(pieces);
        self.segments.push(Segment {
            start,
            end: self.text.len(),
            voice,
            message: None,
            place: (0, 0),
            join: Some(self.joins.len() - 1),
        });
        self.text.push(char::from(SEAM));
    }

    fn repeat(&mut self, from: usize, to: usize, segment: usize, pieces: &mut Vec<Piece>) {
        pieces.push(Piece {
            at: self.text.len(),
            origin: from,
            segment,
        });
        self.text.extend_from_within(from..to);
    }

    /// The whole buffer.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// All segments in order; joined ones last.
    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Segments that are not repetitions.
    pub(crate) fn originals(&self) -> impl Iterator<Item = &Segment> {
        self.segments
            .iter()
            .filter(|segment| segment.join.is_none())
    }

    /// Text of one segment.
    pub(crate) fn read(&self, segment: &Segment) -> &str {
        self.text.get(segment.start..segment.end).unwrap_or("")
    }

    /// Place of one segment.
    pub(crate) fn place(&self, segment: &Segment) -> &str {
        self.places
            .get(segment.place.0..segment.place.1)
            .unwrap_or("")
    }

    /// The segment that holds a byte of the buffer.
    pub(crate) fn segment_at(&self, at: usize) -> Option<&Segment> {
        let next = self.segments.partition_point(|segment| segment.start <= at);
        self.segments.get(next.checked_sub(1)?)
    }

    /// Where a stretch of the buffer stands in the request. None for a stretch of a joined segment
    /// that lies in one piece: the original has it too.
    pub(crate) fn locate(&self, start: usize, end: usize) -> Option<Spot<'_>> {
        let segment = self.segment_at(start)?;
        let Some(join) = segment.join else {
            return Some(Spot {
                place: self.place(segment),
                start: start - segment.start,
                end: end.min(segment.end) - segment.start,
            });
        };
        let pieces = self.joins.get(join)?;
        let next = pieces.partition_point(|piece| piece.at <= start);
        let piece = pieces.get(next.checked_sub(1)?)?;
        let following = pieces.get(next)?;
        if end <= following.at {
            return None;
        }
        let origin = self.segments.get(piece.segment)?;
        Some(Spot {
            place: self.place(origin),
            start: piece.origin + (start - piece.at) - origin.start,
            end: origin.end - origin.start,
        })
    }

    /// What was read and what was not.
    pub(crate) fn scan(&self) -> mesh_core::Scan {
        let mut unread = self.unread.clone();
        if self.unread_more > 0 {
            unread.push(format!("and {} more places", self.unread_more));
        }
        mesh_core::Scan {
            complete: unread.is_empty(),
            parts: self.parts,
            bytes: self.bytes,
            unread,
        }
    }
}

impl Segment {
    /// True if it repeats other segments.
    pub(crate) const fn joined(&self) -> bool {
        self.join.is_some()
    }
}
