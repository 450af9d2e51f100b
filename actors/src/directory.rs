//! The directory: who may connect, which actor serves which module, where it is linked, and what modules must hear.

mod refusals;

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use warifu_core::device;
use warifu_core::merchant::{DeviceId, MerchantId, ModuleId};
use warifu_core::refusal::Refusal;

pub use refusals::Refusals;

use crate::auditor::AuditLog;
use crate::cashier::Cashier;
use crate::comm_module::{CommModule, Desk};
use crate::gate::{Agent, Answer, Gate, GateError, Limits};
use crate::house::{Caller, News};
use crate::record::{Kind, Record};
use crate::refused::{Refused, with_source};
use crate::store::{ModuleState, Store, StoreError};
use crate::supervisor::Supervisor;
use crate::tokenizer::Tokenizer;

/// Modules whose actors are kept; with more, all are let go and made again when they come.
pub(crate) const MOST_MODULES: usize = 4096;
/// How often all of the registry is read though nobody counted a change: whoever changes it without this program does not.
const READ_ALL: Duration = Duration::from_secs(30);

/// Knows the modules.
pub struct Directory {
    staff: Staff,
    modules: HashMap<ModuleId, Gate<CommModule>>,
    links: HashMap<ModuleId, Linked>,
    devices: HashMap<DeviceId, device::State>,
    blocked: HashSet<ModuleId>,
    refusals: Refusals,
}

/// What a comm module's actor is made with.
#[derive(Clone)]
pub struct Staff {
    /// Builds it.
    pub supervisor: Supervisor,
    /// How much passes its gate.
    pub limits: Limits,
    /// The data store.
    pub store: Store,
    /// The audit log.
    pub log: AuditLog,
    /// The tokenizer.
    pub tokenizer: Gate<Tokenizer>,
    /// The cashier.
    pub cashier: Gate<Cashier>,
}

struct Linked {
    link: u64,
    merchant: MerchantId,
    news: mpsc::Sender<News>,
    displaced: oneshot::Sender<Displaced>,
}

/// The actor of a module.
pub struct Find(pub Caller);

/// A link has opened. The newest link of a module closes an older one.
pub struct Register {
    /// Which link.
    pub link: u64,
    /// Whose.
    pub caller: Caller,
    /// Where its news go.
    pub news: mpsc::Sender<News>,
    /// Dropped without a word when the directory itself is gone.
    pub displaced: oneshot::Sender<Displaced>,
}

/// Why a link is closed that its module did not close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Displaced {
    /// A newer link of the module takes the place.
    ByNewer,
    /// The module was blocked.
    ByBlock,
}

/// A link has closed.
#[derive(Clone)]
pub struct Unregister {
    /// Which link.
    pub link: u64,
    /// Whose.
    pub module: ModuleId,
}

/// Tell every link.
pub struct Announce(pub News);

/// Somebody was not let in.
pub struct RefusedCaller {
    /// Why.
    pub cause: String,
    /// By which certificate, if any.
    pub certificate_sha256: Option<[u8; 32]>,
}

/// The registry as it is now: the states of all devices, and the modules that are blocked.
struct Registered {
    devices: Vec<(DeviceId, MerchantId, device::State)>,
    blocked: Vec<ModuleId>,
}

impl Directory {
    /// An empty directory: links register themselves again.
    pub fn new(staff: Staff) -> Self {
        let (modules, links, devices) = (HashMap::new(), HashMap::new(), HashMap::new());
        let (blocked, refusals) = (HashSet::new(), Refusals::default());
        Self { staff, modules, links, devices, blocked, refusals }
    }

    fn module(&mut self, caller: Caller) -> Gate<CommModule> {
        if let Some(gate) = self.modules.get(&caller.module) {
            return gate.clone();
        }
        if self.modules.len() >= MOST_MODULES {
            // Their work in flight goes on; only the places are given up.
            self.modules.clear();
        }
        let Staff { supervisor, limits, store, log, tokenizer, cashier } = self.staff.clone();
        let id = caller.module.clone();
        let desk = Desk { caller, store, log, tokenizer, cashier };
        let gate = supervisor.supervise(limits, move || CommModule::new(desk.clone()));
        self.modules.insert(id, gate.clone());
        gate
    }

    /// Tells a link; one that does not listen is closed.
    fn tell(&mut self, whom: impl Fn(&Linked) -> bool, news: &News) {
        self.links.retain(|_, linked| !whom(linked) || linked.news.try_send(news.clone()).is_ok());
        self.count();
    }

    fn count(&self) {
        metrics::gauge!("warifu_links").set(f64::from(u32::try_from(self.links.len()).unwrap_or(u32::MAX)));
    }
}

impl Agent for Directory {
    const NAME: &'static str = "directory";
}

impl Answer<Find> for Directory {
    type Reply = Gate<CommModule>;
    type Error = GateError;

    fn answer(&mut self, asked: Find) -> impl Future<Output = Result<Gate<CommModule>, GateError>> + Send + 'static {
        std::future::ready(Ok(self.module(asked.0)))
    }
}

impl Answer<Register> for Directory {
    type Reply = ();
    type Error = GateError;

