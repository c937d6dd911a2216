//! Apps and clients that nobody here wrote, rolled by the real binary.
//!
//! What they need (python3 with pip, PyPI, nginx, Chromium) may be missing on a developer's machine: then a test says so and passes.
//! With `CI=true` that is a failure, because `.ci/run` installs it.

#![allow(clippy::unwrap_used, reason = "a test")]

mod acme;
mod browser;
mod curl;
mod drain;
mod grpc;
mod gunicorn;
mod h2load;
#[cfg(feature = "otel")]
mod otel;
mod page;
#[path = "../e2e/harness/turns.rs"]
mod turns;
mod upgrade;
mod websockets;
mod world;
