//! The header of a key block: what may be done with the key, in clear, and bound to it by the MAC (X9.143:2021 6.2).
//!
//! | characters | content |
//! |---|---|
//! | 1 | version |
//! | 4 | length of the whole key block, decimal |
//! | 2, 1, 1 | usage, algorithm, mode of use |
//! | 2 | version of the key |
//! | 1 | exportability |
//! | 2 | number of optional blocks, decimal |
//! | 1, 1 | context, reserved |
//! | | optional blocks |
//!
//! The length belongs to the key block and is not kept here.

use super::attributes::{Algorithm, Context, Exportability, KeyVersion, Mode, Usage};
use super::digits::number;
use super::optional::{self, BlockId, OptionalBlock, OptionalBlockError};
use super::rules;
use super::version::Version;
use super::warning::Warning;

/// Characters of a header without optional blocks.
pub const HEADER_LEN: usize = 16;
/// Most optional blocks that two digits can count.
const MAX_BLOCKS: usize = 99;

/// A header, without the length of its key block.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Header {
    version: Version,
    usage: Usage,
    algorithm: Algorithm,
    mode: Mode,
    key_version: KeyVersion,
    exportability: Exportability,
    context: Context,
    reserved: [u8; 1],
    optional: Vec<OptionalBlock>,
}

/// A header, the length it says its key block has, and the text behind it.
pub(super) struct Read<'a> {
    pub(super) header: Header,
    pub(super) block_len: usize,
    pub(super) behind: &'a str,
}

/// A text that is no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// There are fewer than 16 characters.
    #[error("a header has 16 characters at least")]
    Short,
    /// The first 16 characters are letters and digits.
    #[error("the header has other characters than letters and digits before its optional blocks")]
    Characters,
    /// Not a version this build knows.
    #[error("the version is none of A, B, C, D, E")]
    Version,
    /// The length is no number.
    #[error("the length of the key block is not of four digits")]
    Length,
    /// The number of optional blocks is no number.
    #[error("the number of optional blocks is not of two digits")]
    BlockCount,
    /// An optional block, counted from 1, is none.
    #[error("optional block {number} is malformed")]
    Optional {
        /// Which one.
        number: usize,
        /// What is wrong with it.
        #[source]
        error: OptionalBlockError,
    },
    /// More optional blocks than a header can count.
    #[error("there are more than 99 optional blocks")]
    TooManyBlocks,
    /// A header alone ends with its optional blocks.
    #[error("there is more text than the header says")]
    Behind,
}

impl Header {
    /// A header for a new block, of key version 00, without optional blocks, to be used as the protection key says.
    /// Refused if the standard does not have this combination, or the version is read only.
    pub fn new(
        version: Version,
        usage: Usage,
        algorithm: Algorithm,
        mode: Mode,
        exportability: Exportability,
    ) -> Result<Self, Warning> {
        Self {
            version,
            usage,
            algorithm,
            mode,
            key_version: KeyVersion::UNUSED,
            exportability,
            context: Context::Unsaid,
            reserved: *b"0",
            optional: Vec::new(),
        }
        .strict()
    }

    /// The same for this version of the key.
    pub fn with_key_version(mut self, key_version: KeyVersion) -> Result<Self, Warning> {
        self.key_version = key_version;
        self.strict()
    }

    /// The same for this context.
    pub fn with_context(mut self, context: Context) -> Result<Self, Warning> {
        self.context = context;
        self.strict()
    }

    /// The same with one more optional block, up to 99; padding is made anew with the key block. An id may be there
    /// once.
    pub fn with(mut self, block: OptionalBlock) -> Result<Self, Warning> {
        self.optional.retain(|block| block.id() != BlockId::PB);
        self.optional.push(block);
        self.strict()
    }

    /// Reads a header that stands alone. The length it gives is passed over: it depends on the key.
    pub fn parse(text: &str) -> Result<Self, HeaderError> {
        let read = Self::read(text)?;
        if read.behind.is_empty() { Ok(read.header) } else { Err(HeaderError::Behind) }
    }

