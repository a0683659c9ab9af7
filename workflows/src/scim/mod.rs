//! SCIM 2.0 (RFC 7643, RFC 7644, RFC 9865) as a server has to understand it. Pure: text and JSON in, meaning out.
//!
//! Two servers stand on it: the door through which identity providers push people ([`crate::intake`] makes events of what
//! they say), and the application of the demo that access is given on.

mod bulk;
mod etag;
mod filter;
mod patch;
mod path;
mod query;
mod refusal;
pub mod schema;
mod selection;
mod value_path;

pub use bulk::{BULK_BYTES_MAX, BULK_OPERATIONS_MAX, BULK_RESPONSE, Bulk, Method, Operation};
pub use etag::{etag, etag_matches};
pub use filter::{Comparison, FILTER_BYTES_MAX, FILTER_DEPTH_MAX, Filter};
pub use patch::{PATCH_OP, PATCH_OPERATIONS_MAX, apply};
pub use path::AttributePath;
pub use query::{ListQuery, Order, PAGE_DEFAULT, PAGE_MAX, Page, Position, query_name};
pub use refusal::Refusal;
pub use schema::{Kind, MEMBERS_MAX, SCHEMAS};
pub use selection::{Names, Selection};
pub use value_path::ValuePath;
