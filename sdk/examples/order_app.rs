//! A small order app: the merchant's program at the end of the comm module, as its own process.
//!
//! One command a run, or `session` for a working day on standard input. Answers are JSON, one object a line, on
//! standard output; exit code 0 for an answer (a decline is one), 2 for a refusal, 1 for anything else.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line program")]

#[path = "order_app/answers.rs"]
mod answers;
#[path = "order_app/session.rs"]
mod session;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use warifu_sdk::{Channel, Collected, CommModule, Config, Connection, Format, Order, RequestId, SdkError};

/// Takes orders, collects cards, asks the payment server.
#[derive(Parser)]
#[command(name = "order-app", version)]
struct App {
    /// The payment server, https://HOST:PORT.
    #[arg(long, env = "WARIFU_SERVER")]
    server: String,
    /// PEM certificate of the authority that signed the server's certificate.
    #[arg(long)]
    ca: PathBuf,
    /// PEM certificate of this comm module.
    #[arg(long)]
    cert: PathBuf,
    /// PEM private key of this comm module.
    #[arg(long)]
    key: PathBuf,
    /// Longest wait for a card, and again for the server's answer, in seconds.
    #[arg(long, default_value_t = 30)]
    timeout: u64,
    /// Answer in JSON; the only form there is, so this is accepted and changes nothing.
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    card: CardSource,
    /// The same as the command `session`.
    #[arg(long)]
    session: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args)]
struct CardSource {
    /// Where the device is: tcp:HOST:PORT, unix:PATH or serial:PATH[@BAUD].
    #[arg(long, global = true)]
    attach: Option<String>,
    /// The device's output format.
    #[arg(long, global = true, default_value = "native", value_parser = parse_format)]
    format: Format,
    /// Send these bytes, in hex or from a file, instead of collecting a card.
    #[arg(long, global = true, value_name = "HEX|FILE")]
    frame: Option<String>,
    /// Name the request; drawn if not given.
    #[arg(long, global = true, value_parser = parse_request_id)]
    request_id: Option<RequestId>,
    /// Send the same bytes once more under another request id, to see the replay refused.
    #[arg(long, global = true)]
    repeat_same_frame: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Turn a card into a token.
    Tokenize,
    /// Ask for an authorization.
    Authorize {
        /// The order number.
        #[arg(long)]
        order: String,
        /// Amount in the smallest unit of the currency.
        #[arg(long, allow_negative_numbers = true)]
        amount: i64,
        /// ISO 4217 letters.
        #[arg(long)]
        currency: String,
        /// mail, telephone or in-person.
        #[arg(long, value_parser = parse_channel)]
        channel: Option<Channel>,
    },
    /// List the payments of an order.
    Find {
        /// The order number.
        #[arg(long)]
        order: String,
    },
    /// Take JSON commands from standard input, one a line, and answer each with one line.
    Session,
}

#[tokio::main]
async fn main() -> ExitCode {
    let app = App::parse();
    match run(app).await {
        Ok(answer) => {
            if let Some(answer) = &answer {
                println!("{answer}");
            }
            answers::exit_code(answer.as_ref())
        }
        Err(error) => {
            // Not an answer of the SDK: a file that cannot be read, an option that makes no sense.
            println!("{}", json!({ "error": { "kind": "usage", "message": format!("{error:#}") } }));
            ExitCode::FAILURE
        }
    }
}

async fn run(app: App) -> anyhow::Result<Option<Value>> {
    let patience = Duration::from_secs(app.timeout);
    let connect = async {
        let config = Config::from_files(&app.server, &app.ca, &app.cert, &app.key)?.give_up_after(patience);
        CommModule::connect(config).await
    };
    let module = match connect.await {
        Ok(module) => module,
        Err(error) => return Ok(Some(answers::error(&error))),
    };
    if app.session {
        session::run(&module).await?;
        return Ok(None);
    }
    match app.command.context("say what to do: tokenize, authorize, find or session")? {
        Command::Session => {
            session::run(&module).await?;
            Ok(None)
        }
        Command::Find { order } => Ok(Some(answers::payments(module.find_sale(&order).await))),
        Command::Tokenize => {
            let output = match output(&module, &app.card, patience).await? {
                Ok(output) => output,
                Err(error) => return Ok(Some(answers::error(&error))),
            };
            let request_id = app.card.request_id.unwrap_or_else(RequestId::new);
            let mut answer = answers::card(&request_id, module.tokenize(&request_id, &output).await);
            if app.card.repeat_same_frame {
                let again = RequestId::new();
                answer["repeated"] = answers::card(&again, module.tokenize(&again, &output).await);
            }
            Ok(Some(answer))
        }
        Command::Authorize { order: number, amount, currency, channel } => {
            let order = || {
                let order = Order::new(&number, amount, &currency);
                channel.map_or(order.clone(), |channel| order.channel(channel))
            };
            let output = match output(&module, &app.card, patience).await? {
                Ok(output) => output,
                Err(error) => return Ok(Some(answers::error(&error))),
            };
            let first = app.card.request_id.map_or_else(order, |id| order().with_request_id(id));
            let mut answer = answers::payment(&first, module.authorize(&first, &output).await);
            if app.card.repeat_same_frame {
                let again = order();
                answer["repeated"] = answers::payment(&again, module.authorize(&again, &output).await);
            }
            Ok(Some(answer))
        }
    }
}

/// The bytes to send: given ones, or a card collected now.
async fn output(
    module: &CommModule,
    source: &CardSource,
    patience: Duration,
) -> anyhow::Result<Result<Collected, SdkError>> {
    if let Some(frame) = &source.frame {
        let bytes = match hex::decode(frame) {
            Ok(bytes) => bytes,
            Err(_) => std::fs::read(frame).with_context(|| format!("{frame} is neither hex nor a file"))?,
        };
        return Ok(Ok(Collected::from_bytes(bytes)));
    }
    let connection = source.attach.as_deref().context("give --attach CONNECTION or --frame HEX|FILE")?;
    let collect = async {
        let connection = Connection::parse(connection)?;
        let mut device = module.attach(connection, source.format).await?;
        // Before it is said that a card can be shown: one shown at that very moment must count.
        device.discard_waiting();
        eprintln!("waiting for a card on {}", device.name());
        Ok(device.collect_waiting(patience).await?)
    };
    Ok(collect.await)
}

fn parse_format(text: &str) -> Result<Format, String> {
    let names = || Format::ALL.map(Format::name).join(", ");
    Format::from_name(text).ok_or_else(|| format!("a format is one of {}", names()))
}

fn parse_channel(text: &str) -> Result<Channel, String> {
    Channel::from_name(text).ok_or_else(|| "a channel is mail, telephone or in-person".to_owned())
}

fn parse_request_id(text: &str) -> Result<RequestId, String> {
    RequestId::parse(text).map_err(|error| error.to_string())
}
