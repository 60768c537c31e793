//! Values written so that they are easy to miss.

use super::{finds, found, silent};

#[test]
fn disguised_values_are_found_and_point_at_the_original_bytes() {
    for (text, value) in [
        (
            "n 4111\u{200b}1111\u{200b}1111\u{200b}1111 x",
            "4111\u{200b}1111\u{200b}1111\u{200b}1111",
        ),
        ("n 4\u{ad}111111111111111 x", "4\u{ad}111111111111111"),
        (
            "n ４１１１１１１１１１１１１１１１ x",
            "４１１１１１１１１１１１１１１１",
        ),
        (
            "n 4111\u{a0}1111\u{2009}1111\u{202f}1111 x",
            "4111\u{a0}1111\u{2009}1111\u{202f}1111",
        ),
        ("n 4111–1111–1111–1111 x", "4111–1111–1111–1111"),
        ("n ٤١١١١١١١١١١١١١١١ x", "٤١١١١١١١١١١١١١١١"),
        ("n 𝟒𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏 x", "𝟒𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏𝟏"),
        ("n 4111\u{e0020}111111111111 x", "4111\u{e0020}111111111111"),
        ("n 4111\u{1}111111111111 x", "4111\u{1}111111111111"),
    ] {
        assert!(
            found(text).contains(&("card/luhn", value.to_owned())),
            "{text:?}: {:?}",
            found(text)
        );
    }
    finds(
        "iban/mod97",
        &["DE89\u{200b}3704\u{200b}0044\u{200b}0532\u{200b}0130\u{200b}00"],
    );
    finds(
        "email/form",
        &["anna\u{200b}@exam\u{ad}ple.org", "ａｎｎａ＠example.org"],
    );
    finds("credential/aws-key-id", &["AKIA\u{200b}IOSFODNN7EXAMPLE"]);
}

#[test]
fn a_value_with_trailing_invisible_characters_is_still_found_in_the_raw_text() {
    finds("card/luhn", &["4111111111111111\u{200b}9"]);
}

#[test]
fn a_card_number_broken_over_lines_or_written_as_a_list_is_found() {
    finds(
        "card/luhn",
        &[
            "4111\n1111\n1111\n1111",
            "my card:\n4111 1111\n1111 1111",
            "4111\r\n1111\r\n1111\r\n1111",
            "4111, 1111, 1111, 1111",
        ],
    );
    silent(
        "card",
        &["2019, 2020, 2021, 2022", "1234\n5678\n9012\n3456"],
    );
}
