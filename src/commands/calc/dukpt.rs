//! `calc dukpt`: the keys of one transaction, step by step.

use anyhow::{Result, anyhow, bail};
use clap::{Args, ValueEnum};
use serde_json::{Map, Value};
use warifu_core::dukpt::{aes, tdes};
use warifu_core::kcv;
use warifu_core::key::{KeyBytes, KeyType, KeyUsage, TdesKey};
use warifu_core::ksn::{AesKsn, Counter, Ksn, Scheme, TdesKsn};

use super::{Root, RootKey, SchemeArg, digits, upper_hex};

/// Derive DUKPT keys.
#[derive(Args)]
pub(super) struct Dukpt {
    /// Which DUKPT.
    #[arg(long)]
    scheme: SchemeArg,
    #[command(flatten)]
    root: RootKey,
    /// Key serial number, hex: 12 bytes for AES (8, the initial key id, with --update-key), 8 to 10 for TDES.
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

impl Dukpt {
    pub(super) fn run(self) -> Result<Map<String, Value>> {
        let scheme = Scheme::from(self.scheme);
        let root = self.root.parse(scheme)?;
        let ksn = digits::bytes("--ksn", &self.ksn)?;
        match scheme {
            Scheme::Aes => self.aes(root, &ksn),
            Scheme::Tdes => self.tdes(root, &ksn),
        }
    }

    fn aes(&self, root: Root, ksn: &[u8]) -> Result<Map<String, Value>> {
        let ksn = match <[u8; 8]>::try_from(ksn) {
            Ok(ik_id) if self.update_key => {
                let [a, b, c, d, e, f, g, h] = ik_id;
                AesKsn::new([a, b, c, d, e, f, g, h, 0xFF, 0xFF, 0xFF, 0xFF])
            }
            _ => AesKsn::parse(ksn).map_err(|error| anyhow!("--ksn: {error}"))?,
        };
        let ik = match root {
            Root::Bdk(bdk) => aes::initial_key(&bdk, ksn.ik_id()),
            Root::Ik(ik) => ik,
        };
        let key_type = self.key_type.map_or(KeyType::aes(ik.key_len()), KeyType::from);
        let mut answer = Map::new();
        if self.update_key {
            if !matches!(self.usage, None | Some(UsageArg::KeyEncryption)) {
                bail!("--usage: the update key is for key-encryption, nothing else");
            }
            let key = aes::update_key(&ik, ksn.ik_id(), key_type)?;
            let ksn = ksn.with_counter(aes::UPDATE_KEY_COUNTER);
            answer.insert("ksn".into(), Ksn::Aes(ksn).to_string().into());
            answer.insert("ik".into(), shown(&ik));
            answer.insert("derivation_key".into(), shown(&aes::derivation_key(&ik, &ksn)));
            answer.insert("working_key".into(), shown(&key));
            return Ok(answer);
        }
        let usage = aes_usage(self.usage.unwrap_or(UsageArg::DataEncryption))?;
        let derivation_key = aes::derivation_key(&ik, &ksn);
        let working_key = aes::working_key(&derivation_key, &ksn, usage, key_type)?;
        describe(&mut answer, Ksn::Aes(ksn));
        answer.insert("ik".into(), shown(&ik));
        answer.insert("ik_kcv".into(), upper_hex(&kcv::kcv_aes_cmac(&ik)).into());
        answer.insert("derivation_key".into(), shown(&derivation_key));
        answer.insert("working_key".into(), shown(&working_key));
        Ok(answer)
    }

    fn tdes(&self, root: Root, ksn: &[u8]) -> Result<Map<String, Value>> {
        if self.update_key {
            bail!("--update-key: TDES DUKPT has no update key");
        }
        if self.key_type.is_some() {
            bail!("--type: TDES DUKPT derives two-key triple DES only; leave --type out");
        }
        let ksn = TdesKsn::parse(ksn).map_err(|error| anyhow!("--ksn: {error}"))?;
        let key = tdes_key(self.usage.unwrap_or(UsageArg::DataRequest))?;
        let ik = match root {
            Root::Bdk(bdk) => tdes::initial_key(&bdk, &ksn),
            Root::Ik(ik) => ik,
        };
        let transaction_key = tdes::transaction_key(&ik, &ksn);
        let mut answer = Map::new();
        describe(&mut answer, Ksn::Tdes(ksn));
        answer.insert("ik".into(), shown(&ik));
        answer.insert("ik_kcv".into(), upper_hex(&kcv::kcv_tdes(&ik)).into());
        answer.insert("transaction_key".into(), shown(&transaction_key));
        answer.insert("working_key".into(), shown(&tdes::working_key(&transaction_key, key)));
        Ok(answer)
    }
}

fn shown(key: &KeyBytes) -> Value {
    upper_hex(key.expose()).into()
}

/// Says which transaction it is. An illegal counter is computed all the same, published vectors have some, and
/// pointed out: a server refuses it.
fn describe(answer: &mut Map<String, Value>, ksn: Ksn) {
    let legal = Counter::new(ksn.scheme(), ksn.raw_counter());
    answer.insert("ksn".into(), ksn.to_string().into());
    answer.insert("counter".into(), ksn.raw_counter().into());
    answer.insert("legal_counter".into(), legal.is_ok().into());
    if let Err(error) = legal {
        answer.insert("note".into(), error.to_string().into());
    }
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
