//! What the optional blocks with a meaning here say: check values, serial numbers, label, time (X9.143:2021 6.3.6.1 to
//! 6.3.6.15).

use super::digits::{hex, is_hex};
use super::optional::{BlockId, OptionalBlock, OptionalBlockError};
use crate::kcv::Kcv;
use crate::key::KeyBytes;
use crate::ksn::TdesKsn;
use crate::mac::tdes_cmac;

/// Characters of a TS or TC block's content: `YYYYMMDDhhmmssZ`, the same with hundredths, `YYYY-MM-DDThh:mm:ssZ`, the
/// same with `.ss`.
const TIME_FORMS: [&str; 4] =
    ["00000000000000Z", "0000000000000000Z", "0000-00-00T00:00:00Z", "0000-00-00T00:00:00.00Z"];
/// Hash codes of an HM block: SHA-1, SHA-2, SHA-3, SHAKE (X9.143:2021 table 13).
const HASHES: [&str; 13] = ["10", "20", "21", "22", "23", "24", "25", "30", "31", "32", "33", "40", "41"];
const LEGACY: &str = "00";
const CMAC: &str = "01";

/// The content of an optional block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// KC: check value of the key in the block.
    KeyCheckValue(CheckValue<'a>),
    /// KP: check value of the protection key.
    KbpkCheckValue(CheckValue<'a>),
    /// KS: key serial number of a TDES DUKPT initial key, in hex.
    KeySerialNumber(&'a str),
    /// IK: initial key id of AES DUKPT, in hex.
    InitialKeyId(&'a str),
    /// LB: a label.
    Label(&'a str),
    /// TS: when the block was made, in UTC.
    TimeStamp(&'a str),
    /// PB: nothing.
    Padding,
    /// Not known here, or not as the standard has it.
    Other(&'a str),
}

/// A check value as a block writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckValue<'a> {
    /// How it was computed.
    pub method: CheckMethod,
    /// Its first bytes, in hex.
    pub digits: &'a str,
}

/// How a check value is computed (X9.24-1:2017 annex A).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckMethod {
    /// A block of zeros, encrypted. At most 3 bytes are told.
    Legacy,
    /// The CMAC of a block of zeros. At most 5 bytes are told.
    Cmac,
}

impl CheckMethod {
    /// The check value of a triple DES key.
    ///
    /// # Panics
    /// As [`Kcv::tdes`].
    pub(super) fn of_tdes(self, key: &KeyBytes) -> Kcv {
        match self {
            Self::Legacy => Kcv::tdes(key),
            Self::Cmac => {
                let [a, b, c, d, e, ..] = tdes_cmac(key, &[0; 8]);
                Kcv::Cmac([a, b, c, d, e])
            }
        }
    }

    /// The check value of an AES key.
    pub(super) fn of_aes(self, key: &KeyBytes) -> Kcv {
        match self {
            Self::Legacy => Kcv::aes(key),
            Self::Cmac => Kcv::aes_cmac(key),
        }
    }
}

impl OptionalBlock {
    /// KC: the check value of the key in the block.
    pub fn key_check_value(kcv: Kcv) -> Self {
        Self::made(BlockId::KC, &check_value(kcv))
    }

    /// KP: the check value of the protection key.
    pub fn kbpk_check_value(kcv: Kcv) -> Self {
        Self::made(BlockId::KP, &check_value(kcv))
    }

    /// KS: the key serial number a TDES DUKPT initial key begins with.
    pub fn key_serial_number(ksn: &TdesKsn) -> Self {
        Self::made(BlockId::KS, &hex(ksn.with_counter(0).bytes()))
    }

    /// IK: the id of an AES DUKPT initial key.
    pub fn initial_key_id(id: [u8; 8]) -> Self {
        Self::made(BlockId::IK, &hex(&id))
    }

    /// LB: a label of printable ASCII.
    pub fn label(label: &str) -> Result<Self, OptionalBlockError> {
        Self::new(BlockId::LB, label)
    }

    /// TS: when the block was made, in one of the standard's forms: `20201231235959Z` or `2020-12-31T23:59:59Z`, either
    /// with hundredths of a second.
    pub fn time_stamp(time: &str) -> Option<Self> {
        is_time(time).then(|| Self::made(BlockId::TS, time))
    }

    /// What it says.
    pub fn meaning(&self) -> Content<'_> {
        let text = self.content();
        if !is_standard(self.id(), text) {
            return Content::Other(text);
        }
        match self.id() {
            BlockId::KC => CheckValue::read(text).map_or(Content::Other(text), Content::KeyCheckValue),
            BlockId::KP => CheckValue::read(text).map_or(Content::Other(text), Content::KbpkCheckValue),
            BlockId::KS => Content::KeySerialNumber(text),
            BlockId::IK => Content::InitialKeyId(text),
            BlockId::LB => Content::Label(text),
            BlockId::TS => Content::TimeStamp(text),
            BlockId::PB => Content::Padding,
            _ => Content::Other(text),
        }
    }
}

impl<'a> CheckValue<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (method, digits) = text.split_at_checked(2)?;
        let (method, max) = match method {
            LEGACY => (CheckMethod::Legacy, 6),
            CMAC => (CheckMethod::Cmac, 10),
            _ => return None,
        };
        let fits = is_hex(digits) && (2..=max).contains(&digits.len());
        fits.then_some(Self { method, digits })
    }

    /// Whether it may be this check value: of the same kind, and told as far as it goes.
    pub fn agrees(&self, kcv: Kcv) -> bool {
        match (self.method, kcv) {
            (CheckMethod::Legacy, Kcv::Legacy(_)) | (CheckMethod::Cmac, Kcv::Cmac(_)) => {
                kcv.to_string().starts_with(self.digits)
            }
            (CheckMethod::Legacy, Kcv::Cmac(_)) | (CheckMethod::Cmac, Kcv::Legacy(_)) => false,
        }
    }
}

/// Whether the content has the form the standard gives to this id. Of an id without a form, everything has.
pub(super) fn is_standard(id: BlockId, text: &str) -> bool {
    match id {
        BlockId::KC | BlockId::KP | BlockId::PK => CheckValue::read(text).is_some(),
        BlockId::KS => text.len() == 20 && is_hex(text),
        BlockId::IK => text.len() == 16 && is_hex(text),
        BlockId::BI => is_hex(text) && matches!((text.get(..2), text.len()), (Some("00"), 12) | (Some("01"), 10)),
        BlockId::HM => HASHES.contains(&text),
        BlockId::AL => matches!(text, "0100" | "0101"),
        BlockId::LB => !text.is_empty(),
        BlockId::TS | BlockId::TC => is_time(text),
        _ => true,
    }
}

fn check_value(kcv: Kcv) -> String {
    match kcv {
        Kcv::Legacy(_) => format!("{LEGACY}{kcv}"),
        Kcv::Cmac(_) => format!("{CMAC}{kcv}"),
    }
}

/// The form alone: whether there was such a day is for those who use it.
fn is_time(text: &str) -> bool {
    TIME_FORMS.iter().any(|form| {
        form.len() == text.len()
            && form.bytes().zip(text.bytes()).all(|(form, byte)| match form {
                b'0' => byte.is_ascii_digit(),
                mark => byte == mark,
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        let kcv = Kcv::Legacy([0x08, 0xD7, 0xB4]);
        let block = OptionalBlock::key_check_value(kcv);
        assert_eq!(block.to_string(), "KC0C0008D7B4");
        let Content::KeyCheckValue(value) = block.meaning() else { panic!("{block}") };
        assert!(value.agrees(kcv) && !value.agrees(Kcv::Legacy([0x08, 0xD7, 0xB5])));
        assert!(!value.agrees(Kcv::Cmac([0x08, 0xD7, 0xB4, 0, 0])), "of another kind");

        let block = OptionalBlock::kbpk_check_value(Kcv::Cmac([0x23, 0x31, 0x55, 0x0B, 0xC9]));
        assert_eq!(block.to_string(), "KP10012331550BC9");
        let ksn = TdesKsn::new([0xFF, 0xFF, 0x98, 0x76, 0x54, 0x32, 0x10, 0xE0, 0, 1]);
        let block = OptionalBlock::key_serial_number(&ksn);
        assert_eq!(block.meaning(), Content::KeySerialNumber("FFFF9876543210E00000"));
        let block = OptionalBlock::initial_key_id([0x12; 8]);
        assert_eq!(block.meaning(), Content::InitialKeyId("1212121212121212"));
        let block = OptionalBlock::label("till 3, front").unwrap();
        assert_eq!(
            (block.to_string().as_str(), block.meaning()),
            ("LB11till 3, front", Content::Label("till 3, front"))
        );
        for time in ["20200818221218Z", "2020081822121899Z", "2020-08-18T22:12:18Z", "2020-08-18T22:12:18.99Z"] {
            let block = OptionalBlock::time_stamp(time).unwrap();
            assert_eq!(block.meaning(), Content::TimeStamp(time));
        }
    }

    #[test]
    fn what_is_not_as_the_standard_has_it_is_kept_without_a_meaning() {
        for (id, text) in [
            (BlockId::KC, "0108D7"),
            (BlockId::KC, "0008D7B400"),
            (BlockId::KC, "0208D7B4"),
            (BlockId::KC, "00"),
            (BlockId::KP, "01"),
            (BlockId::KS, "00604B120F929280"),
            (BlockId::KS, "VM9A"),
            (BlockId::IK, "12121212121212"),
            (BlockId::IK, "abcdabcdabcdabcd"),
            (BlockId::LB, ""),
            (BlockId::TS, "2018-06-18T20:42:39.22"),
            (BlockId::TS, "20200818221218"),
            (BlockId::HM, "11"),
            (BlockId::BI, "0012345678"),
            (BlockId::AL, "0102"),
        ] {
            let block = OptionalBlock::new(id, text).unwrap();
            let short_cmac = (id, text) == (BlockId::KC, "0108D7");
            assert_eq!(is_standard(id, text), short_cmac, "{id} {text}");
            assert_eq!(block.meaning() == Content::Other(text), !short_cmac, "{id} {text}");
        }
        assert_eq!(OptionalBlock::time_stamp("yesterday"), None);
    }
}
