//! `calc counter`: the next counter a conforming device uses.

use anyhow::{Result, bail};
use clap::Args;
use serde_json::{Map, Value, json};
use warifu_core::ksn::{Counter, Scheme};

use super::{SchemeArg, digits};

/// The next counter a device may use.
#[derive(Args)]
pub(super) struct NextCounter {
    /// Which DUKPT.
    #[arg(long)]
    scheme: SchemeArg,
    /// The counter before it, hex: 32 bits for AES, 21 for TDES.
    #[arg(long, value_name = "HEX")]
    counter: String,
}

impl NextCounter {
    pub(super) fn run(self) -> Result<Map<String, Value>> {
        let scheme = Scheme::from(self.scheme);
        let counter = digits::number("--counter", &self.counter)?;
        if counter > scheme.max_counter() {
            bail!("--counter: too large: {counter:X} is wider than the 21 bits of a TDES counter");
        }
        let hex = |counter: u32| match scheme {
            Scheme::Aes => format!("{counter:08X}"),
            Scheme::Tdes => format!("{counter:06X}"),
        };
        let next = scheme.next_counter(counter).map(Counter::get);
        let mut answer = Map::new();
        answer.insert("counter".into(), hex(counter).into());
        answer.insert("legal".into(), Counter::new(scheme, counter).is_ok().into());
        answer.insert("next".into(), next.map_or("exhausted".into(), hex).into());
        answer.insert("next_counter".into(), json!(next));
        answer.insert("exhausted".into(), next.is_none().into());
        Ok(answer)
    }
}
