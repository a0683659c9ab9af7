//! The demo's company: people, departments, projects, and what happens to them, out of a seed.
//!
//! The same seed and size give the same company, byte for byte. Names are put together from short lists of given
//! and family names of many languages; nobody in particular is meant. A day's snapshot is what an HR system
//! would export: one CSV with everybody who is employed that day, and a manifest beside it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use chrono::{Days, NaiveDate};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{RngExt as _, SeedableRng as _};
use serde_json::json;
use sha2::{Digest, Sha256};

/// The largest company that is made up.
pub const PEOPLE_MAX: usize = 20_000;
/// The smallest in which every department has a head and somebody to lead.
pub const PEOPLE_MIN: usize = 20;

const GIVEN: [&str; 64] = [
    "Ada",
    "Adaeze",
    "Agnieszka",
    "Aiko",
    "Alejandra",
    "Amara",
    "Anaïs",
    "Anders",
    "Arjun",
    "Aylin",
    "Björn",
    "Bogdan",
    "Camila",
    "Chidi",
    "Chloé",
    "Dagný",
    "Daichi",
    "Deniz",
    "Dilnoza",
    "Élodie",
    "Emre",
    "Esi",
    "Fatima",
    "Femi",
    "Françoise",
    "Giulia",
    "Grzegorz",
    "Hana",
    "Hoa",
    "Ibrahim",
    "Ingrid",
    "Ioana",
    "Ivana",
    "Jae",
    "Jamila",
    "João",
    "Kaito",
    "Kalinda",
    "Kofi",
    "Lívia",
    "Leilani",
    "Łukasz",
    "Maja",
    "Malik",
    "Mei",
    "Mirembe",
    "Nadia",
    "Ngozi",
    "Niamh",
    "Nuria",
    "Ólafur",
    "Paulo",
    "Priya",
    "Rania",
    "Renée",
    "Sanjay",
    "Seán",
    "Şebnem",
    "Søren",
    "Tariq",
    "Thandi",
    "Yuki",
    "Zofia",
    "Żaneta",
];
const FAMILY: [&str; 64] = [
    "Abara",
    "Ågren",
    "Alvarado",
    "Amato",
    "Banerjee",
    "Bärnreuther",
    "Bellweather",
    "Bjarnason",
    "Brightwater",
    "Castellanos",
    "Chaudhry",
    "Cisneros",
    "Črnić",
    "Dąbrowska",
    "Delacroix",
    "Demir",
    "Dlamini",
    "Duong",
    "Egede",
    "Espinoza",
    "Fairbanks",
    "Fernández",
    "Fjeldstad",
    "Fontaine",
    "Gonçalves",
    "Greenhollow",
    "Gülşen",
    "Hakimi",
    "Halloran",
    "Hashimoto",
    "Ibáñez",
    "Iwasaki",
    "Jelínek",
    "Kamau",
    "Kaya",
    "Kowalczyk",
    "Küng",
    "Lindqvist",
    "Løvås",
    "Marchetti",
    "Mbeki",
    "Mirza",
    "Müller",
    "Nakagawa",
    "Novák",
    "Nwosu",
    "O’Shea",
    "Okafor",
    "Øvergård",
    "Pereira",
    "Petrov",
    "Quispe",
    "Rahman",
    "Rasmussen",
    "Sánchez",
    "Šimić",
    "Stonebridge",
    "Takahashi",
    "Tembo",
    "Thistlewood",
    "Vasquez",
    "Weaverly",
    "Yıldız",
    "Zieliński",
];
const COLOURS: [&str; 10] = [
    "Amber", "Cobalt", "Crimson", "Indigo", "Jade", "Ochre", "Saffron", "Silver", "Umber", "Violet",
];
const THINGS: [&str; 10] = [
    "Anchor", "Beacon", "Compass", "Harbour", "Lantern", "Meadow", "Orchard", "Quarry", "Sparrow",
    "Viaduct",
];
const LOCATIONS: [(&str, u32); 4] = [
    ("Northport", 5),
    ("Eastvale", 3),
    ("Remote", 3),
    ("Southmere", 2),
];

/// A department: name, head, titles with how common each is, and its share of the company.
struct Department {
    name: &'static str,
    head: &'static str,
    titles: &'static [(&'static str, u32)],
    share: u32,
    on_projects: bool,
}

