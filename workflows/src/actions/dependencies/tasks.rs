//! What people are asked to do for what hangs on somebody who leaves, so that a stranger to the case can do it. Pure.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::nhi::check::{Deed, Thing};
use crate::nhi::graph::Node;

pub(super) struct Ask<'a> {
    pub leaver: &'a str,
    pub deed: Deed,
    pub things: &'a [&'a Thing],
    /// What calls for something else than when it was looked at first.
    pub other: &'a BTreeMap<&'a Node, Deed>,
    pub hostile: bool,
}

pub(super) struct Text {
    pub title: String,
    pub instructions: String,
}

pub(super) fn text(ask: &Ask<'_>) -> Text {
    let leaver = ask.leaver;
    let what = match ask.things {
        [only] => only.node.to_string(),
        many => format!("{} things", many.len()),
    };
    let (title, steps): (String, &str) = match ask.deed {
        Deed::HandOver | Deed::NameOwner => (
            format!("Say who answers for {what} now that {leaver} leaves"),
            "1. Find somebody who answers for each of these from now on, and somebody else as their backup.\n\
             2. Declare them so: `tenure nhi declare FILE --reason TEXT`; what is no longer needed, retire.\n\
             It is done when none of them names the person any more.",
        ),
        Deed::Rotate => (
            format!("Replace the secret of {what}: {leaver} knows it and leaves"),
            "1. Make a new secret, give it to all who use this, and see each of them use it.\n\
             2. Put the old one out of use, and destroy it.\n\
             3. Declare who knows the new one: `tenure nhi declare FILE --reason TEXT`.\n\
             It is done when nobody gets in with the old one.",
        ),
        Deed::Rebind => (
            format!("Bind {what} to something that stays: {leaver} made it and leaves"),
            "1. Make each of these anew with an identity that stays, and give it to all who use it.\n\
             2. End the old one.\n\
             3. Declare what made the new one: `minted_by` in `tenure nhi declare FILE --reason TEXT`.\n\
             It is done when nothing that is in use was made by the person.",
        ),
        Deed::Quiet => (
            format!("Put {what} out of use and listen: {leaver} leaves"),
            "Nothing is known to use these, and nobody can be sure.\n\
             1. Put each out of use in a way that can be taken back, and try taking it back once.\n\
             2. Listen for who misses it; put it back at once if somebody does.\n\
             3. When the time is over, end it.\n\
             It is done when each has ended, or somebody who stays answers for it.",
        ),
        Deed::Decide => (
            format!("Decide what becomes of {what}: {leaver} leaves"),
            "Nobody can say that these may end, and nothing takes their place.\n\
             1. Find out who needs them (`tenure nhi graph NODE`).\n\
             2. Replace, bind anew or end each of them.\n\
             It is done when none of them depends on the person any more.",
        ),
    };
    let mut instructions = String::new();
    if ask.hostile {
        instructions.push_str(
            "Nothing may wait for this: the person may do harm. What breaks by it is accepted.\n",
        );
    }
    instructions.push_str(steps);
    instructions.push_str(" Write into the note what you did.\n");
    for thing in ask.things {
        let _ = write!(instructions, "\n- {}: {}", thing.node, thing.why.join("; "));
        if let Some(deed) = ask.other.get(&thing.node) {
            let _ = write!(
                instructions,
                "; by now it calls for another thing: {}",
                deed.as_str()
            );
        }
        if !thing.needs.is_empty() {
            let needs: Vec<String> = thing.needs.iter().map(ToString::to_string).collect();
            let _ = write!(instructions, "; after {}", needs.join(", "));
        }
    }
    Text {
        title,
        instructions,
    }
}