    /// Reads the header a text begins with.
    pub(super) fn read(text: &str) -> Result<Read<'_>, HeaderError> {
        let fixed = text.as_bytes().first_chunk::<HEADER_LEN>().ok_or(HeaderError::Short)?;
        if !fixed.iter().all(u8::is_ascii_alphanumeric) {
            return Err(HeaderError::Characters);
        }
        let &[version, l0, l1, l2, l3, u0, u1, algorithm, mode, v0, v1, exportability, n0, n1, context, reserved] =
            fixed;
        let version = Version::from_letter(version).ok_or(HeaderError::Version)?;
        let block_len = number(&[l0, l1, l2, l3]).ok_or(HeaderError::Length)?;
        let count = number(&[n0, n1]).ok_or(HeaderError::BlockCount)?;
        let (optional, behind) = read_optional(&text[HEADER_LEN..], count)?;
        let header = Self {
            version,
            usage: Usage::from_code([u0, u1]),
            algorithm: Algorithm::from_code([algorithm]),
            mode: Mode::from_code([mode]),
            key_version: KeyVersion::from_code([v0, v1]),
            exportability: Exportability::from_code([exportability]),
            context: Context::from_code([context]),
            reserved: [reserved],
            optional,
        };
        Ok(Read { header, block_len, behind })
    }

    /// The version of the key block.
    pub fn version(&self) -> Version {
        self.version
    }

    /// What the key is for.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// What the key may be used with.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// What may be done with the key.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// The version of the key.
    pub fn key_version(&self) -> KeyVersion {
        self.key_version
    }

    /// Whether the key may leave again.
    pub fn exportability(&self) -> Exportability {
        self.exportability
    }

    /// Where the block may be used.
    pub fn context(&self) -> Context {
        self.context
    }

    /// The context and the reserved character, as they stand in the header.
    pub fn last_characters(&self) -> String {
        [self.context.code(), self.reserved].concat().into_iter().map(char::from).collect()
    }

    /// The optional blocks, in their order, those nobody knows and the padding included.
    pub fn optional(&self) -> &[OptionalBlock] {
        &self.optional
    }

    /// The first optional block of this id.
    pub fn find(&self, id: BlockId) -> Option<&OptionalBlock> {
        self.optional.iter().find(|block| block.id() == id)
    }

    /// Its characters, all of which the MAC is over, in a key block of this length.
    pub fn text(&self, block_len: usize) -> String {
        let Self { version, usage, algorithm, mode, key_version, exportability, .. } = self;
        let (count, last) = (self.optional.len(), self.last_characters());
        let optional: String = self.optional.iter().map(OptionalBlock::to_string).collect();
        format!("{version}{block_len:04}{usage}{algorithm}{mode}{key_version}{exportability}{count:02}{last}{optional}")
    }

    /// Characters of [`Self::text`].
    pub fn text_len(&self) -> usize {
        HEADER_LEN + self.optional_len()
    }

    /// Whether the optional blocks together are a whole number of cipher blocks.
    pub(super) fn is_padded(&self) -> bool {
        self.optional_len().is_multiple_of(self.version.block_len())
    }

    /// The same with a padding block, if one is needed. One that does its work stays as it is.
    pub(super) fn padded(&self) -> Result<Self, HeaderError> {
        let mut padded = self.clone();
        if !self.is_padded() {
            padded.optional.retain(|block| block.id() != BlockId::PB);
            let unit = self.version.block_len();
            match padded.optional_len().next_multiple_of(unit) - padded.optional_len() {
                0 => {}
                gap if gap < optional::LEAST_LEN => padded.optional.push(OptionalBlock::padding(gap + unit)),
                gap => padded.optional.push(OptionalBlock::padding(gap)),
            }
        }
        if padded.optional.len() > MAX_BLOCKS { Err(HeaderError::TooManyBlocks) } else { Ok(padded) }
    }

    /// What the standard would have otherwise.
    pub fn warnings(&self) -> Vec<Warning> {
        let warn = |right: bool, warning: Warning| (!right).then_some(warning);
        let is_last = |at: usize| at + 1 == self.optional.len();
        let repeated = |at: usize| self.optional[..at].iter().any(|before| before.id() == self.optional[at].id());
        let mut warnings = self.code_warnings();
        for (at, block) in self.optional.iter().enumerate() {
            warnings.extend(warn(!repeated(at), Warning::Repeated(block.id())));
            warnings.extend(warn(block.id() != BlockId::PB || is_last(at), Warning::PaddingNotLast));
            warnings.extend(warn(
                rules::has_block(self.usage, self.algorithm, block.id()),
                Warning::OptionalElsewhere(block.id()),
            ));
            warnings.extend(block.warnings());
        }
        let hash_said = self.algorithm != Algorithm::Hmac || self.find(BlockId::HM).is_some();
        warnings.extend(warn(hash_said, Warning::HashUnsaid));
        warnings.extend(warn(self.optional.len() <= MAX_BLOCKS, Warning::TooManyBlocks));
        warnings.extend(warn(self.is_padded(), Warning::NotPadded));
        warnings
    }

    /// Whether the standard has it so and it is a version that is written. Padding comes with the key.
    pub(super) fn check(&self) -> Result<(), Warning> {
        self.check_but(&[Warning::NotPadded])
    }

    /// The same of a header to which the block that says the hash may still be added.
    fn strict(self) -> Result<Self, Warning> {
        self.check_but(&[Warning::NotPadded, Warning::HashUnsaid]).map(|()| self)
    }

    fn check_but(&self, later: &[Warning]) -> Result<(), Warning> {
        self.warnings().into_iter().find(|warning| !later.contains(warning)).map_or(Ok(()), Err)
    }

    fn code_warnings(&self) -> Vec<Warning> {
        let Self { version, usage, algorithm, mode, key_version, exportability, context, reserved, .. } = *self;
        let usage_known = !matches!(usage, Usage::Other(code) if !rules::is_private(&code));
        let algorithm_known = !matches!(algorithm, Algorithm::Other(code) if !rules::is_private(&code));
        let mode_known = !matches!(mode, Mode::Other(code) if !rules::is_private(&code));
        [
            (matches!(version, Version::B | Version::C | Version::D), Warning::Version(version)),
            (usage_known, Warning::Usage(usage)),
            (algorithm_known, Warning::Algorithm(algorithm)),
            (mode_known, Warning::Mode(mode)),
            (!algorithm_known || rules::has_algorithm(usage, algorithm), Warning::UsageAlgorithm(usage, algorithm)),
            (!mode_known || rules::has_mode(usage, mode), Warning::UsageMode(usage, mode)),
            (key_version.is_standard(), Warning::KeyVersion),
            (!matches!(exportability, Exportability::Other(_)), Warning::Exportability),
            (!matches!(context, Context::Other(_)), Warning::Context),
            (reserved == *b"0", Warning::Reserved),
        ]
        .into_iter()
        .filter_map(|(right, warning)| (!right).then_some(warning))
        .collect()
    }

    fn optional_len(&self) -> usize {
        self.optional.iter().map(OptionalBlock::len).sum()
    }
}

