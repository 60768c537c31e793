//! Pre-tokenizers: how text is cut into pieces before bytes are merged.
//!
//! The published patterns end in `\s+(?!\S)|\s+`: a run of white space leaves its last character to the word behind it. That
//! look-ahead is the only reason why others need a backtracking engine. Here the run is matched by a linear-time engine and
//! shortened by hand, so no text can make a request slow.

use regex::Regex;

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+";

/// One way to cut.
pub(super) struct Split {
    pattern: Regex,
    /// Every digit is a piece of its own, and cuts the text on both sides before the pattern sees it.
    digits: bool,
    /// Runs of white space up to a line end are pieces that keep their last character.
    lines: bool,
}

impl Split {
    /// By the name in `tokenizer.ggml.pre`; `None` for names not known here.
    pub(super) fn named(name: &str) -> Option<Self> {
        let (pattern, digits, lines) = match name {
            "smollm" => (GPT2, true, false),
            "gpt-2" | "gpt2" => (GPT2, false, false),
            "llama-bpe" | "llama3" | "llama-v3" => (LLAMA3, false, true),
            "qwen2" => (QWEN2, false, true),
            _ => return None,
        };
        Some(Self {
            pattern: Regex::new(pattern).ok()?,
            digits,
            lines,
        })
    }

    /// Gives the pieces of `text` in order; together they are the text.
    pub(super) fn pieces<'t>(&self, text: &'t str, mut piece: impl FnMut(&'t str)) {
        if !self.digits {
            self.words(text, &mut piece);
            return;
        }
        let mut rest = text;
        while let Some((at, digit)) = rest
            .char_indices()
            .find(|(_, character)| character.is_numeric())
        {
            let (before, from) = rest.split_at(at);
            let (digit, after) = from.split_at(digit.len_utf8());
            self.words(before, &mut piece);
            piece(digit);
            rest = after;
        }
        self.words(rest, &mut piece);
    }

    fn words<'t>(&self, text: &'t str, piece: &mut impl FnMut(&'t str)) {
        let mut start = 0;
        while let Some(found) = self.pattern.find_at(text, start) {
            if found.start() > start {
                piece(&text[start..found.start()]);
            }
            let end =
                found.end() - self.left_to_next_word(found.as_str(), found.end() == text.len());
            piece(&text[found.start()..end]);
            start = end;
        }
        if start < text.len() {
            piece(&text[start..]);
        }
    }

    /// Bytes of a white-space run that belong to the word behind it: its last character, unless it is the only one.
    fn left_to_next_word(&self, run: &str, at_end: bool) -> usize {
        let Some(last) = run.chars().next_back() else {
            return 0;
        };
        let ends_line = self.lines && matches!(last, '\r' | '\n');
        if at_end
            || ends_line
            || run.len() == last.len_utf8()
            || !run.chars().all(char::is_whitespace)
        {
            return 0;
        }
        last.len_utf8()
    }
}
