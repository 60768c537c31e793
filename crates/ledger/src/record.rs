//! The lines of a segment. Each is JSON, and what it begins with says what it is:
//!
//! ```text
//!  {"segment":1,"key":"…","first":0,"frontier":[…]}   the first line: which entry comes next, and what came before
//!  {"v":1,"time":"…","gateway":"…","event":"…",…}     an entry, a leaf of the tree
//!  {"checkpoint":"<a signed note>"}                   all entries up to here
//! ```
//!
//! The first and the last kind have one spelling only: what is written otherwise is refused.

use serde::{Deserialize, Serialize};

use crate::Line;
use crate::note::PublicKey;
use crate::tree::{Frontier, Hash};

/// Version of the form of segments.
const SEGMENT_VERSION: u32 = 1;

/// One line.
#[derive(Debug)]
pub(crate) enum Record {
    Head { key: PublicKey, before: Frontier },
    Entry(Line),
    Checkpoint(String),
}

#[derive(Serialize, Deserialize)]
struct Head {
    segment: u32,
    key: String,
    first: u64,
    frontier: Vec<Hash>,
}

#[derive(Serialize, Deserialize)]
struct Signed {
    checkpoint: String,
}

/// The first line of a segment, without its end.
pub(crate) fn head(key: &PublicKey, before: &Frontier) -> String {
    written(&Head {
        segment: SEGMENT_VERSION,
        key: key.to_string(),
        first: before.size(),
        frontier: before.nodes().to_vec(),
    })
}

/// A line with a checkpoint, without its end.
pub(crate) fn checkpoint(note: String) -> String {
    written(&Signed { checkpoint: note })
}

/// Reads a line without its end.
pub(crate) fn parse(line: &[u8]) -> Result<Record, String> {
    if line.starts_with(br#"{"segment":"#) {
        let head: Head = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        if head.segment != SEGMENT_VERSION {
            return Err(format!(
                "not supported yet: version {} of segments",
                head.segment
            ));
        }
        exact(line, &head)?;
        let key = head.key.parse().map_err(|error| format!("{error}"))?;
        let before = Frontier::new(head.first, head.frontier)
            .ok_or("its frontier does not belong to a tree of that size")?;
        return Ok(Record::Head { key, before });
    }
    if line.starts_with(br#"{"checkpoint":"#) {
        let signed: Signed = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        exact(line, &signed)?;
        return Ok(Record::Checkpoint(signed.checkpoint));
    }
    Line::take(line)
        .map(Record::Entry)
        .map_err(|error| error.to_string())
}

fn exact(line: &[u8], read: &impl Serialize) -> Result<(), String> {
    if written(read).as_bytes() == line {
        Ok(())
    } else {
        Err(String::from("it is not spelled as it was written"))
    }
}

fn written(record: &impl Serialize) -> String {
    // Strings and numbers alone: this cannot fail.
    serde_json::to_string(record).unwrap_or_default()
}
