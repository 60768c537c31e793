//! Markings of documents.

use mesh_core::PrivacyLevel;

use super::level;

#[test]
fn markings_raise_and_the_word_in_a_sentence_does_not() {
    for (text, expected) in [
        ("TLP:RED", PrivacyLevel::Restricted),
        ("tlp:amber", PrivacyLevel::Confidential),
        ("TLP:GREEN", PrivacyLevel::Internal),
        ("TLP:CLEAR", PrivacyLevel::Public),
        ("STRENG VERTRAULICH", PrivacyLevel::Restricted),
        ("Strictly confidential draft", PrivacyLevel::Restricted),
        ("CONFIDENTIAL report", PrivacyLevel::Confidential),
        ("Confidential: plan", PrivacyLevel::Confidential),
        ("a\n**Vertraulich**\nb", PrivacyLevel::Confidential),
        ("For internal use only", PrivacyLevel::Internal),
        ("Is this confidential?", PrivacyLevel::Public),
        ("a confidential talk", PrivacyLevel::Public),
        ("my top secret pancake recipe", PrivacyLevel::Public),
    ] {
        assert_eq!(level(text), expected, "{text}");
    }
}
