//! SCIM 2.0 over HTTP.

pub mod answer;
