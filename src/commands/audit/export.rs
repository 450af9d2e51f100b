//! Taking the logs out of the data store.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use sha2::{Digest as _, Sha256};
use warifu_actors::record::{Kind, Record};
use warifu_actors::store::audit::LogId;
use warifu_hsm::Signature;

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
}

/// Writes every log into a file and seals it.
pub(super) async fn export(desk: &Desk, out: &Path) -> Result<Written, Failure> {
    let failed = format!("write {}", out.display());
    let file = File::create(out).or_exit(Exit::Usage, &failed)?;
    let mut file = Hashed { out: BufWriter::new(file), sha256: Sha256::new() };
    let at_ms = u64::try_from(now_ms()).unwrap_or_default();
    let mut logs = Vec::new();
    for (log, size) in desk.store.logs().await.stored("list the audit logs")? {
        let head = desk.store.newest_head(&log).await.stored("read the audit log")?;
        // The server may have written and signed more since its size was read.
        let size = size.max(head.as_ref().map_or(0, |head| head.head.size));
        logs.push((log, size, head));
    }
    let extents = logs.iter().map(|(log, size, _)| Extent { log: log.to_string(), records: *size }).collect();
    file.line(&Line::Preface(Preface { version: VERSION, exported_at_ms: at_ms, logs: extents }))
        .or_exit(Exit::Usage, &failed)?;
    let mut records = 0;
    for (log, size, head) in &logs {
        let head = head.as_ref().map(Head::of);
        records += write_log(desk, log, *size, head, &mut file).await?;
    }
    let sha256 = hex::encode(file.sha256.clone().finalize());
    let (signature, public_key) = seal(desk, &Seal::signed_bytes(&sha256), at_ms).await?;
    let seal = Seal { sha256, signature: hex::encode(signature.0), public_key: hex::encode(public_key) };
    file.line(&Line::Seal(seal)).and_then(|()| file.out.flush()).or_exit(Exit::Usage, &failed)?;
    file.out.get_ref().sync_all().or_exit(Exit::Usage, &failed)?;
    Ok(Written { records, public_key })
}

async fn write_log(desk: &Desk, log: &LogId, size: u64, head: Option<Head>, file: &mut Hashed) -> Result<u64, Failure> {
    let (mut next, mut written, mut head) = (0, 0, head);
    while next < size {
        let page = desk.store.records(log, next, PAGE.min(size - next)).await.stored("read the audit log")?;
        let Some(last) = page.last() else { break };
        next = last.seq + 1;
        for record in page.into_iter().filter(|record| record.seq < size) {
            let covered = record.seq + 1;
            let entry =
                Entry { log: log.to_string(), seq: record.seq, leaf: record.leaf.to_string(), record: record.line };
            file.line(&Line::Record(entry)).or_exit(Exit::Usage, "write the export")?;
            written += 1;
            if let Some(head) = head.take_if(|head| head.size == covered) {
                file.line(&Line::Head(head)).or_exit(Exit::Usage, "write the export")?;
            }
        }
    }
    // A head whose record is gone is written all the same: it is the proof that something is missing.
    if let Some(head) = head {
        file.line(&Line::Head(head)).or_exit(Exit::Usage, "write the export")?;
    }
    Ok(written)
}

/// Has the HSM sign, and tells the audit log of it.
async fn seal(desk: &Desk, message: &[u8], at_ms: u64) -> Result<(Signature, [u8; 65]), Failure> {
    let (made, calls) = hsm::use_once(&desk.config.hsm, |_, session| {
        session.sign(message).and_then(|signature| Ok((signature, session.audit_public_key()?)))
    })?;
    let kind = if made.is_ok() { Kind::AuditSigned } else { Kind::HsmFailed };
    let record = Record::new(at_ms, kind).because("audit export sealed").with_calls(&calls);
    desk.registry.note(&record).await.stored("write the audit record")?;
    made.or_exit(Exit::Hsm, "have the HSM seal the export")
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
}
