//! Health: a condition alone is a topic, a condition of somebody is a special category of personal
//! data (GDPR, Article 9).
//!
//! - *person* (restricted): the speaker, a relative, a person with a title or a name, or a certain
//!   patient with a name or a date has the condition.
//! - *record* (confidential): a certain patient without more, a diagnosis of somebody unnamed, a
//!   diagnosis code behind `ICD`.
//! - neither: "what is diabetes?" stays where the policy put it.
//!
//! Everything is decided within one sentence or line, and from words before the condition.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickBuilder};
use mesh_core::PrivacyLevel;

use super::lexicon::{Hit, Sense};
use super::{Matches, Rule};
use crate::corpus::SEAM;

static PERSON: Rule = Rule {
    id: "health/person",
    kind: "health",
    level: PrivacyLevel::Restricted,
};
static RECORD: Rule = Rule {
    id: "health/record",
    kind: "health",
    level: PrivacyLevel::Confidential,
};
static CODE: Rule = Rule {
    id: "health/icd",
    kind: "diagnosis_code",
    level: PrivacyLevel::Confidential,
};

/// Diseases, medicines, treatments. Begins of words: `diabet` is enough for four languages.
pub(crate) const CONDITIONS: &[&str] = &[
    "diabet",
    "cancer",
    "krebserkrank",
    "brustkrebs",
    "lungenkrebs",
    "darmkrebs",
    "prostatakrebs",
    "krebs diagn",
    "tumor",
    "tumour",
    "leukemi",
    "leukämie",
    "lymphom",
    "melanom",
    "carcinom",
    "karzinom",
    "metasta",
    "chemotherap",
    "depressi",
    "bipolar",
    "schizophren",
    "psychos",
    "anxiety disorder",
    "angststörung",
    "panic attack",
    "panikattacke",
    "anorexi",
    "bulimi",
    "magersucht",
    "burnout",
    "burn-out",
    "suicid",
    "suizid",
    "selbstmord",
    "self-harm",
    "alcoholi",
    "alkoholi",
    "suchterkrank",
    "drug addiction",
    "drogensucht",
    "epilep",
    "parkinson",
    "alzheimer",
    "dementia",
    "demenz",
    "multiple sclerosis",
    "multiple sklerose",
    "stroke",
    "schlaganfall",
    "heart attack",
    "herzinfarkt",
    "heart failure",
    "herzinsuffizienz",
    "hypertension",
    "bluthochdruck",
    "high blood pressure",
    "arrhythmi",
    "asthma",
    "pneumoni",
    "lungenentzündung",
    "tubercul",
    "tuberkul",
    "hepatitis",
    "cirrhosis",
    "zirrhose",
    "crohn",
    "colitis",
    "morbus",
    "arthritis",
    "rheuma",
    "osteopor",
    "fibromyalg",
    "endometrios",
    "miscarriage",
    "fehlgeburt",
    "abortion",
    "abtreibung",
    "schwangerschaftsabbruch",
    "pregnan",
    "schwanger",
    "infertil",
    "unfruchtbar",
    "erectile",
    "chlamydia",
    "gonorrh",
    "syphilis",
    "herpes",
    "hiv-positiv",
    "hiv positiv",
    "kidney failure",
    "niereninsuffizienz",
    "dialys",
    "thyroid",
    "schilddrüsen",
    "psoriasis",
    "schuppenflechte",
    "autism",
    "autismus",
    "down syndrom",
    "down-syndrom",
    "ptsd",
    "posttraumat",
    "insulin",
    "metformin",
    "sertraline",
    "sertralin",
    "fluoxetin",
    "citalopram",
    "lithium carbonate",
    "methotrexat",
    "warfarin",
    "antiretroviral",
    "antidepress",
    "oxycodon",
    "methadon",
    "biopsy",
    "biopsie",
    "mammogra",
    "hba1c",
    "blutwert",
    "blood sugar",
    "blutzucker",
];
/// Conditions that must be whole words.
pub(crate) const SHORT_CONDITIONS: &[&str] = &[
    "hiv",
    "aids",
    "adhd",
    "adhs",
    "copd",
    "krebs",
    "covid",
    "covid-19",
    "gout",
    "gicht",
    "ms diagnosis",
    "mri scan",
    "ssri",
];
/// Somebody has a condition.
pub(crate) const DIAGNOSED: &[&str] = &[
    "diagnosed with",
    "diagnosis is",
    "diagnosis:",
    "suffers from",
    "suffering from",
    "tested positive for",
    "treated for",
    "a history of",
    "was prescribed",
    "is prescribed",
    "leidet an",
    "leidet unter",
    "leide an",
    "leide unter",
    "erkrankt an",
    "diagnose:",
    "diagnose lautet",
    "behandelt wegen",
    "positiv auf",
];
/// A certain patient.
pub(crate) const PATIENT: &[&str] = &[
    "the patient",
    "this patient",
    "our patient",
    "my patient",
    "patient:",
    "patient name",
    "patient id",
    "patient is",
    "patient has",
    "patient was",
    "patient presents",
    "patient mr",
    "patient mrs",
    "patient ms",
    "der patient",
    "die patientin",
    "unser patient",
    "unsere patientin",
    "mein patient",
    "meine patientin",
    "patientin:",
    "patient nr",
    "patienten-id",
    "pat.",
];
/// The speaker has or is.
pub(crate) const SPEAKER: &[&str] = &[
    "i have",
    "i've",
    "i had",
    "i am",
    "i'm",
    "i was",
    "i got",
    "i take",
    "i suffer from",
    "my",
    "ich habe",
    "ich hatte",
    "ich bin",
    "ich war",
    "ich leide an",
    "ich leide unter",
    "ich nehme",
    "bei mir",
    "mein",
    "meine",
    "meiner",
    "meinen",
    "meinem",
    "habe ich",
    "bin ich",
    "j'ai",
    "je suis",
    "tengo",
    "ma",
    "mon",
    "mi",
];
/// Somebody close to the speaker.
pub(crate) const KIN: &[&str] = &[
    "my mother",
    "my mom",
    "my mum",
    "my father",
    "my dad",
    "my wife",
    "my husband",
    "my son",
    "my daughter",
    "my child",
    "my brother",
    "my sister",
    "my partner",
    "my girlfriend",
    "my boyfriend",
    "my grandmother",
    "my grandfather",
    "my friend",
    "my colleague",
    "my boss",
    "my employee",
    "my coworker",
    "our employee",
    "our colleague",
    "meine mutter",
    "meine frau",
    "meine tochter",
    "meine schwester",
    "meine oma",
    "meine kollegin",
    "meine freundin",
    "meine partnerin",
    "meine chefin",
    "mein vater",
    "mein mann",
    "mein sohn",
    "mein bruder",
    "mein opa",
    "mein kollege",
    "mein freund",
    "mein partner",
    "mein chef",
    "mein kind",
    "meiner mutter",
    "meiner frau",
    "meinem vater",
    "meinem mann",
    "meinem sohn",
    "unser mitarbeiter",
    "unsere mitarbeiterin",
];
/// Before a name.
pub(crate) const TITLES: &[&str] = &[
    "mr.", "mrs.", "ms.", "mr", "mrs", "herr", "herrn", "frau", "señor", "señora", "mme",
];
/// Before a diagnosis code.
pub(crate) const ICD: &[&str] = &[
    "icd-10",
    "icd-11",
    "icd10",
    "icd 10",
    "icd:",
    "icd code",
    "icd-code",
    "diagnosis code",
    "diagnosecode",
];

