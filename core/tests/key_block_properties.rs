//! Whatever key, header and padding: what is wrapped unwraps to the same, and nothing else opens.
#![allow(clippy::unwrap_used, reason = "a block that cannot be made must fail the run")]

use proptest::prelude::*;
use proptest::sample::{Index, select};
use warifu_core::key::KeyBytes;
use warifu_core::key_block::{Header, Kbpk, KeyBlock, Material, PaddingLen, Protection, UnwrapError, Version};
use warifu_core::secret::SecretBytes;

/// What a block is made of.
#[derive(Clone, Debug)]
struct Parts {
    header: Header,
    kbpk: Vec<u8>,
    key: Vec<u8>,
    bits: usize,
    padding: Vec<u8>,
}

impl Parts {
    fn protection(&self) -> Protection {
        protection(self.header.version(), &self.kbpk)
    }

    fn key(&self) -> Material {
        Material::of_bits(self.bits, SecretBytes::copied(&self.key)).unwrap()
    }

    fn wrap(&self) -> KeyBlock {
        KeyBlock::wrap_as_is(&self.header, &self.key(), &self.protection(), &self.padding).unwrap()
    }
}

fn protection(version: Version, kbpk: &[u8]) -> Protection {
    let kbpk = Kbpk::new(version.cipher(), KeyBytes::copied(kbpk).unwrap()).unwrap();
    Protection::new(version, &kbpk).unwrap()
}

/// Algorithm and length, where the strongest protection key of every version protects it.
fn any_key() -> impl Strategy<Value = (&'static str, usize)> {
    prop_oneof![
        select(&[("T", 64), ("T", 128), ("T", 192), ("D", 64), ("A", 128), ("A", 192), ("A", 256)][..]),
        (1usize..=2000).prop_map(|bits| ("H", bits)),
        (1usize..=300).prop_map(|bytes| ("R", 8 * bytes)),
    ]
}

fn any_optional() -> impl Strategy<Value = String> {
    let block = prop_oneof![
        Just("KS1800604B120F9292800000".to_owned()),
        Just("IK14FFFF987654321000".to_owned()),
        Just("TS1320200818221218Z".to_owned()),
        "[A-Z][0-9]"
            .prop_flat_map(|id| "[ -~]{0,90}".prop_map(move |text| format!("{id}{:02X}{text}", text.len() + 4))),
        "[ -~]{0,90}".prop_map(|text| format!("LB0002{:04X}{text}", text.len() + 10)),
        "[ -~]{250,400}".prop_map(|text| format!("LB0002{:04X}{text}", text.len() + 10)),
    ];
    prop::collection::vec(block, 0..4).prop_map(|blocks| format!("{:02}00{}", blocks.len(), blocks.concat()))
}

fn any_parts() -> impl Strategy<Value = Parts> {
    let version = select(&Version::ALL[..]);
    let bytes = || any::<[u8; 32]>();
    (version, any_key(), any_optional(), bytes(), select(&[16usize, 24, 32][..]), bytes(), 0usize..6).prop_map(
        |(version, (algorithm, bits), optional, kbpk, kbpk_len, seed, more)| {
            let header = format!("{version}0000D0{algorithm}N00E{optional}");
            let header = Header::parse(&header).unwrap();
            let key: Vec<u8> = seed.iter().copied().cycle().take(bits.div_ceil(8)).collect();
            let material = Material::of_bits(bits, SecretBytes::copied(&key)).unwrap();
            let least = PaddingLen::Least.of(version, header.algorithm(), &material);
            let padding = seed.iter().rev().copied().cycle().take(least + more * version.data_unit()).collect();
            let kbpk_len = if version.block_len() == 8 { kbpk_len.min(24) } else { kbpk_len };
            Parts { header, kbpk: kbpk[..kbpk_len].to_vec(), key, bits, padding }
        },
    )
}

