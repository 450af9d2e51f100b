//! `warifu device`: keypads and readers, how each is read, and whether it may be used.

use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use warifu_actors::store::device::{CardCheck, DeviceRecord, Sred};
use warifu_core::custody::Purpose;
use warifu_core::device::{Format, Profile, State};
use warifu_core::key::TdesKey;
use warifu_core::ksn::{Ksn, Scheme};
use warifu_core::merchant::{BdkId, DeviceId, MerchantId};
use warifu_core::replay::{KsnGuard, MAX_WINDOW};

use super::output::{Listing, facts, moment, say};
use super::registry::{Desk, Stored as _, at_desk, now_ms};
use crate::cli::ConfigFile;
use crate::exit::{Exit, Failure};
use crate::rpc::scheme_name;

/// Register devices and change their state.
#[derive(Args)]
#[command(after_help = "\
Examples:
  warifu device add kp-1 --merchant flower-shop --scheme aes --ksn 123456789012000100000000 --bdk phone-2026
  warifu device add stripe-1 --merchant flower-shop --scheme tdes --ksn 6299490000000A000000 \\
      --bdk counter-tdes --format idtech-binary --activate
  warifu device activate kp-1
  warifu device suspend kp-1

States: registered -> active <-> suspended; each -> retired, for good.")]
pub(crate) struct DeviceCommand {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Register a device.
    Add(Box<Add>),
    /// List the devices.
    List(Listing),
    /// Show everything known of a device.
    Show {
        /// Its id.
        #[arg(value_parser = DeviceId::parse)]
        id: DeviceId,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take a device into use, for the first time or again.
    Activate(Which),
    /// Stop using a device for now.
    Suspend(Which),
    /// Stop using a device for good.
    Retire(Which),
}

#[derive(Args)]
struct Which {
    /// The device's id.
    #[arg(value_parser = DeviceId::parse)]
    id: DeviceId,
}

#[derive(Args)]
struct Add {
    /// Its id: letters, digits, - _ .
    #[arg(value_parser = DeviceId::parse)]
    id: DeviceId,
    /// Whose it is.
    #[arg(long, value_parser = MerchantId::parse)]
    merchant: MerchantId,
    /// Its DUKPT.
    #[arg(long, value_enum)]
    scheme: SchemeArg,
    /// Its key serial number in hex, at any counter: 12 bytes for aes, 8 to 10 for tdes.
    #[arg(long, value_name = "HEX")]
    ksn: String,
    /// The base derivation key its keys come from, as the configuration names it.
    #[arg(long, value_parser = BdkId::parse)]
    bdk: BdkId,
    /// Its output format.
    #[arg(long, default_value = "native", value_parser = formats())]
    format: String,
    /// The key of the TDES transaction its output uses, where that is not its maker's usual one.
    #[arg(long, value_enum)]
    key: Option<KeyArg>,
    /// Which card numbers it may send: with a right check digit, or any (makers' test cards).
    #[arg(long, value_enum, default_value_t = CardCheckArg::Luhn)]
    card_check: CardCheckArg,
    /// How many counters below its newest are still taken, each once: 0 to 64.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(..=i64::from(MAX_WINDOW)))]
    window: u8,
    /// Its model, as the maker names it.
    #[arg(long)]
    model: Option<String>,
    /// Its firmware version.
    #[arg(long)]
    firmware: Option<String>,
    /// Number of its PCI PTS approval with SRED.
    #[arg(long, requires = "sred_expires")]
    sred_approval: Option<String>,
    /// When that approval ends: YYYY-MM-DD.
    #[arg(long, value_name = "DATE", requires = "sred_approval", value_parser = date)]
    sred_expires: Option<i64>,
    /// Take it into use at once.
    #[arg(long)]
    activate: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum SchemeArg {
    /// ANSI X9.24-3.
    Aes,
    /// ANSI X9.24-1.
    Tdes,
}

#[derive(Clone, Copy, ValueEnum)]
enum CardCheckArg {
    Luhn,
    Any,
}

#[derive(Clone, Copy, ValueEnum)]
enum KeyArg {
    Pin,
    DataRequest,
    DataResponse,
    DataRequestVariant,
    DataResponseVariant,
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

const fn key_name(key: TdesKey) -> &'static str {
    match key {
        TdesKey::Pin => "pin",
        TdesKey::MacRequest => "mac-request",
        TdesKey::MacResponse => "mac-response",
        TdesKey::DataRequest => "data-request",
        TdesKey::DataResponse => "data-response",
        TdesKey::DataRequestVariant => "data-request-variant",
        TdesKey::DataResponseVariant => "data-response-variant",
    }
}

fn formats() -> PossibleValuesParser {
    PossibleValuesParser::new(Format::ALL.map(Format::name))
}

pub(crate) fn date(text: &str) -> Result<i64, String> {
    let day = time::Date::parse(text, time::macros::format_description!("[year]-[month]-[day]"));
    let day = day.map_err(|_| "write the date as 2030-04-30".to_owned())?;
    Ok(day.midnight().assume_utc().unix_timestamp() * 1000)
}

impl DeviceCommand {
    pub(crate) fn run(self, file: &ConfigFile) -> Result<(), Failure> {
        at_desk(file, async |desk| match self.command {
            What::Add(new) => new.add(&desk).await,
            What::List(listing) => list(&desk, &listing).await,
            What::Show { id, json } => show(&desk, &id, json).await,
            What::Activate(which) => change_state(&desk, &which.id, State::Active).await,
            What::Suspend(which) => change_state(&desk, &which.id, State::Suspended).await,
            What::Retire(which) => change_state(&desk, &which.id, State::Retired).await,
        })
    }
}

impl Add {
    /// Whether the registry has the key for this merchant's devices.
    async fn check_key(&self, desk: &Desk) -> Result<(), Failure> {
        let key = desk.store.bdk(&self.bdk).await.stored("look the key up")?;
        let refused = |why: std::fmt::Arguments<'_>| Err(Failure::new(Exit::Refused, why));
        match key.as_deref() {
            None => refused(format_args!("the key {0} is not registered: warifu key register {0}", self.bdk)),
            Some(key) if key.purpose != Purpose::Bdk => {
                refused(format_args!("the key {} is no base derivation key", self.bdk))
            }
            Some(key) if key.merchant.as_ref().is_some_and(|merchant| *merchant != self.merchant) => {
                refused(format_args!("the key {} is another merchant's", self.bdk))
            }
            Some(_) => Ok(()),
        }
    }

