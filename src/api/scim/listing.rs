//! Listings: what an index answers is asked of the database; everything else is looked at in pieces, so memory holds one
//! page whatever there is.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use axum::extract::Query;
use axum::http::StatusCode;
use axum::response::Response;
use serde_json::{Map, Value, json};
use workflows::directory::resources::{Membership, ResourceRow, Wanted, name_key};
use workflows::scim::{
    Comparison, Filter, Kind, ListQuery, Order, PAGE_MAX, Page, Position, Refusal, Selection,
    query_name,
};

use super::answer::{LIST, Refused, list, plain};
use super::{Door, Json, KINDS, Pairs, selection};

/// How many resources are looked at at a time.
const PIECE_ROWS: u32 = 500;
/// How far `startIndex` reaches in a sorted listing: so many resources are held while the others are looked at.
const SORTED_START_MAX: u64 = 20_000;
/// The most members that one page shows; the groups that follow go to the next.
const MEMBERS_SHOWN_MAX: usize = 50_000;

/// A page of a listing.
struct Listed {
    resources: Vec<Value>,
    total: u64,
    /// The cursor of the next page.
    next: Option<String>,
}

pub(super) async fn get(kind: Kind, door: Door, query: Pairs) -> Result<Response, Refused> {
    answer(kind, &door, of_parameters(&query)?).await
}

pub(super) async fn search(kind: Kind, door: Door, body: Json) -> Result<Response, Refused> {
    answer(kind, &door, ListQuery::of_body(&body.0?)?).await
}

pub(super) async fn everything(door: Door, query: Query<Pairs>) -> Result<Response, Refused> {
    over_all(&door, of_parameters(&query.0)?).await
}

pub(super) async fn search_everything(door: Door, body: Json) -> Result<Response, Refused> {
    over_all(&door, ListQuery::of_body(&body.0?)?).await
}

fn of_parameters(pairs: &Pairs) -> Result<ListQuery, Refusal> {
    let pairs = pairs.iter();
    ListQuery::of_parameters(pairs.map(|(name, value)| (name.as_str(), value.as_str())))
}

async fn answer(kind: Kind, door: &Door, query: ListQuery) -> Result<Response, Refused> {
    let listed = Reading::new(kind, door, &query)?.page(&query.page).await?;
    door.heard().await;
    Ok(match &query.page {
        Page::Index { start, .. } => list(listed.resources, listed.total, *start),
        Page::Cursor { .. } => {
            let mut body = json!({
                "schemas": [LIST],
                "totalResults": listed.total,
                "itemsPerPage": listed.resources.len(),
                "Resources": listed.resources,
            });
            if let (Some(next), Value::Object(fields)) = (listed.next, &mut body) {
                fields.insert("nextCursor".to_owned(), json!(next));
            }
            plain(StatusCode::OK, &body)
        }
    })
}

/// A search over all kinds (RFC 7644, 3.4.3), people before groups. A kind that has no such attribute has no such resource.
async fn over_all(door: &Door, query: ListQuery) -> Result<Response, Refused> {
    let Page::Index { start, count } = query.page else {
        return Err(Refusal::invalid_value(
            "a search over several kinds of resources has no cursor; give `startIndex`, or search one kind",
        )
        .into());
    };
    let (mut shown, mut total, mut refused) = (Vec::new(), 0, Vec::new());
    for kind in KINDS {
        let reading = match Reading::new(kind, door, &query) {
            Ok(reading) => reading,
            Err(refusal) => {
                refused.push(refusal);
                continue;
            }
        };
        let page = Page::Index {
            start: start.saturating_sub(total).max(1),
            count: count.saturating_sub(u64::try_from(shown.len()).unwrap_or(u64::MAX)),
        };
        let listed = reading.page(&page).await?;
        shown.extend(listed.resources);
        total += listed.total;
    }
    match refused.pop() {
        Some(refusal) if !refused.is_empty() => Err(refusal.into()),
        _ => Ok(list(shown, total, start)),
    }
}

