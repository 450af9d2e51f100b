//! Linked modules that say nothing: how fast their links open, and what each keeps of the server's memory.
//!
//! The modules live in a process of their own, so that only the server's half is counted.

use std::fs;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use warifu_actors::store::{ModuleRecord, ModuleState};
use warifu_core::merchant::{MerchantId, ModuleId};
use warifu_sdk::wire::v1;
use warifu_sdk::wire::v1::comm_module_service_client::CommModuleServiceClient;

use crate::ca::{Authority, Purpose};
use crate::commands::dev::folder::{Folder, MERCHANT};
use crate::commands::output::{remark, say};
use crate::commands::registry::{Desk, Stored as _, now_ms, on_runtime};
use crate::config::Config;
use crate::exit::{Attempt as _, Exit, Failure};
use crate::identity::CertificateId;

/// Links that are being opened at a time.
const AT_A_TIME: usize = 16;
/// How long the server has to come to rest before its memory is read.
const REST: Duration = Duration::from_secs(2);
/// What one link may keep of the memory.
pub(super) const MOST_BYTES: f64 = 20.0 * 1024.0;
/// Links that should open in a second.
pub(super) const LEAST_A_SECOND: f64 = 1000.0;

/// What idle links cost.
pub(super) struct Links {
    pub(super) count: usize,
    /// Links opened in a second.
    pub(super) a_second: f64,
    /// Memory of this process for each of them.
    pub(super) bytes_each: f64,
}

/// Lets another process open so many links to this one.
pub(super) fn measure(count: usize, address: SocketAddr, folder: &Path) -> Result<Links, Failure> {
    let failed = "let another process open links";
    let program = std::env::current_exe().or_exit(Exit::Internal, failed)?;
    let mut modules = Command::new(program)
        .args(["bench", "--links", &count.to_string(), "--folder"])
        .arg(folder)
        .args(["--link-to", &address.to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .or_exit(Exit::Internal, failed)?;
    let measured = converse(&mut modules, count);
    // Closing its input lets it go; what it says then is nobody's concern.
    drop(modules.stdin.take());
    let _ = modules.wait();
    measured
}

fn converse(modules: &mut std::process::Child, count: usize) -> Result<Links, Failure> {
    let failed = "hear of the other process's links";
    let (Some(mut tell), Some(hear)) = (modules.stdin.take(), modules.stdout.take()) else {
        return Err(Failure::new(Exit::Internal, failed));
    };
    let mut hear = BufReader::new(hear);
    let mut line = || -> Result<Value, Failure> {
        let mut line = String::new();
        hear.read_line(&mut line).or_exit(Exit::Internal, failed)?;
        serde_json::from_str(&line).or_exit(Exit::Internal, failed)
    };
    line()?;
    std::thread::sleep(REST);
    let before = resident();
    tell.write_all(b"open\n").or_exit(Exit::Internal, failed)?;
    let seconds = line()?["seconds"].as_f64().unwrap_or(f64::NAN);
    std::thread::sleep(REST);
    let grown = resident() - before;
    drop(tell);
    let links = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    Ok(Links { count, a_second: links / seconds, bytes_each: grown / links })
}

/// Bytes of this process in memory.
fn resident() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_ascii_whitespace().next()?.parse().ok());
    1024.0 * kib.unwrap_or(f64::NAN)
}

/// The other process: registers modules, says so, waits to be told, opens a link of each, says how long that took, and
/// keeps them until its input ends.
pub(super) fn be_modules(count: usize, address: SocketAddr, folder: &Folder) -> Result<(), Failure> {
    let config = || Config::load(Some(&folder.config()), &[]).or_exit(Exit::Usage, "use the configuration");
    remark(format_args!("warifu bench: making {count} modules"));
    let modules = on_runtime(async { register(count, folder, &Desk::open(config()?).await?).await })?;
    say(json!({ "modules": modules.len() }));
    let mut input = io::stdin().lock();
    input.read_line(&mut String::new()).or_exit(Exit::Internal, "wait for the word")?;
    remark(format_args!("warifu bench: linking {count} modules"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.or_exit(Exit::Internal, "start a runtime")?;
    let begun = Instant::now();
    let links = runtime.block_on(link_all(modules, address, folder))?;
    say(json!({ "links": links.len(), "seconds": begun.elapsed().as_secs_f64() }));
    let _ = input.read_to_end(&mut Vec::new());
    Ok(())
}

async fn register(count: usize, folder: &Folder, desk: &Desk) -> Result<Vec<Identity>, Failure> {
    let pki = folder.pki();
    let made = "make a module's certificate";
    let authority = Authority::load(&pki.join("ca.pem"), &pki.join("ca.key")).or_exit(Exit::Internal, made)?;
    let merchant = MerchantId::parse(MERCHANT).or_exit(Exit::Internal, made)?;
    let mut modules = Vec::with_capacity(count);
    for number in 0..count {
        let name = format!("idle-{number}");
        let identity = authority.issue(&name, &Purpose::Module).or_exit(Exit::Internal, made)?;
        let leaf = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).or_exit(Exit::Internal, made)?;
        let module = ModuleRecord {
            id: ModuleId::parse(&name).or_exit(Exit::Internal, made)?,
            merchant: merchant.clone(),
            certificate_sha256: CertificateId::of(&leaf).0,
            state: ModuleState::Active,
            created_at_ms: now_ms(),
        };
        desk.registry.register_module(&module).await.stored("register a module")?;
        modules.push(Identity::from_pem(&identity.certificate, identity.key_pem()));
    }
    Ok(modules)
}

/// A link that is kept: nothing is said on it.
struct Kept {
    _say: mpsc::Sender<v1::LinkRequest>,
    _hear: Streaming<v1::LinkResponse>,
}

async fn link_all(modules: Vec<Identity>, address: SocketAddr, folder: &Folder) -> Result<Vec<Kept>, Failure> {
    let ca = fs::read(folder.pki().join("ca.pem")).or_exit(Exit::Usage, "read a certificate")?;
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name("localhost");
    let links = modules.into_iter().map(|identity| link(tls.clone().identity(identity), address));
    stream::iter(links).buffer_unordered(AT_A_TIME).try_collect().await
}

async fn link(tls: ClientTlsConfig, address: SocketAddr) -> Result<Kept, Failure> {
    let endpoint = Endpoint::from_shared(format!("https://{address}")).and_then(|endpoint| endpoint.tls_config(tls));
    let endpoint = endpoint.or_exit(Exit::Internal, "name the server")?;
    let channel = endpoint.connect().await.or_exit(Exit::Internal, "connect to the server")?;
    let (say, said) = mpsc::channel(1);
    let hello = v1::link_request::News::Hello(v1::Hello { software: "warifu bench".to_owned() });
    // The channel has room for it.
    let _ = say.try_send(v1::LinkRequest { news: Some(hello) });
    let linked = CommModuleServiceClient::new(channel).link(ReceiverStream::new(said)).await;
    let mut hear = linked.or_exit(Exit::Internal, "open a link")?.into_inner();
    hear.message().await.or_exit(Exit::Internal, "be welcomed")?;
    Ok(Kept { _say: say, _hear: hear })
}
