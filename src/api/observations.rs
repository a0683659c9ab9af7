//! `/v1/observations`: what the log of a system says of uses of non-human identities.

use axum::Json;
use axum::extract::{Request, State};
use chrono::{DateTime, Utc};
use engine::core::duration::Span;
use serde::Deserialize;
use utoipa::IntoParams;
use workflows::directory::ObserveReport;
use workflows::nhi::uses::{Log, Sees, Uses};

use super::Shares;
use super::auth::{Caller, Role};
use super::commands::reason;
use super::imports::FILE_BYTES_MAX;
use super::input::{self, Parameters};
use super::problem::{ApiError, Mistake, Problem};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PostParameters {
    /// Whose log it is.
    system: String,
    /// Since when it has seen every use.
    from: DateTime<Utc>,
    /// Until when it goes.
    until: DateTime<Utc>,
    /// What it is called, `log:SYSTEM` without; later exports of the same log have the same name.
    source: Option<String>,
    /// What each line tells: `accounts`, which account logged in; `credentials`, with which credential.
    #[param(value_type = Option<String>)]
    sees: Option<Sees>,
    /// How late a use gets into it, as `1h`.
    delay: Option<String>,
    /// What it does not see.
    blind: Option<String>,
    /// Nobody believes in silence without it.
    #[serde(default)]
    required: bool,
    /// Why it can be believed; it stands beside the change.
    reason: String,
}

/// Take a log of who used what, and for how long it has watched
///
/// Each line of the body is one use: `{"at": TIME, "account": NAME, "by": TEXT}`, or `credential` in place of `account`. With a
/// mistake in it nothing of it is taken.
#[utoipa::path(
    post, path = "/v1/observations", tag = "non-human identities", security(("token" = ["operate"])), params(PostParameters),
    request_body(description = "A use a line; at most 64 MiB", content((String = "application/x-ndjson"))),
    responses((status = 200, body = Object), (status = 404, body = Problem), (status = 413, body = Problem),
        (status = 422, body = Problem))
)]
pub(super) async fn post(
    State(api): Shares,
    caller: Caller,
    Parameters(parameters): Parameters<PostParameters>,
    request: Request,
) -> Result<Json<ObserveReport>, ApiError> {
    let by = caller.require(Role::Operate)?.clone();
    let reason = reason(parameters.reason)?;
    if !(api.systems.iter()).any(|system| system.name() == parameters.system) {
        return Err(ApiError::NotFound(
            "there is no system of that name".to_owned(),
        ));
    }
    if input::media_type(request.headers()) != "application/x-ndjson" {
        return Err(ApiError::UnsupportedMedia {
            expected: "`application/x-ndjson`",
        });
    }
    let delay = parameters.delay.as_deref().map(Span::parse).transpose();
    let delay = delay.map_err(|error| ApiError::wrong("delay", error.to_string()))?;
    let log = Log {
        source: (parameters.source).unwrap_or_else(|| format!("log:{}", parameters.system)),
        system: parameters.system,
        from: parameters.from,
        until: parameters.until,
        delay_s: delay.map_or(0, |delay| delay.delta().num_seconds().unsigned_abs()),
        blind_spots: parameters.blind.into_iter().collect(),
        required: parameters.required,
        sees: parameters.sees.unwrap_or(Sees::Accounts),
    };
    let now = api.clock.now();
    if let Some((what, fix)) = log.mistake(now) {
        return Err(ApiError::wrong("until", format!("{what}; {fix}")));
    }
    let (parts, raw) = request.into_parts();
    let bytes = input::body(&parts.headers, raw, FILE_BYTES_MAX).await?;
    // Reading a large log takes a while and would hold up everything else on this thread.
    let read = tokio::task::spawn_blocking(move || {
        let mut uses = Uses::new("body", &log);
        for line in bytes.split(|byte| *byte == b'\n') {
            if !uses.take(line) {
                break;
            }
        }
        let said = uses.finish();
        said.map(|said| (log, said))
    });
    let read = read
        .await
        .map_err(|error| ApiError::Internal(error.into()))?;
    let (log, said) = read.map_err(|problems| {
        let mistakes = problems.list.into_iter().map(|problem| {
            let line = problem.line.unwrap_or_default();
            Mistake::new(
                format!("line {line}"),
                format!("{}; {}", problem.message, problem.fix),
            )
        });
        ApiError::mistakes(mistakes.collect())
    })?;
    let report = (api.database.directory)
        .observe_log(&log, &said, &by, &reason, now)
        .await?;
    Ok(Json(report))
}
