//! The real binary, real processes, real sockets: what issue, design and contract promise, seen from outside.
//!
//! Must never look into the crates: everything goes through the command line, `/proc`, the network and files.
//! `TRUNDLE_E2E=full` raises the counts; `TRUNDLE_E2E_SEED` repeats a run.

#![allow(clippy::unwrap_used, reason = "a test")]

mod asked;
mod bad_version;
mod bytes;
mod clients;
mod contract;
mod crash;
mod demo;
mod disk;
mod doors;
mod eight;
mod follow;
mod formats;
mod front;
mod gates;
mod harness;
mod hostile;
mod input;
mod json;
mod kinds;
mod limits;
mod matrix;
mod planted;
mod repair;
mod router;
mod secrets;
mod sick;
mod simulated;
mod ten;
mod time;
mod two;
mod upgrade;
