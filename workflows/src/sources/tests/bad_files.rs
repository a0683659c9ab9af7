//! Whatever arrives: the message says what, where and how to mend it.

use std::io::Read;

use super::*;
use crate::policy::problem::PROBLEMS_MAX;

fn plain(format: &str) -> Source {
    Source::load(
        "s.yaml",
        &format!(
            "name: hr\nkind: snapshot\nformat: {format}\nkey: id\ntime_zone: UTC\ncomplete: true\n\
             as_of_file_name: 'hr-%Y-%m-%d'\n\
             columns: {{ name: name, department: dept }}\nrequired: [name]\n\
             employment: {{ end: until }}\n"
        ),
    )
    .unwrap()
}

#[track_caller]
fn refused_as(format: &str, bytes: &[u8], expected: &str) {
    let problems = read(&plain(format), "2024-01-31", bytes).unwrap_err();
    assert_eq!(problems.to_string(), expected);
}

#[track_caller]
fn refused(bytes: &[u8], expected: &str) {
    refused_as("csv", bytes, expected);
}

#[test]
fn empty_files() {
    let empty = "`in/hr-2024-01-31.csv`: the file is empty; fix: deliver the whole file again";
    refused(b"", empty);
    refused_as("json", b"", empty);
    refused_as("jsonl", b"", empty);
    refused(
        b"\n\n",
        "`in/hr-2024-01-31.csv`: the file has no header; fix: deliver the whole file again",
    );
    let nobody = "`in/hr-2024-01-31.csv`: the file holds nobody; fix: deliver the whole file again; \
                  a company without people is not believed";
    refused(b"id,name,dept,until\n", nobody);
    refused_as("json", b"[]", nobody);
    refused_as("jsonl", b"\n\n", nobody);
}

#[test]
fn half_a_file() {
    // Cut inside a row.
    refused(
        b"id,name,dept,until\n1,Ann,Eng,\n2,Be",
        "`in/hr-2024-01-31.csv`:3:1: the row has 2 fields, the header has 4; \
         fix: the file was cut here; deliver the whole file again\n\
         `in/hr-2024-01-31.csv`:3: the last line has no end, so the file may have been cut; \
         fix: deliver the whole file again; if this feed never ends its last line, deliver a manifest \
         or set `final_newline: optional` in the source",
    );
    // Cut inside the last field: nothing but the missing line end tells.
    refused(
        b"id,name,dept,until\n1,Ann,Eng,\n2,Ben,Sal,2024-01-0",
        "`in/hr-2024-01-31.csv`:3: `until` is `2024-01-0`, a day that does not exist; \
         fix: deliver dates as `%Y-%m-%d`\n\
         `in/hr-2024-01-31.csv`:3: the last line has no end, so the file may have been cut; \
         fix: deliver the whole file again; if this feed never ends its last line, deliver a manifest \
         or set `final_newline: optional` in the source",
    );
    // Cut inside quotes.
    refused(
        b"id,name,dept,until\n1,\"Ann\nMae,Eng,\n",
        "`in/hr-2024-01-31.csv`:2:3: the quote that opens here is never closed; \
         fix: deliver the whole file again if it was cut; else close the quote, or double it inside a field",
    );
    refused_as(
        "json",
        b"[{\"id\": \"1\", \"name\": \"Ann\"},\n {\"id\": \"2\", \"na",
        "`in/hr-2024-01-31.csv`:2:2: the file ends inside the array; the last object begins here; \
         fix: the file was cut; deliver the whole file again",
    );
    refused_as(
        "jsonl",
        b"{\"id\": \"1\", \"name\": \"Ann\", \"dept\": \"E\", \"until\": null}\n{\"id\": \"2\", \"na",
        "`in/hr-2024-01-31.csv`:2:15: not a JSON object: EOF while parsing a string; \
         fix: the file was cut, or a bracket or quote is missing\n\
         `in/hr-2024-01-31.csv`:2: the last line has no end, so the file may have been cut; \
         fix: deliver the whole file again; if this feed never ends its last line, deliver a manifest \
         or set `final_newline: optional` in the source",
    );
}

