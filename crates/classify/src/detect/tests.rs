//! Each rule: what it must find, what it must not, what one wrong digit does.

mod disguise;
mod marking;

use mesh_core::PrivacyLevel;

use crate::corpus::{Corpus, Voice};
use crate::privacy;

/// Rule and found bytes.
fn found(text: &str) -> Vec<(&'static str, String)> {
    let mut corpus = Corpus::new(1 << 20);
    corpus.push("/text", text, Voice::User, None);
    privacy::read(&corpus)
        .findings
        .into_iter()
        .map(|finding| (finding.rule, text[finding.start..finding.end].to_owned()))
        .collect()
}

fn level(text: &str) -> PrivacyLevel {
    let mut corpus = Corpus::new(1 << 20);
    corpus.push("/text", text, Voice::User, None);
    privacy::read(&corpus).level.unwrap_or(PrivacyLevel::Public)
}

#[track_caller]
fn finds(rule: &str, cases: &[&str]) {
    for case in cases {
        let found = found(case);
        assert!(
            found.iter().any(|(id, _)| *id == rule),
            "{rule} in {case:?}: {found:?}"
        );
    }
}

#[track_caller]
fn silent(family: &str, cases: &[&str]) {
    for case in cases {
        let found = found(case);
        let any = found.iter().any(|(id, _)| id.starts_with(family));
        assert!(!any, "{family} in {case:?}: {found:?}");
    }
}

/// Published test numbers of the card networks.
const CARDS: [&str; 22] = [
    "4111111111111111",
    "4012888888881881",
    "4222222222222",
    "4242424242424242",
    "5555555555554444",
    "5105105105105100",
    "2223003122003222",
    "2720994326581252",
    "378282246310005",
    "371449635398431",
    "6011111111111117",
    "6011000990139424",
    "30569309025904",
    "38520000023237",
    "3530111333300000",
    "3566002020360505",
    "6200000000000005",
    "6205500000000000004",
    "6759649826438453",
    "5019717010103742",
    "6304000000000000",
    "2200000000000004",
];

#[test]
fn cards_of_every_network_are_found_whole() {
    for card in CARDS {
        let text = format!("number {card}, thanks");
        assert!(
            found(&text).contains(&("card/luhn", card.to_owned())),
            "{card}: {:?}",
            found(&text)
        );
        assert_eq!(level(&text), PrivacyLevel::Restricted);
    }
}

#[test]
fn one_wrong_digit_makes_a_card_a_number() {
    for card in CARDS {
        for at in 0..card.len() {
            for digit in b'0'..=b'9' {
                let mut wrong = card.as_bytes().to_vec();
                if wrong[at] == digit {
                    continue;
                }
                wrong[at] = digit;
                let wrong = String::from_utf8(wrong).expect("digits");
                silent("card", &[&wrong]);
            }
        }
    }
}

#[test]
fn cards_are_found_in_the_groupings_people_use() {
    finds(
        "card/luhn",
        &[
            "4111 1111 1111 1111",
            "4111-1111-1111-1111",
            "4111.1111.1111.1111",
            "4111  1111  1111  1111",
            "4111 - 1111 - 1111 - 1111",
            "3782 822463 10005",
            "3782-822463-10005",
            "3056 930902 5904",
            "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
            "41 11 11 11 11 11 11 11",
            "12 4111 1111 1111 1111 34",
            "PAN4111111111111111CVV",
            "\"card\":4111111111111111}",
            "credit card 411111 1111 111111",
            "pan: 0.4111111111111111",
            "card 0x4111111111111111",
        ],
    );
}

#[test]
fn numbers_that_are_no_cards_are_left_alone() {
    silent(
        "card",
        &[
            "0000000000000000",
            "0000 0000 0000 0000",
            "14111111111111111",
            "41111111111111112",
            "41111111111111111111",
            "0.4111111111111111",
            "12.4111111111111111",
            "1732233344455",
            "1732233344455566677",
            "2024-01-15 2024-02-15 2024-03-15",
            "2019 2020 2021 2022",
            "978-3-16-148410-0",
            "4006381333931",
            "+4915112345678",
            "0x3d39880000000000",
            "550e8400-e29b-41d4-a716-446655440000",
            "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16",
        ],
    );
}

#[test]
fn account_numbers_need_their_check_digits_length_and_country_form() {
    let valid = [
        "DE89370400440532013000",
        "de89 3704 0044 0532 0130 00",
        "DE 89 3704 0044 0532 0130 00",
        "GB29 NWBK 6016 1331 9268 19",
        "FR14 2004 1010 0505 0001 3M02 606",
        "NO93 8601 1117 947",
        "MT84MALT011000012345MTLCAST001S",
        "CH93-0076-2011-6238-5295-7",
        "iban:NL91ABNA0417164300.",
    ];
    finds("iban/mod97", &valid);
    silent(
        "iban",
        &[
            "DE88370400440532013000",
            "DE8937040044053201300",
            "DE893704004405320130001",
            "XDE89370400440532013000",
            "GB29 1234 6016 1331 9268 19",
            "US89370400440532013000",
            "no12 apples and 15 pears",
        ],
    );
    let digits = "DE89370400440532013000";
    for at in 2..digits.len() {
        for digit in b'0'..=b'9' {
            let mut wrong = digits.as_bytes().to_vec();
            if wrong[at] != digit {
                wrong[at] = digit;
                silent("iban", &[&String::from_utf8(wrong).expect("digits")]);
            }
        }
    }
}

