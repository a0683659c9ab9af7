//! Names of people, so that two spellings of one meet. Pure.
//!
//! A name becomes a list of words in plain letters: any script is transliterated, and what transliterations differ in is
//! folded (`ä`, `ae` and `a`; `y`, `j` and `i`; `ph` and `f`; doubled letters). The order of the words does not count: half
//! of the world writes the family name first, and forms are filled in the wrong way round.

use std::collections::BTreeSet;

use deunicode::deunicode;

/// The most words of a name that are looked at; the rest is ignored.
const WORDS_MAX: usize = 8;
/// The shortest word in which one wrong letter is taken for a slip.
const SLIP_LETTERS_MIN: usize = 5;
/// Spellings of one sound: the first becomes the second, in this order.
const FOLDS: [(&str, &str); 15] = [
    ("ae", "a"),
    ("oe", "o"),
    ("ue", "u"),
    ("ph", "f"),
    ("ck", "k"),
    ("kh", "h"),
    ("tz", "ts"),
    ("cz", "ch"),
    ("w", "v"),
    ("y", "i"),
    ("j", "i"),
    ("c", "k"),
    ("z", "s"),
    ("q", "k"),
    ("x", "ks"),
];
/// Words in front of a name that are no part of it.
const TITLES: [&str; 9] = [
    "dr", "prof", "mr", "mrs", "ms", "herr", "frau", "dipl", "ing",
];
/// Each line the forms of one name. A form may stand in several: `alex` is short for two.
const NICKNAMES: [&str; 42] = [
    "alexander alex sasha sandro aleksandr alexandre oleksandr",
    "alexandra alex sandra sasha",
    "andrew andy drew andrei andreas",
    "anthony tony antonio toni anton",
    "barbara barb babs",
    "benjamin ben benny",
    "catherine katherine kate cathy kathy katie katharina kathrin ekaterina katja katya",
    "charles charlie chuck karl carlos",
    "christina christine tina chris kristina",
    "christopher chris christoph kristof",
    "daniel dan danny",
    "david dave davy",
    "deborah deb debbie",
    "dmitri dmitry dima dmitriy",
    "edward ed eddie ted",
    "elizabeth liz beth lisa betty eliza elisabeth lizzie",
    "eugene gene evgeny evgeni yevgeny",
    "francis frank frances fran francisco paco",
    "frederick fred freddy friedrich fritz",
    "george georg jorge yuri jurgen",
    "gregory greg",
    "james jim jimmy jamie",
    "jennifer jen jenny",
    "johannes hans johann",
    "john johnny jack jon ivan juan",
    "jonathan jon nathan",
    "joseph joe joey josef jose pepe",
    "margaret maggie meg peggy greta margarete",
    "matthew matt matthias",
    "michael mike mick mikhail misha miguel",
    "nicholas nick nico nikolai nikolaus klaus",
    "patricia pat patty trish",
    "peter pete pyotr pedro",
    "richard rick dick rich ricky",
    "robert rob bob bobby robbie bert",
    "samantha sam",
    "samuel sam sammy",
    "stephen steve steven stefan stephan",
    "susan sue susie susanne",
    "thomas tom tommy tomas",
    "vladimir volodymyr vova vlad",
    "william will bill billy wilhelm willi",
];

/// How alike two names are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Alike {
    /// No word of the one is in the other.
    No,
    /// Some words are, and others contradict: one of a family, a married name.
    Partly,
    /// The shorter is in the longer, with short forms, initials and one wrong letter allowed.
    Closely,
    Same,
}

/// A name as a list of folded words, in the order in which it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name(Vec<String>);

impl Name {
    /// `None` when the text has no letter.
    pub fn of(text: &str) -> Option<Self> {
        let plain = deunicode(text).to_lowercase().replace(['\'', '`'], "");
        let words: Vec<String> = plain
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty() && !TITLES.contains(word))
            .map(folded)
            .take(WORDS_MAX)
            .collect();
        (!words.is_empty()).then_some(Self(words))
    }

    pub fn alike(&self, other: &Self) -> Alike {
        let (mut a, mut b) = (self.0.clone(), other.0.clone());
        a.sort_unstable();
        b.sort_unstable();
        if a == b
            || self
                .rotations()
                .any(|name| other.rotations().any(|other| name == other))
        {
            return Alike::Same;
        }
        let (shorter, longer) = if (a.len(), &a) <= (b.len(), &b) {
            (a, b)
        } else {
            (b, a)
        };
        // The best partner first: an equal word must not be taken by somebody's initial.
        let mut open: Vec<&String> = longer.iter().collect();
        let mut left: Vec<&String> = shorter.iter().collect();
        let mut words = 0;
        for same in [
            word_is as fn(&str, &str) -> bool,
            word_is_short_for,
            word_begins,
        ] {
            left.retain(|word| {
                let found = open.iter().position(|other| same(word, other));
                if let Some(place) = found {
                    open.remove(place);
                    // An initial alone tells nobody from anybody.
                    words += usize::from(word.len() > 1);
                }
                found.is_none()
            });
        }
        match (left.is_empty(), words) {
            (_, 0) => Alike::No,
            (true, _) if shorter.len() > 1 => Alike::Closely,
            _ => Alike::Partly,
        }
    }

    /// The letters of the name, begun at each of its words: `Wang Xiao Ming` is `Xiaoming Wang`.
    fn rotations(&self) -> impl Iterator<Item = String> {
        (0..self.0.len()).map(|first| {
            let words = self.0.iter().cycle().skip(first).take(self.0.len());
            folded(&words.map(String::as_str).collect::<String>())
        })
    }

    /// What names that are alike have in common: every pair of words, short forms as the long one.
    pub fn pairs(&self) -> BTreeSet<String> {
        let words: Vec<&str> = self.0.iter().map(|word| long_form(word)).collect();
        let mut pairs = BTreeSet::new();
        for (place, word) in words.iter().enumerate() {
            for other in words.iter().skip(place + 1) {
                let (first, second) = if word <= other {
                    (word, other)
                } else {
                    (other, word)
                };
                pairs.insert(format!("{first} {second}"));
            }
        }
        if self.0.len() > 2 {
            // As if written in two words.
            let whole = |words: &[String]| words.concat();
            for place in 1..self.0.len() {
                let (a, b) = self.0.split_at(place);
                let (a, b) = (whole(a), whole(b));
                pairs.insert(if a <= b {
                    format!("{a} {b}")
                } else {
                    format!("{b} {a}")
                });
            }
        }
        pairs
    }
}

