//! When access ends on somebody's last day, where the source names only the day.
//!
//! Whoever says a moment (`effective_at`) is believed. A day alone is over at midnight of the person's zone; policy may say
//! that access ends with the last shift, or, for somebody whose end is announced, at once. It never says later than the end
//! of the day, but for a shift that the person is said to have past midnight.

use chrono::{DateTime, Days, NaiveDate, NaiveDateTime, NaiveTime, Utc};
use chrono_tz::Tz;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_saphyr::Spanned;

use super::problem::{Problem, Problems, suggest};
use super::schema::Schema;
use crate::sources::Attributes;
use crate::sources::time::{at_or_after, end_of_day, start_of_day};

/// How times of a day are written.
const TIMES: [&str; 2] = ["%H:%M", "%H:%M:%S"];
/// How moments of a place are written.
const MOMENTS: [&str; 4] = [
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%dT%H:%M:%S",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d %H:%M:%S",
];

/// `leavers` of a policy file.
///
/// ```yaml
/// leavers:
///   last_day: last_shift
///   shift_end: "18:00"
///   shift_attribute: shift_end
/// ```
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LeaverDocument {
    /// When access ends if only the day is said.
    #[schemars(with = "LastDay")]
    pub last_day: Spanned<LastDay>,
    /// With `last_shift`: when shifts end, as `18:00`, in the zone of the person.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub shift_end: Option<Spanned<String>>,
    /// With `last_shift`: the attribute that says when the person's last shift ends, as `22:30` on the last day,
    /// `2026-04-01T06:00` in their zone or with an offset. It goes before `shift_end`.
    #[serde(default)]
    #[schemars(with = "Option<String>")]
    pub shift_attribute: Option<Spanned<String>>,
}

/// When access ends on the last day.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LastDay {
    /// When the day is over where the person is.
    #[default]
    EndOfDay,
    /// When the last shift is over; when the day is where no shift is known.
    LastShift,
    /// As soon as the end of an employment is announced; other ends with the day.
    AtOnce,
}

/// The rules, checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LeaverRules {
    last_day: LastDay,
    shift_end: Option<NaiveTime>,
    shift_attribute: Option<String>,
}

impl LeaverRules {
    /// # Errors
    /// Everything that is wrong, with its place in `file`.
    pub fn compile(
        file: &str,
        document: &LeaverDocument,
        schema: &Schema,
    ) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut wrong = |place: &Spanned<String>, message: String, fix: String| {
            let at = (place.defined.line(), place.defined.column());
            problems.push(Problem::new(file, Some(at), message, fix));
        };
        let last_day = document.last_day.value;
        let shift_end = document.shift_end.as_ref().and_then(|text| {
            let time = time_of_day(&text.value);
            if time.is_none() {
                wrong(
                    text,
                    format!("`shift_end` is `{}`, which is no time of day", text.value),
                    "write for example `\"18:00\"`; for midnight use `last_day: end_of_day`"
                        .to_owned(),
                );
            }
            time
        });
        if let Some(name) = &document.shift_attribute
            && !schema.attributes.contains_key(&name.value)
        {
            let known = schema.attributes.keys().map(String::as_str);
            wrong(
                name,
                format!("no source delivers an attribute `{}`", name.value),
                suggest(&name.value, "attributes", known),
            );
        }
        let shifts = [
            ("shift_end", &document.shift_end),
            ("shift_attribute", &document.shift_attribute),
        ];
        if last_day == LastDay::LastShift {
            if shifts.iter().all(|(_, said)| said.is_none()) {
                let at = (
                    document.last_day.defined.line(),
                    document.last_day.defined.column(),
                );
                problems.push(Problem::new(
                    file,
                    Some(at),
                    "`last_day: last_shift` says nothing of when shifts end".to_owned(),
                    "add `shift_end: \"18:00\"`, or `shift_attribute` with the attribute that says it",
                ));
            }
        } else {
            for (name, said) in shifts {
                if let Some(said) = said {
                    wrong(
                        said,
                        format!("`{name}` counts with `last_day: last_shift` only"),
                        "write that, or leave it out".to_owned(),
                    );
                }
            }
        }
        let shift_attribute = document.shift_attribute.as_ref();
        problems.into_result(|| Self {
            last_day,
            shift_end,
            shift_attribute: shift_attribute.map(|name| name.value.clone()),
        })
    }

    /// When the access of somebody ends whose last day is `day`. `announced`: since when it is known that their employment
    /// ends, for an end that is announced by itself.
    #[must_use]
    pub fn end(
        &self,
        day: NaiveDate,
        zone: Tz,
        attributes: &Attributes,
        announced: Option<DateTime<Utc>>,
    ) -> DateTime<Utc> {
        let over = end_of_day(day, zone);
        match self.last_day {
            LastDay::EndOfDay => over,
            LastDay::AtOnce => announced.map_or(over, |announced| announced.min(over)),
            LastDay::LastShift => self.shift(day, zone, attributes).unwrap_or(over),
        }
    }

    /// When the last shift is over. What is no time, or one of another day, is not believed.
    fn shift(&self, day: NaiveDate, zone: Tz, attributes: &Attributes) -> Option<DateTime<Utc>> {
        let own = self.shift_attribute.as_ref().and_then(|name| {
            let text = attributes.get(name).and_then(Value::as_str)?;
            let end = moment(text.trim(), day, zone)?;
            // A night shift ends on the day after.
            let next = day.checked_add_days(Days::new(1))?;
            (end >= start_of_day(day, zone) && end <= end_of_day(next, zone)).then_some(end)
        });
        own.or_else(|| Some(at_or_after(day.and_time(self.shift_end?), zone)))
    }
}

