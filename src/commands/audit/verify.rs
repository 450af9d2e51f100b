//! Verifying an export offline: whatever was changed, dropped, moved or cut off is found and named.
//!
//! Nothing of the server is used: the file's bytes, RFC 6962 hashing and ECDSA are all there is.

use std::cmp::Ordering;
use std::fmt;
use std::io::{self, BufRead};

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use warifu_core::audit::{Hash, Tree, leaf_hash};

use super::format::{Entry, Extent, Head, Line, Preface, Seal, VERSION};
use super::signature::PublicKey;

/// Findings after which looking further tells nothing new.
const MAX_FINDINGS: usize = 50;
/// Records that no head covers: nothing but the file's seal speaks for them.
const UNSIGNED: &str = "unsigned";
/// Longest line: a record is a few hundred bytes.
const MAX_LINE: u64 = 1 << 20;

/// What an export turned out to be.
pub(super) struct Report {
    /// What is wrong with it; empty if nothing is.
    pub(super) findings: Vec<Finding>,
    /// Its logs.
    pub(super) logs: Vec<LogState>,
    /// Whether signatures had to be of a key the reader named; otherwise the file's writer chose it.
    pub(super) key_pinned: bool,
    /// Its genuine heads.
    heads: Vec<Known>,
}

/// What is known to have been signed: the root of a log at a size.
struct Known {
    log: String,
    size: u64,
    root: Hash,
}

/// What an earlier export had signed.
pub(super) struct Earlier {
    heads: Vec<Known>,
    /// Nothing was wrong with it.
    sound: bool,
}

/// Reads an earlier export for what it had signed.
pub(super) fn earlier(input: impl BufRead, trusted: &[PublicKey]) -> io::Result<Earlier> {
    let report = verify(input, trusted, None)?;
    // A log that had no head then tells nothing; that is no fault of the others.
    let sound = report.findings.iter().all(|finding| finding.kind == UNSIGNED);
    Ok(Earlier { heads: report.heads, sound })
}

/// Something wrong.
pub(super) struct Finding {
    line: u64,
    kind: &'static str,
    message: String,
}

/// What is known of a log so far.
pub(super) struct LogState {
    pub(super) name: String,
    expected: u64,
    /// The place the next record should have.
    next: u64,
    tree: Tree,
    /// Records are missing or moved, so the tree can agree with no head any more.
    broken: bool,
    /// A head stands after some of them.
    headed: bool,
    /// What an earlier export had signed of it.
    earlier: Vec<Known>,
    /// Its records in the file.
    pub(super) records: u64,
    /// How many of them a signed head covers.
    pub(super) signed: u64,
}

/// Reads the file once and tells what is wrong with it. An error is one of reading, not a finding.
pub(super) fn verify(mut input: impl BufRead, trusted: &[PublicKey], earlier: Option<Earlier>) -> io::Result<Report> {
    let report = Report::empty(!trusted.is_empty());
    let mut verifier = Verifier { trusted, earlier: Vec::new(), line: 0, sealed: Sealed::No, report };
    if let Some(earlier) = earlier {
        verifier.earlier = earlier.heads;
        if !earlier.sound {
            verifier.find("previous_unsound", "the earlier export does not verify itself, so it proves little");
        }
    }
    let mut before = Sha256::new();
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        if io::Read::take(&mut input, MAX_LINE).read_until(b'\n', &mut bytes)? == 0 {
            break;
        }
        verifier.line += 1;
        let hash = before.clone();
        before.update(&bytes);
        verifier.take(&bytes, hash);
        if verifier.report.findings.len() >= MAX_FINDINGS {
            break;
        }
    }
    Ok(verifier.finish())
}

#[derive(PartialEq, Eq)]
enum Sealed {
    No,
    Yes,
}

struct Verifier<'a> {
    trusted: &'a [PublicKey],
    /// Of logs not come to yet.
    earlier: Vec<Known>,
    line: u64,
    sealed: Sealed,
    report: Report,
}

