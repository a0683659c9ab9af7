//! Pairs of people out of real life, and what has to hold of all.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]

use proptest::prelude::*;
use serde_json::json;

use super::*;

const RULES: &str = r#"
link_at: 100
ask_at: 60
owner: role:hr
rules:
  - { name: national id, attributes: [national_id], compare: identifier, agrees: 100, differs: -100, unique: true }
  - { name: personnel number, attributes: [personnel_number], compare: identifier, agrees: 60 }
  - { name: name, attributes: [name, given_name+family_name], compare: name, agrees: 40, close: 30, differs: -50 }
  - { name: birth date, attributes: [birth_date], compare: date, agrees: 40, close: 20, differs: -60 }
  - { name: phone, attributes: [mobile, phone], compare: phone, agrees: 20, country: "49" }
  - { name: mail, attributes: [private_email, email], compare: email, agrees: 30 }
"#;

pub(crate) fn rules() -> Correlation {
    Correlation::load("correlation.yaml", RULES).unwrap()
}

/// `name=Ann Ox birth_date=1990-01-01`, with `_` for a blank in values.
fn person(text: &str) -> Attributes {
    text.split_whitespace()
        .map(|word| {
            let (name, value) = word.split_once('=').unwrap();
            (name.to_owned(), json!(value.replace('_', " ")))
        })
        .collect()
}

fn verdict(a: &Attributes, b: &Attributes) -> &'static str {
    let candidate = Candidate {
        key: "B",
        attributes: b,
        beside: false,
    };
    match decide(&rules(), a, &[candidate]) {
        Verdict::Link(_) => "link",
        Verdict::Ask(_) => "ask",
        Verdict::New => "new",
    }
}

/// What it is, the two records, and what follows.
const PAIRS: &[(&str, &str, &str, &str)] = &[
    (
        "the same person, told the same",
        "name=Ann_Ox birth_date=1990-01-01 mobile=0170_1234567",
        "name=Ann_Ox birth_date=1990-01-01 mobile=+49_170_1234567",
        "link",
    ),
    (
        "contractor and employee, by national id",
        "name=Ann_Ox national_id=AB-12",
        "given_name=Ann family_name=Ox national_id=ab12",
        "link",
    ),
    (
        "nothing but the national id",
        "national_id=AB12",
        "national_id=AB_12 name=Ann_Ox",
        "link",
    ),
    (
        "twins",
        "name=Ann_Ox birth_date=1990-01-01 phone=0301234567",
        "name=Eve_Ox birth_date=1990-01-01 phone=0301234567",
        "ask",
    ),
    (
        "twins without a phone",
        "name=Ann_Ox birth_date=1990-01-01",
        "name=Eve_Ox birth_date=1990-01-01",
        "new",
    ),
    (
        "twins with national ids",
        "name=Ann_Ox birth_date=1990-01-01 phone=0301234567 national_id=A1",
        "name=Eve_Ox birth_date=1990-01-01 phone=0301234567 national_id=A2",
        "new",
    ),
    (
        "the same name, nothing else",
        "name=Maria_Garcia",
        "name=Maria_Garcia",
        "new",
    ),
    (
        "the same name, other birth dates",
        "name=Maria_Garcia birth_date=1990-01-01",
        "name=Maria_Garcia birth_date=1985-07-03",
        "new",
    ),
    (
        "the same name and birth date",
        "name=Maria_Garcia birth_date=1990-01-01",
        "name=Garcia_Maria birth_date=1990-01-01",
        "ask",
    ),
    (
        "married name",
        "name=Ann_Ox birth_date=1990-01-01 private_email=ann@example.org",
        "name=Ann_Lamb birth_date=1990-01-01 private_email=ann@example.org",
        "ask",
    ),
    (
        "married name, with the phone",
        "name=Ann_Ox birth_date=1990-01-01 private_email=ann@example.org mobile=01701234567",
        "name=Ann_Lamb birth_date=1990-01-01 private_email=Ann@example.org mobile=01701234567",
        "ask",
    ),
    (
        "transliterated",
        "name=Юлия_Щербакова birth_date=1990-01-01 private_email=y@example.org",
        "name=Yulia_Shcherbakova birth_date=1990-01-01 private_email=y@example.org",
        "link",
    ),
    (
        "umlauts",
        "name=Jürgen_Müller birth_date=1990-01-01",
        "name=Juergen_Mueller birth_date=1990-01-01",
        "ask",
    ),
    (
        "first and last name swapped",
        "given_name=Ox family_name=Ann birth_date=1990-01-01 mobile=01701234567",
        "given_name=Ann family_name=Ox birth_date=1990-01-01 mobile=01701234567",
        "link",
    ),
    (
        "short form",
        "name=Bob_Brown birth_date=1990-01-01 mobile=01701234567",
        "name=Robert_Brown birth_date=1990-01-01 mobile=01701234567",
        "ask",
    ),
    (
        "day and month swapped",
        "name=Ann_Ox birth_date=1990-02-03 private_email=ann@example.org",
        "name=Ann_Ox birth_date=1990-03-02 private_email=ann@example.org",
        "ask",
    ),
    (
        "personnel number used again for somebody else",
        "name=Ann_Ox birth_date=1990-01-01 personnel_number=7",
        "name=Ben_Lamb birth_date=1971-05-05 personnel_number=7",
        "new",
    ),
    (
        "personnel number and nothing else",
        "personnel_number=0007-1",
        "personnel_number=00071",
        "ask",
    ),
    (
        "address of mail used again for somebody new",
        "name=John_Smith email=j.smith@example.com birth_date=1960-01-01",
        "name=Jane_Smith email=j.smith@example.com birth_date=1999-01-01",
        "new",
    ),
    (
        "a shared address of mail alone",
        "email=office@example.com name=Ann_Ox",
        "email=office@example.com name=Ben_Lamb",
        "new",
    ),
    (
        "a national id that contradicts the birth date",
        "name=Ann_Ox national_id=A1 birth_date=1990-01-01",
        "name=Ben_Lamb national_id=A1 birth_date=1971-05-05",
        "ask",
    ),
    (
        "national ids that differ",
        "name=Ann_Ox birth_date=1990-01-01 mobile=01701234567 national_id=A1",
        "name=Ann_Ox birth_date=1990-01-01 mobile=01701234567 national_id=A2",
        "new",
    ),
    (
        "a parent and a child of one name",
        "name=John_Smith birth_date=1960-01-01 phone=0301234567",
        "name=John_Smith birth_date=1990-05-05 phone=0301234567",
        "new",
    ),
    (
        "strangers",
        "name=Ann_Ox birth_date=1990-01-01",
        "name=Ben_Lamb birth_date=1971-05-05",
        "new",
    ),
    (
        "somebody of whom nothing is said",
        "x=1",
        "name=Ann_Ox",
        "new",
    ),
];