fn time_of_day(text: &str) -> Option<NaiveTime> {
    TIMES
        .iter()
        .find_map(|format| NaiveTime::parse_from_str(text, format).ok())
}

fn moment(text: &str, day: NaiveDate, zone: Tz) -> Option<DateTime<Utc>> {
    if let Ok(exact) = DateTime::parse_from_rfc3339(text) {
        return Some(exact.to_utc());
    }
    let local = MOMENTS
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
    let local = local.or_else(|| Some(day.and_time(time_of_day(text)?)))?;
    Some(at_or_after(local, zone))
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
    use crate::policy::PolicySet;
    use crate::policy::set::tests::schema;

    fn load(text: &str) -> Result<PolicySet, Problems> {
        let text = format!("{text}roles: [{{ name: all, when: 'true' }}]\n");
        PolicySet::load(&[("policy/a.yaml".to_owned(), text)], &schema())
    }

    /// `said` is the attribute `name`, which stands for one that says when the shift ends.
    #[track_caller]
    fn check(rules: &str, day: &str, zone: &str, said: Value, expected: &str) {
        let set = load(&format!("leavers: {rules}\n")).unwrap();
        let attributes = Attributes::from([("name".to_owned(), said)]);
        let announced = Some("2026-01-10T08:00:00Z".parse().unwrap());
        let (day, zone) = (day.parse().unwrap(), zone.parse().unwrap());
        let end = set.leavers().end(day, zone, &attributes, announced);
        assert_eq!(end, expected.parse::<DateTime<Utc>>().unwrap(), "{end}");
    }

    #[track_caller]
    fn refused(text: &str, expected: &str) {
        assert_eq!(load(text).unwrap_err().to_string(), expected);
    }

    #[test]
    fn a_day_ends_as_policy_says() {
        let none = || json!(null);
        let at_six = "{ last_day: last_shift, shift_end: '18:00' }";
        let midnight = "2026-03-31T22:00:00Z";
        let zurich = "Europe/Zurich";
        check(
            "{ last_day: end_of_day }",
            "2026-03-31",
            zurich,
            none(),
            midnight,
        );
        let at_once = "{ last_day: at_once }";
        check(
            at_once,
            "2026-03-31",
            zurich,
            none(),
            "2026-01-10T08:00:00Z",
        );
        // Told when it was over.
        check(
            at_once,
            "2026-01-05",
            zurich,
            none(),
            "2026-01-05T23:00:00Z",
        );
        check(at_six, "2026-03-31", zurich, none(), "2026-03-31T16:00:00Z");
        check(
            at_six,
            "2026-03-31",
            "Pacific/Kiritimati",
            none(),
            "2026-03-31T04:00:00Z",
        );
        check(
            at_six,
            "2026-03-31",
            "Pacific/Pago_Pago",
            none(),
            "2026-04-01T05:00:00Z",
        );
        check(
            at_six,
            "2026-03-31",
            "Asia/Kathmandu",
            none(),
            "2026-03-31T12:15:00Z",
        );
        check(at_six, "2028-02-29", "UTC", none(), "2028-02-29T18:00:00Z");
    }

    #[test]
    fn clocks_that_jump_end_no_shift_too_early() {
        let at = |time: &str| format!("{{ last_day: last_shift, shift_end: '{time}' }}");
        let none = || json!(null);
        let zurich = "Europe/Zurich";
        // 02:00 to 03:00 is not there: the shift ends when clocks show three.
        check(
            &at("02:30"),
            "2026-03-29",
            zurich,
            none(),
            "2026-03-29T01:00:00Z",
        );
        check(
            &at("02:37"),
            "2026-03-29",
            zurich,
            none(),
            "2026-03-29T01:00:00Z",
        );
        check(
            &at("03:00"),
            "2026-03-29",
            zurich,
            none(),
            "2026-03-29T01:00:00Z",
        );
        // Half past two comes twice: who works until then works until the second.
        check(
            &at("02:30"),
            "2026-10-25",
            zurich,
            none(),
            "2026-10-25T01:30:00Z",
        );
        // Half an hour, at the other end of the world, and midnight.
        check(
            &at("02:10"),
            "2026-10-04",
            "Australia/Lord_Howe",
            none(),
            "2026-10-03T15:30:00Z",
        );
        check(
            &at("00:20"),
            "2026-04-24",
            "Africa/Cairo",
            none(),
            "2026-04-23T22:00:00Z",
        );
        // A day that the place skipped.
        check(
            &at("18:00"),
            "2011-12-30",
            "Pacific/Apia",
            none(),
            "2011-12-30T10:00:00Z",
        );
    }

    #[test]
    fn a_shift_is_taken_from_what_is_said_of_the_person() {
        let rules = "{ last_day: last_shift, shift_end: '18:00', shift_attribute: name }";
        let says = |said: Value, expected: &str| {
            check(rules, "2026-03-31", "Europe/Zurich", said, expected);
        };
        let usual = "2026-03-31T16:00:00Z";
        says(json!("22:30"), "2026-03-31T20:30:00Z");
        says(json!(" 22:30:15 "), "2026-03-31T20:30:15Z");
        says(json!("2026-04-01T06:00"), "2026-04-01T04:00:00Z");
        says(json!("2026-03-31 12:00:00"), "2026-03-31T10:00:00Z");
        says(json!("2026-03-31T12:00:00-05:00"), "2026-03-31T17:00:00Z");
        // Nothing that is no time, or one of another day, keeps anybody's access.
        for wrong in [
            json!("late"),
            json!(""),
            json!(22),
            json!(null),
            json!(["22:30"]),
            json!("24:00"),
            json!("2026-03-30T23:00"),
            json!("2026-04-02T06:00"),
            json!("9999-12-31T23:59:59Z"),
        ] {
            says(wrong, usual);
        }
        let none_usual = "{ last_day: last_shift, shift_attribute: name }";
        let over = "2026-03-31T22:00:00Z";
        check(
            none_usual,
            "2026-03-31",
            "Europe/Zurich",
            json!("late"),
            over,
        );
    }

    #[test]
    fn what_is_wrong_is_said() {
        refused(
            "leavers: { last_day: last_shift }\n",
            "`policy/a.yaml`:1:22: `last_day: last_shift` says nothing of when shifts end; fix: add `shift_end: \"18:00\"`, or `shift_attribute` with the attribute that says it",
        );
        refused(
            "leavers: { last_day: last_shift, shift_end: '24:00' }\n",
            "`policy/a.yaml`:1:45: `shift_end` is `24:00`, which is no time of day; fix: write for example `\"18:00\"`; for midnight use `last_day: end_of_day`",
        );
        refused(
            "leavers: { last_day: last_shift, shift_attribute: nam }\n",
            "`policy/a.yaml`:1:51: no source delivers an attribute `nam`; fix: did you mean `name`? attributes are `department`, `key`, `name`",
        );
        refused(
            "leavers: { last_day: at_once, shift_end: '18:00' }\n",
            "`policy/a.yaml`:1:42: `shift_end` counts with `last_day: last_shift` only; fix: write that, or leave it out",
        );
        for (wrong, says) in [
            ("leavers: { last_day: noon }\n", "at_once"),
            ("leavers: {}\n", "last_day"),
            ("leavers: { last_day: at_once, lastday: x }\n", "lastday"),
            ("leavers: [at_once]\n", "policy/a.yaml"),
        ] {
            let problems = load(wrong).unwrap_err().to_string();
            assert!(problems.contains(says), "{wrong}: {problems}");
        }
        let twice = ["a", "b"].map(|name| {
            let text = "leavers: { last_day: at_once }\n".to_owned();
            (format!("policy/{name}.yaml"), text)
        });
        let problems = PolicySet::load(&twice, &schema()).unwrap_err().to_string();
        assert!(
            problems.contains("there is a `leavers` in `policy/a.yaml`"),
            "{problems}"
        );
    }

    #[test]
    fn it_is_a_part_of_the_version() {
        let hash = |text: &str| load(text).unwrap().hash().to_owned();
        assert_eq!(hash(""), hash("leavers: { last_day: end_of_day }\n"));
        assert_ne!(hash(""), hash("leavers: { last_day: at_once }\n"));
    }
}
