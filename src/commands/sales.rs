//! `warifu sales`: the book of sales, by the merchants' own order numbers.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use warifu_actors::store::job::StoredPayment;
use warifu_core::merchant::{MerchantId, OrderNumber};
use warifu_core::payment::State;

use super::output::{Listing, moment, say};
use super::registry::{Desk, Stored as _, at_desk};
use crate::cli::ConfigFile;
use crate::exit::Failure;
use crate::rpc::scheme_name;

/// Payments read at a time.
const PAGE: u64 = 500;

/// List sales.
#[derive(Args)]
#[command(after_help = "\
Examples:
  warifu sales list --config warifu.toml
  warifu sales list --merchant flower-shop --order 2026-0042 --json")]
pub(crate) struct SalesCommand {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// List payments, oldest first.
    List {
        /// Of this merchant only.
        #[arg(long, value_parser = MerchantId::parse)]
        merchant: Option<MerchantId>,
        /// Of this order only.
        #[arg(long, value_parser = OrderNumber::parse)]
        order: Option<OrderNumber>,
        #[command(flatten)]
        listing: Listing,
    },
}

impl SalesCommand {
    pub(crate) fn run(self, file: &ConfigFile) -> Result<(), Failure> {
        let What::List { merchant, order, listing } = self.command;
        at_desk(file, async |desk| {
            let merchants = match merchant {
                Some(merchant) => vec![merchant],
                None => {
                    let all = desk.store.merchants().await.stored("list the merchants")?;
                    all.into_iter().map(|merchant| merchant.id).collect()
                }
            };
            let mut rows = Vec::new();
            for merchant in &merchants {
                rows.extend(payments(&desk, merchant, order.as_ref()).await?.iter().map(described));
            }
            let columns = [
                "created_at",
                "merchant",
                "order",
                "amount",
                "state",
                "code",
                "masked_pan",
                "token",
                "device",
                "payment",
            ];
            if rows.is_empty() && !listing.is_json() {
                say("no sales");
            } else {
                listing.print(&columns, rows);
            }
            Ok(())
        })
    }
}

async fn payments(
    desk: &Desk,
    merchant: &MerchantId,
    order: Option<&OrderNumber>,
) -> Result<Vec<StoredPayment>, Failure> {
    if let Some(order) = order {
        return desk.store.payments_by_order(merchant, order).await.stored("read the sales");
    }
    let mut all: Vec<StoredPayment> = Vec::new();
    loop {
        let page =
            desk.store.payments(merchant, all.last().map(|last| last.id), PAGE).await.stored("read the sales")?;
        if page.is_empty() {
            return Ok(all);
        }
        all.extend(page);
    }
}

fn described(payment: &StoredPayment) -> Value {
    let code = match payment.state {
        State::Authorized(code) => Some(code.to_string()),
        State::Declined(code) => Some(code.to_string()),
        State::Sent | State::Unknown | State::Reversed => None,
    };
    json!({
        "payment": payment.id.to_string(),
        "merchant": payment.merchant.as_str(),
        "order": payment.order.as_str(),
        "amount": payment.amount.to_string(),
        "amount_minor": payment.amount.minor(),
        "currency": payment.amount.currency().code(),
        "channel": payment.channel.name(),
        "state": payment.state.name(),
        "code": code,
        "token": payment.card.token.to_string(),
        "masked_pan": payment.card.masked.to_string(),
        "brand": payment.card.brand.name(),
        "device": payment.card.origin.device.as_str(),
        "entry": payment.card.origin.entry.name(),
        "scheme": scheme_name(payment.card.origin.scheme),
        "decryption_mode": payment.card.origin.mode.name(),
        "created_at": moment(payment.created_at_ms),
    })
}
