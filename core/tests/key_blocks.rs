//! Published key blocks open to their keys and are made again; what was changed is refused.
#![allow(clippy::unwrap_used, reason = "a vector that cannot be read must fail the run")]

mod support;

use serde_json::{Value, json};
use support::{bytes, bytes_if_any, run, text};
use warifu_core::key::KeyBytes;
use warifu_core::key_block::content::Content;
use warifu_core::key_block::{
    Algorithm, BlockId, Header, Kbpk, KeyBlock, Material, Mode, PaddingLen, Protection, UnwrapError, Unwrapped, Usage,
    Version, Warning, WrapError,
};
use warifu_core::secret::SecretBytes;

#[test]
fn every_published_key_block_opens_to_its_key() {
    run("tr31", &[("tr31_unwrap", 26), ("tr31_bad_header", 24), ("tr31_tampered", 4)], check);
    run("key_blocks", &[("tr31_unwrap", 2), ("tr31_bad_key", 6)], check);
}

fn check(kind: &str, record: &Value) {
    match kind {
        "tr31_unwrap" => opens(record),
        "tr31_bad_header" => {
            let header = text(record, "header");
            assert!(Header::parse(header).is_err(), "{}", text(record, "reason"));
            assert!(KeyBlock::parse(&format!("{header}{}", "00".repeat(40))).is_err(), "with a key behind it");
        }
        "tr31_tampered" => {
            let block = KeyBlock::parse(text(record, "key_block")).unwrap();
            let refused = block.unwrap_key(&protection(&block, &bytes(record, "kbpk"))).err();
            assert_eq!(refused, Some(UnwrapError::NotAuthentic));
        }
        "tr31_bad_key" => {
            let block = KeyBlock::parse(text(record, "key_block")).unwrap();
            let refused = block.unwrap_key(&protection(&block, &bytes(record, "kbpk"))).err();
            assert_eq!(refused, Some(UnwrapError::KeyLength), "{}", text(record, "reason"));
        }
        other => panic!("unknown kind {other}"),
    }
}

fn opens(record: &Value) {
    reads_all(record);
    let published = text(record, "key_block");
    let block = KeyBlock::parse(published).unwrap();
    assert_eq!(block.to_string(), published);
    let header = block.header();
    let fields = &record["header_fields"];
    assert_eq!(json!(block.text_len()), fields["length"]);
    assert_eq!(json!(header.optional().len()), fields["num_opt"]);
    for (field, value) in [
        ("version", header.version().to_string()),
        ("key_usage", header.usage().to_string()),
        ("algorithm", header.algorithm().to_string()),
        ("mode_of_use", header.mode().to_string()),
        ("key_version", header.key_version().to_string()),
        ("exportability", header.exportability().to_string()),
        ("reserved", header.last_characters()),
    ] {
        assert_eq!(json!(value), fields[field], "{field}");
    }
    let optional: Value =
        header.optional().iter().map(|block| json!({"id": block.id().to_string(), "data": block.content()})).collect();
    assert_eq!(optional, record["optional_blocks"]);
    assert_eq!(header.text(block.text_len()), text(record, "header"));
    assert_eq!(json!(header.version().to_string()), record["version"]);

    let protection = protection(&block, &bytes(record, "kbpk"));
    let unwrapped = block.unwrap_key(&protection).unwrap();
    assert_eq!(hex::encode_upper(unwrapped.key().bytes().expose()), text(record, "key"));
    if let Some(kcv) = record["kcv"].as_str() {
        let computed = unwrapped.key().kcv(header.algorithm()).unwrap().to_string();
        assert!(computed.starts_with(kcv), "{computed} is not {kcv}");
    }
    made_again(record, &block, &unwrapped, &protection);
}

/// Byte for byte where the padding is known, else to the same key; from the header alone too.
fn made_again(record: &Value, block: &KeyBlock, unwrapped: &Unwrapped, protection: &Protection) {
    let header = Header::parse(text(record, "header")).unwrap();
    assert_eq!(&header, block.header());
    if let Some(padding) = bytes_if_any(record, "random_pad") {
        assert_eq!(padding, bytes_if_any(record, "random_seed").unwrap_or(padding.clone()));
        let again = KeyBlock::wrap_as_is(&header, unwrapped.key(), protection, &padding).unwrap();
        assert_eq!(again.to_string(), text(record, "key_block"));
    }
    let padding = vec![0xA5; PaddingLen::Hiding.of(header.version(), header.algorithm(), unwrapped.key())];
    let again = KeyBlock::wrap_as_is(&header, unwrapped.key(), protection, &padding).unwrap();
    let key = again.unwrap_key(protection).unwrap();
    assert!(key.key().bytes().ct_eq(unwrapped.key().bytes()));
    let strict = KeyBlock::wrap(&header, unwrapped.key(), protection, &padding);
    assert_eq!(strict.is_ok(), unwrapped.warnings().iter().all(|warning| warning.is_allowed()), "{strict:?}");
}