/// A listing, ready to be read.
struct Reading<'a> {
    door: &'a Door,
    kind: Kind,
    selection: Selection,
    wanted: Wanted,
    /// What the index does not answer.
    rest: Vec<Filter>,
    order: Option<Order>,
    /// The name of the query, for cursors.
    name: String,
}

impl<'a> Reading<'a> {
    fn new(kind: Kind, door: &'a Door, query: &ListQuery) -> Result<Self, Refusal> {
        let filter = query.filter.as_deref();
        let filter = filter.map(|text| Filter::parse(kind, text)).transpose()?;
        let order = query.sort_by.as_deref();
        let order = order
            .map(|by| Order::parse(kind, by, query.descending))
            .transpose()?;
        let of = format!("{}/{}", door.source.name(), kind.endpoint());
        let name = query_name(&of, filter.as_ref(), order.as_ref());
        let (wanted, rest) = indexed(kind, filter);
        Ok(Self {
            door,
            kind,
            selection: selection(kind, query)?,
            wanted,
            rest,
            order,
            name,
        })
    }

    async fn page(&self, page: &Page) -> Result<Listed, Refused> {
        let position = match page {
            Page::Cursor {
                cursor: Some(cursor),
                ..
            } => Some(Position::read(&self.name, cursor)?),
            _ => None,
        };
        let (rows, total, more) = if self.rest.is_empty() && self.order.is_none() {
            self.asked(page, position.as_ref()).await?
        } else {
            self.looked_through(page, position.as_ref()).await?
        };
        let (shown, cut) = self.shown(&rows).await?;
        let last = rows.get(shown.len().saturating_sub(1));
        let next = match (page, last) {
            (Page::Cursor { .. }, Some(last)) if more || cut => {
                let key = match &self.order {
                    Some(order) => Some(order.key(&self.fields(last).await?)),
                    None => None,
                };
                Some(Position::new(&self.name, total, key, &last.resource_id).cursor())
            }
            _ => None,
        };
        Ok(Listed {
            resources: shown,
            total,
            next,
        })
    }

    /// A page that the index answers: the rows, how many there are in all, and whether more follow.
    async fn asked(
        &self,
        page: &Page,
        position: Option<&Position>,
    ) -> Result<(Vec<ResourceRow>, u64, bool), Refused> {
        let directory = &self.door.api.database.directory;
        let source = self.door.source.name();
        let (after, offset, count) = match page {
            Page::Index { start, count } => ("", start - 1, *count),
            Page::Cursor { count, .. } => (
                position.map_or("", |position| position.id.as_str()),
                0,
                *count,
            ),
        };
        let limit = u32::try_from(count.min(PAGE_MAX)).unwrap_or(u32::MAX);
        let rows = directory
            .resources(source, self.kind, &self.wanted, after, offset, limit)
            .await?;
        let found = rows.len() as u64;
        let total = match position {
            Some(position) => position.total,
            // A page that is not full says itself how many there are; asking again might count what came meanwhile.
            None if found < count && (offset == 0 || found > 0) => offset + found,
            None => {
                let all = directory
                    .resource_count(source, self.kind, &self.wanted)
                    .await?;
                // At least what is seen here.
                if found > 0 {
                    all.max(offset + found)
                } else {
                    all
                }
            }
        };
        // A full page may be the last; the next one is empty then.
        let more = count > 0 && found == count;
        Ok((rows, total, more))
    }

    /// A page for which resources have to be looked at.
    async fn looked_through(
        &self,
        page: &Page,
        position: Option<&Position>,
    ) -> Result<(Vec<ResourceRow>, u64, bool), Refused> {
        let directory = &self.door.api.database.directory;
        let source = self.door.source.name();
        let mut kept = Kept::new(self.order.as_ref(), page, position)?;
        // In the order of identifiers, what stands before the cursor need not be looked at.
        let mut after = match (&self.order, position) {
            (None, Some(position)) => position.id.clone(),
            _ => String::new(),
        };
        loop {
            let piece = directory
                .resources(source, self.kind, &self.wanted, &after, 0, PIECE_ROWS)
                .await?;
            let last = piece.len() < PIECE_ROWS as usize;
            after = piece
                .last()
                .map(|row| row.resource_id.clone())
                .unwrap_or_default();
            let others = self.others_to_look_at(&piece).await?;
            for row in piece {
                let none = Vec::new();
                let of_row = others.get(&row.resource_id).unwrap_or(&none);
                let fields = row.whole(self.kind, of_row, Some(&self.door.base));
                if self.rest.iter().all(|part| part.matches(&fields)) {
                    let key = self.order.as_ref().map(|order| order.key(&fields));
                    kept.add(key.unwrap_or_default(), row);
                }
            }
            if last || kept.is_enough() {
                return Ok(kept.page());
            }
        }
    }