impl Verifier<'_> {
    fn take(&mut self, bytes: &[u8], before: Sha256) {
        if self.sealed == Sealed::Yes {
            return self.find("after_the_seal", "something stands after the seal");
        }
        let parsed = bytes.strip_suffix(b"\n").map(serde_json::from_slice::<Line>);
        match (self.line, parsed) {
            (_, None) => self.find("cut_off", "the line has no end: the file is cut off"),
            (1, Some(Ok(Line::Preface(preface)))) => self.preface(preface),
            (1, _) => self.find("no_preface", "the file does not begin as an audit export does"),
            (_, Some(Ok(Line::Record(entry)))) => self.record(&entry),
            (_, Some(Ok(Line::Head(head)))) => self.head(&head),
            (_, Some(Ok(line @ Line::Seal(_)))) if line.bytes() != bytes => {
                // The seal cannot cover itself, so it has one spelling only.
                self.find("seal_changed", "the seal is not written as the exporter writes it");
                self.sealed = Sealed::Yes;
            }
            (_, Some(Ok(Line::Seal(seal)))) => self.seal(&seal, before),
            (_, Some(Ok(Line::Preface(_)))) => self.find("line_unreadable", "a second preface"),
            (_, Some(Err(_))) => self.find("line_unreadable", "the line is none that an export has"),
        }
    }

    fn preface(&mut self, preface: Preface) {
        if preface.version != VERSION {
            self.find("version", format!("version {} is not known; this program reads {VERSION}", preface.version));
        }
        self.report.logs = preface.logs.into_iter().map(LogState::new).collect();
        for log in &mut self.report.logs {
            log.earlier = self.earlier.extract_if(.., |known| known.log == log.name).collect();
        }
    }

    fn record(&mut self, entry: &Entry) {
        let Some(log) = self.report.logs.iter_mut().find(|log| log.name == entry.log) else {
            return self.find("log_unknown", format!("a record of {:?}, a log the preface does not have", entry.log));
        };
        let (expected, leaf) = (log.next, leaf_hash(entry.record.as_bytes()));
        log.records += 1;
        let order = entry.seq.cmp(&expected);
        if order != Ordering::Equal {
            log.broken = true;
        }
        if order != Ordering::Less {
            // Counting goes on from what is there: one record missing is one finding and not a thousand.
            log.next = entry.seq.saturating_add(1);
            log.tree.append(leaf);
        }
        let (next, root) = (log.next, log.tree.root());
        let differs = !log.broken && log.earlier.iter().any(|known| known.size == next && known.root != root);
        let place = format!("log {}, record {}", entry.log, entry.seq);
        match order {
            Ordering::Equal => {}
            Ordering::Less => {
                self.find("record_moved", format!("{place}: stands where record {expected} belongs"));
            }
            Ordering::Greater => {
                let last = entry.seq - 1;
                self.find("record_dropped", format!("{place}: records {expected} to {last} before it are missing"));
            }
        }
        if differs {
            self.find("history_changed", format!("{place}: the records up to here are not those signed earlier"));
        }
        if leaf.to_string() != entry.leaf {
            self.find("record_changed", format!("{place}: its text was changed after it was written"));
        }
    }

    fn head(&mut self, head: &Head) {
        let place = format!("log {}, head over {} records", head.log, head.size);
        let Some(log) = self.report.logs.iter_mut().find(|log| log.name == head.log) else {
            return self.find("log_unknown", format!("{place}: a log the preface does not have"));
        };
        let (size, root, broken) = (log.next, log.tree.root(), log.broken);
        let signed = head.tree_head();
        let agrees = !broken && size == head.size && signed.as_ref().is_some_and(|signed| signed.root == root);
        log.headed |= head.size > 0;
        if agrees {
            log.signed = size;
        }
        if size != head.size {
            self.find("head_moved", format!("{place}: stands after {size} records"));
        } else if !agrees && !broken {
            self.find("history_changed", format!("{place}: the records are not those that were signed"));
        }
        let genuine =
            signed.is_some_and(|signed| self.made_by_us(&head.public_key, &head.signature, &signed.signed_bytes()));
        if !genuine {
            self.find("head_not_genuine", format!("{place}: the signature is not one of the audit key"));
        } else if agrees {
            self.report.heads.push(Known { log: head.log.clone(), size, root });
        }
    }

    fn seal(&mut self, seal: &Seal, before: Sha256) {
        self.sealed = Sealed::Yes;
        if hex::encode(before.finalize()) != seal.sha256 {
            self.find("file_changed", "the file is not the one that was sealed");
        }
        if !self.made_by_us(&seal.public_key, &seal.signature, &Seal::signed_bytes(&seal.sha256)) {
            self.find("seal_not_genuine", "the seal is not a signature of the audit key");
        }
    }

    fn made_by_us(&self, key: &str, signature: &str, message: &[u8]) -> bool {
        let Some(key) = PublicKey::parse(key).filter(|parsed| parsed.to_string() == key) else { return false };
        (self.trusted.is_empty() || self.trusted.contains(&key)) && key.made(signature, message)
    }

    fn finish(mut self) -> Report {
        for log in std::mem::take(&mut self.report.logs) {
            let (name, has, expected) = (&log.name, log.next, log.expected);
            match has.cmp(&expected) {
                Ordering::Equal => {}
                Ordering::Less => self.find("cut_off", format!("log {name}: ends after {has} of {expected} records")),
                Ordering::Greater => {
                    self.find("record_added", format!("log {name}: {has} records, {expected} exported"))
                }
            }
            if has > 0 && !log.headed {
                self.find(UNSIGNED, format!("log {name}: none of its {has} records is covered by a signed head"));
            }
            for known in log.earlier.iter().filter(|known| known.size > has) {
                let size = known.size;
                self.find("cut_back", format!("log {name}: ends after {has} records; {size} were signed earlier"));
            }
            self.report.logs.push(log);
        }
        for known in std::mem::take(&mut self.earlier) {
            let Known { log, size, .. } = known;
            self.find("cut_back", format!("log {log}: is missing; {size} records of it were signed earlier"));
        }
        if self.sealed == Sealed::No {
            self.find("cut_off", "the file ends without its seal");
        }
        self.report
    }

    fn find(&mut self, kind: &'static str, message: impl Into<String>) {
        self.report.findings.push(Finding { line: self.line, kind, message: message.into() });
    }
}