#[test]
fn a_manifest_convicts_a_file_that_was_cut_between_rows() {
    let source = plain("csv");
    let bytes = b"id,name,dept,until\n1,Ann,Eng,\n";
    let with = |manifest: &str| {
        let manifest = Manifest::parse("m", manifest.as_bytes()).unwrap();
        read_snapshot(
            &source,
            bytes.as_slice(),
            &SnapshotInput {
                file: "hr.csv",
                manifest: Some(&manifest),
                ..SnapshotInput::default()
            },
        )
    };
    assert_eq!(
        with(r#"{"rows": 2, "as_of": "2024-01-31"}"#)
            .unwrap_err()
            .to_string(),
        "`hr.csv`: the file has 1 rows, its manifest says 2; fix: deliver file and manifest of the same run again"
    );
    let zeros = "0".repeat(64);
    let error = with(&format!(
        r#"{{"sha256": "{zeros}", "as_of": "2024-01-31"}}"#
    ))
    .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("`hr.csv`: the file has the hash ")
            && error
                .to_string()
                .contains(&format!(", its manifest says {zeros}; fix: ")),
        "{error}"
    );
    let good = with(r#"{"rows": 1, "as_of": "2024-01-31T23:30:00Z", "complete": false}"#).unwrap();
    assert!(!good.complete, "the manifest stands over the configuration");
    let hash = good.sha256;
    assert!(with(&format!(r#"{{"sha256": "{hash}", "as_of": "2024-01-31"}}"#)).is_ok());
}

#[test]
fn a_required_manifest_that_is_missing() {
    let text = HR.replace("complete: true", "manifest: required");
    let source = Source::load("s", &text).unwrap();
    assert_eq!(
        read(&source, "2024-01-31", b"x").unwrap_err().to_string(),
        "`in/hr-2024-01-31.csv`: the manifest `in/hr-2024-01-31.csv.manifest.json` is missing; \
         fix: deliver it with the file, or set `manifest: optional` in the source"
    );
}

#[test]
fn wrong_columns() {
    refused(
        b"id,nme,department,until\n1,Ann,Eng,\n",
        "`in/hr-2024-01-31.csv`:1: the column `dept`, which attribute `department` needs, is missing; \
         fix: the columns of the file are `id`, `nme`, `department`, `until`\n\
         `in/hr-2024-01-31.csv`:1: the column `name`, which attribute `name` needs, is missing; \
         fix: did you mean `nme`? the columns of the file are `id`, `nme`, `department`, `until`",
    );
    refused(
        b"id,name,dept,name,until\n1,Ann,Eng,X,\n",
        "`in/hr-2024-01-31.csv`:1:1: the column `name` is there twice, as number 2 and number 4; \
         fix: rename or remove one of them",
    );
    refused(
        b"id;name;dept;until\n1;Ann;Eng;\n",
        "`in/hr-2024-01-31.csv`:1:1: the header is one column, `id;name;dept;until`; \
         fix: the delimiter seems to be `;`: set `delimiter` in the source",
    );
    refused_as(
        "json",
        br#"[{"id": "1", "name": "Ann", "Dept": "E", "until": null}]"#,
        "`in/hr-2024-01-31.csv`: no object has the member `dept`, which attribute `department` needs; \
         fix: correct the name in the source, or deliver the member",
    );
}

#[test]
fn columns_that_an_expression_reads_must_be_there() {
    let text = format!("{}\n", HEADER.replace(",site", ",place"));
    assert_eq!(
        read(&hr(), "2024-01-31", text.as_bytes())
            .unwrap_err()
            .to_string(),
        "`in/hr-2024-01-31.csv`:1: the column `site`, which attribute `site` needs, is missing; \
         fix: the columns of the file are `id`, `name`, `dept`, `grade`, `skills`, `place`, `cc`, `kind`, \
         `boss`, `projects`, `from`, `until`, `status`"
    );
}

#[test]
fn duplicate_and_empty_keys() {
    refused(
        b"id,name,dept,until\n1,Ann,Eng,\n2,Ben,Eng,\n 1 ,Cid,Eng,\n,Dan,Eng,\n",
        "`in/hr-2024-01-31.csv`:4: the key `1` is on line 2 and again on line 4; fix: keep one row a person\n\
         `in/hr-2024-01-31.csv`:5: the key is empty; fix: give every person a key that never changes",
    );
    refused_as(
        "json",
        br#"[{"id": 1.5, "name": "Ann", "dept": "E", "until": null}, {"id": 1, "id": 2}]"#,
        "`in/hr-2024-01-31.csv`:1: the key is neither a text nor a whole number; \
         fix: deliver keys as texts; large numbers lose digits\n\
         `in/hr-2024-01-31.csv`:1:75: not a JSON object: the member `id` is there twice; \
         fix: deliver one JSON object a person",
    );
}

/// Hands out a line without end and counts what is taken of it.
struct Endless<'a> {
    begin: &'a [u8],
    taken: &'a std::cell::Cell<usize>,
}

impl Read for Endless<'_> {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        let read = if self.begin.is_empty() {
            into.fill(b'x');
            into.len()
        } else {
            self.begin.read(into)?
        };
        self.taken.set(self.taken.get() + read);
        assert!(self.taken.get() < 40_000_000, "a 40 MB line was read whole");
        Ok(read)
    }
}

