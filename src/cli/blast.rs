//! What would become of people, accounts and rights, as a table.

use workflows::policy::guard::Blast;

use super::format::{Listing, Tone, number, plain};

/// How many slices of one operation a person is shown.
const ROWS_MAX: usize = 12;

/// The largest slices of each operation.
#[must_use]
pub fn table(blast: &Blast) -> String {
    if blast.is_empty() {
        return "nothing would become of anybody".to_owned();
    }
    let mut listing = Listing::new(&["OPERATION", "BY", "", "PEOPLE", "FOR EXAMPLE"])
        .right(&[3])
        .narrow(&[0, 1, 3]);
    let mut slices: Vec<_> = blast.slices.iter().collect();
    slices.sort_by_key(|slice| {
        let order = std::cmp::Reverse(slice.count);
        (slice.operation, slice.by != "all", order)
    });
    let mut shown = (None, 0);
    for slice in slices {
        shown = match shown {
            (Some(operation), count) if operation == slice.operation => {
                (Some(operation), count + 1)
            }
            _ => (Some(slice.operation), 1),
        };
        if shown.1 > ROWS_MAX {
            continue;
        }
        let tone = if slice.operation.takes() {
            Tone::Bad
        } else {
            Tone::Good
        };
        let people: Vec<String> = slice.people.iter().map(|key| plain(key)).collect();
        listing.row([
            (slice.operation.to_string(), Tone::Plain),
            (plain(&slice.by), Tone::Dim),
            (plain(&slice.value), Tone::Strong),
            (number(slice.count), tone),
            (people.join(" "), Tone::Dim),
        ]);
    }
    listing.to_string()
}
