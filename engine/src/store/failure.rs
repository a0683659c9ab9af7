//! Which errors of a driver are worth repeating.

use sqlx::error::DatabaseError;
use sqlx::postgres::PgDatabaseError;
use sqlx::sqlite::SqliteError;

use super::StoreError;

/// What an error of the driver means here.
pub(super) fn from_driver(error: sqlx::Error) -> StoreError {
    match &error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::BeginFailed => StoreError::Unavailable(error),
        sqlx::Error::Database(database) if is_away(database.as_ref()) => {
            StoreError::Unavailable(error)
        }
        // The rest are answers, and `sqlx::Error` may get more kinds.
        _ => StoreError::Refused(error),
    }
}

/// Whether the database, not the statement, is at fault, so that the same statement may work later.
fn is_away(error: &dyn DatabaseError) -> bool {
    let Some(code) = error.code() else {
        return false;
    };
    if error.try_downcast_ref::<PgDatabaseError>().is_some() {
        return postgres_is_away(&code);
    }
    error.try_downcast_ref::<SqliteError>().is_some() && code.parse().is_ok_and(sqlite_is_away)
}

/// SQLSTATE: <https://www.postgresql.org/docs/current/errcodes-appendix.html>.
fn postgres_is_away(code: &str) -> bool {
    const CLASSES: [&str; 4] = [
        "08", // connection exception
        "40", // transaction rollback: serialization failure, deadlock
        "53", // insufficient resources: disk full, out of memory, too many connections
        "58", // system error: I/O
    ];
    const CODES: [&str; 8] = [
        "25006", // read-only transaction: this is a standby, or became one
        "25P03", // idle in transaction for too long
        "55P03", // lock not available
        "57014", // statement timeout
        "57P01", // admin shutdown
        "57P02", // crash shutdown
        "57P03", // cannot connect now
        "57P05", // idle session timeout
    ];
    CODES.contains(&code) || CLASSES.iter().any(|class| code.starts_with(class))
}

/// Result codes: <https://www.sqlite.org/rescode.html>; the low byte is the primary one.
fn sqlite_is_away(code: i32) -> bool {
    const BUSY: i32 = 5;
    const LOCKED: i32 = 6;
    const NO_MEMORY: i32 = 7;
    const INTERRUPT: i32 = 9;
    const IO_ERROR: i32 = 10;
    const FULL: i32 = 13;
    const CANNOT_OPEN: i32 = 14;
    const PROTOCOL: i32 = 15;
    matches!(
        code & 0xff,
        BUSY | LOCKED | NO_MEMORY | INTERRUPT | IO_ERROR | FULL | CANNOT_OPEN | PROTOCOL
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_goes_away_is_not_a_refusal() {
        for code in ["57P01", "08006", "53100", "40P01", "25006", "58030"] {
            assert!(postgres_is_away(code), "{code}");
        }
        for code in ["23505", "42P01", "22012", "28P01", "57000", "25001"] {
            assert!(!postgres_is_away(code), "{code}");
        }
    }

    #[test]
    fn extended_codes_of_sqlite_count_as_their_primary_code() {
        // SQLITE_BUSY_SNAPSHOT, SQLITE_IOERR_FSYNC, SQLITE_FULL.
        for code in [517, 1034, 13] {
            assert!(sqlite_is_away(code), "{code}");
        }
        // SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_READONLY, SQLITE_NOTADB.
        for code in [1555, 8, 26] {
            assert!(!sqlite_is_away(code), "{code}");
        }
    }
}