proptest! {
    #[test]
    fn what_is_wrapped_unwraps_to_the_same(parts in any_parts()) {
        let block = KeyBlock::parse(&parts.wrap().to_string()).unwrap();
        prop_assert!(block.header().text(block.text_len()).len().is_multiple_of(8));
        match block.unwrap_key(&parts.protection()) {
            Ok(unwrapped) => {
                prop_assert_eq!(unwrapped.key().bytes().expose(), &parts.key[..]);
                prop_assert_eq!(usize::from(unwrapped.key().bits()), parts.bits);
                prop_assert_eq!(unwrapped.header(), block.header());
                let strict = KeyBlock::wrap(&parts.header, &parts.key(), &parts.protection(), &parts.padding);
                prop_assert!(strict.is_err() || strict.unwrap().to_string() == block.to_string());
            }
            Err(error) => prop_assert_eq!(error, UnwrapError::WeakProtection),
        }
    }

    #[test]
    fn a_block_reads_as_it_was_written(parts in any_parts()) {
        let text = parts.wrap().to_string();
        prop_assert_eq!(KeyBlock::parse(&text).unwrap().to_string(), text);
    }

    #[test]
    fn one_flipped_bit_is_refused(parts in any_parts(), at in any::<Index>(), bit in 0u8..7) {
        let mut text = parts.wrap().to_string().into_bytes();
        let at = at.index(text.len());
        text[at] ^= 1 << bit;
        prop_assert!(!opens(&String::from_utf8(text).unwrap(), &parts.kbpk));
    }

    #[test]
    fn another_protection_key_opens_nothing(parts in any_parts(), at in any::<Index>(), bit in 1u8..8) {
        let text = parts.wrap().to_string();
        let mut kbpk = parts.kbpk.clone();
        // Not the parity bit, which DES passes over.
        kbpk[at.index(parts.kbpk.len())] ^= 1 << bit;
        prop_assert!(!opens(&text, &kbpk));
    }

    #[test]
    fn no_rearranged_block_opens(
        parts in any_parts(), cut in any::<Index>(), end in any::<Index>(), put in "[ -~]{0,12}",
    ) {
        let text = parts.wrap().to_string();
        let (start, end) = (cut.index(text.len()), end.index(text.len() + 1));
        let mut changed = text.clone();
        changed.replace_range(start.min(end)..start.max(end), &put);
        prop_assume!(changed != text);
        prop_assert!(!opens(&changed, &parts.kbpk));
        // With a length that is right again, it is the MAC that refuses.
        if let Some(rest) = changed.get(5..).filter(|_| changed.is_ascii()) {
            let measured = format!("{}{:04}{rest}", &changed[..1], changed.len());
            prop_assert!(measured == text || !opens(&measured, &parts.kbpk));
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in ".{0,300}") {
        prop_assert!(KeyBlock::parse(&text).map_or(true, |block| block.to_string() == text));
    }

    #[test]
    fn anything_behind_a_header_is_read_or_refused(
        version in select(&Version::ALL[..]), count in 0u8..4, behind in "[0-9A-F]{0,200}", tail in "[ -~]{0,9}",
    ) {
        let text = format!("{version}{:04}P0TE00N{count:02}00{behind}{tail}", 16 + behind.len() + tail.len());
        if let Ok(block) = KeyBlock::parse(&text) {
            prop_assert_eq!(block.to_string(), &text[..]);
            prop_assert!(!opens(&text, &[0x3A; 16]));
        }
    }
}

fn opens(text: &str, kbpk: &[u8]) -> bool {
    let Ok(block) = KeyBlock::parse(text) else { return false };
    let version = block.header().version();
    let Ok(kbpk) = Kbpk::new(version.cipher(), KeyBytes::copied(kbpk).unwrap()) else { return false };
    match block.unwrap_key(&Protection::new(version, &kbpk).unwrap()) {
        Ok(_) | Err(UnwrapError::KeyLength | UnwrapError::WeakProtection) => true,
        Err(_) => false,
    }
}