/// Words behind a condition that make it the topic of a work: "my diabetes essay".
static WORK: Stops = Stops::new(|| {
    stops(&[
        b"essay",
        b"homework",
        b"paper",
        b"article",
        b"project",
        b"presentation",
        b"research",
        b"thesis",
        b" app ",
        b"startup",
        b"dataset",
        b" model",
        b"exam",
        b"blog",
        b"referat",
        b"projekt",
        b"vortrag",
    ])
});
/// Words between a speaker and a condition that make it a topic and not a diagnosis.
static TOPIC: Stops = Stops::new(|| {
    stops(&[
        b" about",
        b"question",
        b"essay",
        b"paper",
        b"article",
        b"thesis",
        b"homework",
        b"exam",
        b"book",
        b"presentation",
        b"lecture",
        b"project",
        b"research",
        b"blog",
        b"startup",
        b"class",
        b"study",
        b"studying",
        b"writing",
        b"interested",
        b"curious",
        b"working on",
        b"company",
        b"app ",
        b" model",
        b"dataset",
        b"code",
        b"patients",
        b" not ",
        b"people",
        b"frage",
        b"\xc3\xbcber ",
        b"aufsatz",
        b"referat",
        b"artikel",
        b"arbeit",
        b"pr\xc3\xbcfung",
        b"vortrag",
        b"projekt",
        b"interess",
        b"thema",
        b"menschen",
        b"software",
        b"website",
        b"team",
        b"policy",
        b"product",
        b"market",
        b"how ",
        b"what ",
        b"why ",
        b"wonder",
        b"whether",
        b" causes",
        b"looking",
        b"inform",
        b" read ",
        b"learn",
        b"explain",
        b"understand",
        b"write",
        b"wie ",
        b"warum",
        b" ob ",
        b"suche",
        b"lerne",
        b"student",
        b"nurse",
        b"doctor who",
    ])
});
/// Whoever these words mean is nobody in particular.
static ANYBODY: Stops = Stops::new(|| {
    stops(&[
        b"people",
        b"patients",
        b"persons",
        b"adults",
        b"children",
        b"women",
        b"men",
        b"anyone",
        b"someone",
        b"somebody",
        b"those",
        b"who ",
        b"menschen",
        b"personen",
        b"patienten",
        b"kinder",
        b"erwachsene",
        b"jemand",
        b"if you",
        b"wer ",
        b"individuals",
        b"person ",
        b"is a",
        b"does a",
        b"can a",
        b"options",
        b"available",
        b"how ",
        b"what ",
        b"which ",
        b"best ",
        b"wie ",
        b"welche",
        b"many ",
        b"most ",
    ])
});