const DEPARTMENTS: [Department; 8] = [
    Department {
        name: "Engineering",
        head: "VP Engineering",
        titles: &[
            ("Software Engineer", 8),
            ("Senior Engineer", 4),
            ("Site Reliability Engineer", 2),
            ("Designer", 1),
        ],
        share: 30,
        on_projects: true,
    },
    Department {
        name: "Operations",
        head: "VP Operations",
        titles: &[
            ("Plant Operator", 6),
            ("Shift Lead", 2),
            ("Maintenance Technician", 3),
        ],
        share: 20,
        on_projects: true,
    },
    Department {
        name: "Sales",
        head: "VP Sales",
        titles: &[
            ("Account Executive", 5),
            ("Sales Engineer", 2),
            ("Account Manager", 3),
        ],
        share: 15,
        on_projects: false,
    },
    Department {
        name: "Support",
        head: "Head of Support",
        titles: &[("Support Agent", 6), ("Support Lead", 1)],
        share: 12,
        on_projects: false,
    },
    Department {
        name: "Finance",
        head: "CFO",
        titles: &[
            ("Accountant", 4),
            ("Controller", 2),
            ("Payroll Specialist", 1),
        ],
        share: 8,
        on_projects: false,
    },
    Department {
        name: "People",
        head: "Head of People",
        titles: &[("HR Partner", 3), ("Recruiter", 2)],
        share: 5,
        on_projects: false,
    },
    Department {
        name: "Security",
        head: "CISO",
        titles: &[("Security Analyst", 3), ("Security Engineer", 2)],
        share: 4,
        on_projects: true,
    },
    Department {
        name: "Legal",
        head: "General Counsel",
        titles: &[("Counsel", 2), ("Compliance Officer", 1)],
        share: 3,
        on_projects: false,
    },
];

/// One in so many is a contractor.
const CONTRACTOR_SHARE: f64 = 0.12;
const CONTRACT_DAYS: [u64; 3] = [45, 120, 300];

/// Somebody, as they are today.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    pub id: String,
    pub given: String,
    pub family: String,
    pub contractor: bool,
    pub department: &'static str,
    pub title: &'static str,
    pub manager: Option<String>,
    pub location: &'static str,
    pub start: NaiveDate,
    /// The last day: contractors have one from the start.
    pub end: Option<NaiveDate>,
    pub project: Option<String>,
}

impl Person {
    #[must_use]
    pub fn name(&self) -> String {
        format!("{} {}", self.given, self.family)
    }
}

/// The company on one day; [`Company::month`] and [`Company::layoff`] move it on.
#[derive(Debug)]
pub struct Company {
    today: NaiveDate,
    people: Vec<Person>,
    projects: Vec<String>,
    made: usize,
    random: StdRng,
}

/// What a step of time did, by person: what a demo can hold the systems against.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    pub joined: BTreeSet<String>,
    pub moved: BTreeSet<String>,
    pub left: BTreeSet<String>,
}

