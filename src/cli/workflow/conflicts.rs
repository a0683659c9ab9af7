//! `tenure workflow conflicts`: what a new case does about open ones of the same subject.

use engine::core::conflict::{OnConflict, Pair, table};
use engine::core::definition::Definition;

use super::super::Context;
use super::super::format::{Listing, Tone, paint};
use super::versions;

/// Prints every workflow against every workflow.
pub(super) fn run(context: &Context) -> anyhow::Result<()> {
    let all = versions::in_force(context)?;
    let definitions: Vec<&Definition> = all.iter().collect();
    let pairs = table(&definitions);
    context.output.result(&pairs, |pairs| matrix(pairs))
}

/// A row for each new case, a column for each open one.
fn matrix(pairs: &[Pair]) -> String {
    let mut names: Vec<&str> = pairs.iter().map(|pair| pair.open.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let mut headings = vec!["NEW \\ OPEN"];
    headings.extend(&names);
    let mut listing = Listing::new(&headings);
    for new in &names {
        let mut row = vec![((*new).to_owned(), Tone::Strong)];
        for open in &names {
            let pair = pairs
                .iter()
                .find(|pair| pair.new == *new && pair.open == *open);
            let then = pair.map_or(OnConflict::Queue, |pair| pair.then);
            let tone = match then {
                OnConflict::Queue => Tone::Dim,
                OnConflict::Preempt => Tone::Bad,
                OnConflict::Merge => Tone::Busy,
                OnConflict::Reject => Tone::Warn,
            };
            row.push((then.as_str().to_owned(), tone));
        }
        listing.row(row);
    }
    format!(
        "{listing}\n{}",
        paint(
            "queue: the new one waits. preempt: the open one is asked to end. merge: the new one is folded into one that \
             has not begun. reject: the new one is refused",
            Tone::Dim
        )
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn every_pair_is_shown() {
        let all = workflows::definitions::load(&[]).unwrap();
        let pairs = table(&all.iter().collect::<Vec<_>>());
        assert_eq!(pairs.len(), all.len() * all.len());
        let text = matrix(&pairs);
        let text = anstream::adapter::strip_str(&text).to_string();
        let words = |line: &str| {
            let words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            let words = words.filter(|word| !word.is_empty());
            words.map(str::to_owned).collect::<Vec<_>>()
        };
        let lines: Vec<Vec<String>> = text.lines().map(words).collect();
        let heading = lines
            .iter()
            .find(|line| line.first().is_some_and(|it| it == "NEW"));
        let open: Vec<&str> = heading
            .unwrap()
            .iter()
            .skip(2)
            .map(String::as_str)
            .collect();
        for new in &all {
            let row = lines.iter().find(|line| line.first() == Some(&new.name));
            let row: Vec<&str> = row.unwrap().iter().skip(1).map(String::as_str).collect();
            let expected: Vec<&str> = open
                .iter()
                .map(|open| {
                    let mut pairs = pairs.iter();
                    let pair = pairs.find(|pair| pair.new == new.name && pair.open == *open);
                    pair.unwrap().then.as_str()
                })
                .collect();
            assert_eq!(row, expected, "{text}");
        }
        let json = serde_json::to_value(&pairs).unwrap();
        assert!(
            json.as_array().unwrap().contains(
                &serde_json::json!({"new": "leaver", "open": "joiner", "then": "preempt"})
            )
        );
    }
}
