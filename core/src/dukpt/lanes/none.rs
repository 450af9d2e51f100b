//! On other processors than x86-64 nothing is detected, and the portable path serves all.

use super::{Block, Data, Key, Lanes, Path};
use crate::key::KeyLen;

/// No path, so none of its methods can be called.
#[derive(Clone, Copy)]
pub(super) enum Detected {}

impl Detected {
    pub(super) fn new(_: Path) -> Option<Self> {
        None
    }

    pub(super) fn path(self) -> Path {
        match self {}
    }

    pub(super) fn derive(self, _: KeyLen, _: &Key, _: Data, _: KeyLen, _: &mut Key) {
        match self {}
    }

    pub(super) fn derive_two(self, _: KeyLen, _: &Key, _: [Data; 2], _: KeyLen, _: [&mut Key; 2]) {
        match self {}
    }

    pub(super) fn walk(self, _: KeyLen, _: &mut Key, _: Data, _: u32, _: u32) {
        match self {}
    }

    pub(super) fn chain(self, _: KeyLen, _: &Key, _: &mut Block, _: &[Block]) {
        match self {}
    }

    pub(super) fn cbc_decrypt(self, _: KeyLen, _: &Key, _: &Block, _: &mut [Block]) {
        match self {}
    }

    pub(super) fn lanes(self) -> usize {
        match self {}
    }

    pub(super) fn derive_lanes(self, _: KeyLen, _: &mut Lanes, _: &Block, _: &[u32]) {
        match self {}
    }

    pub(super) fn wipe_lanes(self) {
        match self {}
    }
}
