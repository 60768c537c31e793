//! Constraints that come from what the request needs. Features are what an engine enforces; a soft
//! need (tools with `tool_choice` auto) refuses nobody.

use mesh_core::{
    Capabilities, Constraint, Facts, Feature, PrivacyLevel, Refusal, ServedModel, SovereigntyClass,
    TaskType, ToolNeed,
};

use super::{AdmitInput, refuse};

/// Room for an answer, in tokens, without which a window is too small for a prompt.
const MINIMAL_OUTPUT: u32 = 1;

/// Hosted tools and remote addresses are needs that a policy must allow, and no field of a policy
/// can in this version. So they are refused everywhere; the floor fetches nothing anyway.
pub(super) fn hosted_tools(facts: &Facts) -> Result<(), Refusal> {
    let needs = &facts.needs;
    if !needs.hosted_tools.is_empty() {
        return refuse(Constraint::HostedTool, || {
            format!(
                "not supported yet: hosted tools ({})",
                needs.hosted_tools.join(", ")
            )
        });
    }
    if needs.remote_urls {
        return refuse(Constraint::HostedTool, || {
            String::from("not supported yet: remote addresses in content; send the data inline")
        });
    }
    Ok(())
}

/// Vectors of different declarations never mix, and a model of vectors does not chat.
pub(super) fn embedding(input: &AdmitInput<'_>, served: &ServedModel) -> Result<(), Refusal> {
    let needs = &input.facts.needs;
    if !needs.embeddings {
        return if vectors_only(&served.capabilities) {
            refuse(Constraint::Feature, || {
                format!("{} makes vectors, not text", served.name)
            })
        } else {
            Ok(())
        };
    }
    let Some(spec) = &served.capabilities.embedding else {
        return refuse(Constraint::Embedding, || {
            format!("{} declares no embedding", served.name)
        });
    };
    if let Some(dimensions) = needs.dimensions
        && dimensions != spec.dimensions
    {
        return refuse(Constraint::Embedding, || {
            format!(
                "{dimensions} dimensions were asked for, {} are declared",
                spec.dimensions
            )
        });
    }
    if let Some(wanted) = input.embedding
        && wanted != spec
    {
        return refuse(Constraint::Embedding, || {
            format!(
                "declares {} {} with {} dimensions, the name stands for {} {} with {}",
                spec.model,
                spec.revision,
                spec.dimensions,
                wanted.model,
                wanted.revision,
                wanted.dimensions
            )
        });
    }
    Ok(())
}

/// True for a model that declares vectors and nothing else.
pub(crate) fn vectors_only(capabilities: &Capabilities) -> bool {
    capabilities.embedding.is_some()
        && capabilities
            .tasks
            .iter()
            .all(|quality| quality.task == TaskType::Embed)
}

/// Hard needs: images, required tools, JSON output. Other media are nobody's declared feature.
pub(super) fn features(facts: &Facts, served: &ServedModel) -> Result<(), Refusal> {
    match missing(facts, &served.capabilities) {
        None => Ok(()),
        Some(what) => refuse(Constraint::Feature, || {
            format!("{} does not enforce {what}", served.name)
        }),
    }
}

/// The first hard need that is not enforced, in words.
fn missing(facts: &Facts, capabilities: &Capabilities) -> Option<&'static str> {
    hard_needs(facts)
        .find(|(_, feature)| !feature.is_some_and(|feature| capabilities.enforces(feature)))
        .map(|(what, _)| what)
}

/// What a request cannot do without, in words, with the feature that gives it.
pub(crate) fn hard_needs(facts: &Facts) -> impl Iterator<Item = (&'static str, Option<Feature>)> {
    let needs = &facts.needs;
    [
        (needs.vision, "vision input", Some(Feature::Vision)),
        (
            needs.tools == ToolNeed::Hard,
            "required tool calls",
            Some(Feature::Tools),
        ),
        (needs.json, "JSON output", Some(Feature::JsonSchema)),
        (
            needs.other_media,
            "audio or file input (not supported yet)",
            None,
        ),
    ]
    .into_iter()
    .filter_map(|(needed, what, feature)| needed.then_some((what, feature)))
}

/// Fields we do not know go to owned backends, and elsewhere only at Public.
pub(super) fn unknown_fields(
    input: &AdmitInput<'_>,
    class: SovereigntyClass,
) -> Result<(), Refusal> {
    let fields = &input.facts.needs.unknown_fields;
    if fields.is_empty() || class.owned() || input.level() == PrivacyLevel::Public {
        return Ok(());
    }
    refuse(Constraint::UnknownFields, || {
        format!(
            "unknown fields ({}) may leave owned hardware only at public",
            fields.join(", ")
        )
    })
}

/// Prompt and the smallest answer must fit. An undeclared window counts as unlimited.
pub(super) fn context_window(input: &AdmitInput<'_>, served: &ServedModel) -> Result<(), Refusal> {
    let prompt = input.facts.needs.prompt_tokens;
    let Some(window) = served.capabilities.context_tokens else {
        return Ok(());
    };
    let output = if input.facts.needs.embeddings {
        0
    } else {
        MINIMAL_OUTPUT
    };
    if input.overflow || prompt.saturating_add(output) <= window {
        return Ok(());
    }
    refuse(Constraint::ContextWindow, || {
        format!("about {prompt} tokens do not fit a window of {window}")
    })
}
