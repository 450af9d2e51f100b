//! `calc keyblock`: what a key block holds, or the key block of a key.

use anyhow::{Context as _, Error, Result, anyhow, bail};
use clap::Args;
use serde_json::{Map, Value, json};
use warifu_core::key::KeyBytes;
use warifu_core::key_block::content::Content;
use warifu_core::key_block::{
    Header, Kbpk, KeyBlock, Material, OptionalBlock, PaddingLen, Protection, UnwrapError, Usage, Version, Warning,
};
use warifu_core::secret::SecretBytes;
use zeroize::Zeroizing;

use super::{COMPUTE, digits, upper_hex, warn_test_keys};
use crate::exit::{Attempt as _, Exit, Failure};

/// Open a key block, or make one.
#[derive(Args)]
#[command(after_help = "\
Opens versions A to E and tells as warnings what ANSI X9.143 would have otherwise. Makes versions B, C and D as the
standard has them; --as-is makes any. The length in --header and a missing padding block are put right.

The answer is always JSON; --json puts it on one line.

Examples:
  warifu calc keyblock --kbpk DD7515F2BFC17F85CE48F3CA25CB21F6 \\
    --block B0080P0TE00E000094B420079CC80BA3461F86FE26EFC4A3B8E4FA4C5F5341176EED7B727B8A248E
  warifu calc keyblock --wrap --kbpk DD7515F2BFC17F85CE48F3CA25CB21F6 \\
    --header B0000P0TE00E0000 --key 3F419E1CB7079442AA37474C2EFBF8B8")]
pub(super) struct KeyBlockArgs {
    /// Key block protection key, hex: 16 or 24 bytes for versions A, B and C, 16, 24 or 32 for D and E. A TEST key.
    #[arg(long, value_name = "HEX")]
    kbpk: String,
    /// The key block to open.
    #[arg(long, value_name = "TEXT", required_unless_present = "wrap", conflicts_with = "wrap")]
    block: Option<String>,
    /// Refuse the key if it is not of this usage, two characters as in a header.
    #[arg(long, value_name = "CODE", requires = "block")]
    usage: Option<String>,
    /// Make a key block.
    #[arg(long, requires_all = ["header", "key"])]
    wrap: bool,
    /// The header, with its optional blocks.
    #[arg(long, value_name = "TEXT", requires = "wrap")]
    header: Option<String>,
    /// The key, hex. A TEST key.
    #[arg(long, value_name = "HEX", requires = "wrap")]
    key: Option<String>,
    /// Bits of a key that ends within a byte [default: all of it].
    #[arg(long, value_name = "BITS", requires = "wrap")]
    bits: Option<usize>,
    /// The padding behind the key, hex, to make a known block again [default: random, hiding the key's length].
    #[arg(long, value_name = "HEX", requires = "wrap")]
    padding: Option<String>,
    /// Make it even if the standard does not have it: to see what another party refuses.
    #[arg(long, requires = "wrap")]
    as_is: bool,
}

/// What a block is made of.
struct Parts {
    header: Header,
    key: Material,
    padding: Zeroizing<Vec<u8>>,
}

impl KeyBlockArgs {
    pub(super) fn run(self) -> Result<Map<String, Value>, Failure> {
        warn_test_keys();
        let kbpk = secret("--kbpk", &self.kbpk)
            .and_then(|bytes| KeyBytes::copied(bytes.expose()).map_err(|error| anyhow!("--kbpk: {error}")));
        let kbpk = kbpk.or_exit(Exit::Usage, COMPUTE)?;
        match &self.block {
            Some(text) => self.open(text, kbpk),
            None => self.make(kbpk),
        }
    }

    fn open(&self, text: &str, kbpk: KeyBytes) -> Result<Map<String, Value>, Failure> {
        let usage = self.usage.as_deref().map(usage).transpose().or_exit(Exit::Usage, COMPUTE)?;
        let block = KeyBlock::parse(text.trim_ascii()).context("refused").or_exit(Exit::Refused, COMPUTE)?;
        let (kbpk, protection) = protect(block.header().version(), kbpk).or_exit(Exit::Usage, COMPUTE)?;
        let unwrapped = block.unwrap_key(&protection).context("refused").or_exit(Exit::Refused, COMPUTE)?;
        if let Some(wanted) = usage.filter(|wanted| *wanted != unwrapped.header().usage()) {
            let wrong = UnwrapError::Usage { is: unwrapped.header().usage(), wanted };
            return Err(Error::new(wrong).context("refused")).or_exit(Exit::Refused, COMPUTE);
        }
        let mut answer = description(&block, unwrapped.key(), &kbpk, told(unwrapped.warnings()));
        answer.insert("key".into(), upper_hex(unwrapped.key().bytes().expose()).into());
        Ok(answer)
    }

