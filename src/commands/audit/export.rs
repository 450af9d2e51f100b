//! Taking the logs out of the data store.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use sha2::{Digest as _, Sha256};
use warifu_actors::record::Kind;
use warifu_actors::store::audit::{LogId, SignedHead};
use warifu_core::audit::{Tree, TreeHead, leaf_hash};

use super::format::{Entry, Extent, Head, Line, Preface, Seal, VERSION};
use crate::commands::registry::{Desk, Stored as _, now_ms};
use crate::exit::{Attempt as _, Exit, Failure};
use crate::hsm;

/// Records read at a time.
const PAGE: u64 = 1000;

/// What was written.
pub(super) struct Written {
    pub(super) records: u64,
    pub(super) public_key: [u8; 65],
    /// What the person at the desk must know.
    pub(super) remarks: Vec<String>,
}

/// A log as it was found: its head is to be signed, unless it is not what was signed before.
struct Walked {
    records: u64,
    tree: Tree,
    /// Its records are all there, give the root its writer kept, and agree with the head signed last.
    sound: bool,
}

/// A head to be signed.
struct Unsigned {
    head: TreeHead,
    tree: Tree,
    /// The one signed last.
    before: Option<SignedHead>,
}

/// What the HSM made.
struct Made {
    heads: Vec<SignedHead>,
    public_key: [u8; 65],
    remarks: Vec<String>,
    /// Whether it could be written.
    written: io::Result<()>,
}

/// Writes every log into a file, signs what was not signed yet, and seals it.
pub(super) async fn export(desk: &Desk, out: &Path, force: bool) -> Result<Written, Failure> {
    let failed = format!("write {}", out.display());
    let file = create(out, force)?;
    let mut file = Hashed { out: BufWriter::new(file), sha256: Sha256::new() };
    let at_ms = u64::try_from(now_ms()).unwrap_or_default();
    let mut logs = Vec::new();
    for (log, _) in desk.store.logs().await.stored("list the audit logs")? {
        // The head first: a server that writes on meanwhile makes the tree larger, never smaller.
        let head = desk.store.newest_head(&log).await.stored("read the audit log")?;
        let tree = desk.store.tree(&log).await.stored("read the audit log")?;
        let size = tree.size().max(head.as_ref().map_or(0, |head| head.head.size));
        logs.push((log, size, head, tree));
    }
    let extents = logs.iter().map(|(log, size, ..)| Extent { log: log.to_string(), records: *size }).collect();
    file.line(&Line::Preface(Preface { version: VERSION, exported_at_ms: at_ms, logs: extents }))
        .or_exit(Exit::Usage, &failed)?;
    let (mut records, mut unsigned, mut remarks) = (0, Vec::new(), Vec::new());
    for (log, size, before, kept) in logs {
        let walked = write_log(desk, &log, size, before.as_ref(), &mut file).await?;
        records += walked.records;
        if !walked.sound || walked.tree != kept {
            remarks.push(not_signed(log.as_str(), "its records are not those that were written"));
        } else if size > before.as_ref().map_or(0, |head| head.head.size) {
            let head = TreeHead { log: log.to_string(), size, root: walked.tree.root(), at_ms };
            unsigned.push(Unsigned { head, tree: walked.tree, before });
        }
    }
    let made = sign(desk, unsigned, &mut file).await?;
    made.written.or_exit(Exit::Usage, &failed)?;
    file.out.get_ref().sync_all().or_exit(Exit::Usage, &failed)?;
    for head in &made.heads {
        desk.store.save_head(head).await.stored("keep a signed head")?;
    }
    remarks.extend(made.remarks);
    Ok(Written { records, public_key: made.public_key, remarks })
}

fn not_signed(log: &str, why: &str) -> String {
    format!("warifu: log {log}: not signed: {why}; see what `warifu audit verify` finds")
}

