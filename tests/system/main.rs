//! Whole-system tests: the real binary over real sockets.

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says what went wrong by failing"
)]

mod audit;
mod backups;
mod cache;
mod connections;
mod containment;
mod doctor;
mod dynamodb;
mod events;
mod export;
mod fleet;
mod fleet_histories;
mod grammar;
mod history;
mod identity;
mod image;
mod isolation;
mod keys;
mod kubernetes;
mod lifecycle;
mod model;
mod monitoring;
mod operate_commands;
mod parameter_store;
mod plugins;
mod process;
mod quotas;
mod reads;
mod strategies;
mod systemd;
mod tls;
mod traces;
mod watch;
mod watch_clients;
mod watch_command;
mod watchers;
mod writes;
