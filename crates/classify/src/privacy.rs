//! The level: `max(base, header, detectors, incomplete)` (`semantics` section 1), and who said what.
//! Nothing here lowers a level.

use std::collections::BTreeMap;

use mesh_core::{Fact, Finding, PrivacyLevel, Scan};

use crate::corpus::Corpus;
use crate::detect::lexicon::{self, Hit};
use crate::detect::{Match, Matches, scan, token};
use crate::fold::fold;
use crate::{Inputs, fact};

/// Findings that are listed; all count.
const LISTED: usize = 256;
/// Places that one line of `explain` names.
const PLACES: usize = 3;

/// What the detectors said about a request.
pub(crate) struct Reading {
    /// What was found, the most sensitive first.
    pub findings: Vec<Finding>,
    /// What was read.
    pub scan: Scan,
    /// Words of the raw text, for the rules about work.
    pub hits: Vec<Hit>,
    /// Highest level of all findings.
    pub level: Option<PrivacyLevel>,
}

/// Runs the rules over the text as it came and as a person would see it.
pub(crate) fn read(corpus: &Corpus) -> Reading {
    let mut matches = Matches::default();
    let hits = scan(corpus.text().as_bytes(), &mut matches);
    let mut findings: Vec<Finding> = matches
        .drain()
        .iter()
        .filter_map(|found| finding(corpus, found, found.start, found.end))
        .collect();
    if let Some(folded) = fold(corpus) {
        scan(&folded.text, &mut matches);
        for found in matches.drain() {
            let (start, end) = folded.origin(corpus, found.start, found.end);
            findings.extend(finding(corpus, &found, start, end));
        }
    }
    let key = |finding: &Finding| {
        (
            std::cmp::Reverse(finding.level),
            finding.part.clone(),
            finding.start,
            finding.end,
            finding.rule,
        )
    };
    findings.sort_by_cached_key(key);
    findings.dedup();
    let level = findings.first().map(|finding| finding.level);
    findings.truncate(LISTED);
    let mut scan = corpus.scan();
    if !(lexicon::ready() && token::ready()) {
        scan.complete = false;
        scan.unread.push("a detector could not be built".to_owned());
    }
    Reading {
        findings,
        scan,
        hits,
        level,
    }
}

fn finding(corpus: &Corpus, found: &Match, start: usize, end: usize) -> Option<Finding> {
    let spot = corpus.locate(start, end)?;
    Some(Finding {
        part: spot.place.to_owned(),
        start: spot.start,
        end: spot.end,
        kind: found.rule.kind,
        rule: found.rule.id,
        level: found.rule.level,
    })
}

/// Joins the four voices; the first fact is the outcome.
pub(crate) fn level(inputs: &Inputs<'_>, reading: &Reading) -> (PrivacyLevel, Vec<Fact>) {
    let incomplete = (!reading.scan.complete).then_some(inputs.incomplete_level);
    let level = [inputs.header_privacy, reading.level, incomplete]
        .into_iter()
        .flatten()
        .fold(inputs.base, PrivacyLevel::max);
    let mut facts = vec![fact(
        "privacy",
        level.as_str(),
        "level",
        "the highest of base, header, detectors and incomplete scan",
    )];
    facts.push(fact(
        "privacy",
        inputs.base.as_str(),
        inputs.base_source,
        "base",
    ));
    if let Some(header) = inputs.header_privacy {
        let evidence = if header < inputs.base {
            "mesh-privacy below the base: only raises"
        } else {
            "mesh-privacy"
        };
        facts.push(fact("privacy", header.as_str(), "header", evidence));
    }
    facts.extend(rules(&reading.findings));
    if let Some(incomplete) = incomplete {
        let evidence = reading.scan.unread.join("; ");
        facts.push(fact(
            "privacy",
            incomplete.as_str(),
            "scan/incomplete",
            evidence,
        ));
    }
    (level, facts)
}

/// One line per rule, with its first places.
fn rules(findings: &[Finding]) -> Vec<Fact> {
    let mut by_rule: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for finding in findings {
        let level = std::cmp::Reverse(finding.level);
        by_rule
            .entry((level, finding.rule))
            .or_default()
            .push(&finding.part);
    }
    by_rule
        .into_iter()
        .map(|((level, rule), mut places)| {
            let count = places.len();
            places.dedup();
            let more = places.len().saturating_sub(PLACES);
            places.truncate(PLACES);
            let mut evidence = format!("{rule} found {count} times at {}", places.join(", "));
            if more > 0 {
                evidence = format!("{evidence} and {more} more places");
            }
            let family = rule.split('/').next().unwrap_or(rule);
            fact(
                "privacy",
                level.0.as_str(),
                format!("rules/{family}"),
                evidence,
            )
        })
        .collect()
}
