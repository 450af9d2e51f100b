//! `warifu serve`: run the server.

use clap::Args;
use warifu_actors::supervisor;

use super::softhsm_env;
use crate::app::{App, Posture};
use crate::cli::ConfigFile;
use crate::exit::{Attempt as _, Exit, Failure};
use crate::process;

/// Run the server.
///
/// Stops on SIGTERM or Ctrl-C: refuses new work, finishes what is under way, signs the audit log; at most 10 seconds.
#[derive(Args)]
#[command(after_help = "\
Examples:
  warifu serve --config /etc/warifu/warifu.toml
  WARIFU__SERVER__INSTANCE=warifu-2 warifu serve --config warifu.toml --listen 0.0.0.0:7444")]
pub(crate) struct Serve {
    /// Address of gRPC over mutual TLS; overrides server.listen.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Address of health and metrics; overrides server.http_listen.
    #[arg(long, value_name = "ADDRESS")]
    http_listen: Option<String>,
    /// Any setting, as section.key=value; may be given several times.
    #[arg(long, value_name = "KEY=VALUE", value_parser = setting)]
    set: Vec<(String, String)>,
}

impl Serve {
    pub(crate) fn run(self, file: &ConfigFile) -> Result<(), Failure> {
        let mut flags: Vec<(&str, &str)> = self.set.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        flags.extend(self.listen.as_deref().map(|address| ("server.listen", address)));
        flags.extend(self.http_listen.as_deref().map(|address| ("server.http_listen", address)));
        let config = file.load(&flags)?;
        softhsm_env::apply(&config.hsm)?;
        supervisor::run(async {
            let stop = process::stop_signal().or_exit(Exit::Internal, "listen for signals")?;
            App::start(config, Posture::Service).await?.run(stop).await
        })
    }
}

fn setting(text: &str) -> Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("write it as section.key=value")?;
    Ok((key.to_owned(), value.to_owned()))
}