/// So many optional blocks, and the text behind them.
fn read_optional(mut text: &str, count: usize) -> Result<(Vec<OptionalBlock>, &str), HeaderError> {
    let mut optional = Vec::new();
    for number in 1..=count {
        let read = OptionalBlock::read(text).map_err(|error| HeaderError::Optional { number, error })?;
        optional.push(read.0);
        text = read.1;
    }
    Ok((optional, text))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn new(usage: Usage, algorithm: Algorithm, mode: Mode) -> Result<Header, Warning> {
        Header::new(Version::D, usage, algorithm, mode, Exportability::Never)
    }

    #[test]
    fn a_header_is_made_as_the_standard_has_it_or_not_at_all() {
        let header = new(Usage::Pin, Algorithm::Aes, Mode::Encrypt).unwrap();
        assert_eq!(header.text(112), "D0112P0AE00N0000");
        let header = header.with_key_version(KeyVersion::from_code(*b"12")).unwrap();
        let header =
            header.with_context(Context::Storage).unwrap().with(OptionalBlock::initial_key_id([1; 8])).unwrap();
        assert_eq!(header.text(0), "D0000P0AE12N0110IK140101010101010101");
        assert_eq!(header.clone().with(OptionalBlock::initial_key_id([2; 8])), Err(Warning::Repeated(BlockId::IK)));
        assert!(header.clone().with_key_version(KeyVersion::from_code(*b"cA")).is_ok(), "a component");
        assert_eq!(header.with_key_version(KeyVersion::from_code(*b"c ")), Err(Warning::KeyVersion));

        let wrong = Warning::UsageMode(Usage::Pin, Mode::MacBoth);
        assert_eq!(new(Usage::Pin, Algorithm::Aes, Mode::MacBoth), Err(wrong));
        let wrong = Warning::UsageAlgorithm(Usage::Data, Algorithm::Rsa);
        assert_eq!(new(Usage::Data, Algorithm::Rsa, Mode::Encrypt), Err(wrong));
        let usage = Usage::from_code(*b"Q0");
        assert_eq!(new(usage, Algorithm::Aes, Mode::Encrypt), Err(Warning::Usage(usage)));
        assert!(new(Usage::from_code(*b"42"), Algorithm::Aes, Mode::from_code(*b"1")).is_ok(), "private codes");
        for version in [Version::A, Version::E] {
            let header = Header::new(version, Usage::Pin, Algorithm::Tdes, Mode::Encrypt, Exportability::Never);
            assert_eq!(header, Err(Warning::Version(version)));
        }
    }

    #[test]
    fn what_is_unusual_is_read_and_told() {
        let warnings = |text: &str| Header::parse(text).unwrap().warnings();
        assert_eq!(warnings("B0000P0TE00N0000"), []);
        assert_eq!(warnings("A0000P0TE00N0000"), [Warning::Version(Version::A)]);
        let told = warnings("B0000Q0QQcxQ0035");
        let codes = [Warning::Exportability, Warning::Context, Warning::Reserved];
        let unknown = [
            Warning::Usage(Usage::Other(*b"Q0")),
            Warning::Algorithm(Algorithm::Other(*b"Q")),
            Warning::Mode(Mode::Other(*b"Q")),
        ];
        assert_eq!(told, [&unknown[..], &codes].concat());
        let twice = "B0000P0TE00N0300LB06aaPB04LB06bb";
        assert_eq!(warnings(twice), [Warning::PaddingNotLast, Warning::Repeated(BlockId::LB)]);
        assert_eq!(warnings("B0000P0TE00N0100LB06aa"), [Warning::NotPadded]);
    }

    #[test]
    fn optional_blocks_are_of_the_keys_they_belong_to() {
        let warnings = |text: &str| Header::parse(text).unwrap().warnings();
        let elsewhere = |id| [Warning::OptionalElsewhere(id), Warning::NotPadded];
        assert_eq!(warnings("D0000M7HC00N0000"), [Warning::HashUnsaid]);
        assert_eq!(warnings("D0000M7HC00N0100HM0621"), [Warning::NotPadded]);
        assert_eq!(warnings("D0000M7HC00N0100HM0611"), [Warning::Content(BlockId::HM), Warning::NotPadded]);
        assert_eq!(warnings("D0000P0AE00N0100HM0621"), elsewhere(BlockId::HM));
        assert_eq!(warnings("D0000B3AX00N0100DA09P0AEN"), [Warning::NotPadded]);
        assert_eq!(warnings("D0000B0AX00N0100DA09P0AEN"), elsewhere(BlockId::DA));
        assert_eq!(warnings("D0000S0RS00N0100AL080101"), [Warning::NotPadded]);
        assert_eq!(warnings("D0000P0AE00N0100AL080101"), elsewhere(BlockId::AL));
        for id in ["QQ", "1Q", "Kc"] {
            let [a, b] = id.as_bytes().try_into().unwrap();
            let unknown = Warning::Optional(BlockId::new([a, b]).unwrap());
            assert_eq!(warnings(&format!("D0000P0AE00N0100{id}10ABCDEFGHIJKL")), [unknown]);
        }
        assert_eq!(warnings("D0000P0AE00N01004210ABCDEFGHIJKL"), [], "digits are private");
    }

    #[test]
    fn the_hash_of_an_hmac_key_may_be_said_after_the_rest() {
        let header = new(Usage::Hmac, Algorithm::Hmac, Mode::MacBoth).unwrap();
        assert_eq!(header.check(), Err(Warning::HashUnsaid));
        let header = header.with(OptionalBlock::new(BlockId::HM, "21").unwrap()).unwrap();
        assert_eq!(header.check(), Ok(()));
    }

    #[test]
    fn a_header_counts_99_optional_blocks() {
        let block = |number: u8| {
            let id = [b'0' + number / 10, b'0' + number % 10];
            OptionalBlock::new(BlockId::new(id).unwrap(), "").unwrap()
        };
        let header = new(Usage::Pin, Algorithm::Aes, Mode::Encrypt).unwrap();
        let full = (0..99).fold(header, |header, number| header.with(block(number)).unwrap());
        assert_eq!(full.with(block(99)), Err(Warning::TooManyBlocks));
    }

    #[test]
    fn what_is_no_header_is_named() {
        for (text, error) in [
            ("", HeaderError::Short),
            ("B0000P0TE00N000", HeaderError::Short),
            ("_0000P0TE00N0000", HeaderError::Characters),
            ("B0000P0TE00N00é", HeaderError::Characters),
            ("F0000P0TE00N0000", HeaderError::Version),
            ("b0000P0TE00N0000", HeaderError::Version),
            ("B00x0P0TE00N0000", HeaderError::Length),
            ("B0000P0TE00N0X00", HeaderError::BlockCount),
            ("B0000P0TE00N0000KS04", HeaderError::Behind),
            ("B0000P0TE00N0200KS04", HeaderError::Optional { number: 2, error: OptionalBlockError::Id }),
        ] {
            assert_eq!(Header::parse(text), Err(error), "{text:?}");
        }
    }

    #[test]
    fn padding_is_made_where_it_is_needed() {
        let padded = |text: &str| Header::parse(text).unwrap().padded().unwrap().text(0);
        assert_eq!(padded("B0000P0TE00N0000"), "B0000P0TE00N0000");
        assert_eq!(padded("B0000P0TE00N0100KS14FFFF9876543210E0"), "B0000P0TE00N0200KS14FFFF9876543210E0PB04");
        assert_eq!(padded("B0000P0TE00N0100LB06aa"), "B0000P0TE00N0200LB06aaPB0A000000", "too narrow for a block");
        assert_eq!(padded("D0000P0TE00N0100LB06aa"), "D0000P0TE00N0200LB06aaPB0A000000");
        let made = "B0000P0TE00N0200LB06aaPB0Axyzxyz";
        assert_eq!(padded(made), made, "a padding block that does its work stays");
        assert_eq!(padded("B0000P0TE00N0200LB06aaPB06xx"), "B0000P0TE00N0200LB06aaPB0A000000");
        let many = format!("B0000P0TE00N9900{}", "LB06aa".repeat(99));
        assert_eq!(Header::parse(&many).unwrap().padded(), Err(HeaderError::TooManyBlocks));
    }

    proptest! {
        #[test]
        fn a_header_survives_being_written_and_read(
            version in "[A-E]", codes in "[0-9A-Za-z]{7}", last in "[0-9A-Za-z]{2}", block_len in 0usize..10_000,
            optional in prop::collection::vec(("[0-9A-Za-z]{2}", "[ -~]{0,300}"), 0..5),
        ) {
            let text = optional.iter().fold(
                format!("{version}{block_len:04}{codes}{:02}{last}", optional.len()),
                |text, (id, content)| {
                    let id = BlockId::new(id.as_bytes().try_into().unwrap()).unwrap();
                    text + &OptionalBlock::new(id, content).unwrap().to_string()
                },
            );
            let header = Header::parse(&text).unwrap();
            prop_assert_eq!(header.text(block_len), &text[..]);
            prop_assert_eq!(header.text_len(), text.len());
            let padded = header.padded().unwrap();
            prop_assert!(padded.is_padded());
            prop_assert_eq!(Header::parse(&padded.text(block_len)), Ok(padded));
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,60}") {
            if let Ok(header) = Header::parse(&text) {
                prop_assert_eq!(header.text_len(), text.len());
            }
        }

        #[test]
        fn any_change_of_the_optional_blocks_is_read_or_refused(
            at in 16usize..60, byte in b' '..=b'~', cut in 16usize..61,
        ) {
            let mut text = b"B0000P0TE00N0300KS1800604B120F9292800000KC0C0008D7B4PB08aaaa".to_vec();
            text[at] = byte;
            text.truncate(cut);
            let text = String::from_utf8(text).unwrap();
            if let Ok(header) = Header::parse(&text) {
                prop_assert_eq!(header.text(0), text);
            }
        }
    }
}