/// The last words of each sense, while the hits go by.
#[derive(Default)]
pub(crate) struct Terms {
    speaker: Option<Hit>,
    kin: Option<Hit>,
    title: Option<Hit>,
    diagnosed: Option<Hit>,
    patient: Option<Hit>,
}

impl Terms {
    /// Takes the next word.
    pub(crate) fn step(&mut self, text: &[u8], hits: &[Hit], index: usize, out: &mut Matches) {
        let Some(hit) = hits.get(index) else {
            return;
        };
        let last = match hit.sense() {
            Sense::Condition => return self.condition(text, hit, out),
            Sense::IcdWord => return self.code(text, hit, out),
            Sense::Speaker => &mut self.speaker,
            Sense::Kin => &mut self.kin,
            Sense::Title => &mut self.title,
            Sense::Diagnosed => &mut self.diagnosed,
            Sense::Patient => &mut self.patient,
            _ => return,
        };
        *last = Some(*hit);
    }

    fn condition(&self, text: &[u8], hit: &Hit, out: &mut Matches) {
        if self.person(text, hit) {
            out.add(&PERSON, hit.start, hit.end);
        } else if self.record(text, hit) {
            out.add(&RECORD, hit.start, hit.end);
        }
    }

    fn person(&self, text: &[u8], hit: &Hit) -> bool {
        let speaker = self
            .speaker
            .and_then(|speaker| between(text, &speaker, hit, 40))
            .is_some_and(|gap| !TOPIC.hold(gap) && !WORK.hold(sentence_behind(text, hit.end, 24)));
        let kin = self
            .kin
            .and_then(|kin| between(text, &kin, hit, 80))
            .is_some_and(|gap| !TOPIC.hold(gap));
        let title = self
            .title
            .and_then(|title| between(text, &title, hit, 120))
            .is_some_and(titled);
        let patient = self
            .patient
            .and_then(|patient| between(text, &patient, hit, 160))
            .is_some_and(|gap| names(gap) || dated(gap));
        speaker || kin || title || patient || self.named(text, hit)
    }

    /// `John Smith was diagnosed with …`, `she suffers from …`
    fn named(&self, text: &[u8], hit: &Hit) -> bool {
        let Some(verb) = self.diagnosed else {
            return false;
        };
        if between(text, &verb, hit, 48).is_none() {
            return false;
        }
        let lead = sentence_before(text, verb.start, 64);
        let speaker = lead
            .split(|byte| !byte.is_ascii_alphabetic())
            .any(|word| word == b"I" || word.eq_ignore_ascii_case(b"ich"));
        !ANYBODY.hold(lead) && (speaker || full_name(lead))
    }

    fn record(&self, text: &[u8], hit: &Hit) -> bool {
        let patient = self
            .patient
            .is_some_and(|patient| between(text, &patient, hit, 160).is_some());
        let diagnosed = self.diagnosed.is_some_and(|verb| {
            let lead = sentence_before(text, verb.start, 64);
            between(text, &verb, hit, 48).is_some()
                && !ANYBODY.hold(lead)
                && (lead.iter().any(u8::is_ascii_alphabetic)
                    || super::before(text, verb.end) == Some(b':'))
        });
        patient || diagnosed
    }

    /// A code such as `E11.9` soon behind `ICD-10`.
    fn code(&self, text: &[u8], hit: &Hit, out: &mut Matches) {
        const REACH: usize = 32;
        let end = text.len().min(hit.end + REACH);
        let window = text.get(hit.end..end).unwrap_or_default();
        let found = window.windows(3).enumerate().find(|(at, code)| {
            matches!(code, [b'A'..=b'Z', b'0'..=b'9', b'0'..=b'9' | b'A' | b'B'])
                && !at
                    .checked_sub(1)
                    .and_then(|before| window.get(before))
                    .is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
                && !window.get(at + 4).is_some_and(u8::is_ascii_alphabetic)
        });
        let Some((at, _)) = found else {
            return;
        };
        let close =
            |word: Option<Hit>| word.is_some_and(|word| between(text, &word, hit, 160).is_some());
        let rule = if close(self.title) || close(self.kin) || close(self.speaker) {
            &PERSON
        } else {
            &CODE
        };
        let tail = window.get(at..).map_or(0, |rest| {
            rest.iter()
                .take(8)
                .take_while(|byte| byte.is_ascii_alphanumeric() || **byte == b'.')
                .count()
        });
        out.add(rule, hit.end + at, hit.end + at + tail);
    }
}

