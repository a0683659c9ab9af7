//! Whether what a file says about a query makes sense.

use serde_saphyr::Spanned;

use super::checking::Checking;
use crate::sources::query::{EVERY_MS, PostgresLogin, QueryConfig, TIMEOUT_MS};

impl Checking<'_> {
    pub(super) fn check_query(&mut self, query: &QueryConfig) {
        match (&query.postgres, &query.sqlite) {
            (Some(login), None) => self.check_login(login),
            (None, Some(path)) => {
                if path.value.as_os_str().is_empty() {
                    self.problem(path, "`sqlite` is empty", "name the file of the database");
                }
            }
            _ => self.problem(
                &query.sql,
                "a query asks one database",
                "give either `postgres` or `sqlite`",
            ),
        }
        if query.statement().is_empty() {
            self.problem(&query.sql, "`sql` is empty", "write one SELECT");
        }
        if !EVERY_MS.contains(&query.every.value.ms()) {
            let what = format!("`every` is {}", query.every.value);
            self.problem(&query.every, what, "give `10s` to `7d`");
        }
        if let Some(timeout) = &query.timeout
            && !TIMEOUT_MS.contains(&timeout.value.ms())
        {
            let what = format!("`timeout` is {}", timeout.value);
            self.problem(timeout, what, "give `1s` to `10m`");
        }
    }

    fn check_login(&mut self, login: &Spanned<PostgresLogin>) {
        let PostgresLogin {
            host,
            database,
            user,
            ..
        } = &login.value;
        for (name, value) in [("host", host), ("database", database), ("user", user)] {
            if value.is_empty() || value.contains('\0') {
                self.problem(
                    login,
                    format!("`{name}` is empty or holds a zero byte"),
                    "say where the database is, and who asks",
                );
            }
        }
        if login.value.is_open() {
            self.problem(
                login,
                "this `sslmode` lets somebody on the way read the login and the rows",
                "use `sslmode: verify-full` with `ca_file`, or set `allow_plaintext: true`",
            );
        }
    }
}