    async fn others_to_look_at(
        &self,
        rows: &[ResourceRow],
    ) -> Result<BTreeMap<String, Vec<Membership>>, Refused> {
        let name = others_name(self.kind);
        let read = self.rest.iter().any(|part| part.reads(name))
            || self.order.is_some_and(|order| {
                order.path.schema.is_none() && order.path.attribute.name == name
            });
        if read {
            all_others(self.door, self.kind, rows).await
        } else {
            Ok(BTreeMap::new())
        }
    }

    async fn fields(&self, row: &ResourceRow) -> Result<Map<String, Value>, Refused> {
        let others = self.others_to_look_at(std::slice::from_ref(row)).await?;
        let none = Vec::new();
        let others = others.get(&row.resource_id).unwrap_or(&none);
        Ok(row.whole(self.kind, others, Some(&self.door.base)))
    }

    /// The resources as the caller wants them, and whether some did not fit.
    async fn shown(&self, rows: &[ResourceRow]) -> Result<(Vec<Value>, bool), Refused> {
        let others = others(self.door, self.kind, rows, &self.selection).await?;
        let (mut shown, mut members) = (Vec::with_capacity(rows.len()), 0);
        for row in rows {
            let none = Vec::new();
            let of_row = others.get(&row.resource_id).unwrap_or(&none);
            let whole = row.whole(self.kind, of_row, Some(&self.door.base));
            shown.push(self.selection.cut(Value::Object(whole)));
            members += of_row.len();
            if members > MEMBERS_SHOWN_MAX {
                break;
            }
        }
        let cut = shown.len() < rows.len();
        Ok((shown, cut))
    }
}

/// What of the resources looked at is on the page.
struct Kept<'a> {
    rows: BTreeMap<Rank, ResourceRow>,
    descending: bool,
    sorted: bool,
    /// How many before the page are held, too.
    skipped: u64,
    /// Skipped and shown together, and one more that tells whether more follow.
    most: usize,
    count: u64,
    position: Option<&'a Position>,
    total: u64,
}

/// A place in the order.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rank {
    key: String,
    id: String,
    descending: bool,
}

impl Ord for Rank {
    fn cmp(&self, other: &Self) -> Ordering {
        let keys = self.key.cmp(&other.key);
        let keys = if self.descending {
            keys.reverse()
        } else {
            keys
        };
        keys.then_with(|| self.id.cmp(&other.id))
    }
}

impl PartialOrd for Rank {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<'a> Kept<'a> {
    fn new(
        order: Option<&Order>,
        page: &Page,
        position: Option<&'a Position>,
    ) -> Result<Self, Refusal> {
        let (skipped, count) = match page {
            Page::Index { start, count } => (start - 1, *count),
            Page::Cursor { count, .. } => (0, *count),
        };
        // Without an order those before the page are counted, not held.
        let held = if order.is_some() { skipped } else { 0 };
        if held > SORTED_START_MAX {
            return Err(Refusal::too_many(&format!(
                "a sorted listing is read up to `startIndex` {SORTED_START_MAX}; go on with `cursor`, or filter"
            )));
        }
        Ok(Self {
            rows: BTreeMap::new(),
            descending: order.is_some_and(|order| order.descending),
            sorted: order.is_some(),
            skipped,
            most: usize::try_from(held + count + 1).unwrap_or(usize::MAX),
            count,
            position,
            total: 0,
        })
    }