/// The bytes between two words if the second follows the first within `reach` in one sentence.
/// Overlapping words ("my" in "my diabetes") have nothing between them.
pub(crate) fn between<'a>(
    text: &'a [u8],
    first: &Hit,
    second: &Hit,
    reach: usize,
) -> Option<&'a [u8]> {
    if second.start < first.end || second.start - first.end > reach {
        return None;
    }
    let gap = text.get(first.end..second.start)?;
    let ends = |pair: &[u8]| matches!(pair, [b'.' | b'!' | b'?', b' ' | b'\n']);
    let broken = gap.contains(&SEAM)
        || gap
            .windows(2)
            .enumerate()
            .any(|(at, pair)| ends(pair) && !abbreviated(gap, at));
    (!broken).then_some(gap)
}

/// `Dr. `, `J. `, `geb. `: a point behind up to three letters ends no sentence.
fn abbreviated(gap: &[u8], point: usize) -> bool {
    let word = gap
        .get(..point)
        .unwrap_or_default()
        .iter()
        .rev()
        .take_while(|byte| byte.is_ascii_alphanumeric())
        .count();
    word <= 3 && gap.get(point) == Some(&b'.')
}

/// Up to `reach` bytes of the sentence or line before a position.
pub(crate) fn sentence_before(text: &[u8], at: usize, reach: usize) -> &[u8] {
    let lead = text.get(at.saturating_sub(reach)..at).unwrap_or_default();
    let start = lead
        .iter()
        .rposition(|byte| matches!(byte, b'.' | b'!' | b'?' | b'\n' | &SEAM))
        .map_or(0, |end| end + 1);
    lead.get(start..).unwrap_or_default()
}

fn sentence_behind(text: &[u8], at: usize, reach: usize) -> &[u8] {
    let tail = text.get(at..text.len().min(at + reach)).unwrap_or_default();
    tail.split(|byte| matches!(byte, b'.' | b'!' | b'?' | b'\n' | &SEAM))
        .next()
        .unwrap_or_default()
}

/// Words that change what the words around them mean.
pub(crate) struct Stops(LazyLock<Option<AhoCorasick>, fn() -> Option<AhoCorasick>>);

impl Stops {
    /// An automaton over the words, in any case; built at first use.
    pub(crate) const fn new(build: fn() -> Option<AhoCorasick>) -> Self {
        Self(LazyLock::new(build))
    }

    /// Whether one of the words stands in the bytes.
    pub(crate) fn hold(&self, bytes: &[u8]) -> bool {
        self.0.as_ref().is_some_and(|words| words.is_match(bytes))
    }
}

/// Builds the automaton of [`Stops`].
pub(crate) fn stops(words: &[&[u8]]) -> Option<AhoCorasick> {
    AhoCorasickBuilder::new()
        .ascii_case_insensitive(true)
        .build(words)
        .ok()
}

/// Words that begin with a capital letter.
fn capitals(bytes: &[u8]) -> usize {
    bytes
        .split(|byte| !(byte.is_ascii_alphabetic() || *byte >= 0x80 || *byte == b'\''))
        .filter(|word| {
            word.len() > 1
                && word
                    .first()
                    .is_some_and(|first| first.is_ascii_uppercase() || *first == 0xc3)
        })
        .count()
}

/// The title is followed by a name at once.
fn titled(gap: &[u8]) -> bool {
    let name = gap.iter().find(|byte| !matches!(byte, b' ' | b'.'));
    name.is_some_and(|first| first.is_ascii_uppercase() || *first == 0xc3)
}

/// Two words in a row with capitals, the first of which is no article.
fn full_name(lead: &[u8]) -> bool {
    const ARTICLES: &[&[u8]] = &[
        b"The", b"A", b"An", b"Every", b"Many", b"Most", b"Ein", b"Eine", b"Der", b"Die", b"Das",
        b"Viele", b"Jeder", b"Jede", b"When", b"If", b"Since", b"Wenn",
    ];
    let words: Vec<&[u8]> = lead.split(|byte| *byte == b' ').collect();
    words.windows(2).any(|pair| match pair {
        [first, second] => {
            capitals(first) == 1 && capitals(second) == 1 && !ARTICLES.contains(first)
        }
        _ => false,
    })
}

fn names(bytes: &[u8]) -> bool {
    capitals(bytes) >= 1
}

fn dated(bytes: &[u8]) -> bool {
    bytes.iter().filter(|byte| byte.is_ascii_digit()).count() >= 4
}
