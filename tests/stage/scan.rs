//! Looks for card numbers where none may be: in files and in memory, in every form software writes digits.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use aho_corasick::AhoCorasick;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

/// One form of one secret.
pub struct Needle {
    /// What it is, without showing it.
    pub name: String,
    bytes: Vec<u8>,
}

impl Needle {
    /// Bytes to be found as they are.
    pub fn raw(name: impl Into<String>, bytes: &[u8]) -> Self {
        assert!(bytes.len() >= 6, "a shorter needle is found everywhere");
        Self { name: name.into(), bytes: bytes.to_vec() }
    }

    /// A card number: plain, BCD, hex in both cases, base64 at each of the three alignments.
    pub fn card_number(pan: &str) -> Vec<Self> {
        let label = format!("{}...{}", &pan[..4], &pan[pan.len() - 2..]);
        let mut needles = vec![Self::raw(format!("{label} plain"), pan.as_bytes())];
        let nibbles: Vec<u8> = pan.bytes().map(|digit| digit - b'0').collect();
        // Only whole bytes: what fills the last one differs from format to format.
        let bcd: Vec<u8> = nibbles.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        needles.push(Self::raw(format!("{label} BCD"), &bcd));
        let shifted: Vec<u8> = nibbles[1..].chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        needles.push(Self::raw(format!("{label} BCD, shifted"), &shifted));
        needles.push(Self::raw(format!("{label} hex"), hex::encode(pan).as_bytes()));
        needles.push(Self::raw(format!("{label} HEX"), hex::encode_upper(pan).as_bytes()));
        for alignment in 0..3 {
            let mut bytes = vec![0; alignment];
            bytes.extend(pan.as_bytes());
            bytes.truncate(bytes.len() / 3 * 3);
            let text = STANDARD_NO_PAD.encode(&bytes);
            // The first four characters hold the padding in front.
            let known = if alignment == 0 { &text[..] } else { &text[4..] };
            needles.push(Self::raw(format!("{label} base64 at {alignment}"), known.as_bytes()));
        }
        needles
    }
}

/// All needles at once: what is searched is large.
struct Search<'a> {
    automaton: AhoCorasick,
    needles: &'a [Needle],
}

impl<'a> Search<'a> {
    fn of(needles: &'a [Needle]) -> Self {
        let automaton = AhoCorasick::new(needles.iter().map(|needle| &needle.bytes)).expect("some hundred needles");
        Self { automaton, needles }
    }

    /// The names of the needles that are in it, each once.
    fn names(&self, haystack: &[u8]) -> Vec<&'a str> {
        let hits = self.automaton.find_overlapping_iter(haystack);
        let mut found: Vec<usize> = hits.map(|hit| hit.pattern().as_usize()).collect();
        found.sort_unstable();
        found.dedup();
        found.into_iter().map(|index| self.needles[index].name.as_str()).collect()
    }
}

/// Every file below these folders that holds a needle, as "file: needle".
pub fn files(roots: &[&Path], needles: &[Needle]) -> Vec<String> {
    let mut hits = Vec::new();
    let mut folders: Vec<PathBuf> = roots.iter().map(|root| root.to_path_buf()).collect();
    let mut searched = 0;
    let search = Search::of(needles);
    while let Some(path) = folders.pop() {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            folders.extend(fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        } else if metadata.is_file() {
            let Ok(bytes) = fs::read(&path) else { continue };
            searched += 1;
            hits.extend(search.names(&bytes).into_iter().map(|name| format!("{}: {name}", path.display())));
        }
    }
    assert!(searched > 0, "no file was searched");
    hits
}

/// Every readable and writable part of a process's memory that holds a needle. Needs the right to trace it.
pub fn memory(process: u32, needles: &[Needle]) -> Vec<String> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).expect("the process runs");
    let memory = fs::File::open(format!("/proc/{process}/mem")).expect("the right to trace it");
    let mut hits = Vec::new();
    let mut searched = 0;
    let search = Search::of(needles);
    for line in maps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(range), Some(rights)) = (words.next(), words.next()) else { continue };
        if !rights.starts_with("rw") {
            continue;
        }
        let (start, end) = range.split_once('-').expect("a range");
        let start = u64::from_str_radix(start, 16).expect("an address");
        let end = u64::from_str_radix(end, 16).expect("an address");
        let bytes = read_all(&memory, start, end);
        searched += bytes.len();
        hits.extend(search.names(&bytes).into_iter().map(|name| format!("{line}: {name}")));
    }
    assert!(searched > 1 << 20, "hardly any memory was searched");
    hits
}

/// A part of memory. Guard pages and device memory cannot be read, and are left out.
fn read_all(memory: &fs::File, mut at: u64, end: u64) -> Vec<u8> {
    const PAGE: u64 = 4096;
    let mut bytes = Vec::new();
    while at < end {
        let known = bytes.len();
        bytes.resize(known + usize::try_from(end - at).expect("a part fits in memory"), 0);
        let read = memory.read_at(&mut bytes[known..], at).unwrap_or(0);
        bytes.truncate(known + read);
        at += if read == 0 { PAGE } else { u64::try_from(read).expect("a length") };
    }
    bytes
}

/// Proves that the search finds what is there.
pub fn finds(needles: &[Needle]) -> bool {
    let search = Search::of(needles);
    needles.iter().all(|needle| {
        let mut haystack = vec![b'x'; 1000];
        haystack.extend(&needle.bytes);
        haystack.extend([b'x'; 7]);
        search.names(&haystack).contains(&needle.name.as_str())
    })
}