    async fn add(self, desk: &Desk) -> Result<(), Failure> {
        let scheme = match self.scheme {
            SchemeArg::Aes => Scheme::Aes,
            SchemeArg::Tdes => Scheme::Tdes,
        };
        let known = desk.config.bdks.iter().find(|bdk| bdk.id == self.bdk);
        match known {
            None => {
                return Err(Failure::new(Exit::Refused, format_args!("the configuration has no [[bdk]] {}", self.bdk)));
            }
            Some(bdk) if bdk.scheme != scheme => {
                return Err(Failure::new(
                    Exit::Refused,
                    format_args!("{} is a {} key", self.bdk, scheme_name(bdk.scheme)),
                ));
            }
            Some(_) => {}
        }
        self.check_key(desk).await?;
        let format = Format::from_name(&self.format).ok_or_else(|| Failure::new(Exit::Usage, "no such format"))?;
        let device = DeviceRecord {
            id: self.id.clone(),
            merchant: self.merchant,
            ksn_device: ksn(scheme, &self.ksn)?,
            bdk: self.bdk,
            profile: Profile { format, key: self.key.map(TdesKey::from) },
            state: State::Registered,
            card_check: match self.card_check {
                CardCheckArg::Luhn => CardCheck::Luhn,
                CardCheckArg::Any => CardCheck::Any,
            },
            window: self.window,
            guard: KsnGuard::default(),
            faults: 0,
            model: self.model,
            firmware: self.firmware,
            sred: self
                .sred_approval
                .zip(self.sred_expires)
                .map(|(approval, expires_at_ms)| Sred { approval, expires_at_ms }),
            created_at_ms: now_ms(),
        };
        desk.registry.register_device(&device).await.stored("register the device")?;
        say(format_args!("device {} registered", self.id));
        if self.activate {
            // No server has met it yet, so there is none to wait for.
            become_state(desk, &self.id, State::Active).await?;
            tell_state(&self.id, State::Active);
        }
        Ok(())
    }
}

/// Reads a key serial number and clears its counter.
pub(crate) fn ksn(scheme: Scheme, text: &str) -> Result<Ksn, Failure> {
    let bytes = hex::decode(text).map_err(|_| Failure::new(Exit::Usage, "the key serial number must be hex"))?;
    let ksn = Ksn::parse(scheme, &bytes).map_err(|error| Failure::new(Exit::Usage, error))?;
    Ok(ksn.device())
}

async fn change_state(desk: &Desk, id: &DeviceId, state: State) -> Result<(), Failure> {
    become_state(desk, id, state).await?;
    desk.in_force().await;
    tell_state(id, state);
    Ok(())
}

async fn become_state(desk: &Desk, id: &DeviceId, state: State) -> Result<(), Failure> {
    desk.registry.set_device_state(id, state, now_ms()).await.stored("change the device")
}

fn tell_state(id: &DeviceId, state: State) {
    say(format_args!("device {id} is {}", state.name()));
}

async fn list(desk: &Desk, listing: &Listing) -> Result<(), Failure> {
    let devices = desk.store.devices().await.stored("list the devices")?;
    let columns = ["id", "merchant", "state", "scheme", "format", "ksn", "counter", "bdk"];
    listing.print(&columns, devices.iter().map(described).collect());
    Ok(())
}

async fn show(desk: &Desk, id: &DeviceId, json: bool) -> Result<(), Failure> {
    let device = desk.store.device(id).await.stored("look the device up")?;
    let device = device.ok_or_else(|| Failure::new(Exit::Refused, "there is no such device"))?;
    facts(described(&device), json);
    Ok(())
}

fn described(device: &DeviceRecord) -> Value {
    json!({
        "id": device.id.as_str(),
        "merchant": device.merchant.as_str(),
        "state": device.state.name(),
        "scheme": scheme_name(device.ksn_device.scheme()),
        "format": device.profile.format.name(),
        "key": device.profile.key.map(key_name),
        "ksn": device.ksn_device.to_string(),
        "counter": device.guard.high_water,
        "window": device.window,
        "bdk": device.bdk.as_str(),
        "card_check": device.card_check.name(),
        "faults": device.faults,
        "model": device.model,
        "firmware": device.firmware,
        "sred_approval": device.sred.as_ref().map(|sred| sred.approval.as_str()),
        "sred_expires": device.sred.as_ref().map(|sred| moment(sred.expires_at_ms)),
        "created_at": moment(device.created_at_ms),
    })
}