/// Fails on a field no check reads. The words for people are not read.
fn reads_all(record: &Value) {
    let read = ["version", "kbpk", "header", "header_fields", "optional_blocks", "key", "key_block", "kcv"];
    let more = ["random_pad", "random_seed", "id", "kind", "source", "note", "key_is"];
    for field in record.as_object().unwrap().keys() {
        assert!(read.iter().chain(&more).any(|known| known == field), "nobody reads {field}");
    }
}

/// The keys of a block's own version.
fn protection(block: &KeyBlock, kbpk: &[u8]) -> Protection {
    protection_of(block.header().version(), kbpk)
}

fn protection_of(version: Version, kbpk: &[u8]) -> Protection {
    let kbpk = Kbpk::new(version.cipher(), KeyBytes::copied(kbpk).unwrap()).unwrap();
    Protection::new(version, &kbpk).unwrap()
}

fn published(id: &str) -> (KeyBlock, Protection, Value) {
    let records = [support::records("tr31", 54), support::records("key_blocks", 8)].concat();
    let record = records.into_iter().find(|record| record["id"] == id).unwrap();
    let block = KeyBlock::parse(text(&record, "key_block")).unwrap();
    let protection = protection(&block, &bytes(&record, "kbpk"));
    (block, protection, record)
}

#[test]
fn what_published_blocks_have_otherwise_is_told() {
    let warnings = |id| {
        let (block, protection, _) = published(id);
        block.unwrap_key(&protection).unwrap().warnings().to_vec()
    };
    assert_eq!(warnings("tr31-x9143-81"), []);
    assert_eq!(warnings("tr31-x9143-841"), []);
    assert_eq!(warnings("tr31-x9143-86"), [], "its KP is that of its protection key");
    assert_eq!(warnings("tr31-payshield-A"), [Warning::Version(Version::A)]);
    assert_eq!(warnings("tr31-psec-02-B"), [Warning::SingleDes]);
    assert_eq!(warnings("tr31-psec-12-A"), [Warning::Version(Version::A), Warning::Content(BlockId::KS)]);
    let told = warnings("tr31-paysec-aes_256_no_optional_blocks_masked_length");
    assert!(matches!(told[..], [Warning::UsageMode(Usage::InitialKey, _), Warning::KeyLength(_, 256)]), "{told:?}");
}

#[test]
fn the_optional_blocks_of_the_standards_example_have_their_meaning() {
    let (block, _, _) = published("tr31-x9143-86");
    let find = |id| block.header().find(id).unwrap().meaning();
    assert_eq!(find(BlockId::TS), Content::TimeStamp("20200818004100Z"));
    assert!(matches!(find(BlockId::KP), Content::KbpkCheckValue(value) if value.digits == "2331550BC9"));
    assert_eq!(find(BlockId::PB), Content::Padding);
    let unknown = BlockId::new(*b"CT").unwrap();
    assert!(matches!(find(unknown), Content::Other(text) if text.len() == 0x05CC - 10), "kept as it is");
}

#[test]
fn one_flipped_bit_anywhere_is_refused() {
    for id in [
        "tr31-payshield-A",
        "tr31-psec-11-B",
        "tr31-tr31-2018-A731",
        "tr31-paysec-aes_128_two_optional_blocks",
        "tr31-iso20038-B2",
    ] {
        let (_, _, record) = published(id);
        let (text, kbpk) = (text(&record, "key_block"), bytes(&record, "kbpk"));
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut changed = text.as_bytes().to_vec();
                changed[at] ^= 1 << bit;
                // What is no text is no key block; the rest must not open under any version's keys.
                let Ok(changed) = String::from_utf8(changed) else { continue };
                assert!(!opens_somehow(&changed, &kbpk), "{id}: character {at}, bit {bit}: {changed}");
            }
        }
    }
}

#[test]
fn one_other_character_anywhere_is_refused() {
    let (_, _, record) = published("tr31-payshield-B");
    let (text, kbpk) = (text(&record, "key_block"), bytes(&record, "kbpk"));
    for at in 0..text.len() {
        for character in b' '..=b'~' {
            let mut changed = text.as_bytes().to_vec();
            if std::mem::replace(&mut changed[at], character) != character {
                let changed = String::from_utf8(changed).unwrap();
                assert!(!opens_somehow(&changed, &kbpk), "character {at}: {changed}");
            }
        }
        let (cut, longer) = (&text[..at], format!("{text}{}", &text[at..]));
        assert!(!opens_somehow(cut, &kbpk) && !opens_somehow(&longer, &kbpk), "cut or longer at {at}");
    }
}

