//! From a request's prompt to tokens that fit the window.
//!
//! What does not fit loses its oldest turns: first whole exchanges before the last user message, then
//! the oldest steps after it (a call of tools with its results is one step). System messages, the
//! last user message and the last step stay whole; what still does not fit is refused.

use serde_json::Value;

use crate::request::{Overflow, Prompt, Refused};
use crate::template::{ChatTemplate, normalize};
use crate::tokenizer::Tokenizer;

/// Tokens of a prompt.
pub(crate) struct Encoded {
    /// Token ids, at least one.
    pub tokens: Vec<u32>,
    /// Whether turns were dropped.
    pub trimmed: bool,
}

/// Encodes `prompt` so that at least one token of the `window` is left for an answer.
pub(crate) fn encode(
    prompt: &Prompt,
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    window: usize,
    overflow: Overflow,
) -> Result<Encoded, Refused> {
    let whole = match prompt {
        Prompt::Messages(messages) => {
            return conversation(messages, tokenizer, template, window, overflow);
        }
        Prompt::Text(text) => tokenizer.encode_prompt(text),
        Prompt::Tokens(tokens) => tokens.clone(),
    };
    if whole
        .iter()
        .any(|&token| token as usize >= tokenizer.vocab_len())
    {
        return Err(Refused::Invalid {
            field: "prompt",
            bound: "tokens of the model's vocabulary",
        });
    }
    fitting(whole, tokenizer, window)
}

fn fitting(mut tokens: Vec<u32>, tokenizer: &Tokenizer, window: usize) -> Result<Encoded, Refused> {
    if tokens.is_empty() {
        // A model cannot start from nothing: its first token is what begins or ends a text.
        tokens.push(tokenizer.bos().or_else(|| tokenizer.eos()).unwrap_or(0));
    }
    if tokens.len() >= window {
        return Err(Refused::ContextLength {
            prompt_tokens: tokens.len(),
            window,
        });
    }
    Ok(Encoded {
        tokens,
        trimmed: false,
    })
}

fn conversation(
    messages: &[Value],
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    window: usize,
    overflow: Overflow,
) -> Result<Encoded, Refused> {
    let encode = |messages: &[Value]| -> Result<Vec<u32>, Refused> {
        Ok(tokenizer.encode_chat(template, &normalize(messages)?)?)
    };
    let whole = encode(messages)?;
    if whole.len() < window || overflow == Overflow::Refuse {
        return fitting(whole, tokenizer, window);
    }
    let steps = droppable(messages);
    let without = |count: usize| -> Result<Vec<u32>, Refused> {
        let dropped: Vec<usize> = steps[..count].iter().flatten().copied().collect();
        let kept = messages
            .iter()
            .enumerate()
            .filter(|(i, _)| !dropped.contains(i));
        encode(&kept.map(|(_, message)| message.clone()).collect::<Vec<_>>())
    };
    // Fewer messages are fewer tokens, so the least number to drop is found by halving.
    let (mut low, mut high) = (0, steps.len());
    while low < high {
        let middle = usize::midpoint(low, high);
        if without(middle)?.len() < window {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    let encoded = fitting(without(low)?, tokenizer, window)?;
    Ok(Encoded {
        trimmed: low > 0,
        ..encoded
    })
}

/// Groups of messages that may be dropped together, in the order of dropping.
fn droppable(messages: &[Value]) -> Vec<Vec<usize>> {
    let role = |i: usize| {
        messages[i]
            .get("role")
            .and_then(Value::as_str)
            .unwrap_or_default()
    };
    let stays = |i: usize| matches!(role(i), "system" | "developer");
    let turns: Vec<usize> = (0..messages.len()).filter(|&i| !stays(i)).collect();
    let last = turns.iter().rposition(|&i| role(i) == "user");
    let (before, after) = turns.split_at(last.unwrap_or(0));
    let mut groups = grouped(before, |i| role(i) == "user");
    let mut steps = grouped(&after[usize::from(last.is_some())..], |i| {
        role(i) == "assistant"
    });
    steps.pop();
    groups.append(&mut steps);
    groups
}

/// Cuts `turns` before each one that starts a group.
fn grouped(turns: &[usize], starts: impl Fn(usize) -> bool) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for &turn in turns {
        match groups.last_mut() {
            Some(group) if !starts(turn) => group.push(turn),
            _ => groups.push(vec![turn]),
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::droppable;
    use serde_json::{Value, json};

    fn conversation(roles: &str) -> Vec<Value> {
        let name = |role| match role {
            's' => "system",
            'u' => "user",
            't' => "tool",
            _ => "assistant",
        };
        roles
            .chars()
            .map(|role| json!({"role": name(role), "content": "x"}))
            .collect()
    }

    #[test]
    fn whole_exchanges_go_first_and_the_last_question_stays() {
        assert_eq!(droppable(&conversation("suauau")), [vec![1, 2], vec![3, 4]]);
    }

    #[test]
    fn a_tool_call_goes_with_its_results_or_not_at_all() {
        assert_eq!(
            droppable(&conversation("suattauatatt")),
            [vec![1, 2, 3, 4, 5], vec![7, 8]]
        );
    }

    #[test]
    fn system_messages_in_the_middle_stay() {
        assert_eq!(droppable(&conversation("uasu")), [vec![0, 1]]);
    }

    #[test]
    fn a_single_question_has_nothing_to_drop() {
        assert!(droppable(&conversation("su")).is_empty());
    }
}