    fn answer(&mut self, asked: Register) -> impl Future<Output = Result<(), GateError>> + Send + 'static {
        let Register { link, caller: Caller { merchant, module }, news, displaced } = asked;
        if self.blocked.contains(&module) {
            // It was identified before, and said nothing until now.
            let _ = displaced.send(Displaced::ByBlock);
            return std::future::ready(Ok(()));
        }
        let newer = self.links.get(&module).is_none_or(|known| known.link <= link);
        if newer {
            let older = self.links.insert(module, Linked { link, merchant, news, displaced });
            if let Some(older) = older.filter(|older| older.link != link) {
                let _ = older.displaced.send(Displaced::ByNewer);
            }
        } else {
            let _ = displaced.send(Displaced::ByNewer);
        }
        self.count();
        std::future::ready(Ok(()))
    }
}

impl Answer<Unregister> for Directory {
    type Reply = ();
    type Error = GateError;

    fn answer(&mut self, asked: Unregister) -> impl Future<Output = Result<(), GateError>> + Send + 'static {
        if self.links.get(&asked.module).is_some_and(|linked| linked.link == asked.link) {
            self.links.remove(&asked.module);
        }
        self.count();
        std::future::ready(Ok(()))
    }
}

impl Answer<Announce> for Directory {
    type Reply = ();
    type Error = GateError;

    fn answer(&mut self, asked: Announce) -> impl Future<Output = Result<(), GateError>> + Send + 'static {
        self.tell(|_| true, &asked.0);
        std::future::ready(Ok(()))
    }
}

impl Answer<Registered> for Directory {
    type Reply = ();
    type Error = GateError;

    fn answer(&mut self, asked: Registered) -> impl Future<Output = Result<(), GateError>> + Send + 'static {
        for module in &asked.blocked {
            self.modules.remove(module);
            if let Some(linked) = self.links.remove(module) {
                let _ = linked.displaced.send(Displaced::ByBlock);
            }
        }
        self.blocked = asked.blocked.into_iter().collect();
        self.count();
        for (device, merchant, state) in asked.devices {
            let before = self.devices.insert(device.clone(), state);
            if before.is_some_and(|before| before != state) {
                self.tell(|linked| linked.merchant == merchant, &News::DeviceChanged { device, state });
            }
        }
        std::future::ready(Ok(()))
    }
}

impl Answer<RefusedCaller> for Directory {
    type Reply = ();
    type Error = GateError;

    fn answer(&mut self, asked: RefusedCaller) -> impl Future<Output = Result<(), GateError>> + Send + 'static {
        let log = self.staff.log.clone();
        metrics::counter!("warifu_refused_callers_total").increment(1);
        if let Some(unwritten) = self.refusals.admit(Instant::now()) {
            log.mention(refused_caller(&log, &asked, unwritten));
        }
        std::future::ready(Ok(()))
    }
}

fn refused_caller(log: &AuditLog, asked: &RefusedCaller, unwritten: u64) -> Record {
    let cause = match unwritten {
        0 => asked.cause.clone(),
        some => format!("{} ({some} more since the last such record)", asked.cause),
    };
    let mut record = log.record(Kind::CallerRefused).because(cause);
    record.module = asked.certificate_sha256.map(|hash| format!("sha256:{}", hex(&hash)));
    record
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Who has the certificate of this SHA-256?
pub(crate) async fn identify(store: &Store, certificate_sha256: &[u8; 32]) -> Result<Caller, Refused> {
    let unknown = |cause| Refused::because(Refusal::ModuleUnknown, cause);
    let module = store.module_by_certificate(certificate_sha256).await?;
    let module = module.ok_or_else(|| unknown("no module has this certificate"))?;
    match module.state {
        ModuleState::Active => Ok(Caller { merchant: module.merchant, module: module.id }),
        ModuleState::Blocked => Err(unknown("the module is blocked")),
    }
}

/// Looks at the registry again and again, and lets the directory tell what changed.
pub(crate) async fn watch_registry(directory: Gate<Directory>, store: Store, every: Duration) {
    // Which count of changes the directory has heard of, and when.
    let mut told: Option<(i64, Instant)> = None;
    let mut successors = directory.successors();
    loop {
        let looked = store.look_at_registry().await;
        if successors.came() {
            told = None;
        }
        let news = looked.map(|count| match told {
            Some((known, at)) if known == count && at.elapsed() < READ_ALL => None,
            _ => Some(count),
        });
        let read = match news {
            Ok(None) => Ok(None),
            Ok(Some(count)) => registered(&store).await.map(|registered| Some((count, registered))),
            Err(error) => Err(error),
        };
        match read {
            Ok(None) => {}
            Ok(Some((count, registered))) => match directory.ask(registered).await {
                Ok(()) => told = Some((count, Instant::now())),
                Err(GateError::Stopped(_)) => return,
                Err(error) => tracing::warn!(%error, "the directory could not be told of the registry"),
            },
            Err(error) => tracing::warn!(error = with_source(&error), "the registry could not be read"),
        }
        tokio::time::sleep(every).await;
    }
}

async fn registered(store: &Store) -> Result<Registered, StoreError> {
    let devices = store.devices().await?.into_iter();
    let modules = store.modules().await?.into_iter();
    Ok(Registered {
        devices: devices.map(|device| (device.id, device.merchant, device.state)).collect(),
        blocked: modules.filter(|module| module.state == ModuleState::Blocked).map(|module| module.id).collect(),
    })
}