#[test]
fn addresses_are_found_whole_and_ten_of_them_are_a_list() {
    assert_eq!(
        found("Mail anna.keller+x@mail.example.org."),
        [("email/form", "anna.keller+x@mail.example.org".to_owned())]
    );
    finds(
        "email/form",
        &["<a@b.io>", "jörg@müller.de", "o'brien@example.ie"],
    );
    silent(
        "email",
        &[
            "a@b",
            "@home",
            "meet @ 5.30",
            "user@host",
            "x @example.org",
            "1@2.3",
            "@types/node@18.2.1",
        ],
    );
    let list = |count: usize| {
        let addresses: Vec<_> = (0..count).map(|n| format!("user{n}@example.org")).collect();
        addresses.join(" ")
    };
    assert_eq!(level(&list(9)), PrivacyLevel::Internal);
    assert_eq!(level(&list(10)), PrivacyLevel::Confidential);
    assert_eq!(
        level(&"same@example.org ".repeat(50)),
        PrivacyLevel::Internal
    );
}

#[test]
fn phone_numbers_need_a_form_or_a_word() {
    finds(
        "phone/form",
        &[
            "+49 30 1234567",
            "+1 (415) 555-0123",
            "+33612345678",
            "(415) 555-0123",
            "phone: 030 1234567",
            "ruf mich an, Handy 0151 23456789",
            "Tel. 089/1234567",
        ],
    );
    silent(
        "phone",
        &[
            "030 1234567",
            "+5",
            "+12 apples",
            "order 4155550123",
            "1234567",
            "10.15.7.1",
            "a + 1234567",
            "1.2345E+12345680",
        ],
    );
    let list: Vec<_> = (0..10).map(|n| format!("+49 30 123456{n}")).collect();
    assert_eq!(level(&list.join("; ")), PrivacyLevel::Confidential);
}

#[test]
fn social_security_numbers_follow_the_rules_of_assignment() {
    finds(
        "ssn/form",
        &[
            "536-22-1234",
            "SSN 536 22 1234",
            "social security number: 536221234",
        ],
    );
    silent(
        "ssn",
        &[
            "000-22-1234",
            "666-22-1234",
            "936-22-1234",
            "536-00-1234",
            "536-22-0000",
            "078-05-1120",
            "219-09-9999",
            "536 22 1234",
            "536221234",
            "1-536-22-1234",
            "536-22-12345",
        ],
    );
    assert_eq!(level("536-22-1234"), PrivacyLevel::Restricted);
}

#[test]
fn a_date_of_birth_needs_its_word() {
    finds(
        "birth/date",
        &[
            "Date of birth: 1979-02-03",
            "Geburtsdatum 3.2.1979",
            "DOB 02/03/79",
        ],
    );
    silent(
        "birth",
        &[
            "1979-02-03",
            "What is a date of birth? 10-12-1999",
            "dob 12",
            "date of birth: 99.99.1979",
        ],
    );
}

#[test]
fn credentials_with_a_form_are_restricted() {
    let random = "aB3dE5fG7hI9jK1lM2nO4pQ6rS8tU0vW2xY4zA6bC8dE0fG2hI4jK6lM8nO0";
    let cases = [
        "AKIAIOSFODNN7EXAMPLE".to_owned(),
        format!("ghp_{}", &random[..36]),
        format!("github_pat_{}_{random}", &random[..22]),
        format!("glpat-{}", &random[..20]),
        "xoxb-123456789012-1234567890123-aBcDeFgHiJkL".to_owned(),
        format!("sk_live_{}", &random[..24]),
        format!("sk-{}", &random[..48]),
        format!("sk-proj-{}", &random[..48]),
        format!("sk-ant-api03-{}", &random[..48]),
        format!("AIza{}", &random[..35]),
        format!("hf_{}", &random[..34]),
        format!("npm_{}", &random[..36]),
        format!("SG.{}.{}", &random[..22], &random[..43]),
        format!("AccountKey={}==", &random[..50]),
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEAy8Dbv8prpJ/0kKhlGeJYozo2t60EG8EM\n-----END RSA PRIVATE KEY-----".to_owned(),
        "-----BEGIN OPENSSH PRIVATE KEY-----\\nb3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAA\\n".to_owned(),
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm5hIn0.c2lnbmF0dXJl".to_owned(),
        "Authorization: Basic am9lOnMzY3IzdHB3OQ==".to_owned(),
        format!("authorization: bearer {}", &random[..32]),
        "postgres://app:n0tAg00dOne@db.internal:5432/app".to_owned(),
        "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYzzQ1rT9uVw".to_owned(),
    ];
    for case in &cases {
        assert_eq!(
            level(case),
            PrivacyLevel::Restricted,
            "{case}: {:?}",
            found(case)
        );
        finds_credential(&format!("please use {case} now"));
    }
    assert_eq!(
        level(&format!("sk_test_{}", &random[..24])),
        PrivacyLevel::Confidential
    );
}

