//! SCIM 2.0 (RFC 7643, RFC 7644, RFC 9865) as a server has to understand it. Pure: text and JSON in, meaning out.
//!
//! Two servers stand on it: the door through which identity providers push people ([`crate::intake`] makes events of what
//! they say), and the application of the demo that access is given on.

mod filter;
mod patch;
mod path;
mod refusal;
pub mod schema;
mod selection;

pub use filter::{Comparison, Filter};
pub use patch::{PATCH_OP, apply};
pub use path::AttributePath;
pub use refusal::Refusal;
pub use schema::{Kind, SCHEMAS};
pub use selection::{Names, Selection};
