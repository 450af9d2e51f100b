//! `warifu bench`: what a durable token costs on this machine, beside what its parts cost alone in the same run.

mod alone;
mod links;
mod load;
mod report;
mod shop;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::sync::oneshot;
use uuid::Uuid;
use warifu_actors::store::probe;
use warifu_actors::supervisor;
use warifu_core::merchant::MerchantId;
use warifu_hsm::pkcs11::{SOFTHSM_MISSING, find_softhsm};
use warifu_hsm::software::SoftwareSlot;

use super::dev::folder::{Folder, MERCHANT, test_bdks};
use super::output::{remark, say};
use super::registry::{Stored as _, on_runtime};
use super::softhsm_env;
use crate::app::{App, Posture};
use crate::config::Config;
use crate::exit::{Attempt as _, Exit, Failure};
use load::{Cards, Load};
use report::{Report, Row};

/// How the name of a throw-away folder begins.
const PREFIX: &str = "warifu-bench-";
/// Connections that write single rows side by side, on PostgreSQL; SQLite has one writer.
const WRITERS: u32 = 8;
/// Callers at a time of a busy shop.
const CALLERS: usize = 64;
/// Cards of one call of `TokenizeMany`.
const TOGETHER: usize = 1000;

/// Measure this machine: a whole throw-away server with throw-away keys, mutual TLS and a throw-away database, and in the
/// same run what the database does alone. Nothing that exists is touched.
#[derive(Args)]
#[command(after_help = "\
Examples:
  warifu bench                                           the server alone, on SQLite in a temporary folder
  warifu bench --dir /var/lib/warifu                     on the disk that will be used
  warifu bench --postgres postgres://user@host/postgres  in a database made for it, and dropped afterwards
  warifu bench --hsm softhsm --json                      with a SoftHSM token: every key stays in it
  warifu bench --stored 10000000 --links 10000           with ten million tokens stored, and ten thousand idle links

The callers run on the same machine and take their share of it.")]
pub(crate) struct Bench {
    /// What opens the frames.
    #[arg(long, value_enum, default_value_t = Keys::Software)]
    hsm: Keys,
    /// A PostgreSQL server to make a database on; without it SQLite is measured.
    #[arg(long, value_name = "URL")]
    postgres: Option<String>,
    /// Make the throw-away folder in here: it is the disk that is measured.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Times everything is measured; medians are told.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Cards of one measurement.
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u32).range(64..=1_000_000))]
    cards: u32,
    /// Then store so many tokens, and measure again: does a full vault cost more?
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    stored: Option<u64>,
    /// Then link so many modules that say nothing: how fast, and what does each keep of the memory?
    #[arg(long, value_name = "MODULES", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    links: Option<u32>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// The throw-away folder itself.
    #[arg(long, hide = true)]
    folder: Option<PathBuf>,
    /// Be the modules of another process's measurement.
    #[arg(long, hide = true, requires = "folder")]
    link_to: Option<SocketAddr>,
}

/// Where the keys are.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Keys {
    /// In this process's memory: shows the server without an HSM.
    Software,
    /// In a throw-away SoftHSM token.
    Softhsm,
}

