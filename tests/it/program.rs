//! The program as it is shipped: an installation of its own, called and served.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use sqlx::{Connection as _, PgConnection};

const STORE_URL: &str = "TENURE_LAB_POSTGRES_STORE_URL";

/// A folder, and the store that the program in it uses: a file there, or a schema of its own on the server of the lab.
pub struct Installation {
    folder: tempfile::TempDir,
    pub store: String,
    /// The schema to be dropped in the end, and where.
    schema: Option<(String, String)>,
}

/// The program, serving. Dropping it kills it.
pub struct Node {
    pub process: Child,
    pub address: String,
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Installation {
    pub fn on_sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = format!("sqlite:{}", folder.path().join("t.db").display());
        Self {
            folder,
            store,
            schema: None,
        }
    }

    pub async fn on_postgres() -> Self {
        let base = std::env::var(STORE_URL).unwrap_or_else(|_| {
            panic!(
                "`{STORE_URL}` is not set: run `tests/lab/postgres.sh start DIR`, then `. DIR/env`"
            )
        });
        let schema = format!("it_{}", uuid::Uuid::new_v4().simple());
        execute(&base, &format!("CREATE SCHEMA {schema}")).await;
        Self {
            folder: tempfile::tempdir().unwrap(),
            store: format!("{base}?options=-csearch_path%3D{schema}"),
            schema: Some((base, schema)),
        }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn config(&self) -> PathBuf {
        self.folder.path().join("tenure")
    }

    /// Writes a file of the configuration.
    pub fn write(&self, name: &str, text: &str) {
        let path = self.config().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tenure"));
        command
            .arg("--config")
            .arg(self.config())
            .arg("--json")
            .args(words)
            .env("TENURE_IT_STORE", &self.store)
            .env_remove("TENURE_STORE");
        command
    }

    pub fn call(&self, words: &[&str]) -> Value {
        let done = self.command(words).output().unwrap();
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.success(), "{words:?}: {told}");
        serde_json::from_slice(&done.stdout).unwrap()
    }

    pub fn serve(&self) -> Node {
        let mut process = self
            .command(&["serve", "--listen", "127.0.0.1:0"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let ready: Value = serde_json::from_str(&line).expect("the node is ready");
        Node {
            process,
            address: ready["listening"].as_str().unwrap().to_owned(),
        }
    }

    pub async fn drop(self) {
        if let Some((base, schema)) = &self.schema {
            execute(base, &format!("DROP SCHEMA {schema} CASCADE")).await;
        }
    }
}

async fn execute(url: &str, sql: &str) {
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
        .execute(&mut connection)
        .await
        .unwrap();
}