#[track_caller]
fn finds_credential(text: &str) {
    let found = found(text);
    assert!(
        found.iter().any(|(id, _)| id.starts_with("credential/")),
        "{text}: {found:?}"
    );
}

#[test]
fn placeholders_public_keys_and_lookalikes_are_no_credentials() {
    silent(
        "credential",
        &[
            "sk-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
            "sk-proj-...",
            "AKIA",
            "task-management-is-a-very-long-compound-word-indeed",
            "akiaiosfodnn7example",
            "-----BEGIN PUBLIC KEY-----\nMIIEowIBAAKCAQEAy8Dbv8prpJ/0kKhlGeJYozo2t60EG8EM",
            "-----BEGIN CERTIFICATE-----\nMIIEowIBAAKCAQEAy8Dbv8prpJ/0kKhlGeJYozo2t60EG8EM",
            "What does -----BEGIN PRIVATE KEY----- mean?",
            "eyJhbGciOiJIUzI1NiJ9",
            "eyJub3RhbGciOiJub25lIn0.eyJzdWIiOiJhbm5hIn0.c2lnbmF0dXJl",
            "Authorization: Bearer YOUR_API_KEY_1234567",
            "the bearer of this letter",
            "Basic knowledge of cooking",
            "https://user:password@example.org",
            "https://user:${PASSWORD}@example.org",
            "https://example.org/a:b@c",
            "https://example.org:8080/path",
        ],
    );
}

#[test]
fn assigned_secrets_are_confidential_and_their_placeholders_nothing() {
    finds(
        "secret/assigned",
        &[
            "password: Tr0ub4dor&3",
            "PASSWORD='hunter22x'",
            "db_password = \"s3cr3t-Pass!\"",
            "\"api_key\": \"9f8e7d6c5b4a39281706f5e4d3c2b1a0\"",
            "the password is hunter2x9.",
            "Das Passwort lautet Sommer2031!",
            "client_secret=Zq8rT5wXy2vB7nM4kL9p",
        ],
    );
    silent(
        "secret",
        &[
            "password: string",
            "password = os.environ['DB_PASSWORD']",
            "password: <your password>",
            "PASSWORD=changeme1",
            "password: ********",
            "password: ${DB_PASSWORD}",
            "token: str = None",
            "max_tokens: 4096",
            "The secret is to stir slowly.",
            "password must be at least 12 characters",
            "forgot password? click here",
            "api_key: YOUR_API_KEY_HERE_12345678",
            "token = request.headers.get('x')",
            "[`TokenStream`]: https://docs.rs/proc-macro2/1.0/struct.TokenStream.html",
        ],
    );
}

#[test]
fn health_needs_a_person_to_be_sensitive() {
    finds(
        "health/person",
        &[
            "I have been living with HIV since 2009",
            "my depression got worse because of the new job",
            "Ich leide an Epilepsie.",
            "meine Schwester hat Brustkrebs",
            "Mr. Smith, our driver, suffers from epilepsy",
            "Patient: Anna Keller, 1979-02-03, diabetes mellitus",
            "I am pregnant and tired",
            "Maria Lopez was diagnosed with leukemia",
        ],
    );
    finds(
        "health/record",
        &[
            "the patient has asthma",
            "Diagnosis: pneumonia",
            "She was diagnosed with lymphoma",
        ],
    );
    silent(
        "health",
        &[
            "What is diabetes?",
            "Wie entsteht Krebs?",
            "How many people suffer from depression worldwide?",
            "Ein Drittel der Deutschen hat Bluthochdruck.",
            "The Great Depression began in 1929.",
            "I am writing an essay about HIV.",
            "my diabetes homework is due",
            "My favorite book explains how insulin was found.",
            "I was wondering whether coffee causes cancer",
            "We build a dataset for autism research",
            "Is a person diagnosed with asthma allowed to dive?",
        ],
    );
}

#[test]
fn money_needs_an_owner_or_an_amount() {
    finds(
        "finance/person",
        &[
            "my salary",
            "Mein Gehalt ist zu niedrig",
            "my husband's credit score",
            "I have debt",
        ],
    );
    finds(
        "finance/amount",
        &[
            "salary: 65,000 EUR",
            "Kontostand 1.234,56",
            "a loan of 20000 dollars",
        ],
    );
    silent(
        "finance",
        &[
            "How do loans work?",
            "What is a mortgage?",
            "the average salary is 50,000",
            "Salaries rose in 2023.",
            "write a function for a loan calculator",
            "es lohnt sich 100 mal",
            "an apartment rented for 1200",
        ],
    );
}