impl Bench {
    pub(crate) fn run(self) -> Result<(), Failure> {
        if cfg!(debug_assertions) {
            remark("warifu bench: this program was built without --release; its figures say nothing");
        }
        let dir = match &self.folder {
            // It is removed at the end.
            Some(folder) if folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with(PREFIX)) => {
                folder.clone()
            }
            Some(_) => return Err(Failure::new(Exit::Usage, "--folder is for this program's own use")),
            None => self.new_folder()?,
        };
        let folder = Folder::open(&dir)?;
        if let (Some(address), Some(links)) = (self.link_to, self.links) {
            return links::be_modules(size(links), address, &folder);
        }
        if self.hsm == Keys::Softhsm && !softhsm_env::is_set(&folder.softhsm_config()) {
            softhsm_env::begin_again(&folder.softhsm_config(), &["--folder", &dir.to_string_lossy()])
                .or_exit(Exit::Internal, "begin again with SoftHSM's configuration")?;
        }
        let database = format!("warifu_bench_{}", Uuid::new_v4().simple());
        let measured = self.store(&folder, &database).and_then(|url| {
            let measured = self.measure(&folder, url);
            self.drop_store(&database);
            measured
        });
        if let Err(error) = fs::remove_dir_all(&dir) {
            remark(format_args!("warifu: {} is left behind: {error}", dir.display()));
        }
        let report = measured?;
        if self.json {
            say(report.json())
        } else {
            say(report)
        }
        Ok(())
    }

    fn new_folder(&self) -> Result<PathBuf, Failure> {
        let mut builder = tempfile::Builder::new();
        let builder = builder.prefix(PREFIX);
        let made = match &self.dir {
            Some(dir) => builder.tempdir_in(dir),
            None => builder.tempdir(),
        };
        let made = made.or_exit(Exit::Usage, "make a throw-away folder")?.keep();
        std::path::absolute(&made).or_exit(Exit::Usage, "find the folder")
    }

    /// The address of a data store nobody else has.
    fn store(&self, folder: &Folder, database: &str) -> Result<String, Failure> {
        match &self.postgres {
            Some(server) => {
                on_runtime(async { probe::new_database(server, database).await.stored("make a throw-away database") })
            }
            None => Ok(format!("sqlite://{}?mode=rwc", folder.config().with_file_name("warifu.db").display())),
        }
    }

    fn drop_store(&self, database: &str) {
        let Some(server) = &self.postgres else { return };
        let dropped =
            on_runtime(async { probe::drop_database(server, database).await.stored("drop the throw-away database") });
        if let Err(failure) = dropped {
            remark(format_args!("warifu: the database {database} is left behind: {failure}"));
        }
    }

    fn measure(&self, folder: &Folder, url: String) -> Result<Report, Failure> {
        let (software, calls) = match self.hsm {
            Keys::Software => {
                folder.provision_for(Path::new("/none"), Some(&url))?;
                (Some(SoftwareSlot::new(test_bdks().into()).or_exit(Exit::Hsm, "make keys")?), None)
            }
            Keys::Softhsm => {
                let module = find_softhsm().ok_or_else(|| Failure::new(Exit::Hsm, SOFTHSM_MISSING))?;
                folder.provision_for(&module, Some(&url))?;
                (None, Some(folder.make_keys(&module)?))
            }
        };
        let connections = (1024 + self.links.unwrap_or(0)).to_string();
        let flags = [
            ("server.listen", "127.0.0.1:0"),
            ("server.http_listen", "127.0.0.1:0"),
            ("server.max_connections", connections.as_str()),
        ];
        let load = || Config::load(Some(&folder.config()), &flags).or_exit(Exit::Usage, "use the configuration");
        on_runtime(shop::furnish(load()?, folder, software.as_ref(), calls.as_ref(), CALLERS))?;
        supervisor::run(async {
            let config = load()?;
            let app = match software {
                Some(keys) => App::start_on_software(config, keys).await?,
                None => App::start(config, Posture::Dev).await?,
            };
            let address = app.addresses().grpc;
            let load = Load::of(address, folder)?;
            let (stop, stopped) = oneshot::channel::<()>();
            let plan = Plan {
                url,
                rounds: self.rounds,
                cards: self.cards,
                postgres: self.postgres.is_some(),
                stored: self.stored,
                hsm: (self.hsm == Keys::Softhsm).then(|| folder.config()),
            };
            let (links, path) = (self.links.map(size), folder.path().to_owned());
            let measuring = tokio::task::spawn_blocking(move || {
                // Callers on a runtime of their own, so that they wait as callers elsewhere would.
                let outcome = on_runtime(plan.carry_out(load)).and_then(|mut report| {
                    report.links = links.map(|links| links::measure(links, address, &path)).transpose()?;
                    Ok(report)
                });
                drop(stop);
                outcome
            });
            app.run(async {
                let _ = stopped.await;
                "measured"
            })
            .await?;
            measuring.await.or_exit(Exit::Internal, "measure")?
        })
    }
}

/// What is measured.
struct Plan {
    url: String,
    rounds: u32,
    cards: u32,
    postgres: bool,
    stored: Option<u64>,
    /// Where there is an HSM: the configuration that names it.
    hsm: Option<PathBuf>,
}

impl Plan {
    /// Everything in turn, round after round, so that a machine whose speed drifts drifts for all alike.
    async fn carry_out(self, mut load: Load) -> Result<Report, Failure> {
        let cards = usize::try_from(self.cards).unwrap_or(usize::MAX);
        let few = (cards / 8).max(32);
        let writers = if self.postgres { WRITERS } else { 1 };
        let mut report = Report::new(self.postgres);
        load.tokenize(CALLERS, cards / 4, Cards::Known).await?;
        for round in 1..=self.rounds {
            remark(format_args!("warifu bench: round {round} of {}", self.rounds));
            let beside = self.probe_url();
            let raw = probe::single_rows(&beside, writers, self.cards).await.stored("write single rows")?;
            let alone = probe::single_rows(&beside, 1, self.cards / 8).await.stored("write single rows")?;
            report.note(Row::Rows { writers }, per(raw, cards));
            report.note(Row::Commit, per(alone, cards / 8));
            if let Some(config) = &self.hsm {
                report.note(Row::Hsm, alone::a_frame(config)?);
            }
            report.note(Row::Alone, load.tokenize(1, few, Cards::Known).await?);
            report.note(Row::Known, load.tokenize(CALLERS, cards, Cards::Known).await?);
            report.note(Row::New, load.tokenize(CALLERS, cards, Cards::New).await?);
            report.note(Row::Together, load.upload(TOGETHER, cards.max(TOGETHER)).await?);
        }
        if let Some(tokens) = self.stored {
            self.fill(tokens).await?;
            for round in 1..=self.rounds {
                remark(format_args!("warifu bench: round {round} of {} with {tokens} tokens stored", self.rounds));
                report.note(Row::KnownStored { tokens }, load.tokenize(CALLERS, cards, Cards::Known).await?);
                report.note(Row::NewStored { tokens }, load.tokenize(CALLERS, cards, Cards::New).await?);
            }
        }
        Ok(report)
    }

    async fn fill(&self, tokens: u64) -> Result<(), Failure> {
        let shop = MerchantId::parse(MERCHANT).or_exit(Exit::Internal, "name the merchant")?;
        let told = |stored| {
            if stored % 1_000_000 == 0 || stored == tokens {
                remark(format_args!("warifu bench: {stored} of {tokens} tokens stored"));
            }
        };
        probe::fill_tokens(&self.url, &shop, tokens, told).await.stored("store tokens")
    }

    /// SQLite's rows go into a file of their own on the same disk.
    fn probe_url(&self) -> String {
        self.url.replace("/warifu.db?", "/probe.db?")
    }
}

fn size(count: u32) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

fn per(time: Duration, count: usize) -> Duration {
    time / u32::try_from(count.max(1)).unwrap_or(u32::MAX)
}
