//! `calc frame`: what one output of a device holds.

use std::io::Read;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Map, Value, json};
use warifu_core::account_data::AccountData;
use warifu_core::device::{Format, Profile};
use warifu_core::dukpt::{aes, tdes};
use warifu_core::frame::FrameError;
use warifu_core::key::{KeyBytes, TdesKey};
use warifu_core::ksn::{Counter, Ksn};
use warifu_core::opening;
use warifu_core::reader::{self, MAX_OUTPUT_LEN, Parsed};

use super::{Root, RootKey, digits, upper_hex};

/// Read, and with a key open, one output of a device.
#[derive(Args)]
#[command(after_help = "\
The file holds the bytes of the output, the same in hex, or the text a keyboard reader typed.")]
pub(super) struct Frame {
    /// Its format: auto, native, idtech-binary, idtech-keyboard, magtek-keyboard or magtek-hid.
    #[arg(long, default_value = "auto")]
    format: String,
    /// The key the device encrypts under, if it is not its vendor's usual one: pin, data-request, data-response,
    /// data-request-variant or data-response-variant.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    #[command(flatten)]
    root: MaybeRoot,
    /// The output; - or nothing for standard input.
    #[arg(value_name = "FILE", default_value = "-")]
    file: String,
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

impl Frame {
    pub(super) fn run(self) -> Result<Map<String, Value>> {
        let input = self.read()?;
        let (format, Parsed { frame, hints }) = self.parse(&input)?;
        let ksn = frame.ksn();
        let masked = reader::masked(&frame).map(|pan| pan.to_string());

        let mut answer = Map::new();
        answer.insert("format".into(), format.name().into());
        answer.insert("layout".into(), hints.layout.name().into());
        answer.insert("ksn".into(), ksn.to_string().into());
        answer.insert("counter".into(), ksn.raw_counter().into());
        answer.insert("legal_counter".into(), Counter::new(ksn.scheme(), ksn.raw_counter()).is_ok().into());
        answer.insert("entry".into(), frame.entry().name().into());
        answer.insert("serial".into(), json!(hints.serial));
        answer.insert("authenticated".into(), frame.mac().is_some().into());
        if self.root.no_key {
            answer.insert("masked".into(), json!(masked));
            return Ok(answer);
        }
        let root = RootKey { bdk: self.root.bdk, ik: self.root.ik }.parse(ksn.scheme())?;
        let account_data =
            opening::open(&frame, &transaction_key(root, ksn)).map_err(|error| anyhow::anyhow!("refused: {error}"))?;
        answer.insert("masked".into(), account_data.pan().masked().to_string().into());
        answer.insert("account_data".into(), clear(&account_data));
        Ok(answer)
    }

    fn read(&self) -> Result<Vec<u8>> {
        let mut input = Vec::new();
        // Hex doubles a frame, and a text file may end in a line break or two.
        let limit = u64::try_from(2 * MAX_OUTPUT_LEN + 16).unwrap_or(u64::MAX);
        match self.file.as_str() {
            "-" => std::io::stdin().lock().take(limit).read_to_end(&mut input).context("standard input")?,
            path => std::fs::File::open(path)
                .and_then(|file| file.take(limit).read_to_end(&mut input))
                .with_context(|| path.to_owned())?,
        };
        Ok(input)
    }

    /// Text made of hex digits may be a binary output in hex or an all-hex keyboard text: the reading that parses wins.
    fn parse(&self, input: &[u8]) -> Result<(Format, Parsed)> {
        let key = self.key.as_deref().map(tdes_key).transpose()?;
        let mut readings = vec![input.to_vec()];
        if let Ok(text) = std::str::from_utf8(input)
            && let Ok(bytes) = digits::bytes("input", text)
        {
            readings.push(bytes);
        }
        let mut refusal = None;
        for bytes in readings.iter().filter(|bytes| !bytes.is_empty()) {
            let formats = match self.format.as_str() {
                "auto" => reader::detect(bytes).into_iter().collect(),
                name => named(name)?,
            };
            for format in formats {
                match reader::parse_with_hints(&Profile { format, key }, bytes) {
                    Ok(parsed) => return Ok((format, parsed)),
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

fn named(name: &str) -> Result<Vec<Format>> {
    match (Format::from_name(name), name) {
        (Some(format), _) => Ok(vec![format]),
        (None, "idtech") => Ok(vec![Format::IdTechBinary, Format::IdTechKeyboard]),
        (None, "magtek") => Ok(vec![Format::MagTekKeyboard, Format::MagTekHid]),
        (None, _) => {
            let names = Format::ALL.map(Format::name).join(", ");
            bail!("--format: {name:?} is not one of auto, {names}")
        }
    }
}

fn tdes_key(name: &str) -> Result<TdesKey> {
    Ok(match name {
        "pin" => TdesKey::Pin,
        "data-request" => TdesKey::DataRequest,
        "data-response" => TdesKey::DataResponse,
        "data-request-variant" => TdesKey::DataRequestVariant,
        "data-response-variant" => TdesKey::DataResponseVariant,
        _ => bail!(
            "--key: {name:?} is not one of pin, data-request, data-response, data-request-variant, data-response-variant"
        ),
    })
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
fn clear(card: &AccountData) -> Value {
    let text = |bytes: Option<&[u8]>| bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    json!({
        "pan": text(Some(card.pan().expose())),
        "luhn": card.pan().passes_luhn(),
        "brand": card.pan().brand().name(),
        "expiry": card.expiry().map(|expiry| String::from_utf8_lossy(&expiry.expose()).into_owned()),
        "name": text(card.cardholder_name()),
        "service_code": text(card.service_code().as_ref().map(<[u8; 3]>::as_slice)),
        "security_code": text(card.security_code().map(|code| code.expose())),
        "track1": text(card.track1()),
        "track2": text(card.track2()),
        "track3": text(card.track3()),
        "chip": card.chip().map(upper_hex),
    })
}
