//! `calc dukpt`: the keys of one transaction, step by step.

use anyhow::{Result, anyhow, bail};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value};
use warifu_core::dukpt::{aes, tdes};
use warifu_core::kcv;
use warifu_core::key::{KeyBytes, KeyType, KeyUsage, TdesKey};
use warifu_core::ksn::{AesKsn, Counter, Ksn, Scheme, TdesKsn};

use super::{COMPUTE, Root, RootKey, SchemeArg, digits, upper_hex};
use crate::exit::{Attempt as _, Exit, Failure};

/// Derive DUKPT keys.
#[derive(Args)]
pub(super) struct Dukpt {
    /// Which DUKPT.
    #[arg(long)]
    scheme: SchemeArg,
    #[command(flatten)]
    root: RootKey,
    /// Key serial number, hex. AES: 12 bytes, or 10 as hosts of the older kind send it (or 8, the initial key id, with
    /// --update-key). TDES: 8 to 10 bytes.
    #[arg(long, value_name = "HEX")]
    ksn: String,
    /// What the working key is for [default: data-encryption, or data-request for TDES].
    #[arg(long)]
    usage: Option<UsageArg>,
    /// Which key is derived (AES DUKPT only) [default: AES of the root key's length].
    #[arg(long = "type", value_name = "TYPE")]
    key_type: Option<TypeArg>,
    /// Derive the DUKPT update key (AES only; its counter is FFFFFFFF whatever the KSN says).
    #[arg(long)]
    update_key: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum UsageArg {
    /// AES: protects other keys.
    KeyEncryption,
    /// AES and TDES: PIN.
    Pin,
    /// AES: the device makes MACs.
    MacGeneration,
    /// AES: the device verifies MACs.
    MacVerification,
    /// AES: MACs both ways.
    MacBoth,
    /// AES: the device encrypts.
    DataEncryption,
    /// AES: the device decrypts.
    DataDecryption,
    /// AES: data both ways.
    DataBoth,
    /// AES: derives other keys.
    KeyDerivation,
    /// TDES: MAC towards the host.
    MacRequest,
    /// TDES: MAC from the host.
    MacResponse,
    /// TDES: data towards the host.
    DataRequest,
    /// TDES: data from the host.
    DataResponse,
    /// TDES: data towards the host, without the one-way step.
    DataRequestVariant,
    /// TDES: data from the host, without the one-way step.
    DataResponseVariant,
}

#[derive(Clone, Copy, ValueEnum)]
enum TypeArg {
    #[value(name = "2tdea")]
    Tdea2,
    #[value(name = "3tdea")]
    Tdea3,
    #[value(name = "aes128")]
    Aes128,
    #[value(name = "aes192")]
    Aes192,
    #[value(name = "aes256")]
    Aes256,
    #[value(name = "hmac128")]
    Hmac128,
    #[value(name = "hmac192")]
    Hmac192,
    #[value(name = "hmac256")]
    Hmac256,
}

/// What an AES derivation starts from.
struct AesStart {
    root: Root,
    ksn: AesKsn,
    usage: KeyUsage,
}

/// What a TDES derivation starts from.
struct TdesStart {
    root: Root,
    ksn: TdesKsn,
    usage: TdesKey,
}

impl Dukpt {
    pub(super) fn run(self) -> Result<Map<String, Value>, Failure> {
        match Scheme::from(self.scheme) {
            Scheme::Aes => {
                let start = self.aes_start().or_exit(Exit::Usage, COMPUTE)?;
                self.aes(start).or_exit(Exit::Refused, COMPUTE)
            }
            Scheme::Tdes => self.tdes_start().map(tdes).or_exit(Exit::Usage, COMPUTE),
        }
    }

    fn aes_start(&self) -> Result<AesStart> {
        let root = self.root.parse()?.of(Scheme::Aes)?;
        let ksn = self.aes_ksn(&digits::bytes("--ksn", &self.ksn)?)?;
        if !self.update_key {
            let usage = aes_usage(self.usage.unwrap_or(UsageArg::DataEncryption))?;
            return Ok(AesStart { root, ksn, usage });
        }
        if !matches!(self.usage, None | Some(UsageArg::KeyEncryption)) {
            bail!("--usage: the update key is for key-encryption, nothing else");
        }
        Ok(AesStart { root, ksn: ksn.with_counter(aes::UPDATE_KEY_COUNTER), usage: KeyUsage::KeyEncryption })
    }

    /// The KSN, also as hosts of the older kind send it, or without a counter where it is known.
    fn aes_ksn(&self, bytes: &[u8]) -> Result<AesKsn> {
        match *bytes {
            [a, b, c, d, e, f, g, h] if self.update_key => Ok(AesKsn::new([a, b, c, d, e, f, g, h, 0, 0, 0, 0])),
            [a, b, c, d, e, f, g, h, i, j] => Ok(AesKsn::from_ksn80(&[a, b, c, d, e, f, g, h, i, j])),
            _ => AesKsn::parse(bytes).map_err(|error| anyhow!("--ksn: {error}")),
        }
    }

