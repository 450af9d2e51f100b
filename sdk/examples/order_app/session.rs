//! A working day on standard input: one JSON command a line, one JSON answer a line, in order.
//!
//! Devices and collected cards keep the names they are given. A card stays sealed bytes; it can be sent again or
//! spoiled on purpose, to see what the server says.

use std::collections::HashMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, stdin, stdout};
use warifu_sdk::{Channel, Collected, CommModule, Connection, Device, Format, Order, RequestId, SdkError};

use crate::answers;

#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", deny_unknown_fields)]
enum Op {
    /// Open a device's wire.
    Attach { name: String, connection: String, format: Option<String> },
    /// Take a device off.
    Detach { name: String },
    /// Wait for a card and keep it under a name.
    Collect { device: String, r#as: String, timeout_ms: Option<u64> },
    /// Turn a card into a token.
    Tokenize { card: String, request_id: Option<String> },
    /// Ask for an authorization; the same `request_id` again asks the same again.
    Authorize {
        card: String,
        order: String,
        amount: i64,
        currency: String,
        channel: Option<String>,
        request_id: Option<String>,
    },
    /// List the payments of an order.
    Find { order: String },
    /// Keep a copy of a card with one byte changed.
    Flip { card: String, offset: usize, r#as: String },
    /// Keep given bytes as a card.
    Load { hex: String, r#as: String },
    /// Show a card's sealed bytes.
    Show { card: String },
}

#[derive(Default)]
struct Desk {
    devices: HashMap<String, Device>,
    cards: HashMap<String, Collected>,
}

/// Why a command has no answer.
enum Trouble {
    Sdk(SdkError),
    Command(String),
}

impl<E: Into<SdkError>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Sdk(error.into())
    }
}

/// Answers commands until standard input ends.
pub(crate) async fn run(module: &CommModule) -> anyhow::Result<()> {
    let mut desk = Desk::default();
    let mut lines = BufReader::new(stdin()).lines();
    let mut out = stdout();
    while let Some(line) = lines.next_line().await? {
        if line.trim().is_empty() {
            continue;
        }
        let answer = match serde_json::from_str::<Op>(&line) {
            Ok(op) => desk.answer(module, op).await,
            Err(error) => command_error(&error.to_string()),
        };
        out.write_all(format!("{answer}\n").as_bytes()).await?;
        out.flush().await?;
    }
    Ok(())
}

fn command_error(message: &str) -> Value {
    json!({ "error": { "kind": "command", "message": message } })
}

impl Desk {
    async fn answer(&mut self, module: &CommModule, op: Op) -> Value {
        match self.act(module, op).await {
            Ok(answer) => answer,
            Err(Trouble::Sdk(error)) => answers::error(&error),
            Err(Trouble::Command(message)) => command_error(&message),
        }
    }

    async fn act(&mut self, module: &CommModule, op: Op) -> Result<Value, Trouble> {
        Ok(match op {
            Op::Attach { name, connection, format } => {
                let format = format.as_deref().unwrap_or("native");
                let format = Format::from_name(format).ok_or_else(|| Trouble::Command("no such format".to_owned()))?;
                let device = module.attach(Connection::parse(&connection)?, format).await?;
                let answer = json!({ "attached": { "name": name, "connection": device.name() } });
                self.devices.insert(name, device);
                answer
            }
            Op::Detach { name } => {
                self.devices.remove(&name).ok_or_else(|| unnamed("device", &name))?;
                json!({ "detached": { "name": name } })
            }
            Op::Collect { device, r#as, timeout_ms } => {
                let reader = self.devices.get_mut(&device).ok_or_else(|| unnamed("device", &device))?;
                let collected = reader.collect_waiting(Duration::from_millis(timeout_ms.unwrap_or(30_000))).await?;
                self.keep(r#as, collected)
            }
            Op::Tokenize { card, request_id } => {
                let request_id = request_id.as_deref().map_or_else(|| Ok(RequestId::new()), RequestId::parse)?;
                answers::card(&request_id, module.tokenize(&request_id, self.card(&card)?).await)
            }
            Op::Authorize { card, order, amount, currency, channel, request_id } => {
                let mut order = Order::new(order, amount, currency);
                if let Some(channel) = channel {
                    let channel = Channel::from_name(&channel);
                    order = order.channel(channel.ok_or_else(|| Trouble::Command("no such channel".to_owned()))?);
                }
                if let Some(request_id) = request_id {
                    order = order.with_request_id(RequestId::parse(&request_id)?);
                }
                answers::payment(&order, module.authorize(&order, self.card(&card)?).await)
            }
            Op::Find { order } => answers::payments(module.find_sale(&order).await),
            Op::Flip { card, offset, r#as } => {
                let mut bytes = self.card(&card)?.as_bytes().to_vec();
                let length = bytes.len();
                let byte = bytes.get_mut(offset);
                let byte = byte.ok_or_else(|| Trouble::Command(format!("the card has {length} bytes")))?;
                *byte ^= 0x01;
                self.keep(r#as, Collected::from_bytes(bytes))
            }
            Op::Load { hex, r#as } => {
                let bytes = hex::decode(hex).map_err(|_| Trouble::Command("hex is not hex".to_owned()))?;
                self.keep(r#as, Collected::from_bytes(bytes))
            }
            Op::Show { card } => json!({ "shown": { "hex": hex::encode(self.card(&card)?.as_bytes()) } }),
        })
    }

    fn card(&self, name: &str) -> Result<&Collected, Trouble> {
        self.cards.get(name).ok_or_else(|| unnamed("card", name))
    }

    fn keep(&mut self, name: String, collected: Collected) -> Value {
        let answer = json!({ "collected": { "as": name, "bytes": collected.as_bytes().len() } });
        self.cards.insert(name, collected);
        answer
    }
}

fn unnamed(what: &str, name: &str) -> Trouble {
    Trouble::Command(format!("no {what} is called {name}"))
}