#[test]
fn pairs_out_of_real_life() {
    for (what, a, b, expected) in PAIRS {
        let (a, b) = (person(a), person(b));
        assert_eq!(
            verdict(&a, &b),
            *expected,
            "{what}: {:?}",
            score(&rules(), &a, &b)
        );
        assert_eq!(verdict(&b, &a), *expected, "{what}, the other way round");
        if *expected != "new" {
            let common = blocks(&rules(), &a)
                .intersection(&blocks(&rules(), &b))
                .count();
            assert!(common > 0, "{what}: never compared");
        }
    }
}

#[test]
fn the_page_shows_rules_that_work() {
    let page = include_str!("../../../docs/correlation.md");
    let (_, rest) = page.split_once("```yaml\n").unwrap();
    let (text, _) = rest.split_once("```").unwrap();
    let shown = Correlation::load("correlation.yaml", text).unwrap();
    let known = rules()
        .rules
        .into_iter()
        .filter(|rule| rule.name != "personnel number");
    assert_eq!(shown.rules, known.collect::<Vec<_>>());
}

#[test]
fn two_who_are_alike_are_asked_about() {
    let record = person("name=Ann_Ox birth_date=1990-01-01 mobile=01701234567");
    let twin = record.clone();
    let of = |key, beside| Candidate {
        key,
        attributes: &twin,
        beside,
    };
    let Verdict::Ask(asked) = decide(&rules(), &record, &[of("B", false), of("A", false)]) else {
        panic!("two are certain, so neither is");
    };
    let keys: Vec<&str> = asked.iter().map(|scored| scored.key.as_str()).collect();
    assert_eq!(keys, ["A", "B"]);
    let beside = decide(&rules(), &record, &[of("B", true)]);
    assert!(
        matches!(beside, Verdict::Ask(_)),
        "one source has both: {beside:?}"
    );
    let many: Vec<String> = (0..20).map(|number| format!("K{number}")).collect();
    let many: Vec<Candidate<'_>> = many.iter().map(|key| of(key, false)).collect();
    assert!(
        matches!(decide(&rules(), &record, &many), Verdict::Ask(asked) if asked.len() == CANDIDATES_MAX)
    );
    assert_eq!(decide(&rules(), &record, &[]), Verdict::New);
}