#[test]
fn a_line_of_40_megabytes_is_given_up_early() {
    for (format, begin, expected) in [
        (
            "csv",
            "id,name,dept,until\n1,Ann,Eng,\n2,",
            "`in/hr-2024-01-31.csv`:3:1: the line is longer than 1048576 bytes; the rest was not read; \
             fix: see that the file has line ends and is the file you meant",
        ),
        (
            "csv",
            "id,name,dept,until\n1,Ann,Eng,\n2,\"",
            "`in/hr-2024-01-31.csv`:3:3: the quote that opens here is not closed within 1048576 bytes; \
             fix: close it, or double it inside a field",
        ),
        (
            "jsonl",
            "{\"id\": \"",
            "`in/hr-2024-01-31.csv`:1:1: the object that begins here is longer than 1048576 bytes; \
             the rest was not read; fix: see that the file is the file you meant; for one array set `format: json`",
        ),
        (
            "json",
            "[{\"id\": \"",
            "`in/hr-2024-01-31.csv`:1:2: the object that begins here is longer than 1048576 bytes; \
             the rest was not read; fix: see that the file is the file you meant; for one array set `format: json`",
        ),
    ] {
        let taken = std::cell::Cell::new(0);
        let reader = Endless {
            begin: begin.as_bytes(),
            taken: &taken,
        };
        let problems = read_snapshot(
            &plain(format),
            reader,
            &SnapshotInput {
                file: "in/hr-2024-01-31.csv",
                ..SnapshotInput::default()
            },
        )
        .unwrap_err();
        assert_eq!(problems.to_string(), expected);
        assert!(taken.get() < 1_300_000, "took {}", taken.get());
    }
}

#[test]
fn other_bounds() {
    let source = plain("csv");
    let limited = |limits: Limits, bytes: &[u8]| {
        read_snapshot(
            &source,
            bytes,
            &SnapshotInput {
                file: "hr-2024-01-31.csv",
                limits,
                ..SnapshotInput::default()
            },
        )
        .unwrap_err()
        .to_string()
    };
    let file = b"id,name,dept,until\n1,Ann,Eng,\n2,Ben,Eng,\n";
    let all = Limits::default();
    assert_eq!(
        limited(Limits { rows_max: 1, ..all }, file),
        "`hr-2024-01-31.csv`:3:1: the file has more than 1 rows; fix: split the feed into several sources"
    );
    assert_eq!(
        limited(
            Limits {
                columns_max: 3,
                ..all
            },
            file
        ),
        "`hr-2024-01-31.csv`:1:1: the row has more than 3 columns; fix: deliver only the columns the source needs"
    );
    assert_eq!(
        limited(
            Limits {
                field_bytes_max: 4,
                ..all
            },
            file
        ),
        "`hr-2024-01-31.csv`:1:1: field 4 is 5 bytes long, more than the 4 that are read; \
         fix: see whether a quote is missing; shorten the value"
    );
    assert_eq!(
        limited(
            Limits {
                file_bytes_max: 10,
                ..all
            },
            file
        ),
        "`hr-2024-01-31.csv`: the file is longer than 10 bytes; fix: split the feed into several sources"
    );
    assert_eq!(
        limited(
            Limits {
                key_bytes_max: 0,
                ..all
            },
            b"id,name,dept,until\n1,Ann,Eng,\n"
        ),
        "`hr-2024-01-31.csv`:2: `1` cannot be a key; fix: use at most 0 bytes without control characters"
    );
}