    fn make(&self, kbpk: KeyBytes) -> Result<Map<String, Value>, Failure> {
        let parts = self.parts().or_exit(Exit::Usage, COMPUTE)?;
        let (kbpk, protection) = protect(parts.header.version(), kbpk).or_exit(Exit::Usage, COMPUTE)?;
        let wrap = if self.as_is { KeyBlock::wrap_as_is } else { KeyBlock::wrap };
        let block = wrap(&parts.header, &parts.key, &protection, &parts.padding);
        let block = block.context("refused").or_exit(Exit::Refused, COMPUTE)?;
        // As who receives it will see it; made as it is, it may not open.
        let warnings = match block.unwrap_key(&protection) {
            Ok(unwrapped) => told(unwrapped.warnings()),
            Err(error) => vec![error.to_string()],
        };
        Ok(description(&block, &parts.key, &kbpk, warnings))
    }

    fn parts(&self) -> Result<Parts> {
        let (Some(header), Some(key)) = (&self.header, &self.key) else { bail!("give --header and --key") };
        // Spaces may belong to the last optional block; the end of a line does not.
        let header = Header::parse(header.trim_matches(['\r', '\n'])).context("--header")?;
        let bytes = secret("--key", key)?;
        let bits = self.bits.unwrap_or(8 * bytes.len());
        let key = Material::of_bits(bits, bytes).context("--key")?;
        let padding = match &self.padding {
            Some(digits) => Zeroizing::new(digits::bytes("--padding", digits)?),
            None => random(PaddingLen::Hiding.of(header.version(), header.algorithm(), &key))?,
        };
        Ok(Parts { header, key, padding })
    }
}

fn secret(name: &str, text: &str) -> Result<SecretBytes> {
    Ok(SecretBytes::copied(&Zeroizing::new(digits::bytes(name, text)?)))
}

fn usage(text: &str) -> Result<Usage> {
    let is_code = |code: &[u8; 2]| code.iter().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    let code = text.as_bytes().try_into().ok().filter(is_code);
    let code = code.ok_or_else(|| anyhow!("--usage: {text:?} is not of two characters, capitals or digits"))?;
    Ok(Usage::from_code(code))
}

fn random(len: usize) -> Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; len]);
    getrandom::fill(&mut bytes).map_err(|error| anyhow!("random padding: {error}"))?;
    Ok(bytes)
}

fn protect(version: Version, kbpk: KeyBytes) -> Result<(Kbpk, Protection)> {
    let kbpk = Kbpk::new(version.cipher(), kbpk).context("--kbpk")?;
    let protection = Protection::new(version, &kbpk).context("--kbpk")?;
    Ok((kbpk, protection))
}

/// What is said of a block, opened or made; the names are those of its published vectors.
fn description(block: &KeyBlock, key: &Material, kbpk: &Kbpk, warnings: Vec<String>) -> Map<String, Value> {
    let header = block.header();
    let optional: Vec<Value> = header.optional().iter().map(described).collect();
    let mut answer = Map::new();
    answer.insert("version".into(), header.version().to_string().into());
    answer.insert("header".into(), header.text(block.text_len()).into());
    answer.insert(
        "header_fields".into(),
        json!({
            "version": header.version().to_string(),
            "length": block.text_len(),
            "key_usage": header.usage().to_string(),
            "algorithm": header.algorithm().to_string(),
            "mode_of_use": header.mode().to_string(),
            "key_version": header.key_version().to_string(),
            "exportability": header.exportability().to_string(),
            "num_opt": header.optional().len(),
            "reserved": header.last_characters(),
        }),
    );
    answer.insert(
        "meaning".into(),
        json!({
            "key_usage": header.usage().meaning(),
            "algorithm": header.algorithm().meaning(),
            "mode_of_use": header.mode().meaning(),
            "component": header.key_version().component(),
            "exportability": header.exportability().meaning(),
            "context": header.context().meaning(),
        }),
    );
    answer.insert("optional_blocks".into(), optional.into());
    answer.insert("key_bits".into(), key.bits().into());
    answer.insert("kcv".into(), json!(key.kcv(header.algorithm()).map(|kcv| kcv.to_string())));
    answer.insert("kbpk_kcv".into(), kbpk.kcv().to_string().into());
    answer.insert("key_block".into(), block.to_string().into());
    answer.insert("warnings".into(), warnings.into());
    answer
}

fn told(warnings: &[Warning]) -> Vec<String> {
    warnings.iter().map(Warning::to_string).collect()
}

fn described(block: &OptionalBlock) -> Value {
    let meaning = match block.meaning() {
        Content::KeyCheckValue(_) => Some("key check value of the key"),
        Content::KbpkCheckValue(_) => Some("key check value of the protection key"),
        Content::KeySerialNumber(_) => Some("key serial number"),
        Content::InitialKeyId(_) => Some("initial key id"),
        Content::Label(_) => Some("label"),
        Content::TimeStamp(_) => Some("time stamp"),
        Content::Padding => Some("padding"),
        Content::Other(_) => None,
    };
    json!({"id": block.id().to_string(), "data": block.content(), "meaning": meaning})
}