fn opens_somehow(text: &str, kbpk: &[u8]) -> bool {
    let Ok(block) = KeyBlock::parse(text) else { return false };
    let Ok(kbpk) = Kbpk::new(block.header().version().cipher(), KeyBytes::copied(kbpk).unwrap()) else { return false };
    let protection = Protection::new(block.header().version(), &kbpk).unwrap();
    block.unwrap_key(&protection).is_ok()
}

#[test]
fn small_letters_are_read_where_all_are_small() {
    let (_, protection, record) = published("tr31-payshield-B");
    let (header, sealed) = text(&record, "key_block").split_at(16);
    let block = KeyBlock::parse(&format!("{header}{}", sealed.to_lowercase())).unwrap();
    let unwrapped = block.unwrap_key(&protection).unwrap();
    assert_eq!(hex::encode_upper(unwrapped.key().bytes().expose()), text(&record, "key"));
    assert_eq!(unwrapped.warnings(), [Warning::SmallLetters]);
}

#[test]
fn the_keys_of_another_version_open_nothing() {
    let (block, _, record) = published("tr31-payshield-B");
    let kbpk = bytes(&record, "kbpk");
    for version in [Version::A, Version::C, Version::D, Version::E] {
        let refused = block.unwrap_key(&protection_of(version, &kbpk)).err();
        assert_eq!(refused, Some(UnwrapError::Version(version)));
    }
}

#[test]
fn a_key_for_another_use_is_refused() {
    let (block, protection, _) = published("tr31-tr31-2018-A722");
    let opened = || block.unwrap_key(&protection).unwrap();
    assert!(opened().for_use(Usage::Pin, Algorithm::Tdes, Mode::Encrypt).is_ok());
    let wanted = Usage::Data;
    let refused = opened().for_use(wanted, Algorithm::Tdes, Mode::Encrypt).err();
    assert_eq!(refused, Some(UnwrapError::Usage { is: Usage::Pin, wanted }));
    let wanted = Algorithm::Aes;
    let refused = opened().for_use(Usage::Pin, wanted, Mode::Encrypt).err();
    assert_eq!(refused, Some(UnwrapError::Algorithm { is: Algorithm::Tdes, wanted }));
    let wanted = Mode::Decrypt;
    let refused = opened().for_use(Usage::Pin, Algorithm::Tdes, wanted).err();
    assert_eq!(refused, Some(UnwrapError::Mode { is: Mode::Encrypt, wanted }));
}

#[test]
fn a_component_is_no_key_to_use() {
    let header = Header::parse("B0000P0TEc2N0000").unwrap();
    let (protection, key) = (protection_of(Version::B, &kbpk(16)), material(&[0x5C; 16]));
    let block = KeyBlock::wrap(&header, &key, &protection, &padding(&header, &key)).unwrap();
    let opened = block.unwrap_key(&protection).unwrap();
    assert_eq!(opened.warnings(), []);
    let refused = opened.for_use(Usage::Pin, Algorithm::Tdes, Mode::Encrypt).err();
    assert_eq!(refused, Some(UnwrapError::Component('2')));
}

#[test]
fn a_protection_key_of_equal_parts_opens_and_makes_nothing() {
    let header = Header::parse("B0000P0TE00N0000").unwrap();
    let key = material(&[0x5C; 16]);
    let padding = padding(&header, &key);
    // The second differs in parity bits alone.
    for (parts, bits) in [(&[0x3A, 0x3A][..], 56), (&[0x3A, 0x3B], 56), (&[0x3A, 0x5C, 0x3B], 80)] {
        let kbpk: Vec<u8> = parts.iter().flat_map(|byte| [*byte; 8]).collect();
        let protection = protection_of(Version::B, &kbpk);
        let refused = KeyBlock::wrap(&header, &key, &protection, &padding).err();
        assert_eq!(refused, Some(WrapError::NotStandard(Warning::KbpkParts(bits))), "{parts:X?}");
        let block = KeyBlock::wrap_as_is(&header, &key, &protection, &padding).unwrap();
        let opened = block.unwrap_key(&protection).unwrap();
        assert!(opened.key().bytes().ct_eq(key.bytes()));
        assert_eq!(opened.warnings(), [Warning::KbpkParts(bits)], "{parts:X?}");
    }
}

#[test]
fn a_key_that_came_to_stay_does_not_leave() {
    let exports = |id| {
        let (block, protection, _) = published(id);
        block.unwrap_key(&protection).unwrap().for_export().err()
    };
    assert_eq!(exports("tr31-tr31-2018-A722"), None);
    assert_eq!(exports("tr31-x9143-841"), None);
    assert_eq!(exports("tr31-payshield-B"), Some(UnwrapError::NotExportable));
}

