//! The operator's commands: one file each. They read the configuration, do one thing, and say what they did.

pub(crate) mod audit;
pub(crate) mod bench;
pub(crate) mod calc;
pub(crate) mod config;
pub(crate) mod custodian;
pub(crate) mod dev;
pub(crate) mod device;
pub(crate) mod hsm;
pub(crate) mod key;
pub(crate) mod merchant;
pub(crate) mod module;
pub(crate) mod pki;
pub(crate) mod sales;
pub(crate) mod serve;
pub(crate) mod vault;

mod output;
mod registry;
mod softhsm_env;
