//! Warifu.
