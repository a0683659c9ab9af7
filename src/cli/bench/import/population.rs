//! People out of a seed, what was said about them in years, and what holds at the end: known from how they lived, not from
//! what was said.

use std::fmt::Write as _;

use chrono::{DateTime, Days, NaiveTime, TimeDelta, Utc};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

pub(super) const DEPARTMENTS: [&str; 8] = [
    "Sales",
    "Engineering",
    "Finance",
    "Support",
    "Legal",
    "Research",
    "Logistics",
    "Marketing",
];
/// Days between two things that happen to somebody, at most.
const PAUSE_DAYS_MAX: i64 = 420;
/// Days between an end that is announced and that end.
const NOTICE_DAYS_MAX: i64 = 60;
const LEAVE_DAYS_MAX: i64 = 150;
/// How late a statement arrives, at most.
const LATE: TimeDelta = TimeDelta::days(10);

/// Where somebody stands at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Truth {
    pub is_here: bool,
    pub is_away: bool,
    pub department: &'static str,
}

/// Something that was said.
#[derive(Debug, Clone)]
pub(super) struct Said {
    /// When it arrived.
    pub came: DateTime<Utc>,
    pub line: String,
}

pub(super) struct Population {
    pub seed: u64,
    pub first_day: DateTime<Utc>,
    pub last_day: DateTime<Utc>,
}

/// One person on their way through the years.
struct Life<'a> {
    key: String,
    population: &'a Population,
    draw: StdRng,
    said: Vec<Said>,
    is_here: bool,
    is_away: bool,
    department: &'static str,
}

impl Population {
    pub fn new(years: u32, seed: u64, now: DateTime<Utc>) -> Self {
        let last_day = now.date_naive().and_time(NaiveTime::MIN).and_utc();
        let days = Days::new(u64::from(years) * 365);
        Self {
            seed,
            first_day: last_day.checked_sub_days(days).unwrap_or(last_day),
            last_day,
        }
    }

    pub fn key(number: u32) -> String {
        format!("P{number:07}")
    }

    /// How somebody lived: what was said about them, and what came of it.
    pub fn life(&self, number: u32) -> (Vec<Said>, Truth) {
        let mut life = Life {
            key: Self::key(number),
            population: self,
            draw: StdRng::seed_from_u64(self.seed ^ (u64::from(number) << 20)),
            said: Vec::new(),
            is_here: false,
            is_away: false,
            department: DEPARTMENTS[0],
        };
        life.live();
        let truth = Truth {
            is_here: life.is_here,
            is_away: life.is_away,
            department: life.department,
        };
        (life.said, truth)
    }
}

impl Life<'_> {
    fn below(&mut self, limit: i64) -> i64 {
        self.draw.random_range(0..limit.max(1))
    }

    fn chance(&mut self, percent: i64) -> bool {
        self.below(100) < percent
    }

    fn live(&mut self) {
        let mut today = self.population.first_day;
        // Most were there before the first day.
        if !self.chance(70) {
            let days = (self.population.last_day - today).num_days();
            today += TimeDelta::days(self.below(days));
        }
        self.begin("hire", today);
        loop {
            today += TimeDelta::days(1 + self.below(PAUSE_DAYS_MAX));
            if today >= self.population.last_day {
                return;
            }
            today = match (self.is_here, self.below(100)) {
                (true, ..60) => self.moves(today),
                (true, 60..75) => self.goes_away(today),
                (true, _) => self.ends(today),
                (false, ..25) => {
                    self.begin("rehire", today);
                    today
                }
                (false, _) => return,
            };
        }
    }

    fn begin(&mut self, event_type: &str, today: DateTime<Utc>) {
        self.is_here = true;
        self.department = self.department();
        let ahead = TimeDelta::days(self.below(20));
        let attributes = json!({
            "name": format!("Person {}", self.key),
            "department": self.department,
            "title": format!("{} {}", self.department, self.said.len()),
        });
        let data = json!({ "attributes": attributes });
        self.say(event_type, today - ahead, today, data);
    }

    fn department(&mut self) -> &'static str {
        let at = self.draw.random_range(0..DEPARTMENTS.len());
        DEPARTMENTS.get(at).copied().unwrap_or_default()
    }

    fn moves(&mut self, today: DateTime<Utc>) -> DateTime<Utc> {
        self.department = self.department();
        let data = json!({ "changes": { "department": { "to": self.department } } });
        let ahead = TimeDelta::days(self.below(10));
        self.say("transfer", today - ahead, today, data);
        today
    }

    fn goes_away(&mut self, today: DateTime<Utc>) -> DateTime<Utc> {
        self.say("leave.start", today, today, json!({}));
        let back = today + TimeDelta::days(1 + self.below(LEAVE_DAYS_MAX));
        self.is_away = back >= self.population.last_day;
        if !self.is_away {
            self.say("leave.end", back, back, json!({}));
        }
        back
    }

    /// Announced ahead; some are moved, some are taken back.
    fn ends(&mut self, today: DateTime<Utc>) -> DateTime<Utc> {
        let last = today + TimeDelta::days(2 + self.below(NOTICE_DAYS_MAX));
        self.say("termination.scheduled", today, last, json!({}));
        let later = today + TimeDelta::days(1);
        let end = match self.below(100) {
            ..15 => {
                self.say("termination.cancelled", later, later, json!({}));
                return later;
            }
            15..35 => {
                let moved = last + TimeDelta::days(1 + self.below(NOTICE_DAYS_MAX));
                self.say("termination.corrected", later, moved, json!({}));
                moved
            }
            _ => last,
        };
        if end <= self.population.last_day {
            self.is_here = false;
        }
        end
    }

    fn say(
        &mut self,
        event_type: &str,
        said: DateTime<Utc>,
        effective: DateTime<Utc>,
        mut data: Value,
    ) {
        // In the order in which they were said, within a day, too.
        let number = self.said.len();
        let said = said + TimeDelta::minutes(i64::try_from(number).unwrap_or_default());
        if said >= self.population.last_day {
            return;
        }
        if let Value::Object(fields) = &mut data {
            fields.insert("effective_at".to_owned(), json!(effective.to_rfc3339()));
            fields.insert("version".to_owned(), json!(number + 1));
        }
        let event = json!({
            "specversion": "1.0",
            "id": format!("{}-{number}", self.key),
            "source": "hr",
            "type": event_type,
            "subject": self.key,
            "time": said.to_rfc3339(),
            "data": data,
        });
        let line = event.to_string();
        let late = TimeDelta::seconds(self.below(LATE.num_seconds()));
        self.said.push(Said {
            came: said + late,
            line: line.clone(),
        });
        // Some are sent again.
        if self.chance(3) {
            let later = TimeDelta::seconds(self.below(LATE.num_seconds()));
            self.said.push(Said {
                came: said + late + later,
                line,
            });
        }
    }
}

/// A line of a file of roles: one for everybody, and one for each department.
pub(super) fn roles() -> String {
    let mut text = "roles:\n  - name: staff\n    when: \"true\"\n    accounts: [directory]\n    \
                    grants: [{ system: directory, entitlement: staff }]\n"
        .to_owned();
    for department in DEPARTMENTS {
        let group = department.to_lowercase();
        let _ = write!(
            text,
            "  - name: {group}\n    when: has(identity.department) && identity.department == \"{department}\"\n    \
             grants: [{{ system: directory, entitlement: {group} }}]\n"
        );
    }
    text.push_str("accounts:\n  - { system: directory, name: lower(identity.key) }\n");
    text
}