impl Company {
    /// Makes up a company of `people` on its first day.
    #[must_use]
    pub fn new(seed: u64, people: usize, today: NaiveDate) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut projects: Vec<String> = COLOURS
            .iter()
            .flat_map(|colour| THINGS.iter().map(move |thing| format!("{colour} {thing}")))
            .collect();
        projects.shuffle(&mut random);
        projects.truncate(8);
        let mut company = Self {
            today,
            people: Vec::new(),
            projects,
            made: 0,
            random,
        };
        company.hire_heads();
        let people = people.clamp(PEOPLE_MIN, PEOPLE_MAX);
        while company.people.len() < people {
            company.hire();
        }
        company
    }

    #[must_use]
    pub fn today(&self) -> NaiveDate {
        self.today
    }

    /// Every project there is or may be.
    #[must_use]
    pub fn projects(&self) -> &[String] {
        &self.projects
    }

    /// The departments' names, and the title of each one's head.
    pub fn departments() -> impl Iterator<Item = (&'static str, &'static str)> {
        std::iter::once(("Executive", "Chief Executive"))
            .chain(DEPARTMENTS.iter().map(|it| (it.name, it.head)))
    }

    /// Everybody employed today.
    #[must_use]
    pub fn people(&self) -> &[Person] {
        &self.people
    }

    /// A month of ordinary life: about 4 % join, 2 % leave, 6 % change place or project, contracts run out.
    pub fn month(&mut self) -> Changes {
        let mut changes = Changes::default();
        let size = self.people.len();
        self.today = self
            .today
            .checked_add_days(Days::new(30))
            .unwrap_or(self.today);
        let mut leaving: Vec<String> = self
            .people
            .iter()
            .filter(|it| it.end.is_some_and(|end| end < self.today))
            .map(|it| it.id.clone())
            .collect();
        leaving.extend(self.some_employees(size.div_ceil(50)));
        self.remove(leaving, &mut changes);
        for id in self.some_employees(size.div_ceil(16)) {
            self.transfer(&id);
            changes.moved.insert(id);
        }
        for _ in 0..size.div_ceil(25) {
            changes.joined.insert(self.hire());
        }
        changes
    }

    /// A mass of leavers: a third of the company, heads excepted.
    pub fn layoff(&mut self) -> Changes {
        let mut changes = Changes::default();
        self.today = self
            .today
            .checked_add_days(Days::new(1))
            .unwrap_or(self.today);
        let leaving = self.some_employees(self.people.len() / 3);
        self.remove(leaving, &mut changes);
        changes
    }

    /// Today's export: the CSV and its manifest.
    #[must_use]
    pub fn snapshot(&self) -> Export {
        let mut csv = String::from(
            "employee_id,given_name,family_name,email,type,department,title,manager_id,location,start_date,end_date,project\n",
        );
        let day = |day: NaiveDate| day.format("%Y-%m-%d").to_string();
        for person in &self.people {
            // No field can hold a comma or a quote: they all come from the lists above.
            let _ = writeln!(
                csv,
                "{},{},{},{},{},{},{},{},{},{},{},{}",
                person.id,
                person.given,
                person.family,
                format_args!("{}@meridian.example", person.id.to_lowercase()),
                if person.contractor {
                    "contractor"
                } else {
                    "employee"
                },
                person.department,
                person.title,
                person.manager.as_deref().unwrap_or_default(),
                person.location,
                day(person.start),
                person.end.map(day).unwrap_or_default(),
                person.project.as_deref().unwrap_or_default(),
            );
        }
        let sha256: String =
            Sha256::digest(csv.as_bytes())
                .iter()
                .fold(String::new(), |mut hex, byte| {
                    let _ = write!(hex, "{byte:02x}");
                    hex
                });
        let manifest = json!({
            "rows": self.people.len(),
            "sha256": sha256,
            "as_of": day(self.today),
            "complete": true,
        });
        Export {
            name: format!("people-{}.csv", day(self.today)),
            csv,
            manifest: manifest.to_string(),
        }
    }

    fn hire_heads(&mut self) {
        let chief = self.next_id();
        let (given, family) = self.name();
        let long_ago = self
            .today
            .checked_sub_days(Days::new(2_000))
            .unwrap_or(self.today);
        let head = |id: String, given: String, family: String, department, title, manager| Person {
            id,
            given,
            family,
            contractor: false,
            department,
            title,
            manager,
            location: "Northport",
            start: long_ago,
            end: None,
            project: None,
        };
        self.people.push(head(
            chief.clone(),
            given,
            family,
            "Executive",
            "Chief Executive",
            None,
        ));
        for department in &DEPARTMENTS {
            let id = self.next_id();
            let (given, family) = self.name();
            self.people.push(head(
                id,
                given,
                family,
                department.name,
                department.head,
                Some(chief.clone()),
            ));
        }
    }

    fn hire(&mut self) -> String {
        let id = self.next_id();
        let (given, family) = self.name();
        let department = weighted(&mut self.random, &DEPARTMENTS, |it| it.share);
        let contractor = self.random.random_bool(CONTRACTOR_SHARE);
        let title = weighted(&mut self.random, department.titles, |it| it.1).0;
        let location = weighted(&mut self.random, &LOCATIONS, |it| it.1).0;
        let project = self.project_for(department);
        let end = contractor.then(|| {
            let days = CONTRACT_DAYS
                .choose(&mut self.random)
                .copied()
                .unwrap_or(90)
                + self.random.random_range(0..30);
            self.today
                .checked_add_days(Days::new(days))
                .unwrap_or(self.today)
        });
        let person = Person {
            id: id.clone(),
            given,
            family,
            contractor,
            department: department.name,
            title,
            manager: self.head_of(department.name),
            location,
            start: self.today,
            end,
            project,
        };
        self.people.push(person);
        id
    }

    /// A new place in the company, or a new project.
    fn transfer(&mut self, id: &str) {
        let department = weighted(&mut self.random, &DEPARTMENTS, |it| it.share);
        let title = weighted(&mut self.random, department.titles, |it| it.1).0;
        let project = self.project_for(department);
        let manager = self.head_of(department.name);
        let stays = self.random.random_bool(0.5);
        let fallback = self.projects.first().cloned();
        let Some(person) = self.people.iter_mut().find(|person| person.id == id) else {
            return;
        };
        if stays || (person.department == department.name && person.title == title) {
            // At least the project is another one.
            person.project = if person.project == project {
                if person.project.is_some() {
                    None
                } else {
                    fallback
                }
            } else {
                project
            };
        } else {
            person.department = department.name;
            person.title = title;
            person.manager = manager;
            person.project = project;
        }
    }

    fn remove(&mut self, leaving: Vec<String>, changes: &mut Changes) {
        changes.left.extend(leaving);
        self.people
            .retain(|person| !changes.left.contains(&person.id));
    }

    /// Some who have a manager and are not the head of anything.
    fn some_employees(&mut self, count: usize) -> Vec<String> {
        let heads: BTreeSet<&str> = DEPARTMENTS
            .iter()
            .map(|department| department.head)
            .collect();
        let candidates: Vec<&str> = self
            .people
            .iter()
            .filter(|person| person.manager.is_some() && !heads.contains(person.title))
            .filter(|person| person.end.is_none_or(|end| end >= self.today))
            .map(|person| person.id.as_str())
            .collect();
        candidates
            .sample(&mut self.random, count)
            .map(|id| (*id).to_owned())
            .collect()
    }

    fn head_of(&self, department: &str) -> Option<String> {
        self.people
            .iter()
            .find(|person| person.department == department)
            .map(|head| head.id.clone())
    }

    fn project_for(&mut self, department: &Department) -> Option<String> {
        (department.on_projects && self.random.random_bool(0.6))
            .then(|| self.projects.choose(&mut self.random).cloned())
            .flatten()
    }

    fn name(&mut self) -> (String, String) {
        let mut one_of = |names: &[&str]| {
            names
                .choose(&mut self.random)
                .copied()
                .unwrap_or("Nobody")
                .to_owned()
        };
        (one_of(&GIVEN), one_of(&FAMILY))
    }

    fn next_id(&mut self) -> String {
        self.made += 1;
        format!("M{:05}", 10_000 + self.made)
    }
}