#[test]
fn bytes_that_are_no_text() {
    refused(
        b"id,name,dept,until\n1,M\xfcller,Eng,\n",
        "`in/hr-2024-01-31.csv`:2:4: byte 0xFC is not valid UTF-8 here; \
         fix: export the file as UTF-8; it is likely in Latin-1 or Windows-1252",
    );
    refused(
        b"id,name,dept,until\n1,A\0nn,Eng,\n",
        "`in/hr-2024-01-31.csv`:2:4: a NUL byte; \
         fix: the file is damaged or not text; export it as UTF-8 text",
    );
    refused(
        b"\xff\xfei\0d\0",
        "`in/hr-2024-01-31.csv`: the file is UTF-16; fix: export it as UTF-8",
    );
    refused(
        b"PK\x03\x04xl/workbook.xml",
        "`in/hr-2024-01-31.csv`: the file is a ZIP archive or an Excel workbook; fix: export it as CSV in UTF-8",
    );
    refused(
        b"\x1f\x8b\x08",
        "`in/hr-2024-01-31.csv`: the file is compressed with gzip; fix: unpack it first",
    );
    refused(
        b"id,name,dept,until\n1,Ann,Eng,\xc3",
        "`in/hr-2024-01-31.csv`:2:11: the file ends inside a character; fix: deliver the whole file again\n\
         `in/hr-2024-01-31.csv`:2: `until` is `\u{fffd}`, not a date of that form; \
         fix: deliver dates as `%Y-%m-%d`\n\
         `in/hr-2024-01-31.csv`:2: the last line has no end, so the file may have been cut; \
         fix: deliver the whole file again; if this feed never ends its last line, deliver a manifest \
         or set `final_newline: optional` in the source",
    );
}

#[test]
fn values_that_mean_nothing() {
    let source = Source::load(
        "s",
        &HR.replace(
            "status: { column: status, ended: [gone], leave: [away] }",
            "status: { column: status, ended: [gone], active: [works] }",
        ),
    )
    .unwrap();
    let text = format!(
        "{HEADER}\n1,,Eng,five,,,,,,,2024-02-30,31.01.2024,dunno\n2,Ben,Eng,,,,,,,,,,works\n"
    );
    assert_eq!(
        read(&source, "2024-01-31", text.as_bytes())
            .unwrap_err()
            .to_string(),
        "`in/hr-2024-01-31.csv`:2: attribute `grade` is `five`, not a whole number; fix: deliver digits only\n\
         `in/hr-2024-01-31.csv`:2: the required attribute `name` is empty; fix: fill in column `name`\n\
         `in/hr-2024-01-31.csv`:2: `from` is `2024-02-30`, a day that does not exist; \
         fix: deliver dates as `%Y-%m-%d`\n\
         `in/hr-2024-01-31.csv`:2: `until` is `31.01.2024`, not a date of that form; \
         fix: deliver dates as `%Y-%m-%d`\n\
         `in/hr-2024-01-31.csv`:2: `status` is `dunno`, which means nothing; \
         fix: add it to `active`, `leave` or `ended` of `status`"
    );
}

#[test]
fn an_expression_that_fails_is_told_with_the_row() {
    let text = HR.replace("slug(row.site)", "first(row.site, 1 / int(row.grade))");
    let source = Source::load("s", &text).unwrap();
    let text = format!("{HEADER}\n1,Ann,Eng,0,,Main,,,,,,,\n");
    assert_eq!(
        read(&source, "2024-01-31", text.as_bytes())
            .unwrap_err()
            .to_string(),
        "`in/hr-2024-01-31.csv`:2: the expression of attribute `site` fails: division by zero; \
         fix: mend the row, or the expression `row.site == \"\" ? null : first(row.site, 1 / int(row.grade))`"
    );
}

#[test]
fn telling_stops_after_twenty_problems() {
    let mut text = "id,name,dept,until\n".to_owned();
    for _ in 0..1_000_000 {
        text.push_str(",x,y,\n");
    }
    let problems = read(&plain("csv"), "2024-01-31", text.as_bytes()).unwrap_err();
    assert_eq!(problems.list.len(), PROBLEMS_MAX);
    assert!(problems.more);
    assert!(
        problems
            .to_string()
            .ends_with("and more; stopped telling after 20 problems")
    );
}

