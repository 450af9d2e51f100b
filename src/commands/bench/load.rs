//! The callers: each with a device of its own, one card after the other. Sealing the cards is not measured.

use std::fs;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};
use warifu_core::frame::Entry;
use warifu_core::key::{KeyBytes, KeyLen};
use warifu_core::ksn::Ksn;
use warifu_device_emu::card::Card;
use warifu_device_emu::device::Device;
use warifu_device_emu::dukpt::{Originator, aes};
use warifu_device_emu::format::Format;
use warifu_sdk::wire::v1;
use warifu_sdk::wire::v1::comm_module_service_client::CommModuleServiceClient;
use warifu_sdk::wire::v1::tokenize_many_response::Result as Told;

use super::shop::ksn_of;
use crate::commands::dev::folder::{Folder, MODULE, TEST_AES_BDK};
use crate::exit::{Attempt as _, Exit, Failure};

type Client = CommModuleServiceClient<Channel>;

/// Which cards the callers have.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cards {
    /// One, which has its token from the first time.
    Known,
    /// Each a new one.
    New,
}

/// The callers and their devices.
pub(super) struct Load {
    address: SocketAddr,
    tls: ClientTlsConfig,
    client: Option<Client>,
    devices: Vec<Device>,
    /// Counts requests over the whole run, so that no request id comes twice.
    requests: u64,
    /// Counts cards.
    cards: u64,
}

impl Load {
    pub(super) fn of(address: SocketAddr, folder: &Folder) -> Result<Self, Failure> {
        let read = |name: &str| fs::read(folder.pki().join(name)).or_exit(Exit::Usage, "read a certificate");
        let identity = Identity::from_pem(read(&format!("{MODULE}.pem"))?, read(&format!("{MODULE}.key"))?);
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read("ca.pem")?))
            .identity(identity)
            .domain_name("localhost");
        Ok(Self { address, tls, client: None, devices: Vec::new(), requests: 0, cards: 0 })
    }

    async fn client(&mut self) -> Result<Client, Failure> {
        if let Some(client) = &self.client {
            return Ok(client.clone());
        }
        let endpoint = Endpoint::from_shared(format!("https://{}", self.address))
            .and_then(|endpoint| endpoint.tcp_nodelay(true).tls_config(self.tls.clone()))
            .or_exit(Exit::Internal, "name the server")?;
        let channel = endpoint.connect().await.or_exit(Exit::Internal, "connect to the server")?;
        Ok(self.client.insert(Client::new(channel)).clone())
    }

    /// The time of one card, when so many callers share the work.
    pub(super) async fn tokenize(&mut self, callers: usize, total: usize, cards: Cards) -> Result<Duration, Failure> {
        let client = self.client().await?;
        let mut work = Vec::with_capacity(callers);
        for caller in 0..callers {
            let share = total / callers + usize::from(caller < total % callers);
            let frames: Result<Vec<_>, _> = (0..share).map(|_| self.request(caller, cards)).collect();
            work.push(frames?);
        }
        let begun = Instant::now();
        let mut callers: JoinSet<Result<(), Status>> = work
            .into_iter()
            .map(|frames| {
                let mut client = client.clone();
                async move {
                    for frame in frames {
                        client.tokenize(Request::new(frame)).await?;
                    }
                    Ok(())
                }
            })
            .collect();
        while let Some(done) = callers.join_next().await {
            done.or_exit(Exit::Internal, "wait for a caller")?.or_exit(Exit::Internal, "get a token")?;
        }
        Ok(super::per(begun.elapsed(), total))
    }

    /// The time of one card, when so many come in one call.
    pub(super) async fn upload(&mut self, together: usize, total: usize) -> Result<Duration, Failure> {
        let mut client = self.client().await?;
        let devices = self.devices.len().max(1);
        let calls = total / together;
        let work: Result<Vec<Vec<_>>, Failure> = (0..calls)
            .map(|_| (0..together).map(|card| self.request(card % devices, Cards::Known)).collect())
            .collect();
        let begun = Instant::now();
        for cards in work? {
            let answers = client.tokenize_many(tokio_stream::iter(cards)).await;
            let mut answers = answers.or_exit(Exit::Internal, "upload cards")?.into_inner();
            while let Some(answer) = answers.message().await.or_exit(Exit::Internal, "upload cards")? {
                if let Some(Told::Refused(refused)) = answer.result {
                    return Err(Failure::new(Exit::Internal, format_args!("a card was refused: {}", refused.reason)));
                }
            }
        }
        Ok(super::per(begun.elapsed(), calls * together))
    }

    fn request(&mut self, caller: usize, cards: Cards) -> Result<v1::TokenizeRequest, Failure> {
        while self.devices.len() <= caller {
            self.devices.push(device(self.devices.len())?);
        }
        let number = match cards {
            Cards::Known => 0,
            Cards::New => {
                self.cards += 1;
                self.cards
            }
        };
        let failed = "seal a card";
        let card = Card::new(pan(number).as_bytes(), b"3012").or_exit(Exit::Internal, failed)?;
        let card = card.with_code(b"123").or_exit(Exit::Internal, failed)?;
        let frame = self.devices[caller].take(Entry::Keyed, card).or_exit(Exit::Internal, failed)?.bytes.clone();
        self.requests += 1;
        let output = Some(v1::DeviceOutput { frame: frame.into() });
        Ok(v1::TokenizeRequest { request_id: format!("bench-{}", self.requests), output })
    }
}

fn device(caller: usize) -> Result<Device, Failure> {
    let Ksn::Aes(ksn) = ksn_of(caller)? else { return Err(Failure::new(Exit::Internal, "not an AES device")) };
    let bdk = KeyBytes::filled(KeyLen::K128, |key| key.copy_from_slice(&TEST_AES_BDK));
    let originator = Originator::Aes(aes::Originator::load(&aes::initial_key(&bdk, &ksn), &ksn));
    Device::new(originator, Format::Native, *b"BENCH00001", None).or_exit(Exit::Internal, "make a device")
}

/// A test card number with a right check digit that no other number of up to nine digits gives.
fn pan(number: u64) -> String {
    let body = format!("400000{number:09}");
    let sum: u32 = body
        .bytes()
        .rev()
        .zip([2, 1].into_iter().cycle())
        .map(|(digit, weight)| {
            let product = u32::from(digit - b'0') * weight;
            product / 10 + product % 10
        })
        .sum();
    format!("{body}{}", (10 - sum % 10) % 10)
}
