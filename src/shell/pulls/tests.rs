//! APIs that answer as the products do, and as broken ones do, over real HTTP.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests"
)]
use std::sync::Mutex;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use engine::runner::Definitions;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use workflows::config::StoreAddress;

use super::*;

type Script = dyn Fn(&Request) -> Response + Send + Sync;

/// An HTTP server that answers as it is told, and remembers what it was asked.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    script: Arc<Mutex<Arc<Script>>>,
}

impl Server {
    async fn start(script: impl Fn(&Request) -> Response + Send + Sync + 'static) -> Self {
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let script: Arc<Script> = Arc::new(script);
        let script = Arc::new(Mutex::new(script));
        let (told, answers) = (Arc::clone(&asked), Arc::clone(&script));
        let app = Router::new().fallback(move |request: Request| {
            let uri = request.uri().to_string();
            told.lock().unwrap().push(uri);
            let script = Arc::clone(&*answers.lock().unwrap());
            async move { script(&request) }
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(crate::api::server::serve(
            listener,
            app,
            CancellationToken::new(),
        ));
        Self { url, asked, script }
    }

    fn say(&self, script: impl Fn(&Request) -> Response + Send + Sync + 'static) {
        *self.script.lock().unwrap() = Arc::new(script);
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

fn answer(body: &Value) -> Response {
    ([("content-type", "application/json")], body.to_string()).into_response()
}

/// The value of a parameter of a question, decoded.
fn parameter(request: &Request, name: &str) -> Option<String> {
    let url: reqwest::Url = format!("http://x{}", request.uri()).parse().unwrap();
    let found = url.query_pairs().find(|(other, _)| other == name);
    found.map(|(_, value)| value.into_owned())
}

struct Office {
    _folder: tempfile::TempDir,
    database: Database,
    intake: Intake,
    source: Arc<Source>,
}

const COMMON: &str = "
key: userId
time_zone: UTC
columns: { department: department }
status: { column: emplStatus, ended: [T] }
employment: { start: startDate }
";

impl Office {
    async fn open(pull: &str) -> Self {
        Self::with(pull, COMMON).await
    }

    async fn with(pull: &str, columns: &str) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let folder = tempfile::tempdir().unwrap();
        let address = StoreAddress::Sqlite(folder.path().join("t.db"));
        let database = Database::prepare(&address, engine::store::SHARDS_DEFAULT)
            .await
            .unwrap();
        let definitions = Definitions::new();
        for definition in workflows::definitions::load(&[]).unwrap() {
            definitions.add(definition);
        }
        let intake = Intake::new(database.directory.clone(), Arc::new(definitions));
        let indented = pull.trim().replace('\n', "\n  ");
        let text = format!("name: hr\nkind: pull\npull:\n  {indented}\n{columns}");
        let source =
            Source::load("hr.yaml", &text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        Self {
            _folder: folder,
            database,
            intake,
            source: Arc::new(source),
        }
    }

    fn pull(&self) -> Pull {
        Pull::new(
            Arc::clone(&self.source),
            self.database.clone(),
            self.intake.clone(),
        )
        .unwrap()
    }

    async fn ask(&self, day: &str) -> anyhow::Result<Option<ImportReport>> {
        self.pull().ask(at(day), false).await
    }

    /// Each person as `key department`.
    async fn people(&self) -> Vec<String> {
        let filter = workflows::directory::IdentityFilter::default();
        let rows = self
            .database
            .directory
            .identities(&filter, None, 1_000)
            .await
            .unwrap();
        rows.iter()
            .map(|row| {
                let department = row.attributes.get("department").and_then(Value::as_str);
                format!("{} {}", row.identity_key, department.unwrap_or("-"))
            })
            .collect()
    }

    async fn mark(&self) -> Option<Value> {
        let row = self.database.directory.pull_mark("hr").await.unwrap();
        row.map(|row| row.mark)
    }
}

fn at(day: &str) -> DateTime<Utc> {
    let text = if day.contains('T') {
        day.to_owned()
    } else {
        format!("{day}T12:00:00Z")
    };
    text.parse().unwrap()
}

/// Loses the mark.
struct Forget;

#[async_trait::async_trait]
impl engine::store::Work for Forget {
    async fn run(
        &self,
        transaction: &mut engine::store::Transaction<'_>,
    ) -> Result<Vec<engine::store::InboxRow>, engine::store::StoreError> {
        if let engine::store::Transaction::Sqlite(connection) = transaction {
            let lost = sqlx::raw_sql("DELETE FROM pull_mark");
            lost.execute(&mut **connection).await.unwrap();
        }
        Ok(Vec::new())
    }
}

/// What an answer is refused with, and the answer.
type Case = (
    &'static str,
    Box<dyn Fn(&Request) -> Response + Send + Sync>,
);

/// One row of EmpJob.
fn job(user: &str, from: &str, sequence: u32, department: &str) -> Value {
    let day: chrono::NaiveDate = from.parse().unwrap();
    let ms = day
        .and_hms_opt(0, 0, 0)
        .unwrap()
        .and_utc()
        .timestamp_millis();
    json!({
        "__metadata": { "uri": format!("https://x/EmpJob('{user}')"), "type": "SFOData.EmpJob" },
        "userId": user, "seqNumber": sequence.to_string(), "startDate": format!("/Date({ms})/"),
        "department": department, "emplStatus": "A", "lastModifiedDateTime": "/Date(1767225600000+0000)/",
    })
}

fn odata(rows: &[Value], next: Option<String>) -> Response {
    let mut body = json!({ "d": { "results": rows } });
    if let Some(next) = next {
        body["d"]["__next"] = json!(next);
    }
    answer(&body)
}

fn successfactors(url: &str) -> String {
    format!("api: successfactors\nurl: {url}/odata/v2/EmpJob\nevery: 10m\nfull_every: 1d")
}

#[tokio::test]
async fn successfactors_tells_everybody_once_and_then_who_changed() {
    let server = Server::start(|request| {
        let filter = parameter(request, "$filter");
        let skip = parameter(request, "$skiptoken");
        match (filter.as_deref(), skip.as_deref()) {
            (None, None) => odata(
                &[
                    job("1", "2026-01-01", 1, "Sales"),
                    job("1", "2026-06-01", 1, "Board"),
                ],
                Some("/odata/v2/EmpJob?$skiptoken=x".to_owned()),
            ),
            (None, Some(_)) => odata(&[job("2", "2026-01-01", 1, "IT")], None),
            (Some(filter), _) if filter.contains("userId in") => {
                assert_eq!(filter, "userId in '2'");
                odata(
                    &[
                        job("2", "2026-01-01", 1, "IT"),
                        job("2", "2026-02-01", 1, "Sales"),
                    ],
                    None,
                )
            }
            (Some(filter), _) => {
                assert!(
                    filter.starts_with("lastModifiedDateTime gt datetimeoffset'"),
                    "{filter}"
                );
                // What was decided earlier and begins now changes no row.
                assert!(
                    filter.contains("startDate le datetime'2026-03-01T00:00:00'"),
                    "{filter}"
                );
                odata(&[job("2", "2026-02-01", 1, "Sales")], None)
            }
        }
    })
    .await;
    let office = Office::open(&successfactors(&server.url)).await;
    let report = office.ask("2026-03-01T06:00:00Z").await.unwrap().unwrap();
    assert!(report.complete && report.created == 2, "{report:?}");
    assert_eq!(office.people().await, ["1 Sales", "2 IT"]);
    let asked = server.asked();
    assert_eq!(asked.len(), 2);
    assert!(asked[0].contains("fromDate=1900-01-01"), "{asked:?}");
    let report = office.ask("2026-03-01T07:00:00Z").await.unwrap().unwrap();
    assert!(!report.complete && report.changed == 1, "{report:?}");
    assert_eq!(office.people().await, ["1 Sales", "2 Sales"]);
    // The mark is lost: everybody is asked for, and nobody is taken to be new.
    office.database.store.write(&Forget).await.unwrap();
    server.asked();
    let report = office.ask("2026-03-01T08:00:00Z").await.unwrap().unwrap();
    assert!(report.complete, "{report:?}");
    assert_eq!(report.created, 0);
    assert!(office.mark().await.is_some());
    // And after a day, anyway: what begins by itself is found then at the latest.
    let report = office.ask("2026-06-02").await.unwrap().unwrap();
    assert!(report.complete);
    assert_eq!(office.people().await[0], "1 Board");
}

#[tokio::test]
async fn what_does_not_add_up_changes_nothing() {
    let server = Server::start(|_| odata(&[job("1", "2026-01-01", 1, "Sales")], None)).await;
    let office = Office::open(&successfactors(&server.url)).await;
    office.ask("2026-03-01T06:00:00Z").await.unwrap();
    let mark = office.mark().await;
    let login = "<html><form>Please log in</form></html>";
    let page = |request: &Request| parameter(request, "$skiptoken").is_some();
    let next = || Some("/odata/v2/EmpJob?$skiptoken=x".to_owned());
    let cases: Vec<Case> = vec![
        (
            "page 1: the server answered 200 OK with `text/html` instead of JSON, as a page to log in does",
            Box::new(move |_| ([("content-type", "text/html")], login).into_response()),
        ),
        (
            "page 1: the server leads elsewhere (302 Found), as one does that wants a login",
            Box::new(|_| (axum::http::StatusCode::FOUND, [("location", "/login")]).into_response()),
        ),
        (
            "page 2: the answer is no JSON: it ends in the middle at line 1",
            Box::new(move |request| {
                if page(request) {
                    let text = r#"{"d":{"results":[{"userId":"2","startDate":"/Da"#;
                    ([("content-type", "application/json")], text).into_response()
                } else {
                    odata(&[job("2", "2026-01-01", 1, "IT")], next())
                }
            }),
        ),
        (
            "page 2: the server says 500",
            Box::new(move |request| {
                if page(request) {
                    axum::http::StatusCode::INTERNAL_SERVER_ERROR.into_response()
                } else {
                    odata(&[job("2", "2026-01-01", 1, "IT")], next())
                }
            }),
        ),
        (
            "page 3 leads back to one before it",
            Box::new(move |_| odata(&[job("2", "2026-01-01", 1, "IT")], next())),
        ),
        (
            "the answer leads to another server, `evil.example`; nothing is asked there",
            Box::new(|_| odata(&[], Some("https://evil.example/odata".to_owned()))),
        ),
        (
            "page 1 has no list at `/d/results`",
            Box::new(|_| answer(&json!({ "d": {} }))),
        ),
        (
            "the API gave nobody; nothing is inferred from that",
            Box::new(|_| odata(&[], None)),
        ),
        (
            "row 0 has no day in `startDate`",
            Box::new(|_| odata(&[json!({ "userId": "1" })], None)),
        ),
        (
            "page 1: the server asks to wait for 3600 s",
            Box::new(|_| {
                let status = axum::http::StatusCode::TOO_MANY_REQUESTS;
                (status, [("retry-after", "3600")]).into_response()
            }),
        ),
    ];
    for (expected, script) in cases {
        server.say(script);
        let error = office.pull().ask(at("2026-03-03"), true).await.unwrap_err();
        let told = format!("{error:#}");
        assert!(told.starts_with(expected), "{told}\nnot {expected}");
        assert_eq!(office.mark().await, mark, "{expected}");
        assert_eq!(office.people().await, ["1 Sales"], "{expected}");
    }
}

#[tokio::test]
async fn a_page_that_comes_twice_says_nothing_new() {
    let server = Server::start(
        |request| match parameter(request, "$skiptoken").as_deref() {
            None => odata(
                &[job("1", "2026-01-01", 1, "Sales")],
                Some("?$skiptoken=a".to_owned()),
            ),
            Some("a") => odata(
                &[job("1", "2026-01-01", 1, "Sales")],
                Some("?$skiptoken=b".to_owned()),
            ),
            Some(_) => odata(&[job("2", "2026-01-01", 1, "IT")], None),
        },
    )
    .await;
    let office = Office::open(&successfactors(&server.url)).await;
    office.ask("2026-03-01").await.unwrap();
    assert_eq!(office.people().await, ["1 Sales", "2 IT"]);
}

#[tokio::test]
async fn changes_are_asked_for_by_the_clock_of_the_server() {
    let server = Server::start(|_| {
        let mut response = odata(&[job("1", "2026-01-01", 1, "Sales")], None);
        let date = "Sun, 01 Mar 2026 03:00:00 GMT".parse().unwrap();
        response.headers_mut().insert("date", date);
        response
    })
    .await;
    let office = Office::open(&successfactors(&server.url)).await;
    // Our clock is three hours ahead of it.
    office.ask("2026-03-01T06:00:00Z").await.unwrap();
    assert_eq!(
        office.mark().await.unwrap()["changed_since"],
        "2026-03-01T02:55:00Z"
    );
}

#[tokio::test]
async fn a_token_is_renewed_and_a_server_that_wants_it_slower_is_asked_slower() {
    let times = std::sync::atomic::AtomicU32::new(0);
    let tokens = std::sync::atomic::AtomicU32::new(0);
    let order = std::sync::atomic::Ordering::SeqCst;
    let server = Server::start(move |request| {
        if request.uri().path() == "/token" {
            let basic = request.headers()["authorization"].to_str().unwrap();
            assert_eq!(basic, "Basic dGVudXJlOnMzY3JldA==");
            let number = tokens.fetch_add(1, order);
            return answer(&json!({ "access_token": format!("t{number}"), "token_type": "bearer" }));
        }
        let bearer = request.headers()["authorization"].to_str().unwrap().to_owned();
        match times.fetch_add(1, order) {
            0 => {
                assert_eq!(bearer, "Bearer t0");
                axum::http::StatusCode::UNAUTHORIZED.into_response()
            }
            1 => {
                assert_eq!(bearer, "Bearer t1");
                let status = axum::http::StatusCode::TOO_MANY_REQUESTS;
                (status, [("retry-after", "0")]).into_response()
            }
            _ => answer(&json!({ "Report_Entry": [
                { "userId": "1", "emplStatus": "A", "startDate": "2026-01-01", "department": "Sales" },
                { "userId": "2", "emplStatus": "A", "startDate": "2026-01-01", "department": "IT" },
            ] })),
        }
    })
    .await;
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "s3cret").unwrap();
    let pull = format!(
        "api: workday_report\nurl: {0}/ccx/service/customreport2/acme/isu/Workers\nevery: 1h\n\
         auth: {{ oauth2: {{ token_url: \"{0}/token\", client_id: tenure, client_secret: \"file:{1}\", scope: workers }} }}",
        server.url,
        secret.display()
    );
    let office = Office::open(&pull).await;
    let report = office.ask("2026-03-01").await.unwrap().unwrap();
    assert!(report.complete && report.created == 2);
    assert!(
        server
            .asked()
            .iter()
            .any(|uri| uri.ends_with("Workers?format=json"))
    );
}

#[tokio::test]
async fn pages_by_offset_have_to_add_up() {
    let row = |number: u64| json!({ "id": number, "department": { "name": "Sales" } });
    let server = Server::start(move |request| {
        let offset: u64 = parameter(request, "offset").unwrap().parse().unwrap();
        let rows: Vec<Value> = (offset..(offset + 100).min(250)).map(row).collect();
        answer(&json!({ "data": rows, "total": 250 }))
    })
    .await;
    let columns = "key: id\ntime_zone: UTC\ncolumns: { department: department.name }\n";
    let pull = format!("api: workday_rest\nurl: {}/workers\nevery: 1h", server.url);
    let office = Office::with(&pull, columns).await;
    let report = office.ask("2026-03-01").await.unwrap().unwrap();
    assert_eq!((report.complete, report.created), (true, 250));
    assert_eq!(server.asked().len(), 3);
    assert_eq!(office.people().await[0], "0 Sales");
    // One page is delivered twice, and another not at all.
    server.say(move |request| {
        let offset: u64 = parameter(request, "offset").unwrap().parse().unwrap();
        let from = if offset == 100 { 0 } else { offset };
        let rows: Vec<Value> = (from..(from + 100).min(250)).map(row).collect();
        answer(&json!({ "data": rows, "total": 250 }))
    });
    let error = office.ask("2026-03-02").await.unwrap_err().to_string();
    assert_eq!(
        error,
        "150 different rows came, and the server says that there are 250"
    );
    assert_eq!(office.people().await.len(), 250);
}

#[tokio::test]
async fn hints_are_gathered_and_fetched_and_never_believed() {
    let server = Server::start(|request| match request.uri().path() {
        "/employees" => answer(
            &json!([{ "id": "7", "department": "Sales" }, { "id": "8", "department": "IT" }]),
        ),
        "/employees/7" => answer(&json!({ "data": { "id": "7", "department": "Board" } })),
        "/employees/a%2Fb%3F" => answer(&json!({ "data": { "id": "a/b?", "department": "IT" } })),
        "/employees/9" => axum::http::StatusCode::NOT_FOUND.into_response(),
        other => panic!("{other}"),
    })
    .await;
    let pull = format!(
        "api: rest\nurl: {0}/employees\nevery: 7d\n\
         hints: {{ shape: bamboohr, secret: env:TENURE_NOT_READ, record: \"{0}/employees/{{id}}\", record_row: /data }}",
        server.url
    );
    let columns = "key: id\ntime_zone: UTC\ncolumns: { department: department }\n";
    let office = Office::with(&pull, columns).await;
    office.ask("2026-03-01T10:00:00Z").await.unwrap();
    assert_eq!(office.people().await, ["7 Sales", "8 IT"]);
    server.asked();
    let hint = async |ids: &[&str], time: &str| {
        let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        office
            .database
            .directory
            .put_hints("hr", &ids, at(time))
            .await
            .unwrap();
    };
    for second in 0..4 {
        hint(&["7", "9"], &format!("2026-03-01T11:00:0{second}Z")).await;
    }
    hint(&["a/b?"], "2026-03-01T11:00:00Z").await;
    let follow = async |time: &str| office.pull().follow_hints(at(time)).await;
    // They are gathered for five seconds from the first one on.
    assert!(follow("2026-03-01T11:00:04Z").await.unwrap().is_none());
    assert!(server.asked().is_empty());
    let report = follow("2026-03-01T11:00:06Z").await.unwrap().unwrap();
    assert!(!report.complete);
    let mut asked = server.asked();
    asked.sort();
    assert_eq!(
        asked,
        ["/employees/7", "/employees/9", "/employees/a%2Fb%3F"]
    );
    assert_eq!(office.people().await, ["7 Board", "8 IT", "a/b? IT"]);
    assert!(follow("2026-03-01T12:00:00Z").await.unwrap().is_none());
    // The server is away: the hint stays.
    server.say(|_| axum::http::StatusCode::BAD_GATEWAY.into_response());
    hint(&["7"], "2026-03-01T13:00:00Z").await;
    follow("2026-03-01T13:01:00Z").await.unwrap_err();
    server.say(|_| answer(&json!({ "data": { "id": "7", "department": "Sales" } })));
    follow("2026-03-01T13:02:00Z").await.unwrap().unwrap();
    assert_eq!(office.people().await[0], "7 Sales");
}

#[tokio::test]
async fn mistakes_in_the_file_are_told() {
    let check = |pull: &str, expected: &str| {
        let text = format!("name: hr\nkind: pull\n{pull}\n{COMMON}");
        let error = Source::load("hr.yaml", &text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check("", "nothing says whom to ask");
    check(
        "pull: { api: rest, url: ftp://x, every: 1h }",
        "`url` is `ftp://x`",
    );
    check(
        "pull: { api: rest, url: https://x, every: 1s }",
        "`every` is 1s",
    );
    check(
        "pull: { api: rest, url: https://x, every: 1h, full_every: 1d }",
        "`full_every` has no meaning",
    );
    check(
        "pull: { api: rest, url: https://x, every: 1h, rows: data }",
        "`data` is no JSON pointer",
    );
    check(
        "pull: { api: rest, url: https://x, every: 1h, page: {} }",
        "`page` says not exactly one way",
    );
    let hints = |hints: &str| {
        format!("pull: {{ api: rest, url: https://x, every: 1h, hints: {{ {hints} }} }}")
    };
    check(
        &hints("shape: gusto, secret: env:X, record: https://x/y"),
        "`record` does not say where the person is named",
    );
    check(
        &hints("shape: personio, secret: env:X, record: 'https://x/{id}'"),
        "nothing says which header holds the signature",
    );
    check(
        &hints("shape: declared, header: h, secret: env:X, record: 'https://x/{id}'"),
        "nothing says where a hint names the person",
    );
    check(
        "complete: true\npull: { api: rest, url: https://x, every: 1h }",
        "comes in no file",
    );
    let text = format!(
        "name: hr\nkind: pull\npull: {{ api: rest, url: 'http://hr.example/x', every: 1h }}\n{COMMON}"
    );
    let source = Arc::new(Source::load("hr.yaml", &text).unwrap());
    let error = check_all(&source).unwrap_err();
    assert!(
        error.contains("without TLS somebody on the way could read"),
        "{error}"
    );
}

fn check_all(source: &Arc<Source>) -> Result<(), String> {
    let sources = BTreeMap::from([("hr".to_owned(), Arc::clone(source))]);
    super::check(&sources).map_err(|error| format!("{error:#}"))
}
