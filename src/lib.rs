//! The shell around engine, connectors and workflows: what a person or another program touches.

pub mod api;
pub mod cli;
pub mod demo;
pub mod shell;
pub mod telemetry;
