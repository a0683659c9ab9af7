//! Everybody, or who changed, page by page. A page set that does not add up is refused as a whole.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, NaiveDate, SecondsFormat, TimeDelta, Utc};
use reqwest::Url;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use workflows::sources::pull::{PageConfig, PullApi, PullConfig};
use workflows::sources::pulled::{flat, holding};

use super::http::Http;

/// The most pages of one answer.
const PAGES_MAX: usize = 20_000;
/// The most that all rows of one answer may hold, in bytes of JSON.
const ROWS_BYTES_MAX: usize = 256 * 1024 * 1024;
/// How many people are asked for by name in one question.
const PEOPLE_PER_QUESTION: usize = 20;
/// How far back a question for changes reaches beyond the last one: a transaction that was open then shows only later.
const OVERLAP: TimeDelta = TimeDelta::minutes(5);
/// The same when the server does not tell its clock, so that ours may be off.
const OVERLAP_UNSURE: TimeDelta = TimeDelta::hours(1);

/// What is known of the last answers. Stored; only added to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// From when on changes are asked for, by the clock of the server.
    pub changed_since: DateTime<Utc>,
    /// The day up to which rows that begin to hold were asked for.
    pub day: NaiveDate,
    /// When everybody was last asked for.
    pub full_at: DateTime<Utc>,
}

/// What came.
pub(super) struct Fetched {
    pub rows: Vec<Map<String, Value>>,
    /// Whether these are all people.
    pub complete: bool,
    pub mark: Mark,
}

/// Asks for everybody, or for who changed since `mark` where that is enough.
pub(super) async fn fetch(
    http: &Http,
    pull: &PullConfig,
    mark: Option<&Mark>,
    (now, today): (DateTime<Utc>, NaiveDate),
) -> anyhow::Result<Fetched> {
    let full = match mark {
        Some(mark) if pull.tells_changes() => now - mark.full_at >= pull.full_every().delta(),
        _ => true,
    };
    let mut base = http.address(&pull.url.value)?;
    if pull.api == PullApi::Successfactors {
        set(&mut base, "$format", "json");
        // Rows of every time: which one holds today is for us to say.
        set(&mut base, "fromDate", "1900-01-01");
        set(&mut base, "toDate", "9999-12-31");
    }
    if pull.api == PullApi::WorkdayReport {
        set(&mut base, "format", "json");
    }
    let effective = pull.effective.clone().unwrap_or_default();
    let mut asking = Asking {
        http,
        pull,
        date: None,
        bytes: 0,
    };
    let rows = match mark.filter(|_| !full) {
        None => asking.pages(&base).await?,
        Some(mark) => {
            let mut changed = base.clone();
            let since = mark
                .changed_since
                .to_rfc3339_opts(SecondsFormat::Secs, true);
            let filter = format!(
                "{} gt datetimeoffset'{since}' or ({} gt datetime'{}T00:00:00' and {} le datetime'{today}T00:00:00')",
                effective.modified, effective.from, mark.day, effective.from,
            );
            narrow(&mut changed, &filter);
            let rows = asking.pages(&changed).await?;
            let who = |row: &Map<String, Value>| {
                let value = row.get(&effective.person)?;
                value
                    .as_str()
                    .map(str::to_owned)
                    .or_else(|| Some(value.to_string()))
            };
            let people: BTreeSet<String> = rows.iter().filter_map(who).collect();
            // All rows of whoever changed: one of them says nothing about which of them holds.
            let people: Vec<String> = people.into_iter().collect();
            let mut rows = Vec::new();
            for part in people.chunks(PEOPLE_PER_QUESTION) {
                let quoted: Vec<String> = part
                    .iter()
                    .map(|person| format!("'{}'", person.replace('\'', "''")))
                    .collect();
                let mut these = base.clone();
                narrow(
                    &mut these,
                    &format!("{} in {}", effective.person, quoted.join(",")),
                );
                rows.extend(asking.pages(&these).await?);
            }
            rows
        }
    };
    let rows: Vec<Map<String, Value>> = rows.iter().map(flat).collect();
    let rows = match pull.api {
        PullApi::Successfactors => holding(rows, &effective, today).map_err(anyhow::Error::msg)?,
        _ => rows,
    };
    let changed_since = match asking.date {
        Some(date) => date - OVERLAP,
        None => now - OVERLAP_UNSURE,
    };
    Ok(Fetched {
        rows,
        complete: full,
        mark: Mark {
            changed_since,
            day: today,
            full_at: match mark {
                Some(mark) if !full => mark.full_at,
                _ => now,
            },
        },
    })
}