#[test]
fn a_score_explains_itself() {
    let a = person("name=Bob_Brown birth_date=1990-01-01 mobile=01701234567");
    let b = person("name=Robert_Brown birth_date=1990-01-02");
    let score = score(&rules(), &a, &b);
    let told: Vec<String> = score
        .rules
        .iter()
        .map(|told| format!("{}: {} {}", told.rule, told.grade.as_str(), told.points))
        .collect();
    assert_eq!(
        told,
        [
            "national id: absent 0",
            "personnel number: absent 0",
            "name: close 30",
            "birth date: differs -60",
            "phone: absent 0",
            "mail: absent 0"
        ]
    );
    assert_eq!(score.points, -30);
}

#[test]
fn what_is_wrong_with_the_file_is_told_at_once() {
    let text = r#"
link_at: 10
ask_at: 10
owner: ""
rules:
  - { name: a, attributes: [], compare: name, agrees: 5 }
  - { name: a, attributes: [x+], compare: text, agrees: 0, differs: 3 }
  - { name: b, attributes: [x], compare: email, agrees: 5000, country: "49" }
  - { name: c, attributes: [x], compare: phone, agrees: 5, country: "+49" }
"#;
    let problems = Correlation::load("correlation.yaml", text)
        .unwrap_err()
        .to_string();
    for part in [
        "`ask_at` is 10",
        "`owner` is empty",
        "rule `a` is there twice",
        "rule `a` names no attribute",
        "gives 0 for what agrees",
        "more than 1000 points",
        "compares no phone",
        "the country `+49`",
    ] {
        assert!(problems.contains(part), "{part}: {problems}");
    }
    let wrong = Correlation::load("correlation.yaml", "link_at: 1\nrulez: []").unwrap_err();
    assert!(wrong.to_string().contains("correlation.yaml"), "{wrong}");
}

/// Values that meet often enough.
fn somebody() -> impl Strategy<Value = Attributes> {
    let one_of =
        |values: &'static [&'static str]| proptest::option::of(proptest::sample::select(values));
    (
        one_of(&[
            "Ann Ox",
            "Ox, Ann",
            "Änn Öx",
            "Bob Ox",
            "Robert Ox",
            "Ben Lamb",
            "A. Ox",
        ]),
        one_of(&["1990-01-02", "1990-02-01", "1971-05-05", "no day"]),
        one_of(&["A1", "a-1", "A2", "0"]),
        one_of(&["0170 1234567", "+49 170 1234567", "12"]),
        one_of(&["a@x.org", "A+1@x.org", "b@x.org", "nobody"]),
    )
        .prop_map(|(name, born, id, phone, mail)| {
            let all = [
                ("name", name),
                ("birth_date", born),
                ("national_id", id),
                ("mobile", phone),
                ("private_email", mail),
            ];
            all.into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), json!(value?))))
                .collect()
        })
}

proptest! {
    #[test]
    fn it_does_not_matter_who_is_compared_with_whom(a in somebody(), b in somebody()) {
        prop_assert_eq!(score(&rules(), &a, &b), score(&rules(), &b, &a));
        prop_assert_eq!(verdict(&a, &b), verdict(&b, &a));
    }

    #[test]
    fn the_order_of_the_rules_does_not_matter(a in somebody(), b in somebody(), turn in 0_usize..6) {
        let mut other = rules();
        other.rules.rotate_left(turn);
        let (one, two) = (score(&rules(), &a, &b), score(&other, &a, &b));
        prop_assert_eq!((one.points, one.unique), (two.points, two.unique));
        prop_assert_eq!(blocks(&rules(), &a), blocks(&other, &a));
    }

    #[test]
    fn what_is_absent_neither_helps_nor_hurts(a in somebody(), b in somebody(), gone in 0_usize..5) {
        let name = ["name", "birth_date", "national_id", "mobile", "private_email"][gone];
        let mut without = a.clone();
        without.remove(name);
        let (with, less) = (score(&rules(), &a, &b), score(&rules(), &without, &b));
        let rule = rules().rules.iter().position(|rule| rule.attributes.iter().any(|it| it == name)).unwrap();
        prop_assert_eq!(less.points, with.points - with.rules[rule].points);
        prop_assert_eq!(less.rules[rule].grade, Grade::Absent);
    }

    #[test]
    fn nothing_that_a_record_says_breaks_it(name in ".{0,300}", other in ".{0,300}") {
        let (a, b) = (json!({"name": name, "mobile": other, "birth_date": [name, {"x": 1}], "national_id": other}), json!({"name": other, "private_email": name}));
        let read = |value: Value| serde_json::from_value::<Attributes>(value).unwrap();
        let (a, b) = (read(a), read(b));
        prop_assert_eq!(score(&rules(), &a, &b), score(&rules(), &b, &a));
        prop_assert!(blocks(&rules(), &a).iter().all(|block| block.len() <= BLOCK_BYTES_MAX));
    }
}
