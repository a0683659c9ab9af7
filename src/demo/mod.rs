//! `tenure demo`: a made-up company, three live systems that need no installation, and a month of its life.

pub mod company;
pub mod plugin;
pub mod run;
pub mod scim_server;
