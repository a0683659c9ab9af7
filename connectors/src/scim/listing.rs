//! Pages of a SCIM listing, and whether they were all of it.
//!
//! SCIM pages by position (RFC 7644, 3.4.2.4): while somebody adds or removes objects, positions shift and a
//! reader skips what he never saw. And servers are wrong in simple ways: `totalResults` is the size of the page,
//! `startIndex` or `count` is ignored. So a listing is called complete only when
//!
//! - every page after the first begins with the object that ended the page before (each is asked to overlap by one),
//! - `totalResults` stayed the same from the first page to the last,
//! - exactly that many different objects were given, and
//! - a last page was asked for beyond the end and had nothing new.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::attributes::member;

/// Most objects one listing follows, whatever the server says.
pub(super) const LISTED_MAX: u64 = 5_000_000;

/// Where a listing stands. Travels inside the cursor, so that a restart can go on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Progress {
    /// How many objects were given so far.
    seen: u64,
    /// The `id` of the first one: meeting it again means that the server gives its first page for ever.
    first: Option<String>,
    /// The `id` of the last one.
    last: Option<String>,
    /// What the first page said.
    total: Option<u64>,
    /// Something did not fit: the listing ends incomplete.
    shaken: bool,
}

/// One page after it was judged.
#[derive(Debug)]
pub(super) struct Judged {
    /// What was not on the page before.
    pub fresh: Vec<Value>,
    /// How to go on; `None` at the end.
    pub next: Option<Progress>,
    pub complete: bool,
}

impl Progress {
    /// The position to ask for: the last object once more, or the first.
    pub(super) fn start_index(&self) -> u64 {
        self.seen.max(1)
    }

    /// How many to ask for so that `page_size` new ones fit.
    pub(super) fn count(&self, page_size: u32) -> u64 {
        u64::from(page_size).saturating_add(u64::from(self.last.is_some()))
    }

    /// Takes in one list response. `Err` says what is missing in it.
    pub(super) fn judge(mut self, response: &Value) -> Result<Judged, String> {
        let page = ListResponse::read(response)?;
        if *self.total.get_or_insert(page.total) != page.total {
            self.shaken = true;
        }
        let mut fresh = page.resources;
        let begins_with = fresh.first().and_then(id_of).map(str::to_owned);
        if self.last.is_none() {
            self.first.clone_from(&begins_with);
        } else if self.last == begins_with {
            fresh.remove(0);
        } else {
            // It moved or went away, or the server does not page at all.
            self.shaken = true;
            if self.first == begins_with {
                fresh.clear();
            }
        }
        self.seen = self
            .seen
            .saturating_add(u64::try_from(fresh.len()).unwrap_or(u64::MAX));
        match fresh.last() {
            Some(object) if self.seen < LISTED_MAX => {
                let Some(id) = id_of(object) else {
                    return Err("an object without `id`".to_owned());
                };
                self.last = Some(id.to_owned());
                Ok(Judged {
                    fresh,
                    next: Some(self),
                    complete: false,
                })
            }
            _ => Ok(Judged {
                complete: !self.shaken && Some(self.seen) == self.total,
                fresh,
                next: None,
            }),
        }
    }
}

/// RFC 7644, 3.4.2.
pub(super) struct ListResponse {
    pub total: u64,
    pub resources: Vec<Value>,
}

impl ListResponse {
    pub(super) fn read(response: &Value) -> Result<Self, String> {
        let total = member(response, "totalResults")
            .and_then(Value::as_u64)
            .ok_or("a list without the number `totalResults`")?;
        let resources = match member(response, "Resources") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(resources)) => resources.clone(),
            Some(_) => return Err("a list whose `Resources` is not a list".to_owned()),
        };
        Ok(Self { total, resources })
    }
}

