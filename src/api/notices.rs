//! `/v1/notices`: what people are told, and what became of it.

use axum::Json;
use axum::extract::State;
use chrono::DateTime;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use workflows::notices::{Found, NoticeCursor, NoticeFilter, NoticeRow, NoticeState, Outbox};

use super::auth::{Caller, Role};
use super::input::{self, Page, Parameters, Path};
use super::problem::{ApiError, Problem};
use super::{Api, Shares};
use crate::shell::notices::view::{NoticeDetailView, NoticeView};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct NoticeParameters {
    /// `waiting`, `sending`, `sent`, `parked`, `undeliverable` or `void`.
    #[serde(default)]
    state: Option<String>,
    /// The name of the notice: `case.parked`.
    #[serde(default)]
    name: Option<String>,
    /// The identifier of a case.
    #[serde(default)]
    case: Option<String>,
    /// The key of the person it is about.
    #[serde(default)]
    subject: Option<String>,
    /// 1 to 500.
    #[serde(default)]
    limit: Option<u32>,
    #[serde(default)]
    cursor: Option<String>,
}

#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NoticeReason {
    /// Why; stands beside the notice.
    #[serde(default)]
    reason: String,
}

fn outbox(api: &Api) -> Outbox {
    Outbox::new(api.database.directory.clone())
}

async fn found(api: &Api, id: &str) -> Result<NoticeRow, ApiError> {
    let missing = || ApiError::NotFound(format!("there is no notice `{id}`"));
    match outbox(api).find(id).await? {
        Found::One(row) if row.notice_id.eq_ignore_ascii_case(id) => Ok(*row),
        Found::One(_) | Found::Several | Found::None => Err(missing()),
    }
}

/// Notices, the newest first
#[utoipa::path(
    get, path = "/v1/notices", tag = "notices", security(("token" = ["read"])), params(NoticeParameters),
    responses((status = 200, body = Page<NoticeView>), (status = 422, body = Problem))
)]
pub(super) async fn list(
    State(api): Shares,
    caller: Caller,
    Parameters(parameters): Parameters<NoticeParameters>,
) -> Result<Json<Page<NoticeView>>, ApiError> {
    caller.require(Role::Read)?;
    let limit = input::limit(parameters.limit)?;
    let after = input::cursor(parameters.cursor.as_deref(), |text| {
        let (at, id) = text.split_once(' ')?;
        let at = at.parse().ok().and_then(DateTime::from_timestamp_micros)?;
        Some(NoticeCursor {
            created_at: at,
            notice_id: id.to_owned(),
        })
    })?;
    let state = parameters.state.map(|text| {
        NoticeState::parse(&text).ok_or_else(|| {
            let known: Vec<&str> = NoticeState::ALL
                .iter()
                .map(|state| state.as_str())
                .collect();
            ApiError::wrong("state", format!("is none of {}", known.join(", ")))
        })
    });
    let filter = NoticeFilter {
        states: state.transpose()?.map(|state| vec![state]),
        name: parameters.name,
        case_id: parameters.case,
        subject: parameters.subject,
    };
    let rows = outbox(&api).list(&filter, after.as_ref(), limit).await?;
    let full = rows.len() == limit as usize;
    let next = rows.last().filter(|_| full).map(|row| {
        let at = row.created_at.timestamp_micros();
        input::cursor_text(&format!("{at} {}", row.notice_id))
    });
    Ok(Json(Page {
        items: rows.into_iter().map(NoticeView::from).collect(),
        next,
    }))
}

/// A notice with its messages
#[utoipa::path(
    get, path = "/v1/notices/{id}", tag = "notices", security(("token" = ["read"])), params(("id" = String, Path)),
    responses((status = 200, body = NoticeDetailView), (status = 404, body = Problem))
)]
pub(super) async fn get(
    State(api): Shares,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<NoticeDetailView>, ApiError> {
    caller.require(Role::Read)?;
    let row = found(&api, &id).await?;
    Ok(Json(outbox(&api).detail(row).await?.into()))
}

/// Send a notice again that parked, or found nobody
#[utoipa::path(
    post, path = "/v1/notices/{id}/retry", tag = "notices", security(("token" = ["operate"])),
    params(("id" = String, Path)), request_body = NoticeReason,
    responses((status = 200, body = NoticeDetailView), (status = 404, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem))
)]
pub(super) async fn retry(
    State(api): Shares,
    caller: Caller,
    Path(id): Path<String>,
    input::Json(body): input::Json<NoticeReason>,
) -> Result<Json<NoticeDetailView>, ApiError> {
    let by = caller.require(Role::Operate)?.clone();
    if body.reason.trim().is_empty() {
        return Err(ApiError::wrong(
            "/reason",
            "is empty; say why, it stands beside the notice",
        ));
    }
    let reason = input::text("/reason", body.reason)?;
    let row = found(&api, &id).await?;
    if !row.state.waits_for_a_person() {
        return Err(ApiError::Conflict(format!(
            "the notice is `{}`; only one that is `parked` or `undeliverable` is sent again",
            row.state.as_str()
        )));
    }
    let outbox = outbox(&api);
    outbox.retry(&row, &by, &reason, api.clock.now()).await?;
    let row = found(&api, &id).await?;
    Ok(Json(outbox.detail(row).await?.into()))
}