#[test]
fn a_file_of_no_known_day() {
    let problems = read_snapshot(
        &plain("csv"),
        b"x".as_slice(),
        &SnapshotInput {
            file: "a/people.csv",
            ..SnapshotInput::default()
        },
    )
    .unwrap_err();
    assert_eq!(
        problems.to_string(),
        "`a/people.csv`: the file name `people.csv` has no day of the form `hr-%Y-%m-%d`; \
         fix: rename the file, or state the day at the import"
    );
}

#[test]
fn strange_but_good_files_are_read() {
    let source = plain("csv");
    let same = |bytes: &[u8]| read(&source, "2024-01-31", bytes).unwrap().digest;
    let usual = same(b"id,name,dept,until\n1,Ann,Eng,\n2,\"Ben \"\"B\"\" Lee\",Eng,\n");
    // Byte order mark, CRLF, blank lines, quotes, blanks, other order of rows and columns, extra columns.
    assert_eq!(
        usual,
        same(
            b"\xef\xbb\xbfid,name,dept,until\r\n1,Ann,Eng,\r\n\r\n2,\"Ben \"\"B\"\" Lee\",Eng,\r\n"
        )
    );
    assert_eq!(
        usual,
        same(b"id,name,dept,until\r1,Ann,Eng,\r2,\"Ben \"\"B\"\" Lee\",Eng,\r")
    );
    assert_eq!(
        usual,
        same(
            b"\"dept\", name ,id,until,salary\nEng,\"Ben \"\"B\"\" Lee\",2,,9\n Eng ,Ann,1,\"\",\n"
        )
    );
    for (format, text) in [
        (
            "json",
            r#" [ {"id": 1, "name": "Ann", "dept": "Eng", "until": null},
                {"until": "", "id": "2", "name": "Ben \"B\" Lee", "dept": "Eng"} ] "#,
        ),
        (
            "jsonl",
            "{\"id\": 1, \"name\": \"Ann\", \"dept\": \"Eng\", \"until\": null}\n\n\
             {\"id\": \"2\", \"name\": \"Ben \\\"B\\\" Lee\", \"dept\": \"Eng\"}\r\n",
        ),
    ] {
        let snapshot = read(&plain(format), "2024-01-31", text.as_bytes()).unwrap();
        assert_eq!(snapshot.digest, usual, "{format}");
        assert_eq!(snapshot.rows, 2);
    }
}

#[test]
fn a_record_is_in_our_words() {
    let source = hr();
    let snapshot = snapshot(
        &source,
        "2024-01-31",
        &[
            "1, Ann Lee ,Eng,3,rust|sql|rust,Main Campus,C1,,,P2;P1,2020-01-01,2025-12-31,",
            "2,Ben,,,,,,C,Ann Lee,,,,away",
            "3,Cid,,,,,,,Zed,,,,",
            "4,Dup,,,,,,,,,,,",
            "5,Dup,,,,,,,Dup,,,,",
        ],
    );
    let told: Vec<String> = snapshot
        .records
        .values()
        .map(|record| serde_json::to_string(&record.attributes).unwrap())
        .collect();
    assert_eq!(
        told,
        [
            r#"{"cost_center":"C1","department":"Eng","employment_end":"2025-12-31","employment_start":"2020-01-01","employment_status":"active","grade":3,"name":"Ann Lee","projects":["P1","P2"],"site":"main-campus","skills":["rust","sql"],"type":"employee"}"#,
            r#"{"employment_status":"leave","manager":"1","manager_name":"Ann Lee","name":"Ben","projects":[],"skills":[],"type":"contractor"}"#,
            r#"{"employment_status":"active","manager_name":"Zed","name":"Cid","projects":[],"skills":[],"type":"employee"}"#,
            r#"{"employment_status":"active","name":"Dup","projects":[],"skills":[],"type":"employee"}"#,
            r#"{"employment_status":"active","manager_name":"Dup","name":"Dup","projects":[],"skills":[],"type":"employee"}"#,
        ]
    );
    let warnings: Vec<String> = snapshot.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "`in/hr-2024-01-31.csv`:4: the manager `Zed` is not in this file; \
             fix: deliver the manager's key, or the manager, too",
            "`in/hr-2024-01-31.csv`:6: the manager `Dup` could be any of 2 people; fix: deliver the manager's key",
        ]
    );
}