fn folded(word: &str) -> String {
    let mut word = word.to_owned();
    for (from, to) in FOLDS {
        word = word.replace(from, to);
    }
    let mut folded = String::with_capacity(word.len());
    for letter in word.chars() {
        if !folded.ends_with(letter) || letter.is_ascii_digit() {
            folded.push(letter);
        }
    }
    folded
}

fn word_is(a: &str, b: &str) -> bool {
    a == b
}

fn word_is_short_for(a: &str, b: &str) -> bool {
    groups(a).any(|group| groups(b).any(|other| group == other)) || slipped(a, b)
}

/// One wrong, missing or swapped letter.
fn slipped(a: &str, b: &str) -> bool {
    a.len().min(b.len()) >= SLIP_LETTERS_MIN && strsim::damerau_levenshtein(a, b) == 1
}

/// An initial.
fn word_begins(a: &str, b: &str) -> bool {
    (a.len() == 1 || b.len() == 1) && a.bytes().next() == b.bytes().next()
}

/// The lines of the table that a folded word is in.
fn groups(word: &str) -> impl Iterator<Item = usize> {
    let lines = NICKNAMES.iter().enumerate();
    lines
        .filter(move |(_, line)| line.split(' ').any(|form| folded(form) == word))
        .map(|(place, _)| place)
}

/// The first form of the line, where a word is in one line only.
fn long_form(word: &str) -> &str {
    let mut lines = groups(word);
    match (lines.next(), lines.next()) {
        (Some(line), None) => NICKNAMES
            .get(line)
            .and_then(|line| line.split(' ').next())
            .unwrap_or(word),
        _ => word,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn spellings_of_one_name_meet() {
        for (a, b, expected) in [
            ("Jürgen Müller", "Juergen Mueller", Alike::Same),
            ("Müller, Jürgen", "Jurgen Muller", Alike::Same),
            ("Юлия Щербакова", "Yulia Shcherbakova", Alike::Same),
            ("Сергей Иванов", "Sergey Ivanov", Alike::Same),
            ("王小明", "Xiaoming Wang", Alike::Same),
            ("Dr. Anna O'Neill", "ONeill Anna", Alike::Same),
            ("Łukasz Wójcik", "Lukasz Wojcik", Alike::Same),
            ("Robert Brown", "Bob Brown", Alike::Closely),
            ("Alex Gray", "Alexandra Gray", Alike::Closely),
            ("Alex Gray", "Alexander Gray", Alike::Closely),
            ("Anna Maria Schmidt", "Maria Schmidt", Alike::Closely),
            ("J. Smith", "John Smith", Alike::Closely),
            ("Jonh Smith", "Peter Smith", Alike::Partly),
            ("Katharina Schmidt", "Katharina Schmitd", Alike::Closely),
            ("Anna Schmidt", "Anna Weber", Alike::Partly),
            ("Anna Schmidt", "Petra Weber", Alike::No),
            ("A. Schmidt", "A. Weber", Alike::No),
            ("Madonna", "Madonna Ciccone", Alike::Partly),
        ] {
            let (name, other) = (Name::of(a).unwrap(), Name::of(b).unwrap());
            assert_eq!(name.alike(&other), expected, "{a} and {b}");
            assert_eq!(other.alike(&name), expected, "{b} and {a}");
            if expected >= Alike::Closely && !a.contains('.') && !b.contains("Schmitd") {
                let common = name.pairs().intersection(&other.pairs()).count();
                assert!(
                    common > 0 || a.contains("Alex"),
                    "{a} and {b} have no pair in common"
                );
            }
        }
        assert_eq!(Name::of(" - "), None);
    }
}
