//! A server in a folder of its own, with a till at it.

use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use super::desk::keypad;
use super::till::Till;
use super::{Options, Server};

/// A server and a till. Everything is gone at the end.
pub struct Shop {
    /// The server.
    pub server: Server,
    /// A till of the server's own merchant.
    pub till: Till,
    /// Its folder.
    pub dir: TempDir,
}

/// The key serial number of the device that every shop has as `till-1`, at its counter 0.
pub const TILL_KSN: &str = "12345678900A000100000000";

impl Shop {
    /// Opens a shop as it comes.
    pub async fn open() -> Self {
        Self::with(Options::default()).await
    }

    /// Opens a shop with settings.
    pub async fn with(options: Options) -> Self {
        let dir = folder();
        let server = Server::dev(&dir.path().join("server"), &options);
        let till = Till::of(&server).await;
        server.add_device(&keypad("till-1", TILL_KSN));
        Self { server, till, dir }
    }

    /// Ends the server as a power cut would and starts another on its data.
    pub async fn power_cut(&mut self, options: &Options) {
        self.server.kill();
        self.serve(options).await;
    }

    /// Starts a server on the data of the one that has ended.
    pub async fn serve(&mut self, options: &Options) {
        self.server = Server::serve(self.server.dir(), &self.server.about, options);
        self.till = Till::of(&self.server).await;
    }

    /// What the acquirer's journal says, oldest first.
    pub fn journal(&self) -> Vec<Value> {
        journal(self.server.dir())
    }
}

/// A folder, in memory where there is one: tokens of SoftHSM are many small files.
pub fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() {
        TempDir::with_prefix_in("warifu-stage-", memory)
    } else {
        TempDir::with_prefix("warifu-stage-")
    };
    made.expect("a folder")
}

/// What the acquirer's journal in a server's folder says, oldest first.
pub fn journal(dir: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(dir.join("acquirer.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("the journal is JSON lines")).collect()
}

/// How often the acquirer approved, in a journal.
pub fn approvals(journal: &[Value]) -> usize {
    journal.iter().filter(|entry| entry["answer"].get("approved").is_some()).count()
}