/// Draws one of `choices` by weight. There must be one: all lists here are constants.
fn weighted<'a, T>(random: &mut StdRng, choices: &'a [T], weight: impl Fn(&T) -> u32) -> &'a T {
    let total: u32 = choices.iter().map(&weight).sum();
    let mut drawn = random.random_range(0..total.max(1));
    let found = choices.iter().find(|choice| {
        let weight = weight(choice);
        let here = drawn < weight;
        drawn = drawn.saturating_sub(weight);
        here
    });
    #[expect(
        clippy::indexing_slicing,
        reason = "the lists are constants and none is empty"
    )]
    found.unwrap_or(&choices[0])
}

/// A day's export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    pub name: String,
    pub csv: String,
    pub manifest: String,
}

impl Export {
    /// Writes the CSV and, beside it, its manifest.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn write(&self, folder: &Path) -> std::io::Result<PathBuf> {
        let file = folder.join(&self.name);
        std::fs::write(&file, &self.csv)?;
        std::fs::write(
            folder.join(format!("{}.manifest.json", self.name)),
            &self.manifest,
        )?;
        Ok(file)
    }
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
    use super::*;

    fn company(seed: u64) -> Company {
        Company::new(seed, 300, NaiveDate::from_ymd_opt(2026, 3, 2).unwrap())
    }

    #[test]
    fn a_seed_makes_one_company_and_another_seed_another() {
        let life = |seed| {
            let mut company = company(seed);
            let first = company.snapshot();
            company.month();
            company.layoff();
            (first, company.snapshot())
        };
        assert_eq!(life(7), life(7));
        assert_ne!(life(7).0.csv, life(8).0.csv);
    }

    #[test]
    fn changes_are_exactly_what_the_exports_differ_in() {
        let mut company = company(7);
        assert_eq!(company.people().len(), 300);
        for step in [Company::month, Company::month, Company::layoff] {
            let before: BTreeSet<String> =
                company.people().iter().map(|it| it.id.clone()).collect();
            let rows_before: BTreeSet<String> =
                company.snapshot().csv.lines().map(str::to_owned).collect();
            let changes = step(&mut company);
            let after: BTreeSet<String> = company.people().iter().map(|it| it.id.clone()).collect();
            assert_eq!(
                before.difference(&after).cloned().collect::<BTreeSet<_>>(),
                changes.left
            );
            assert_eq!(
                after.difference(&before).cloned().collect::<BTreeSet<_>>(),
                changes.joined
            );
            let moved: BTreeSet<String> = company
                .snapshot()
                .csv
                .lines()
                .filter(|row| !rows_before.contains(*row))
                .filter_map(|row| row.split(',').next().map(str::to_owned))
                .filter(|id| before.contains(id))
                .collect();
            assert_eq!(moved, changes.moved);
        }
    }

    #[test]
    fn a_company_is_one_that_could_be() {
        let company = company(7);
        let ids: BTreeSet<&str> = company.people().iter().map(|it| it.id.as_str()).collect();
        assert_eq!(ids.len(), 300);
        for person in company.people() {
            assert!(
                person
                    .manager
                    .as_deref()
                    .is_none_or(|manager| ids.contains(manager)),
                "{person:?}"
            );
            assert_eq!(person.contractor, person.end.is_some(), "{person:?}");
        }
        assert!(company.people().iter().any(|it| !it.family.is_ascii()));
        assert!(
            company
                .people()
                .iter()
                .any(|it| it.contractor && it.project.is_some())
        );
        for row in company.snapshot().csv.lines() {
            assert_eq!(row.split(',').count(), 12, "{row}");
        }
    }
}
