//! Whether what a file says about a query makes sense.

use serde_saphyr::Spanned;

use super::checking::Checking;
use crate::sources::config::{ManifestRule, Presence, SourceConfig};
use crate::sources::hint::{HintShape, HintsConfig};
use crate::sources::pull::{PAGE_ROWS_MAX, PullConfig};
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

    pub(super) fn check_pulled(&mut self, config: &SourceConfig) {
        let file = config.format.is_some()
            || config.delimiter.is_some()
            || config.as_of_file_name.is_some()
            || config.complete
            || config.manifest != ManifestRule::default()
            || config.final_newline != Presence::default();
        if file {
            self.problem(
                &config.name,
                "what an API answers comes in no file, and the API says whether it is everybody",
                "remove `format`, `delimiter`, `as_of_file_name`, `complete`, `manifest` and `final_newline`",
            );
        }
        if let Some(token) = config.tokens.first() {
            self.problem(
                token,
                "`tokens` has no meaning for a source that is pulled",
                "set `kind: scim`, or remove it",
            );
        }
        match &config.pull {
            Some(pull) => self.check_pull(pull),
            None => self.problem(
                &config.name,
                "nothing says whom to ask",
                "add `pull:` with `api`, `url` and `every`",
            ),
        }
    }

    pub(super) fn check_pull(&mut self, pull: &PullConfig) {
        if !(pull.url.value.starts_with("https://") || pull.url.value.starts_with("http://")) {
            self.problem(
                &pull.url,
                format!("`url` is `{}`", pull.url.value),
                "write `https://HOST/PATH`",
            );
        }
        if !EVERY_MS.contains(&pull.every.value.ms()) {
            let what = format!("`every` is {}", pull.every.value);
            self.problem(&pull.every, what, "give `10s` to `7d`");
        }
        if let Some(full) = &pull.full_every {
            if !pull.tells_changes() {
                self.problem(
                    full,
                    "`full_every` has no meaning where everybody is asked for each time",
                    "remove it; `every` says how often",
                );
            } else if full.value.ms() < pull.every.value.ms() {
                let what = format!("`full_every` is {}, less than `every`", full.value);
                self.problem(full, what, "give at least as much");
            }
        }
        if let Some(timeout) = &pull.timeout
            && !TIMEOUT_MS.contains(&timeout.value.ms())
        {
            let what = format!("`timeout` is {}", timeout.value);
            self.problem(timeout, what, "give `1s` to `10m`");
        }
        if let Some(page) = &pull.page {
            let ways = usize::from(page.next.is_some()) + usize::from(page.offset.is_some());
            if ways != 1 {
                self.problem(
                    &pull.url,
                    "`page` says not exactly one way to the next page",
                    "give `next` or `offset`",
                );
            }
            if !(1..=PAGE_ROWS_MAX).contains(&page.limit) {
                let what = format!("`page.limit` is {}", page.limit);
                self.problem(&pull.url, what, format!("give 1 to {PAGE_ROWS_MAX}"));
            }
        }
        let pointers = [
            pull.rows.as_ref(),
            pull.page.as_ref().and_then(|page| page.next.as_ref()),
            pull.page.as_ref().and_then(|page| page.total.as_ref()),
            pull.hints.as_ref().map(|hints| &hints.record_row),
        ];
        let wrong = |pointer: &&String| !pointer.is_empty() && !pointer.starts_with('/');
        for pointer in pointers.into_iter().flatten().filter(wrong) {
            self.problem(
                &pull.url,
                format!("`{pointer}` is no JSON pointer"),
                "begin it with `/`, as `/data`",
            );
        }
        if let Some(hints) = &pull.hints {
            self.check_hints(hints);
        }
    }

    fn check_hints(&mut self, hints: &HintsConfig) {
        if !hints.record.value.contains("{id}") {
            self.problem(
                &hints.record,
                "`record` does not say where the person is named",
                "write `{id}` in it, as `https://HOST/employees/{id}`",
            );
        }
        if hints.signed().is_none() {
            self.problem(
                &hints.shape,
                "nothing says which header holds the signature",
                "give `header`, and `algorithm` and `encoding` when they are not `sha256` and `hex`",
            );
        }
        if hints.shape.value == HintShape::Declared && hints.ids.is_empty() {
            self.problem(
                &hints.shape,
                "nothing says where a hint names the person",
                "give `ids`, as `[\"/data/employee/id\"]`",
            );
        }
        if let Some(coalesce) = &hints.coalesce
            && !(0..=600_000).contains(&coalesce.value.ms())
        {
            let what = format!("`coalesce` is {}", coalesce.value);
            self.problem(coalesce, what, "give `0s` to `10m`");
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