    fn add(&mut self, key: String, row: ResourceRow) {
        self.total += 1;
        let rank = Rank {
            key,
            id: row.resource_id.clone(),
            descending: self.descending,
        };
        if let Some(position) = self.position {
            let reached = Rank {
                key: position.key.clone().unwrap_or_default(),
                id: position.id.clone(),
                descending: self.descending,
            };
            if self.sorted && rank <= reached {
                return;
            }
        }
        if !self.sorted && (self.total <= self.skipped || self.rows.len() >= self.most) {
            return;
        }
        self.rows.insert(rank, row);
        if self.rows.len() > self.most {
            self.rows.pop_last();
        }
    }

    /// Whether what is still to come changes nothing.
    fn is_enough(&self) -> bool {
        !self.sorted && self.position.is_some() && self.rows.len() >= self.most
    }

    fn page(self) -> (Vec<ResourceRow>, u64, bool) {
        let skipped = if self.sorted { self.skipped } else { 0 };
        let skipped = usize::try_from(skipped).unwrap_or(usize::MAX);
        let count = usize::try_from(self.count).unwrap_or(usize::MAX);
        let more = self.rows.len() > skipped.saturating_add(count);
        let rows = self.rows.into_values().skip(skipped).take(count).collect();
        let total = self.position.map_or(self.total, |position| position.total);
        (rows, total, more)
    }
}

/// Splits a filter into what an index answers and what has to be looked at, resource by resource.
fn indexed(kind: Kind, filter: Option<Filter>) -> (Wanted, Vec<Filter>) {
    let mut wanted = Wanted::All;
    let mut rest = Vec::new();
    for part in filter.into_iter().flat_map(Filter::conjuncts) {
        let found = match &part {
            // No database compares U+0000; nothing that is stored has it.
            Filter::Compare(path, Comparison::Equal, Value::String(text))
                if path.schema.is_none() && !text.contains('\0') =>
            {
                let sub = path.sub.map(|sub| sub.name);
                match (kind, path.attribute.name, sub) {
                    (_, "id", None) => Some(Wanted::Id(text.clone())),
                    (_, "externalId", None) => Some(Wanted::ExternalId(text.clone())),
                    (Kind::User | Kind::Person, "userName", None)
                    | (Kind::Group, "displayName", None) => Some(Wanted::Name(name_key(text))),
                    (Kind::Group, "members", None | Some("value")) => {
                        Some(Wanted::Member(text.clone()))
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        match found {
            Some(found) if wanted == Wanted::All => wanted = found,
            _ => rest.push(part),
        }
    }
    (wanted, rest)
}

/// The attribute that lists the other side of memberships.
fn others_name(kind: Kind) -> &'static str {
    match kind {
        Kind::User | Kind::Person => "groups",
        Kind::Group => "members",
    }
}

/// Groups of users, or members of groups, where they are shown.
pub(super) async fn others(
    door: &Door,
    kind: Kind,
    rows: &[ResourceRow],
    selection: &Selection,
) -> Result<BTreeMap<String, Vec<Membership>>, Refused> {
    if selection.shows(others_name(kind)) {
        all_others(door, kind, rows).await
    } else {
        Ok(BTreeMap::new())
    }
}

async fn all_others(
    door: &Door,
    kind: Kind,
    rows: &[ResourceRow],
) -> Result<BTreeMap<String, Vec<Membership>>, Refused> {
    let directory = &door.api.database.directory;
    let source = door.source.name();
    if kind != Kind::Group {
        let ids: BTreeSet<&str> = rows.iter().map(|row| row.resource_id.as_str()).collect();
        let ids: Vec<&str> = ids.into_iter().collect();
        return Ok(directory.groups_of(source, &ids).await?);
    }
    let (mut found, mut members) = (BTreeMap::new(), 0);
    for row in rows {
        let of_row = directory.members_of(source, &row.resource_id).await?;
        members += of_row.len();
        found.insert(row.resource_id.clone(), of_row);
        if members > MEMBERS_SHOWN_MAX {
            break;
        }
    }
    Ok(found)
}