/// An export written over by mistake is gone, and with it what an earlier one proves.
fn create(out: &Path, force: bool) -> Result<File, Failure> {
    match File::options().write(true).create_new(!force).create(true).truncate(force).open(out) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            Err(Failure::new(Exit::Usage, format_args!("{} is there already; --force writes over it", out.display())))
        }
        made => made.or_exit(Exit::Usage, &format!("write {}", out.display())),
    }
}

async fn write_log(
    desk: &Desk,
    log: &LogId,
    size: u64,
    before: Option<&SignedHead>,
    file: &mut Hashed,
) -> Result<Walked, Failure> {
    let mut walked = Walked { records: 0, tree: Tree::default(), sound: true };
    let (mut next, mut head) = (0, before.map(|before| &before.head));
    while next < size {
        let page = desk.store.records(log, next, PAGE.min(size - next)).await.stored("read the audit log")?;
        let Some(last) = page.last() else { break };
        next = last.seq + 1;
        for record in page.into_iter().filter(|record| record.seq < size) {
            walked.sound &= record.seq == walked.tree.size();
            walked.tree.append(leaf_hash(record.line.as_bytes()));
            let covered = record.seq + 1;
            let entry =
                Entry { log: log.to_string(), seq: record.seq, leaf: record.leaf.to_string(), record: record.line };
            file.line(&Line::Record(entry)).or_exit(Exit::Usage, "write the export")?;
            walked.records += 1;
            if let Some(head) = head.take_if(|head| head.size == covered) {
                walked.sound &= head.root == walked.tree.root();
                file.lines(before.map(Head::of)).or_exit(Exit::Usage, "write the export")?;
            }
        }
    }
    // A head whose record is gone is written all the same: it is the proof that something is missing.
    if head.is_some() {
        walked.sound = false;
        file.lines(before.map(Head::of)).or_exit(Exit::Usage, "write the export")?;
    }
    Ok(walked)
}

/// Has the HSM sign what it has not signed, and the whole file, and tells the audit log of it. A log whose last head
/// is not of this HSM's key is another HSM's, or somebody has been at it: it is left as it is.
async fn sign(desk: &Desk, unsigned: Vec<Unsigned>, file: &mut Hashed) -> Result<Made, Failure> {
    let (made, calls) = hsm::use_once(&desk.config.hsm, "have the HSM seal the export", |_, session| {
        let public_key = session.audit_public_key()?;
        let (mut heads, mut remarks) = (Vec::new(), Vec::new());
        for Unsigned { head, tree, before } in unsigned {
            if before.is_none_or(|before| before.is_of(&public_key)) {
                let signature = session.sign(&head.signed_bytes())?;
                heads.push(SignedHead { head, signature, public_key, tree: Some(tree) });
            } else {
                remarks.push(not_signed(&head.log, "its last signed head is not of this HSM's audit key"));
            }
        }
        let mut written = file.lines(heads.iter().map(Head::of));
        let sha256 = hex::encode(file.sha256.clone().finalize());
        let signature = hex::encode(session.sign(&Seal::signed_bytes(&sha256))?.0);
        let seal = Line::Seal(Seal { sha256, signature, public_key: hex::encode(public_key) });
        written = written.and_then(|()| file.line(&seal)).and_then(|()| file.out.flush());
        Ok(Made { heads, public_key, remarks, written })
    });
    let kind = if made.is_ok() { Kind::AuditSigned } else { Kind::HsmFailed };
    super::note(desk, kind, "audit export sealed", &calls).await?;
    made
}

/// A file whose bytes are hashed as they are written.
struct Hashed {
    out: BufWriter<File>,
    sha256: Sha256,
}

impl Hashed {
    fn line(&mut self, line: &Line) -> io::Result<()> {
        let bytes = line.bytes();
        self.sha256.update(&bytes);
        self.out.write_all(&bytes)
    }

    fn lines(&mut self, heads: impl IntoIterator<Item = Head>) -> io::Result<()> {
        heads.into_iter().try_for_each(|head| self.line(&Line::Head(head)))
    }
}
