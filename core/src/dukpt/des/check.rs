//! The check a path must pass before it is used: the portable one's answers, in every lane.

use super::engine::Path;
use super::job::Job;
use super::word;
use crate::key::TdesKey;
use crate::secret::SecretBytes;

/// Whether a path gives the portable one's answers to two steps, a data key and a block in each of its lanes.
pub(super) fn agrees(path: Path) -> bool {
    answers(path, path.lanes()) == answers(Path::Portable, path.lanes())
}

/// A public key and block for each lane, so there is nothing here to wipe.
fn answers(path: Path, lanes: usize) -> Vec<Vec<u8>> {
    let fill = |lane: usize| u8::try_from(lane % 251).expect("less than 251");
    let mut keys: Vec<[u8; 16]> = (0..lanes).map(|lane| [fill(lane); 16]).collect();
    keys.iter_mut().for_each(|key| key.iter_mut().zip(1..).for_each(|(byte, at)| *byte = byte.wrapping_mul(at)));
    let mut sections: Vec<[SecretBytes; 1]> = keys.iter().map(|key| [SecretBytes::copied(&key[..8])]).collect();
    let mut jobs: Vec<Job<'_>> = (0..)
        .zip(keys.iter().zip(&mut sections))
        .map(|(lane, (key, sections))| Job {
            key,
            node: 0,
            counter: lane & 0x10_0040,
            register: u64::from(lane) << 21,
            working: Some(if lane % 3 == 0 { TdesKey::Pin } else { TdesKey::DataRequest }),
            result: None,
            sections,
        })
        .collect();
    jobs.chunks_mut(path.lanes()).for_each(|jobs| word::pass(path, jobs));
    drop(jobs);
    sections.iter().map(|[section]| section.expose().to_vec()).collect()
}
