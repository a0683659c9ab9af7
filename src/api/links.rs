//! `/contract`: the page behind the link in a sponsor's mail, where they ask for a contract to go on.
//!
//! It takes no token: the link is what lets somebody in, for one thing and once. Without `notifications.links` there is no such
//! page. Looking changes nothing, so whatever follows links in mails by itself does no harm; only what is sent from the page
//! does. A link that is not good is not told from one that never was.

use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};
use chrono::{NaiveDate, TimeDelta};
use serde::Deserialize;
use workflows::intake::ExtendError;
use workflows::notices::{LINK_PAGE, LinkRow, Outbox};

use super::problem::ApiError;
use super::{Api, Shares, input};

/// The largest form, in bytes.
const FORM_BYTES_MAX: usize = 16 * 1024;
/// What a page may do: show itself, and send its form here.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:34em;margin:3em auto;padding:0 1em}label{display:block;margin:1em 0}\
input,textarea{display:block;width:100%;font:inherit;padding:.4em;box-sizing:border-box}button{font:inherit;padding:.5em 1em}";

/// Whether a link decides about this request, and no token.
pub(super) fn decides(api: &Api, method: &Method, path: &str) -> bool {
    api.links.is_some() && path == LINK_PAGE && (method == Method::GET || method == Method::POST)
}

#[derive(Deserialize)]
struct Looked {
    #[serde(default)]
    t: String,
}

#[derive(Deserialize)]
struct Sent {
    t: String,
    until: NaiveDate,
    #[serde(default)]
    reason: String,
}

/// The form.
pub(super) async fn look(State(api): Shares, uri: Uri) -> Result<Response, ApiError> {
    let Ok(Query(looked)) = Query::<Looked>::try_from_uri(&uri) else {
        return Ok(no_good());
    };
    match good(&api, &looked.t).await? {
        Some(link) => Ok(form(&api, &looked.t, &link, None).await?),
        None => Ok(no_good()),
    }
}

/// Asks, and uses the link up.
pub(super) async fn ask(
    State(api): Shares,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let bytes = input::body(&headers, body, FORM_BYTES_MAX).await?;
    let text = String::from_utf8(bytes).unwrap_or_default();
    let sent = format!("/?{text}").parse::<Uri>();
    let sent = sent
        .ok()
        .and_then(|uri| Query::<Sent>::try_from_uri(&uri).ok());
    let Some(Query(sent)) = sent else {
        return Ok(page(
            StatusCode::UNPROCESSABLE_ENTITY,
            "That was not understood",
            "<p>Go back, and give a day like <code>2026-12-31</code>.</p>",
        ));
    };
    let Some(link) = good(&api, &sent.t).await? else {
        return Ok(no_good());
    };
    let reason = sent.reason.trim();
    if reason.is_empty() || reason.len() > input::TEXT_BYTES_MAX || reason.contains('\0') {
        let why = "Say in a few words why it goes on.";
        return form(&api, &sent.t, &link, Some(why)).await;
    }
    let now = api.clock.now();
    let asked = api.intake.ask_by_link(&link, sent.until, reason, now).await;
    match asked {
        Ok(asked) => {
            api.nudge.notify_one();
            let told = match asked.ask {
                Some(ask) => format!(
                    "<p>{} is asked. The contract goes on once they agree, and not before.</p>",
                    escaped(&ask)
                ),
                None => "<p>It ends then already.</p>".to_owned(),
            };
            Ok(page(StatusCode::OK, "Thank you", &told))
        }
        Err(ExtendError::LinkUsed | ExtendError::Unknown(_)) => Ok(no_good()),
        Err(ExtendError::Intake(error)) => Err(error.into()),
        Err(refused) => form(&api, &sent.t, &link, Some(&refused.to_string())).await,
    }
}

/// The link, when it was sent from here, holds, and nobody has used it.
async fn good(api: &Api, text: &str) -> Result<Option<LinkRow>, ApiError> {
    let now = api.clock.now();
    let Some(hash) = api.links.as_ref().and_then(|links| links.read(text, now)) else {
        return Ok(None);
    };
    let outbox = Outbox::new(api.database.directory.clone());
    let link = outbox.link(&hash).await?;
    Ok(link.filter(|link| link.used_at.is_none() && now < link.expires_at))
}

async fn form(
    api: &Api,
    text: &str,
    link: &LinkRow,
    wrong: Option<&str>,
) -> Result<Response, ApiError> {
    let held = api.database.directory.holdings(&link.identity_key).await?;
    let Some(held) = held else {
        return Ok(no_good());
    };
    let ends = link.ends_at.date_naive();
    let first = ends + TimeDelta::days(1);
    let last = api.intake.extension_until(link.ends_at).unwrap_or(first);
    let wrong = wrong.map_or_else(String::new, |wrong| {
        format!("<p role=\"alert\"><strong>{}</strong></p>", escaped(wrong))
    });
    let status = if wrong.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::UNPROCESSABLE_ENTITY
    };
    let text = escaped(text);
    let body = format!(
        "<p>The contract of <strong>{}</strong> ({}) ends on {}, and all their access with it.</p>{wrong}\
<form method=\"post\" action=\"{LINK_PAGE}\"><input type=\"hidden\" name=\"t\" value=\"{text}\">\
<label>Let it go on until <input type=\"date\" name=\"until\" min=\"{first}\" max=\"{last}\" required></label>\
<label>Why <textarea name=\"reason\" rows=\"3\" maxlength=\"2000\" required></textarea></label>\
<button>Ask for it</button></form><p>Somebody else decides. This page works once.</p>",
        escaped(&held.identity.display_name),
        escaped(&link.identity_key),
        link.ends_at.format("%-d %B %Y, %H:%M UTC"),
    );
    Ok(page(status, "A contract that ends", &body))
}

fn no_good() -> Response {
    page(
        StatusCode::NOT_FOUND,
        "This link is not good any more",
        "<p>It was used, or its time is over. Whoever runs Tenure can ask for you: <code>tenure contract extend</code>.</p>",
    )
}

fn page(status: StatusCode, title: &str, body: &str) -> Response {
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
<meta name=\"robots\" content=\"noindex\"><title>{title}</title><style>{STYLE}</style></head><body><h1>{title}</h1>{body}</body></html>"
    );
    let mut response = (status, html).into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}
