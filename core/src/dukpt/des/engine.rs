//! Which way batches go on this processor, and the sharing out of their jobs.

use std::sync::OnceLock;

use super::job::Job;
use super::word;

/// A way to do a batch. All give the same results; they differ in speed and in what the processor must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Path {
    /// 64 lanes, on any processor.
    Portable,
    /// 128 lanes, on any x86-64.
    Sse2,
    /// 256 lanes.
    Avx2,
    /// 512 lanes (AVX-512F).
    Avx512,
}

impl Path {
    /// Every path, the widest first.
    pub const ALL: [Self; 4] = [Self::Avx512, Self::Avx2, Self::Sse2, Self::Portable];

    /// Whether this processor has what the path takes.
    pub fn is_available(self) -> bool {
        word::is_available(self)
    }

    /// The paths this processor has, the widest first.
    pub fn available() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|path| path.is_available())
    }

    /// The widest path of this processor that, asked once for each process, gives the portable one's answers: not every
    /// path runs on every developer's machine, so none is believed unseen.
    pub fn best() -> Self {
        static BEST: OnceLock<Path> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().find(|path| super::check::agrees(*path)).unwrap_or(Self::Portable))
    }

    /// How many jobs go at once.
    pub(super) const fn lanes(self) -> usize {
        match self {
            Self::Portable => 64,
            Self::Sse2 => 128,
            Self::Avx2 => 256,
            Self::Avx512 => 512,
        }
    }

    /// From how many jobs on a pass is faster than the narrower paths; fewer of the narrowest are done alone.
    const fn worthwhile(self) -> usize {
        match self {
            Self::Portable => 8,
            Self::Sse2 => 64,
            Self::Avx2 => 64,
            Self::Avx512 => 256,
        }
    }
}

/// Does all jobs, on `path` or, where they are too few for its lanes, on a narrower one.
///
/// # Panics
/// When the processor does not have the path.
pub(in super::super) fn work(path: Path, jobs: &mut [Job<'_>]) {
    // The lanes of a pass wait for the longest way among them, so ways of like length go together.
    jobs.sort_by_cached_key(|job| (job.steps(), job.blocks()));
    let mut left = jobs;
    while !left.is_empty() {
        let narrower = Path::ALL.into_iter().skip_while(|&wider| wider != path);
        match narrower.filter(|path| path.is_available()).find(|path| path.worthwhile() < left.len()) {
            Some(path) => {
                let (now, later) = left.split_at_mut(left.len().min(path.lanes()));
                word::pass(path, now);
                left = later;
            }
            None => {
                left.iter_mut().for_each(Job::alone);
                return;
            }
        }
    }
}
