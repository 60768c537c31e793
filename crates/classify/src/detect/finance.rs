//! Money of somebody: a term such as "salary" or "account balance" counts when it belongs to a
//! person (the speaker, a relative, a title with a name) or stands beside an amount. How loans work
//! and what people earn on average is a general question.

use mesh_core::PrivacyLevel;

use super::lexicon::{Hit, Sense};
use super::sentence::{Stops, between, stops};
use super::{Matches, Rule};
use crate::corpus::SEAM;

static PERSON: Rule = Rule {
    id: "finance/person",
    kind: "finance",
    level: PrivacyLevel::Confidential,
};
static AMOUNT: Rule = Rule {
    id: "finance/amount",
    kind: "finance",
    level: PrivacyLevel::Confidential,
};

/// Terms of personal and company money.
pub(crate) const TERMS: &[&str] = &[
    "salary",
    "salaries",
    "paycheck",
    "payslip",
    "pay slip",
    "payroll",
    "annual income",
    "monthly income",
    "net income",
    "gross income",
    "household income",
    "net worth",
    "account balance",
    "bank balance",
    "bank account",
    "account number",
    "bank statement",
    "credit score",
    "credit rating",
    "tax return",
    "tax id",
    "mortgage",
    "overdraft",
    "insolvency",
    "bankruptcy",
    "severance",
    "bonus payment",
    "stock options",
    "unpublished revenue",
    "quarterly revenue",
    "quarterly earnings",
    "gehalt",
    "bruttogehalt",
    "nettogehalt",
    "einkommen",
    "kontostand",
    "kontonummer",
    "bankkonto",
    "bankverbindung",
    "kontoauszug",
    "schufa",
    "bonität",
    "steuererklärung",
    "steuerbescheid",
    "hypothek",
    "darlehen",
    "insolvenz",
    "privatinsolvenz",
    "abfindung",
    "vermögen",
    "lohnabrechnung",
    "gehaltsabrechnung",
    "salaire",
    "sueldo",
    "nómina",
];

/// Terms that must be whole words.
pub(crate) const SHORT_TERMS: &[&str] = &[
    "wage", "wages", "loan", "loans", "debt", "debts", "pension", "lohn", "kredit", "kredite",
    "dispo", "rente", "schulden",
];

/// Between owner and term: not a fact about the owner.
static TOPIC: Stops = Stops::new(|| {
    stops(&[
        b" about",
        b"question",
        b"essay",
        b"article",
        b"homework",
        b"exam",
        b"book",
        b"presentation",
        b"project",
        b"app",
        b"code",
        b"script",
        b"class",
        b"function",
        b"table",
        b"database",
        b"dataset",
        b"model",
        b" for a ",
        b"frage",
        b"\xc3\xbcber ",
        b"aufsatz",
        b"referat",
        b"projekt",
        b"thema",
        b"interest",
        b"calculator",
        b"should",
        b"how ",
    ])
});
/// Around an amount: nobody's in particular.
static GENERAL: Stops = Stops::new(|| {
    stops(&[
        b"average",
        b"median",
        b"typical",
        b"minimum",
        b"maximum",
        b"mean ",
        b"national",
        b"example",
        b"suppose",
        b"assume",
        b"durchschnitt",
        b"mindest",
        b"typisch",
        b"beispiel",
        b"angenommen",
        b"calculate",
        b"berechne",
        b"interest rate",
        b"zinssatz",
        b"how ",
        b"what is a",
    ])
});
/// Bytes behind and before a term in which an amount counts.
const BEHIND: usize = 48;
const BEFORE: usize = 32;

/// Looks at a term.
pub(crate) fn check(text: &[u8], hits: &[Hit], index: usize, out: &mut Matches) {
    let Some(hit) = hits.get(index) else {
        return;
    };
    if owned(text, hits, index, hit) {
        out.add(&PERSON, hit.start, hit.end);
    } else if amount(text, hit) {
        out.add(&AMOUNT, hit.start, hit.end);
    }
}

/// Whether the words just before say whose money it is.
fn owned(text: &[u8], hits: &[Hit], index: usize, hit: &Hit) -> bool {
    // A few words back are enough: owners stand close before their money.
    hits.get(index.saturating_sub(8)..index)
        .unwrap_or_default()
        .iter()
        .any(|owner| {
            let reach = match owner.sense() {
                Sense::Speaker => 24,
                Sense::Kin | Sense::Title => 48,
                _ => return false,
            };
            between(text, owner, hit, reach).is_some_and(|gap| !TOPIC.hold(gap))
        })
}

fn amount(text: &[u8], hit: &Hit) -> bool {
    let ends = |byte: &u8| matches!(byte, b'\n' | b'?' | b'!' | &SEAM);
    let behind = text
        .get(hit.end..text.len().min(hit.end + BEHIND))
        .unwrap_or_default();
    let behind = behind.split(ends).next().unwrap_or_default();
    let lead = text
        .get(hit.start.saturating_sub(BEFORE)..hit.start)
        .unwrap_or_default();
    let lead = lead.rsplit(ends).next().unwrap_or_default();
    (sum(behind) || sum(lead)) && !GENERAL.hold(behind) && !GENERAL.hold(lead)
}

/// Three digits or more in a row (points and commas between), not a year alone.
fn sum(bytes: &[u8]) -> bool {
    bytes
        .split(|byte| !(byte.is_ascii_digit() || matches!(byte, b'.' | b',' | b'\'')))
        .any(|run| {
            let digits = run.iter().filter(|byte| byte.is_ascii_digit()).count();
            let century = run.starts_with(b"19") || run.starts_with(b"20");
            let plain = run.iter().take(4).all(u8::is_ascii_digit);
            let year = digits == 4 && century && plain;
            digits >= 3 && !year
        })
}
