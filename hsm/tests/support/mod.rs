//! A throw-away SoftHSM slot in memory, shared by the tests of one process, and the device's half of DUKPT.

#![allow(dead_code, reason = "each test binary uses its own part of this")]

pub(crate) mod device;
pub(crate) mod slot;