/// Asks for one person. `None` when the API knows nobody of that name.
pub(super) async fn one(
    http: &Http,
    pull: &PullConfig,
    id: &str,
    today: NaiveDate,
) -> anyhow::Result<Option<Map<String, Value>>> {
    let hints = pull.hints.as_ref().context("the source takes no hints")?;
    let address = hints.record.value.replace("{id}", &encoded(id));
    let address = http.address(&address)?;
    let answer = match http.get(&address).await {
        Ok(answer) => answer,
        Err(error) if error.is::<super::http::NotThere>() => return Ok(None),
        Err(error) => return Err(error),
    };
    let found = answer.body.pointer(&hints.record_row);
    let rows: Vec<Map<String, Value>> = match found {
        Some(Value::Object(row)) => vec![flat(row)],
        Some(Value::Array(rows)) => rows.iter().filter_map(Value::as_object).map(flat).collect(),
        _ => bail!(
            "the answer has no person at `{}`; correct `record_row`",
            hints.record_row
        ),
    };
    let rows = match pull.api {
        PullApi::Successfactors => {
            let effective = pull.effective.clone().unwrap_or_default();
            holding(rows, &effective, today).map_err(anyhow::Error::msg)?
        }
        _ => rows,
    };
    ensure!(rows.len() <= 1, "the answer holds {} people", rows.len());
    Ok(rows.into_iter().next())
}

struct Asking<'a> {
    http: &'a Http,
    pull: &'a PullConfig,
    /// The clock of the server when the first question was answered.
    date: Option<DateTime<Utc>>,
    bytes: usize,
}

impl Asking<'_> {
    /// All rows behind an address.
    async fn pages(&mut self, first: &Url) -> anyhow::Result<Vec<Map<String, Value>>> {
        let how = self.pull.pages();
        let mut rows: Vec<Map<String, Value>> = Vec::new();
        let mut seen: BTreeSet<String> = BTreeSet::new();
        let mut asked: BTreeSet<String> = BTreeSet::new();
        // With those that were said twice.
        let mut counted: u64 = 0;
        let mut total = None;
        let mut address = match &how {
            Some(page) => at_offset(first, page, 0),
            None => first.clone(),
        };
        for number in 1..=PAGES_MAX {
            ensure!(
                asked.insert(address.to_string()),
                "page {number} leads back to one before it"
            );
            let answer = self
                .http
                .get(&address)
                .await
                .with_context(|| format!("page {number}"))?;
            if self.date.is_none() {
                self.date = answer.date;
            }
            let found = answer.body.pointer(self.pull.rows_at());
            let Some(Value::Array(page)) = found else {
                bail!("page {number} has no list at `{}`", self.pull.rows_at());
            };
            let size = page.len();
            counted += size as u64;
            for row in page {
                let Value::Object(row) = row else {
                    bail!("page {number} holds something that is no object");
                };
                let text = Value::Object(row.clone()).to_string();
                self.bytes += text.len();
                ensure!(
                    self.bytes <= ROWS_BYTES_MAX,
                    "all rows together are larger than {ROWS_BYTES_MAX} bytes; select fewer members"
                );
                // A page that is delivered twice says nothing new. What differs is for the source to refuse.
                if seen.insert(text) {
                    rows.push(row.clone());
                }
            }
            let Some(how) = &how else {
                return Ok(rows);
            };
            let said = how.total.as_ref().map(|at| answer.body.pointer(at));
            if let Some(said) = said {
                let said = said.and_then(Value::as_u64);
                let said = said.with_context(|| {
                    format!("page {number} does not say how many rows there are")
                })?;
                ensure!(
                    total.is_none_or(|total| total == said),
                    "the number of rows changed from page to page; it is asked again"
                );
                total = Some(said);
            }
            let next = match (&how.next, &how.offset) {
                (Some(at), _) => match answer.body.pointer(at) {
                    None | Some(Value::Null) => None,
                    Some(Value::String(next)) => Some(self.http.address(next)?),
                    Some(_) => bail!("page {number} names no address at `{at}`"),
                },
                (None, Some(_)) => {
                    let more = match total {
                        Some(total) => counted < total && size > 0,
                        None => size >= how.limit as usize,
                    };
                    more.then(|| at_offset(first, how, counted))
                }
                (None, None) => None,
            };
            let Some(next) = next else {
                if let Some(total) = total {
                    ensure!(
                        rows.len() as u64 == total,
                        "{} different rows came, and the server says that there are {total}",
                        rows.len()
                    );
                }
                return Ok(rows);
            };
            address = next;
        }
        bail!("there are more than {PAGES_MAX} pages")
    }
}

fn at_offset(first: &Url, page: &PageConfig, offset: u64) -> Url {
    let mut address = first.clone();
    if let Some(name) = &page.offset {
        set(&mut address, name, &offset.to_string());
        set(&mut address, &page.limit_parameter, &page.limit.to_string());
    }
    address
}

/// Sets a parameter, whatever it was before.
fn set(address: &mut Url, name: &str, value: &str) {
    let others: Vec<(String, String)> = address
        .query_pairs()
        .filter(|(other, _)| other != name)
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    address
        .query_pairs_mut()
        .clear()
        .extend_pairs(others)
        .append_pair(name, value);
}

/// Adds a condition to those of the address.
fn narrow(address: &mut Url, condition: &str) {
    let own = address
        .query_pairs()
        .find(|(name, _)| name == "$filter")
        .map(|(_, value)| value.into_owned());
    let filter = match own {
        Some(own) => format!("({own}) and ({condition})"),
        None => condition.to_owned(),
    };
    set(address, "$filter", &filter);
}

/// One segment of a path.
fn encoded(id: &str) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}