    fn aes(&self, AesStart { root, ksn, usage }: AesStart) -> Result<Map<String, Value>> {
        let ik = match root {
            Root::Bdk(bdk) => aes::initial_key(&bdk, ksn.ik_id()),
            Root::Ik(ik) => ik,
        };
        let key_type = self.key_type.map_or(KeyType::aes(ik.key_len()), KeyType::from);
        let derivation_key = aes::derivation_key(&ik, &ksn);
        let mut answer = description(Ksn::Aes(ksn));
        let working_key = if self.update_key {
            answer.insert("note".into(), "counter 0xFFFFFFFF belongs to the update key, not to a transaction".into());
            aes::update_key(&ik, ksn.ik_id(), key_type)?
        } else {
            aes::working_key(&derivation_key, &ksn, usage, key_type)?
        };
        answer.insert("ik".into(), shown(&ik));
        answer.insert("ik_kcv".into(), upper_hex(&kcv::kcv_aes_cmac(&ik)).into());
        answer.insert("derivation_key".into(), shown(&derivation_key));
        answer.insert("working_key".into(), shown(&working_key));
        Ok(answer)
    }

    fn tdes_start(&self) -> Result<TdesStart> {
        if self.update_key {
            bail!("--update-key: TDES DUKPT has no update key");
        }
        if self.key_type.is_some() {
            bail!("--type: TDES DUKPT derives two-key triple DES only; leave --type out");
        }
        let root = self.root.parse()?.of(Scheme::Tdes)?;
        let ksn = TdesKsn::parse(&digits::bytes("--ksn", &self.ksn)?).map_err(|error| anyhow!("--ksn: {error}"))?;
        Ok(TdesStart { root, ksn, usage: tdes_key(self.usage.unwrap_or(UsageArg::DataRequest))? })
    }
}

fn tdes(TdesStart { root, ksn, usage }: TdesStart) -> Map<String, Value> {
    let ik = match root {
        Root::Bdk(bdk) => tdes::initial_key(&bdk, &ksn),
        Root::Ik(ik) => ik,
    };
    let transaction_key = tdes::transaction_key(&ik, &ksn);
    let mut answer = description(Ksn::Tdes(ksn));
    answer.insert("ik".into(), shown(&ik));
    answer.insert("ik_kcv".into(), upper_hex(&kcv::kcv_tdes(&ik)).into());
    answer.insert("transaction_key".into(), shown(&transaction_key));
    answer.insert("working_key".into(), shown(&tdes::working_key(&transaction_key, usage)));
    answer
}

fn shown(key: &KeyBytes) -> Value {
    upper_hex(key.expose()).into()
}

/// Says which transaction it is. An illegal counter is computed all the same, published vectors have some, and
/// pointed out: a server refuses it.
fn description(ksn: Ksn) -> Map<String, Value> {
    let mut answer = Map::new();
    let legal = Counter::new(ksn.scheme(), ksn.raw_counter());
    answer.insert("ksn".into(), ksn.to_string().into());
    answer.insert("counter".into(), ksn.raw_counter().into());
    answer.insert("legal_counter".into(), legal.is_ok().into());
    if let Err(error) = legal {
        answer.insert("note".into(), error.to_string().into());
    }
    answer
}

fn aes_usage(usage: UsageArg) -> Result<KeyUsage> {
    Ok(match usage {
        UsageArg::KeyEncryption => KeyUsage::KeyEncryption,
        UsageArg::Pin => KeyUsage::Pin,
        UsageArg::MacGeneration => KeyUsage::MacGeneration,
        UsageArg::MacVerification => KeyUsage::MacVerification,
        UsageArg::MacBoth => KeyUsage::MacBoth,
        UsageArg::DataEncryption => KeyUsage::DataEncryption,
        UsageArg::DataDecryption => KeyUsage::DataDecryption,
        UsageArg::DataBoth => KeyUsage::DataBoth,
        UsageArg::KeyDerivation => KeyUsage::KeyDerivation,
        UsageArg::MacRequest
        | UsageArg::MacResponse
        | UsageArg::DataRequest
        | UsageArg::DataResponse
        | UsageArg::DataRequestVariant
        | UsageArg::DataResponseVariant => bail!(
            "--usage: AES DUKPT has key-encryption, pin, mac-generation, mac-verification, mac-both, data-encryption, \
             data-decryption, data-both, key-derivation"
        ),
    })
}

fn tdes_key(usage: UsageArg) -> Result<TdesKey> {
    Ok(match usage {
        UsageArg::Pin => TdesKey::Pin,
        UsageArg::MacRequest => TdesKey::MacRequest,
        UsageArg::MacResponse => TdesKey::MacResponse,
        UsageArg::DataRequest => TdesKey::DataRequest,
        UsageArg::DataResponse => TdesKey::DataResponse,
        UsageArg::DataRequestVariant => TdesKey::DataRequestVariant,
        UsageArg::DataResponseVariant => TdesKey::DataResponseVariant,
        UsageArg::KeyEncryption
        | UsageArg::MacGeneration
        | UsageArg::MacVerification
        | UsageArg::MacBoth
        | UsageArg::DataEncryption
        | UsageArg::DataDecryption
        | UsageArg::DataBoth
        | UsageArg::KeyDerivation => bail!(
            "--usage: TDES DUKPT has pin, mac-request, mac-response, data-request, data-response, \
             data-request-variant, data-response-variant"
        ),
    })
}

impl From<TypeArg> for KeyType {
    fn from(key_type: TypeArg) -> Self {
        match key_type {
            TypeArg::Tdea2 => Self::Tdea2,
            TypeArg::Tdea3 => Self::Tdea3,
            TypeArg::Aes128 => Self::Aes128,
            TypeArg::Aes192 => Self::Aes192,
            TypeArg::Aes256 => Self::Aes256,
            TypeArg::Hmac128 => Self::Hmac128,
            TypeArg::Hmac192 => Self::Hmac192,
            TypeArg::Hmac256 => Self::Hmac256,
        }
    }
}
