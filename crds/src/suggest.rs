//! Words for messages: what was probably meant, and what a pattern asks for.

use crate::problem::shown;
use crate::value::PATTERN_HELP;

/// A key that the mapping does not have.
pub(crate) fn unknown_key<'k>(key: &str, known: impl Iterator<Item = &'k str>) -> String {
    let known: Vec<&str> = known.collect();
    match nearest(key, &known) {
        Some(meant) => format!("unknown field: did you mean `{meant}`?"),
        None if known.is_empty() => String::from("unknown field: remove it"),
        None if known.len() <= 12 => format!(
            "unknown field: use one of {}, or remove it",
            known.join(", ")
        ),
        None => String::from("unknown field: remove it, or look for its name in docs/reference"),
    }
}

/// A word that is none of the choices.
pub(crate) fn unknown_word<'k>(word: &str, choices: impl Iterator<Item = &'k str>) -> String {
    let choices: Vec<&str> = choices.collect();
    let meant = nearest(word, &choices)
        .map(|meant| format!(": did you mean `{meant}`?"))
        .unwrap_or_default();
    let text = shown(word);
    match meant.as_str() {
        "" => format!("{text:?} is not allowed: use one of {}", choices.join(", ")),
        _ => format!(
            "{text:?} is not allowed{meant} (one of {})",
            choices.join(", ")
        ),
    }
}

/// A text that does not match a pattern.
pub(crate) fn pattern(text: &str, pattern: &str) -> String {
    let text = shown(text);
    let mut known = PATTERN_HELP.iter().chain(&crate::peer::PATTERN_HELP);
    match known.find(|(known, _)| *known == pattern) {
        Some((_, help)) => format!("{text:?} is not {help}"),
        None => format!("{text:?} does not match {pattern}"),
    }
}

/// The choice that `word` was probably meant to be: the same letters in another case, or few typing
/// errors away.
pub(crate) fn nearest<'k>(word: &str, choices: &[&'k str]) -> Option<&'k str> {
    if word.len() > 64 {
        return None;
    }
    let plain = |text: &str| text.to_lowercase().replace(['-', '_'], "");
    let word = plain(word);
    choices
        .iter()
        .map(|choice| (strsim::damerau_levenshtein(&word, &plain(choice)), *choice))
        .filter(|(distance, choice)| *distance <= (choice.len() / 4).clamp(1, 3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, choice)| choice)
}
