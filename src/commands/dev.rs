//! `warifu dev`: a whole throw-away server on this machine, with test keys, emulated devices and an acquirer that
//! only pretends.

mod banner;
mod devices;
pub(super) mod folder;
mod registered;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf, absolute};

use clap::Args;
use warifu_actors::supervisor;

use super::output::say;
use super::registry::on_runtime;
use super::softhsm_env;
use crate::app::{App, Posture, harden};
use crate::config::Config;
use crate::exit::{Attempt as _, Exit, Failure};
use crate::process;
use devices::Emulators;
use folder::Folder;

/// Run a whole throw-away server for development: own SoftHSM token, certificates, database, three emulated devices
/// and an acquirer simulator. Loopback only, test keys only.
#[derive(Args)]
#[command(after_help = "\
Examples:
  warifu dev                      everything in a temporary folder, removed at the end
  warifu dev --dir /tmp/warifu    keeps its folder: the next run continues where this one stopped
  warifu dev --listen 127.0.0.1:0 --no-devices --json

It prints what to type next.")]
pub(crate) struct Dev {
    /// Keep everything in this folder, and go on with what is there.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Address of gRPC over mutual TLS; loopback only.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7443", value_parser = loopback)]
    listen: SocketAddr,
    /// Address of health and metrics; by default port 7480, or any if --listen has port 0.
    #[arg(long, value_name = "ADDRESS", value_parser = loopback)]
    http_listen: Option<SocketAddr>,
    /// Another data store than SQLite in the folder; used when the folder is made.
    #[arg(long, value_name = "URL")]
    store_url: Option<String>,
    /// Register the devices but do not start their emulators.
    #[arg(long)]
    no_devices: bool,
    /// Print one line of JSON on stdout when ready.
    #[arg(long)]
    json: bool,
    /// Remove the folder at the end.
    #[arg(long, hide = true)]
    throw_away: bool,
}

fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| "write it as 127.0.0.1:7443".to_owned())?;
    if address.ip().is_loopback() {
        Ok(address)
    } else {
        Err("a dev server holds public test keys and listens on loopback only; see `warifu serve`".to_owned())
    }
}

impl Dev {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let (dir, throw_away) = match &self.dir {
            Some(dir) => (dir.clone(), self.throw_away),
            None => {
                let dir = tempfile::Builder::new().prefix("warifu-dev-").tempdir();
                (dir.or_exit(Exit::Usage, "make a temporary folder")?.keep(), true)
            }
        };
        let folder = Folder::open(&absolute(&dir).or_exit(Exit::Usage, "find the folder")?)?;
        if !softhsm_env::is_set(&folder.softhsm_config()) {
            let dir = folder.path().to_string_lossy().into_owned();
            let more: &[&str] = if self.dir.is_none() { &["--throw-away", "--dir", &dir] } else { &[] };
            softhsm_env::begin_again(&folder.softhsm_config(), more)
                .or_exit(Exit::Internal, "begin again with SoftHSM's configuration")?;
        }
        let result = self.serve(&folder);
        if throw_away {
            remove(folder.path());
        }
        result
    }

    fn serve(&self, folder: &Folder) -> Result<(), Failure> {
        let module = folder.provision(self.store_url.as_deref())?;
        let config = self.config(folder)?;
        harden(&config.server)?;
        let calls = folder.make_keys(&module)?;
        on_runtime(registered::register(config, folder, &calls))?;
        let config = self.config(folder)?;
        supervisor::run(async {
            let stop = process::stop_signal().or_exit(Exit::Internal, "listen for signals")?;
            let app = App::start(config, Posture::Dev).await?;
            let emulators = if self.no_devices { Emulators::none() } else { Emulators::start(folder)? };
            let addresses = app.addresses();
            banner::print(folder, addresses, &emulators);
            if self.json {
                say(banner::json(folder, addresses, &emulators));
            } else {
                banner::next_steps(folder, addresses, &emulators);
            }
            app.run(stop).await
        })
    }

    fn config(&self, folder: &Folder) -> Result<Config, Failure> {
        let listen = self.listen.to_string();
        let http = self
            .http_listen
            .unwrap_or_else(|| SocketAddr::new(self.listen.ip(), if self.listen.port() == 0 { 0 } else { 7480 }));
        let http = http.to_string();
        let flags = [("server.listen", listen.as_str()), ("server.http_listen", http.as_str())];
        Config::load(Some(&folder.config()), &flags).or_exit(Exit::Usage, "use the configuration")
    }
}

fn remove(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir) {
        tracing::warn!(%error, dir = %dir.display(), "the folder could not be removed");
    }
}