pub(super) fn id_of(object: &Value) -> Option<&str> {
    member(object, "id")
        .and_then(Value::as_str)
        .filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]
    use serde_json::json;

    use super::*;

    /// A server that may lie, as a function from (startIndex, count) to (totalResults, ids).
    fn check(page_size: u32, server: impl Fn(u64, u64) -> (u64, Vec<u64>)) -> (Vec<u64>, bool) {
        let mut progress = Progress::default();
        let mut seen = Vec::new();
        for _ in 0..1_000 {
            let (total, ids) = server(progress.start_index(), progress.count(page_size));
            let resources: Vec<Value> = ids
                .iter()
                .map(|id| json!({ "id": id.to_string() }))
                .collect();
            let judged = progress
                .judge(&json!({ "totalResults": total, "Resources": resources }))
                .unwrap();
            seen.extend(
                judged
                    .fresh
                    .iter()
                    .map(|it| id_of(it).unwrap().parse::<u64>().unwrap()),
            );
            match judged.next {
                Some(next) => progress = next,
                None => return (seen, judged.complete),
            }
        }
        panic!("endless listing");
    }

    fn honest(size: u64) -> impl Fn(u64, u64) -> (u64, Vec<u64>) {
        move |start, count| {
            (
                size,
                (start..=size)
                    .take(usize::try_from(count).unwrap())
                    .collect(),
            )
        }
    }

    #[test]
    fn an_honest_server_is_listed_once_and_completely() {
        for size in [0, 1, 9, 10, 11, 20, 95] {
            let (seen, complete) = check(10, honest(size));
            assert_eq!(seen, (1..=size).collect::<Vec<_>>(), "{size}");
            assert!(complete, "{size}");
        }
    }

    #[test]
    fn a_server_with_smaller_pages_than_asked_for_is_listed_completely() {
        let (seen, complete) = check(100, |start, count| honest(95)(start, count.min(7)));
        assert_eq!((seen.len(), complete), (95, true));
    }

    #[test]
    fn a_total_that_is_only_the_size_of_the_page_is_not_believed() {
        let (seen, complete) = check(10, |start, count| {
            let page = honest(25)(start, count).1;
            (u64::try_from(page.len()).unwrap(), page)
        });
        assert_eq!((seen.len(), complete), (25, false));
    }

    #[test]
    fn fewer_objects_than_promised_is_incomplete() {
        let (seen, complete) = check(10, |start, count| (30, honest(25)(start, count).1));
        assert_eq!((seen.len(), complete), (25, false));
        let (seen, complete) = check(10, |_, _| (30, vec![]));
        assert_eq!((seen.len(), complete), (0, false));
    }

    #[test]
    fn more_objects_than_promised_is_incomplete() {
        let (seen, complete) = check(10, |start, count| (20, honest(25)(start, count).1));
        assert_eq!((seen.len(), complete), (25, false));
    }

    #[test]
    fn a_server_that_ignores_the_position_ends_incomplete() {
        assert_eq!(
            check(10, |_, _| (25, (1..=10).collect())),
            ((1..=10).collect(), false)
        );
        assert_eq!(
            check(10, |_, _| (10, (1..=10).collect())),
            ((1..=10).collect(), false)
        );
    }

    #[test]
    fn objects_removed_while_listing_make_it_incomplete() {
        let pages = std::cell::Cell::new(0);
        let (seen, complete) = check(10, |start, count| {
            pages.set(pages.get() + 1);
            // Two objects go away after the first page, and two come at the end: the total stays.
            let gone = |id: &u64| pages.get() == 1 || !(3..=4).contains(id);
            let all: Vec<u64> = (1..=27).filter(gone).take(25).collect();
            let from = usize::try_from(start - 1).unwrap();
            (
                25,
                all.into_iter()
                    .skip(from)
                    .take(usize::try_from(count).unwrap())
                    .collect(),
            )
        });
        assert!(!seen.contains(&11), "the skipped one");
        assert!(!complete);
    }

    #[test]
    fn a_list_without_its_total_is_refused() {
        assert!(
            Progress::default()
                .judge(&json!({ "Resources": [] }))
                .is_err()
        );
        assert!(
            Progress::default()
                .judge(&json!({ "totalResults": "3" }))
                .is_err()
        );
        assert!(
            Progress::default()
                .judge(&json!({ "totalResults": 1, "Resources": {} }))
                .is_err()
        );
    }
}
