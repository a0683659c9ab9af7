//! Listing with the paged results control ([RFC 2696](https://www.rfc-editor.org/rfc/rfc2696)).
//!
//! A server keeps the place of a listing with the connection it was begun on, so that connection waits here
//! between two pages. A listing that lies too long, or one too many, is dropped; asking for its next page is
//! then a conflict and the listing starts again. It takes no part in `connections_max`: a forgotten listing
//! must not keep operations waiting.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ldap3::Scope;
use tokio::time::Instant;
use uuid::Uuid;

use super::pool::{self, Connection};
use super::wire::{self, Search};
use super::{Ldap, codes, dn, entry, read};
use crate::connector::{Cursor, Entitlement, Error, ErrorKind, Kind, Object, Page};

const LISTINGS_MAX: usize = 4;
const WAITS_MAX: Duration = Duration::from_secs(600);

#[derive(Default)]
pub(super) struct Listings {
    open: Mutex<HashMap<String, Listing>>,
}

struct Listing {
    connection: Connection,
    kind: Kind,
    cookie: Vec<u8>,
    /// A part of the tree is on another server: what was listed is not everything.
    partial: bool,
    since: Instant,
}

impl Listings {
    fn take(&self, cursor: &Cursor) -> Option<Listing> {
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&cursor.0)
    }

    /// Each page has a cursor of its own: asking twice for one page cannot skip another.
    fn keep(&self, listing: Listing) -> Cursor {
        let cursor = Uuid::new_v4().to_string();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, listing| listing.since.elapsed() < WAITS_MAX);
        if open.len() >= LISTINGS_MAX {
            let oldest = open.iter().min_by_key(|(_, listing)| listing.since);
            if let Some(oldest) = oldest.map(|(cursor, _)| cursor.clone()) {
                open.remove(&oldest);
            }
        }
        open.insert(cursor.clone(), listing);
        Cursor(cursor)
    }
}

impl Ldap {
    pub(super) async fn page(&self, kind: Kind, after: Option<Cursor>) -> Result<Page, Error> {
        let mut listing = match &after {
            None => Listing {
                connection: Box::pin(pool::connect(&self.settings)).await?,
                kind,
                cookie: Vec::new(),
                partial: false,
                since: Instant::now(),
            },
            Some(cursor) => match self.listings.take(cursor) {
                Some(listing) if listing.kind == kind => listing,
                _ => {
                    return Err(Error::new(
                        ErrorKind::Conflict,
                        "this listing has ended, waited too long or was begun elsewhere; start it again",
                    ));
                }
            },
        };
        let settings = &self.settings;
        let (base, filter, attributes) = match kind {
            Kind::Account => (
                &settings.people_base,
                settings.account_filter.clone(),
                self.account_attributes(),
            ),
            Kind::Entitlement => (
                &settings.group_base,
                dn::equals("objectClass", &settings.group_class),
                vec![settings.id_attribute()],
            ),
        };
        let search = Search {
            base,
            scope: Scope::Subtree,
            filter: &filter,
            attributes: &attributes,
            entries_max: 0,
            page: Some((settings.page_size, std::mem::take(&mut listing.cookie))),
        };
        let limit = settings.operation_timeout;
        let found = wire::search(&mut listing.connection.handle, &search, limit)
            .await
            .map_err(|failure| failure.of_read(&settings.url))?;
        if found.result.rc == codes::NO_SUCH_OBJECT {
            return Err(read::unreadable(base));
        }
        listing.partial |= !found.result.refs.is_empty();
        let cookie = found.cookie.clone();
        let items = found
            .success(&format!("list what is below `{base}`"))?
            .iter()
            .map(|entry| match kind {
                Kind::Account => entry.account(settings).map(Object::Account),
                Kind::Entitlement => Ok(Object::Entitlement(Entitlement {
                    id: entry.id(settings)?,
                    name: entry::group_name(&entry.dn, settings),
                })),
            })
            .collect::<Result<Vec<_>, Error>>()?;
        Ok(match cookie {
            Some(cookie) => {
                listing.cookie = cookie;
                listing.since = Instant::now();
                Page {
                    items,
                    next: Some(self.listings.keep(listing)),
                    complete: false,
                }
            }
            None => Page {
                items,
                next: None,
                complete: !listing.partial,
            },
        })
    }
}
