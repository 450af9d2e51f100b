//! `calc frame`: what one output of a device holds.

use anyhow::{Result, anyhow, bail};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use warifu_core::account_data::AccountData;
use warifu_core::device::{Format, Profile};
use warifu_core::dukpt::{aes, tdes};
use warifu_core::frame::FrameError;
use warifu_core::key::{KeyBytes, TdesKey};
use warifu_core::ksn::{Counter, Ksn};
use warifu_core::opening;
use warifu_core::reader::{self, Parsed};
use warifu_core::secret::SecretBytes;

use super::{COMPUTE, Root, RootKey, input, upper_hex};
use crate::exit::{Attempt as _, Exit, Failure};

/// Read, and with a key open, one output of a device.
#[derive(Args)]
#[command(after_help = "\
The file holds the bytes of the output, the same in hex, or the text a keyboard reader typed. A byte order mark and
white space around hex or text are passed over, and so are one 0x before hex and white space in it.

Tracks are shown as the reader sent them, with the LRC character where it sent one.")]
pub(super) struct Frame {
    /// Its format.
    #[arg(long, default_value = "auto")]
    format: FormatArg,
    /// The key the device encrypts under, if it is not its vendor's usual one.
    #[arg(long)]
    key: Option<KeyArg>,
    #[command(flatten)]
    root: MaybeRoot,
    /// The output; - or nothing for standard input.
    #[arg(value_name = "FILE", default_value = "-")]
    file: String,
}

#[derive(Clone, Copy, ValueEnum)]
enum FormatArg {
    /// What it looks like.
    Auto,
    /// This project's own.
    Native,
    /// Either of the two of ID TECH.
    #[value(name = "idtech")]
    IdTech,
    #[value(name = "idtech-binary")]
    IdTechBinary,
    #[value(name = "idtech-keyboard")]
    IdTechKeyboard,
    /// Either of the two of MagTek.
    #[value(name = "magtek")]
    MagTek,
    #[value(name = "magtek-keyboard")]
    MagTekKeyboard,
    #[value(name = "magtek-hid")]
    MagTekHid,
}

#[derive(Clone, Copy, ValueEnum)]
enum KeyArg {
    Pin,
    DataRequest,
    DataResponse,
    DataRequestVariant,
    DataResponseVariant,
}

/// A root key, or the wish to do without.
#[derive(Args)]
#[group(required = true, multiple = false)]
struct MaybeRoot {
    /// Base derivation key, hex. A TEST key: command lines are seen by others.
    #[arg(long, value_name = "HEX")]
    bdk: Option<String>,
    /// Initial key of the device, hex. A TEST key.
    #[arg(long, value_name = "HEX")]
    ik: Option<String>,
    /// Only parse and check.
    #[arg(long)]
    no_key: bool,
}

/// An output read.
struct Reading {
    format: Format,
    parsed: Parsed,
    /// Beside the frame, and shown with the rest.
    clear_track3: Option<SecretBytes>,
}

impl Frame {
    pub(super) fn run(self) -> Result<Map<String, Value>, Failure> {
        // What is wrong on the command line is said before the input is waited for.
        let root = self.root.parse().or_exit(Exit::Usage, COMPUTE)?;
        let input = input::read(&self.file).or_exit(Exit::Refused, COMPUTE)?;
        let reading = self.parse(&input).or_exit(Exit::Refused, COMPUTE)?;
        let frame = &reading.parsed.frame;
        let mut answer = description(&reading);
        let Some(root) = root else {
            answer.insert("masked".into(), json!(reader::masked(frame).map(|pan| pan.to_string())));
            return Ok(answer);
        };
        let root = root.of(frame.ksn().scheme()).or_exit(Exit::Usage, COMPUTE)?;
        let account_data = opening::open(frame, &transaction_key(root, frame.ksn()))
            .map_err(|error| anyhow!("refused: {error}"))
            .or_exit(Exit::Refused, COMPUTE)?;
        answer.insert("masked".into(), account_data.pan().masked().to_string().into());
        answer.insert("account_data".into(), clear(&account_data, reading.clear_track3.as_ref()));
        Ok(answer)
    }