impl LogState {
    fn new(extent: Extent) -> Self {
        Self {
            name: extent.log,
            expected: extent.records,
            next: 0,
            tree: Tree::default(),
            broken: false,
            headed: false,
            earlier: Vec::new(),
            records: 0,
            signed: 0,
        }
    }
}

impl Report {
    fn empty(key_pinned: bool) -> Self {
        Self { findings: Vec::new(), logs: Vec::new(), key_pinned, heads: Vec::new() }
    }

    /// Whether nothing is wrong.
    pub(super) fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// For programs.
    pub(super) fn to_json(&self) -> Value {
        let findings: Vec<Value> = self
            .findings
            .iter()
            .map(|finding| json!({ "line": finding.line, "finding": finding.kind, "message": finding.message }))
            .collect();
        let logs: Vec<Value> = self
            .logs
            .iter()
            .map(|log| json!({ "log": log.name, "records": log.records, "signed": log.signed }))
            .collect();
        let records: u64 = self.logs.iter().map(|log| log.records).sum();
        json!({
            "verified": self.is_clean(),
            "key": if self.key_pinned { "pinned" } else { "not pinned" },
            "key_pinned": self.key_pinned,
            "records": records,
            "logs": logs,
            "findings": findings,
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}: {}", self.line, self.kind, self.message)
    }
}

#[cfg(test)]
mod tests;