#[test]
fn a_key_stronger_than_its_protection_is_refused_both_ways() {
    for (header, kbpk_len, key_len) in [
        ("B0000P0TE00N0000", 16, 24),
        ("B0000P0AE00N0000", 24, 16),
        ("C0000P0AE00N0000", 16, 16),
        ("D0000P0AE00N0000", 16, 24),
        ("D0000P0AE00N0000", 24, 32),
        ("D0000M7HC00N0100HM0621", 16, 20),
    ] {
        let header = Header::parse(header).unwrap();
        let protection = protection_of(header.version(), &kbpk(kbpk_len));
        let key = material(&vec![0x5C; key_len]);
        let padding = padding(&header, &key);
        let refused = KeyBlock::wrap(&header, &key, &protection, &padding).err();
        assert_eq!(refused, Some(WrapError::WeakProtection), "{header:?}");
        let block = KeyBlock::wrap_as_is(&header, &key, &protection, &padding).unwrap();
        assert_eq!(block.unwrap_key(&protection).err(), Some(UnwrapError::WeakProtection), "{header:?}");
    }
}

#[test]
fn what_the_standard_does_not_have_is_not_made() {
    for (header, warning) in [
        ("A0000P0TE00N0000", Warning::Version(Version::A)),
        ("E0000P0TE00N0000", Warning::Version(Version::E)),
        ("D0000M7HC00N0000", Warning::HashUnsaid),
        ("D0000B0AX00N0100DA09P0AEN", Warning::OptionalElsewhere(BlockId::DA)),
        ("D0000S0RT00N0000", Warning::UsageMode(Usage::Signature, Mode::SignDecrypt)),
        ("B0000P0TE00N0100QQ04", Warning::Optional(BlockId::new(*b"QQ").unwrap())),
        ("B0000P0TE00Q0000", Warning::Exportability),
        ("B0000P0TE00N0001", Warning::Reserved),
        ("B0000P0TE00N0200LB05aLB05b", Warning::Repeated(BlockId::LB)),
        ("B0000P0TE00N0100LB000109a", Warning::LengthForm(BlockId::LB)),
        ("B0000P0TE00N0100KS0600", Warning::Content(BlockId::KS)),
        ("B0000P0TE00N0100KC0C00000000", Warning::KeyCheckValue),
        ("B0000P0TE00N0100KP0C00000000", Warning::KbpkCheckValue),
        ("B0000P0TE00N0100KP1001000000FF00", Warning::KbpkCheckValue),
    ] {
        let header = Header::parse(header).unwrap();
        let protection = protection_of(header.version(), &kbpk(16));
        let key = material(&[0x5C; 16]);
        let refused = KeyBlock::wrap(&header, &key, &protection, &padding(&header, &key)).err();
        assert_eq!(refused, Some(WrapError::NotStandard(warning)), "{header:?}");
    }
    let header = Header::parse("D0000P0AE00N0000").unwrap();
    let protection = protection_of(Version::D, &[0x3A; 32]);
    let short = KeyBlock::wrap(&header, &material(&[7; 15]), &protection, &[0; 15]).err();
    assert!(matches!(short, Some(WrapError::NotStandard(Warning::KeyLength(_, 120)))), "{short:?}");
    let part = KeyBlock::wrap(&header, &material(&[7; 16]), &protection, &[0; 13]).err();
    assert_eq!(part, Some(WrapError::Padding));
    let header = Header::parse("D0000S0RS00N0000").unwrap();
    let key = material(&[7; 5000]);
    let long = KeyBlock::wrap(&header, &key, &protection, &padding(&header, &key)).err();
    assert_eq!(long, Some(WrapError::TooLong));
}

#[test]
fn blocks_of_one_algorithm_do_not_tell_how_long_the_key_is() {
    for (header, lens) in [("B0000P0TE00N0000", [8, 16, 24]), ("D0000P0AE00N0000", [16, 24, 32])] {
        let header = Header::parse(header).unwrap();
        let made = lens.map(|len| {
            let key = material(&vec![0x5C; len]);
            let protection = protection_of(header.version(), &[0x3A; 24]);
            KeyBlock::wrap_as_is(&header, &key, &protection, &padding(&header, &key)).unwrap().text_len()
        });
        assert!(made.iter().all(|len| *len == made[0]), "{made:?}");
    }
}

/// A protection key whose parts differ.
fn kbpk(len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| {
            if at < 8 {
                0x3A
            } else if at < 16 {
                0x5C
            } else {
                0x9E
            }
        })
        .collect()
}

fn material(bytes: &[u8]) -> Material {
    Material::new(SecretBytes::copied(bytes)).unwrap()
}

fn padding(header: &Header, key: &Material) -> Vec<u8> {
    vec![0x11; PaddingLen::Hiding.of(header.version(), header.algorithm(), key)]
}