    /// Text made of hex digits may be a binary output in hex or an all-hex keyboard text: the reading that parses wins.
    fn parse(&self, input: &[u8]) -> Result<Reading> {
        let key = self.key.map(TdesKey::from);
        let mut refusal = None;
        for bytes in input::readings(input) {
            for format in self.format.formats(&bytes) {
                match reader::parse_with_hints(&Profile { format, key }, &bytes) {
                    Ok(parsed) => {
                        return Ok(Reading { format, parsed, clear_track3: reader::clear_track3(format, &bytes) });
                    }
                    // A reading that got further than its start says more than one that did not.
                    Err(error) if refusal.is_none_or(|known| known == FrameError::Start) => refusal = Some(error),
                    Err(_) => {}
                }
            }
        }
        match refusal {
            Some(error) => bail!("refused: {error}"),
            None => bail!("refused: the input has no format this build knows; name one with --format"),
        }
    }
}

impl MaybeRoot {
    /// The key, unless none is wanted.
    fn parse(&self) -> Result<Option<Root>> {
        if self.no_key {
            return Ok(None);
        }
        RootKey { bdk: self.bdk.clone(), ik: self.ik.clone() }.parse().map(Some)
    }
}

impl FormatArg {
    /// The formats to try.
    fn formats(self, bytes: &[u8]) -> Vec<Format> {
        match self {
            Self::Auto => reader::detect(bytes).into_iter().collect(),
            Self::Native => vec![Format::Native],
            Self::IdTech => vec![Format::IdTechBinary, Format::IdTechKeyboard],
            Self::IdTechBinary => vec![Format::IdTechBinary],
            Self::IdTechKeyboard => vec![Format::IdTechKeyboard],
            Self::MagTek => vec![Format::MagTekKeyboard, Format::MagTekHid],
            Self::MagTekKeyboard => vec![Format::MagTekKeyboard],
            Self::MagTekHid => vec![Format::MagTekHid],
        }
    }
}

impl From<KeyArg> for TdesKey {
    fn from(key: KeyArg) -> Self {
        match key {
            KeyArg::Pin => Self::Pin,
            KeyArg::DataRequest => Self::DataRequest,
            KeyArg::DataResponse => Self::DataResponse,
            KeyArg::DataRequestVariant => Self::DataRequestVariant,
            KeyArg::DataResponseVariant => Self::DataResponseVariant,
        }
    }
}

/// What is said of an output whether it is opened or not.
fn description(Reading { format, parsed: Parsed { frame, hints }, .. }: &Reading) -> Map<String, Value> {
    let ksn = frame.ksn();
    let mut answer = Map::new();
    answer.insert("format".into(), format.name().into());
    answer.insert("layout".into(), hints.layout.name().into());
    answer.insert("ksn".into(), ksn.to_string().into());
    answer.insert("counter".into(), ksn.raw_counter().into());
    answer.insert("legal_counter".into(), Counter::new(ksn.scheme(), ksn.raw_counter()).is_ok().into());
    answer.insert("entry".into(), frame.entry().name().into());
    answer.insert("serial".into(), json!(hints.serial));
    answer.insert("authenticated".into(), frame.mac().is_some().into());
    answer
}

/// The derivation key (AES) or transaction key (TDES) of the KSN.
fn transaction_key(root: Root, ksn: Ksn) -> KeyBytes {
    match (root, ksn) {
        (Root::Bdk(bdk), Ksn::Aes(ksn)) => aes::derivation_key(&aes::initial_key(&bdk, ksn.ik_id()), &ksn),
        (Root::Ik(ik), Ksn::Aes(ksn)) => aes::derivation_key(&ik, &ksn),
        (Root::Bdk(bdk), Ksn::Tdes(ksn)) => tdes::transaction_key(&tdes::initial_key(&bdk, &ksn), &ksn),
        (Root::Ik(ik), Ksn::Tdes(ksn)) => tdes::transaction_key(&ik, &ksn),
    }
}

/// The card in clear. The one place of this project that shows one: the card is a test card, the user holds its key.
/// Tracks are as the reader sent them, with the LRC character where it sent one: so the makers publish theirs.
fn clear(card: &AccountData, clear_track3: Option<&SecretBytes>) -> Value {
    let [track1, track2, track3] = card.tracks_as_read();
    let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    json!({
        "pan": text(Some(card.pan().expose())),
        "luhn": card.pan().passes_luhn(),
        "brand": card.pan().brand().name(),
        "expiry": card.expiry().map(|expiry| String::from_utf8_lossy(&expiry.expose()).into_owned()),
        "name": text(card.cardholder_name()),
        "service_code": text(card.service_code().as_ref().map(<[u8; 3]>::as_slice)),
        "security_code": text(card.security_code().map(|code| code.expose())),
        "track1": text(track1),
        "track2": text(track2),
        "track3": text(track3.or(clear_track3.map(SecretBytes::expose))),
        "chip": card.chip().map(upper_hex),
    })
}
