//! What this server can do, told in SCIM's own words (RFC 7644, 4; RFC 9865, 4).

use axum::extract::{Path as UrlPath, Query};
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Value, json};
use workflows::scim::{
    BULK_BYTES_MAX, BULK_OPERATIONS_MAX, PAGE_DEFAULT, PAGE_MAX, Refusal, schema,
};

use super::answer::{Refused, list, plain};
use super::{Door, KINDS, Pairs};

pub(super) async fn service_provider(door: Door) -> Response {
    let base = &door.base;
    plain(
        StatusCode::OK,
        &json!({
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"],
            "documentationUri": "https://www.rfc-editor.org/rfc/rfc7644",
            "patch": { "supported": true },
            "bulk": {
                "supported": true,
                "maxOperations": BULK_OPERATIONS_MAX,
                "maxPayloadSize": BULK_BYTES_MAX,
            },
            "filter": { "supported": true, "maxResults": PAGE_MAX },
            "changePassword": { "supported": false },
            "sort": { "supported": true },
            "etag": { "supported": true },
            "pagination": {
                "cursor": true,
                "index": true,
                "defaultPaginationMethod": "index",
                "defaultPageSize": PAGE_DEFAULT,
                "maxPageSize": PAGE_MAX,
            },
            "authenticationSchemes": [{
                "type": "oauthbearertoken",
                "name": "Bearer token",
                "description": "A token of Tenure in the Authorization header",
                "specUri": "https://www.rfc-editor.org/rfc/rfc6750",
                "primary": true,
            }],
            "meta": {
                "resourceType": "ServiceProviderConfig",
                "location": format!("{base}/ServiceProviderConfig"),
            },
        }),
    )
}

/// Discovery answers whole lists, and takes no filter (RFC 7644, 4).
fn all(query: &Pairs, documents: Vec<Value>) -> Result<Response, Refused> {
    if query.iter().any(|(name, _)| name == "filter") {
        return Err(Refusal::new(403, None, "no filter is allowed here").into());
    }
    let total = u64::try_from(documents.len()).unwrap_or(u64::MAX);
    Ok(list(documents, total, 1))
}

fn known_schemas() -> impl Iterator<Item = &'static schema::Schema> {
    KINDS.into_iter().flat_map(|kind| kind.schemas())
}

pub(super) async fn schemas(door: Door, query: Query<Pairs>) -> Result<Response, Refused> {
    let documents = known_schemas().map(|schema| schema::document(schema, &door.base));
    all(&query.0, documents.collect())
}

pub(super) async fn schema(door: Door, UrlPath(id): UrlPath<String>) -> Result<Response, Refused> {
    let found = known_schemas().find(|schema| schema.urn.eq_ignore_ascii_case(&id));
    let found = found.ok_or_else(|| Refusal::not_found(&id))?;
    Ok(plain(StatusCode::OK, &schema::document(found, &door.base)))
}

pub(super) async fn resource_types(door: Door, query: Query<Pairs>) -> Result<Response, Refused> {
    let documents = KINDS.map(|kind| schema::resource_type(kind, &door.base));
    all(&query.0, documents.to_vec())
}

pub(super) async fn resource_type(
    door: Door,
    UrlPath(id): UrlPath<String>,
) -> Result<Response, Refused> {
    let found = KINDS
        .into_iter()
        .find(|kind| kind.name().eq_ignore_ascii_case(&id));
    let found = found.ok_or_else(|| Refusal::not_found(&id))?;
    Ok(plain(
        StatusCode::OK,
        &schema::resource_type(found, &door.base),
    ))
}
