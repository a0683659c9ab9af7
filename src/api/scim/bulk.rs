//! `/Bulk` (RFC 7644, 3.7): many operations, each durable by itself and answered by itself.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};
use workflows::intake::Action;
use workflows::scim::{BULK_RESPONSE, Bulk, Kind, Method, Operation, Refusal, etag};

use super::answer::{Refused, plain};
use super::{Door, Json, KINDS, accepted, known, new_id};

pub(super) async fn post(door: Door, body: Json) -> Result<Response, Refused> {
    let kind_of = |endpoint: &str| KINDS.into_iter().find(|kind| kind.endpoint() == endpoint);
    let bulk = Bulk::parse(&body.0?, kind_of, new_id)?;
    let mut answers: Vec<Option<Value>> = vec![None; bulk.operations.len()];
    let (mut failed, mut done, mut errors) = (BTreeSet::new(), BTreeSet::new(), 0);
    let mut early: Vec<(Kind, &str)> = Vec::new();
    for place in &bulk.order {
        let Some(asked) = bulk.operations.get(*place) else {
            continue;
        };
        if bulk.errors_max.is_some_and(|most| errors >= most) {
            break;
        }
        let mut answer = Map::from_iter([("method".to_owned(), json!(asked.method))]);
        if let Some(bulk_id) = &asked.bulk_id {
            answer.insert("bulkId".to_owned(), json!(bulk_id));
        }
        let outcome = match &asked.operation {
            Ok(operation) if operation.needs.iter().any(|need| failed.contains(need)) => {
                Err(Refusal::new(
                    409,
                    None,
                    "an operation that makes what this one refers to has failed",
                ))
            }
            Ok(operation) => {
                if operation.needs.iter().any(|need| !done.contains(need)) {
                    early.push((operation.kind, &operation.id));
                }
                answer.insert(
                    "location".to_owned(),
                    json!(door.location(operation.kind, &operation.id)),
                );
                carry_out(&door, operation)
                    .await
                    .map_err(|refused| refused.0)
            }
            Err(refusal) => Err(refusal.clone()),
        };
        match outcome {
            Ok((status, version)) => {
                done.insert(*place);
                answer.insert("status".to_owned(), json!(status.as_u16().to_string()));
                if let Some(version) = version {
                    answer.insert("version".to_owned(), json!(etag(version)));
                }
            }
            Err(refusal) => {
                errors += 1;
                failed.insert(*place);
                let is_new =
                    matches!(&asked.operation, Ok(operation) if operation.method == Method::Post);
                if is_new {
                    answer.remove("location");
                }
                answer.insert("status".to_owned(), json!(refusal.status.to_string()));
                answer.insert("response".to_owned(), refusal.document());
            }
        }
        if let Some(slot) = answers.get_mut(*place) {
            *slot = Some(Value::Object(answer));
        }
    }
    // Who referred to one who was made later is looked at again, now that everybody is there.
    for (kind, id) in early {
        if kind == Kind::Person
            && let Err(refused) = door.push(kind, id, None, Action::Refresh).await
        {
            tracing::warn!(id, why = %refused.0, "a reference of a bulk request stays unresolved");
        }
    }
    let answers: Vec<Value> = answers.into_iter().flatten().collect();
    Ok(plain(
        StatusCode::OK,
        &json!({ "schemas": [BULK_RESPONSE], "Operations": answers }),
    ))
}

/// Does one operation; gives the status and the version of the resource.
async fn carry_out(
    door: &Door,
    operation: &Operation,
) -> Result<(StatusCode, Option<i64>), Refused> {
    known(&operation.id)?;
    let (status, action) = match operation.method {
        Method::Post => (
            StatusCode::CREATED,
            Action::Create(accepted(operation.kind, &operation.data)?),
        ),
        Method::Put => (
            StatusCode::OK,
            Action::Replace(accepted(operation.kind, &operation.data)?),
        ),
        Method::Patch => (StatusCode::OK, Action::Patch(operation.data.clone())),
        Method::Delete => (StatusCode::NO_CONTENT, Action::Delete),
    };
    let outcome = door
        .push(
            operation.kind,
            &operation.id,
            operation.version.as_deref(),
            action,
        )
        .await?;
    Ok((status, outcome.resource.map(|row| row.version)))
}
