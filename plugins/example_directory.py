#!/usr/bin/env python3
"""A small account directory in an SQLite file, as a plugin for Tenure's `exec` connector.

It is an example, and it is complete: every call of the protocol (docs/exec-protocol.md) is here, in the
standard library only. Copy it, and replace the SQL by what your system understands.

    systems:
      - name: example
        kind: exec
        settings:
          command: [python3, plugins/example_directory.py]
          config:
            database: /var/lib/example/directory.db    # made when it is missing
            entitlements: [staff, admins]               # groups that exist; more can be added later
            page_size: 100                              # objects on one page of a listing

Three things are worth copying as they are:

* The whole of an operation is one transaction, so it happened or it did not. A crash in the middle leaves
  nothing half-done, and Tenure finds out by reading.
* Every operation looks first and answers `already_so` when there is nothing to do.
* An account keeps the owner key that Tenure gave it, in a unique column. A create whose answer was lost is
  found again by it, and one owner can never get two accounts.

Beside the protocol there is a way in for people, to see what a login really does:

    python3 example_directory.py login DATABASE NAME          password on standard input; exit 0 if it opens
    python3 example_directory.py login --stay DATABASE NAME   and leaves a session open
"""

import hashlib
import hmac
import json
import os
import sqlite3
import sys
import unicodedata

PROTOCOL = 1
NAME_BYTES_MAX = 200
PASSWORD_BYTES_MAX = 1024
CHANGES_MAX = 1000

CAPABILITIES = {
    "operations": [
        "create_account", "update_account", "enable_account", "disable_account", "delete_account",
        "grant", "revoke", "end_sessions", "set_password",
        "issue_credential", "activate_credential", "deactivate_credential", "destroy_credential",
        "transfer_ownership", "action",
    ],
    "claims": [
        "account_exists", "account_enabled", "account_disabled", "account_absent",
        "attributes_are", "granted", "not_granted", "no_sessions", "owns_nothing",
        "credential_inactive", "credential_active", "credential_issued", "credential_works", "credential_refused",
    ],
    "lists": ["account", "entitlement"],
    "changes": True,
    "dependents": True,
    "credentials": ["token"],
    # Tokens are made here and shown once, two to an account; a password is made elsewhere and set here.
    "issues": {
        "token": {"material": ["by_system"], "slots": 2},
        "password": {"material": ["secret"], "slots": 1},
    },
    "finds_by_owner": True,
}

SCHEMA = """
create table if not exists account (
    id         integer primary key autoincrement,  -- never used again after a deletion
    name       text    not null unique,
    owner      text    not null unique,            -- the key Tenure finds the account by
    enabled    integer not null,
    password   text,
    attributes text    not null
);
create table if not exists entitlement (name text primary key);
create table if not exists membership (
    account     integer not null references account (id) on delete cascade,
    entitlement text    not null references entitlement (name),
    primary key (account, entitlement)
);
create table if not exists session (
    id      integer primary key,
    account integer not null references account (id) on delete cascade
);
create table if not exists token (
    id      integer primary key autoincrement,
    account integer not null references account (id) on delete cascade,
    hash    text    not null unique,               -- of the token; nobody can read it back
    active  integer not null default 1,
    key     text                                    -- the idempotency key it was issued under
);
create table if not exists document (
    name  text    primary key,
    owner integer not null references account (id)
);
create table if not exists change (
    number  integer primary key autoincrement,
    account integer not null
);
"""


class Refused(Exception):
    """An error of the protocol: certain that nothing was changed."""

    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind


def text_of(value, what, bytes_max=1_000_000):
    if not isinstance(value, str) or not value:
        raise Refused("invalid", f"{what} must be a text that is not empty")
    if len(value.encode()) > bytes_max:
        raise Refused("invalid", f"{what} is longer than {bytes_max} bytes")
    if "\0" in value:
        raise Refused("invalid", f"{what} holds a NUL")
    return value


def name_of(value):
    name = text_of(value, "the account name", NAME_BYTES_MAX)
    # Two names that look the same must not be two accounts.
    if unicodedata.normalize("NFC", name) != name or name != name.strip() or not name.isprintable():
        raise Refused("invalid", "the account name is not printable, not normalised, or has spaces around it")
    return name


def row_id(native):
    """The key of a row, or one that no row has: an identifier that is not ours names nothing."""
    return int(native) if isinstance(native, str) and native.isascii() and native.isdigit() and len(native) < 18 else -1


def hashed(password):
    text_of(password, "the password", PASSWORD_BYTES_MAX)
    salt = os.urandom(16)
    return salt.hex() + ":" + hashlib.scrypt(password.encode(), salt=salt, n=2**12, r=8, p=1).hex()


def opens(stored, password):
    salt, expected = stored.split(":")
    given = hashlib.scrypt(password.encode(), salt=bytes.fromhex(salt), n=2**12, r=8, p=1).hex()
    return hmac.compare_digest(given, expected)


def open_database(path):
    database = sqlite3.connect(path, timeout=5, isolation_level=None)
    database.row_factory = sqlite3.Row
    database.execute("pragma foreign_keys = on")
    return database


class Directory:
    def __init__(self, config):
        self.page_size = int(config.get("page_size", 100))
        self.path = text_of(config.get("database"), "`config.database`")
        self.database = open_database(self.path)
        self.database.executescript(SCHEMA)
        for name in config.get("entitlements", []):
            self.database.execute("insert or ignore into entitlement values (?)", (name,))

    # Reading ------------------------------------------------------------------------------------------

    def row(self, column, value):
        return self.database.execute(f"select * from account where {column} = ?", (value,)).fetchone()

    def must_be_there(self, native):
        row = self.row("id", row_id(native))
        if row is None:
            raise Refused("not_found", f"there is no account {native!r}")
        return row

    def known(self, entitlement):
        row = self.database.execute("select name from entitlement where name = ?", (entitlement,)).fetchone()
        if row is None:
            raise Refused("not_found", f"there is no entitlement {entitlement!r}")
        return row["name"]

    def held_by(self, account):
        rows = self.database.execute("select entitlement from membership where account = ? order by 1", (account,))
        return [row["entitlement"] for row in rows]

    def as_object(self, row):
        return {
            "kind": "account",
            "id": str(row["id"]),
            "name": row["name"],
            "enabled": bool(row["enabled"]),
            "owner": row["owner"],
            "attributes": json.loads(row["attributes"]),
            "entitlements": self.held_by(row["id"]),
            "version": None,
        }

    def check(self, _):
        found = self.database.execute("pragma quick_check(1)").fetchone()[0]
        reach = {"what": "reach", "good": found == "ok", "detail": f"{self.path}: {found}"}
        if found != "ok":
            reach["fix"] = "restore the file from a backup"
        writable = os.access(self.path, os.W_OK)
        rights = {"what": "rights", "good": writable, "detail": "may write" if writable else "may not write"}
        if not writable:
            rights["fix"] = f"give the user that runs Tenure write access to {self.path}"
        return {"findings": [reach, rights]}

    def get(self, request):
        (how, what), = request["object"].items()
        if how == "entitlement":
            try:
                name = self.known(what)
            except Refused:
                return None
            return {"kind": "entitlement", "id": name, "name": name}
        if how == "account":
            row = self.row("id", row_id(what))
        else:
            row = self.row({"account_named": "name", "account_owned_by": "owner"}[how], what)
        return None if row is None else self.as_object(row)

    def list(self, request):
        after = request.get("after")
        if request["kind"] == "entitlement":
            rows = self.database.execute(
                "select name from entitlement where name > ? order by name limit ?", (after or "", self.page_size + 1)
            ).fetchall()
            items = [{"kind": "entitlement", "id": row["name"], "name": row["name"]} for row in rows]
            cursor = rows[self.page_size - 1]["name"] if len(rows) > self.page_size else None
        else:
            rows = self.database.execute(
                "select * from account where id > ? order by id limit ?", (int(after or 0), self.page_size + 1)
            ).fetchall()
            items = [self.as_object(row) for row in rows[: self.page_size]]
            cursor = str(rows[self.page_size - 1]["id"]) if len(rows) > self.page_size else None
        return {"items": items[: self.page_size], "next": cursor, "complete": cursor is None}

    def changes(self, request):
        newest = self.database.execute("select coalesce(max(number), 0) from change").fetchone()[0]
        if request.get("after") is None:
            return {"items": [], "deleted": [], "next": str(newest), "gap": False}
        after = int(request["after"])
        oldest = self.database.execute("select coalesce(min(number), 1) from change").fetchone()[0]
        rows = self.database.execute(
            "select number, account from change where number > ? order by number limit ?", (after, self.page_size)
        ).fetchall()
        items, deleted = [], []
        for account in dict.fromkeys(row["account"] for row in rows):
            row = self.row("id", account)
            if row is None:
                deleted.append(str(account))
            else:
                items.append(self.as_object(row))
        reached = rows[-1]["number"] if rows else newest
        return {"items": items, "deleted": deleted, "next": str(reached), "gap": after + 1 < oldest}

    def dependents(self, request):
        found = self.get(request)
        if found is None:
            raise Refused("not_found", "there is no such object")
        if found["kind"] == "account":
            rows = self.database.execute("select name from document where owner = ?", (row_id(found["id"]),))
            uses = [{"by": row["name"], "what": "document", "last_seen": None} for row in rows]
        else:
            rows = self.database.execute(
                "select a.name from membership m join account a on a.id = m.account where m.entitlement = ?",
                (found["name"],),
            )
            uses = [{"by": row["name"], "what": "member", "last_seen": None} for row in rows]
        return {"uses": uses, "blind_spots": ["programs that read the database file themselves"]}

    def credentials(self, request):
        rows = self.database.execute(
            "select * from token where account = ? order by id", (row_id(request["account"]),)
        )
        listed = [{"id": str(row["id"]), "kind": "token", "active": bool(row["active"])} for row in rows]
        return {"credentials": listed, "blind_spots": []}

    def token(self, operation):
        row = self.must_be_there(operation["account"])
        token = self.database.execute(
            "select * from token where account = ? and id = ?", (row["id"], row_id(operation["credential"]))
        ).fetchone()
        return row["id"], token

    def verify(self, request):
        claim = request["claim"]
        what = claim["claim"]
        if what == "account_exists":
            row = self.row("owner", claim["owner"])
            return self.verdict(row is not None, row, {"exists": row is not None})
        row = self.row("id", row_id(claim["account"]))
        if what == "account_absent":
            return self.verdict(row is None, row, {"exists": row is not None})
        if what in ("account_enabled", "account_disabled"):
            enabled = row is not None and bool(row["enabled"])
            return self.verdict(enabled == (what == "account_enabled"), row, {"enabled": enabled})
        if what in ("granted", "not_granted"):
            holds = row is not None and claim["entitlement"] in self.held_by(row["id"])
            return self.verdict(holds == (what == "granted"), row, {"granted": holds})
        if what == "attributes_are":
            held = json.loads(row["attributes"]) if row is not None else {}
            # A null says "not set"; an account that does not exist has no attributes at all.
            differ = sorted(name for name, value in claim["attributes"].items() if held.get(name) != value)
            return self.verdict(row is not None and not differ, row, {"differing": differ})
        if what == "no_sessions":
            sessions = 0
            if row is not None:
                sessions = self.database.execute(
                    "select count(*) from session where account = ?", (row["id"],)
                ).fetchone()[0]
            return self.verdict(sessions == 0, row, {"sessions": sessions})
        if what == "credential_inactive":
            active = row is not None and self.database.execute(
                "select 1 from token where account = ? and id = ? and active", (row["id"], row_id(claim["credential"]))
            ).fetchone()
            return self.verdict(not active, row, {"active": bool(active)})
        if what == "credential_active":
            active = row is not None and self.database.execute(
                "select 1 from token where account = ? and id = ? and active", (row["id"], row_id(claim["credential"]))
            ).fetchone()
            return self.verdict(bool(active), row, {"active": bool(active)})
        if what == "credential_issued":
            token = None if row is None else self.issued(row["id"], claim["key"])
            seen = {} if token is None else {"credential": {"id": str(token["id"]), "kind": "token"}}
            return self.verdict(token is not None, row, seen)
        if what in ("credential_works", "credential_refused"):
            works = row is not None and self.lets_in(row, claim["credential"], claim["secret"])
            return self.verdict(works == (what == "credential_works"), row, {"let_in": works})
        if what == "owns_nothing":
            owned = 0
            if row is not None:
                owned = self.database.execute(
                    "select count(*) from document where owner = ?", (row["id"],)
                ).fetchone()[0]
            return self.verdict(owned == 0, row, {"documents": owned})
        raise Refused("unsupported", f"there is no claim {what!r}")

    def issued(self, account, key):
        return self.database.execute("select * from token where account = ? and key = ?", (account, key)).fetchone()

    def lets_in(self, row, credential, secret):
        """Tries it, as the front door does."""
        if credential == "password":
            return bool(row["enabled"]) and row["password"] is not None and opens(row["password"], secret)
        token = self.database.execute(
            "select * from token where account = ? and id = ? and active", (row["id"], row_id(credential))
        ).fetchone()
        given = hashlib.sha256(secret.encode()).hexdigest()
        return token is not None and hmac.compare_digest(token["hash"], given)

    @staticmethod
    def verdict(holds, row, seen):
        return {
            "verdict": "proven" if holds else "refuted",
            "by": "select from account",
            "account": None if row is None else str(row["id"]),
            "seen": seen,
        }

    # Changing -----------------------------------------------------------------------------------------

    def apply(self, request):
        operation = request["operation"]
        self.key, self.issue = request["key"]["idempotency"], None
        change = getattr(self, "op_" + operation["op"], None)
        if change is None:
            raise Refused("unsupported", f"there is no operation {operation['op']!r}")
        self.database.execute("begin immediate")
        try:
            account, done = change(operation)
            if done and account is not None:
                self.database.execute("insert into change (account) values (?)", (account,))
                self.database.execute(
                    "delete from change where number <= (select max(number) from change) - ?", (CHANGES_MAX,)
                )
            self.database.execute("commit")
        except BaseException:
            if self.database.in_transaction:
                self.database.execute("rollback")
            raise
        receipt = {"account": None if account is None else str(account)}
        answer = {"outcome": "done" if done else "already_so", "receipt": receipt}
        if self.issue is not None:
            # Receipts become evidence: what is secret stands beside them, in `minted`, and nowhere else.
            receipt["credential"] = self.issue["receipt"]
            answer["minted"] = self.issue["minted"]
        return answer

    def op_create_account(self, operation):
        name, owner = name_of(operation["name"]), text_of(operation["owner"], "the owner")
        row = self.row("owner", owner)
        if row is not None:
            return row["id"], False
        if self.row("name", name) is not None:
            raise Refused("conflict", f"the name {name!r} belongs to somebody else")
        password = operation.get("password")
        cursor = self.database.execute(
            "insert into account (name, owner, enabled, password, attributes) values (?, ?, ?, ?, ?)",
            (
                name,
                owner,
                bool(operation["enabled"]),
                None if password is None else hashed(password),
                json.dumps(without_nulls(operation["attributes"])),
            ),
        )
        return cursor.lastrowid, True

    def op_update_account(self, operation):
        row = self.must_be_there(operation["account"])
        before = json.loads(row["attributes"])
        after = without_nulls({**before, **operation["attributes"]})
        self.database.execute("update account set attributes = ? where id = ?", (json.dumps(after), row["id"]))
        return row["id"], before != after

    def switch(self, operation, enabled):
        row = self.must_be_there(operation["account"])
        self.database.execute("update account set enabled = ? where id = ?", (enabled, row["id"]))
        return row["id"], bool(row["enabled"]) != enabled

    def op_enable_account(self, operation):
        return self.switch(operation, True)

    def op_disable_account(self, operation):
        return self.switch(operation, False)

    def op_delete_account(self, operation):
        account = row_id(operation["account"])
        if self.database.execute("select 1 from document where owner = ?", (account,)).fetchone():
            raise Refused("invalid", "the account owns documents; transfer them first")
        gone = self.database.execute("delete from account where id = ?", (account,)).rowcount
        return (account if gone else None), gone > 0

    def op_grant(self, operation):
        row, entitlement = self.must_be_there(operation["account"]), self.known(operation["entitlement"])
        made = self.database.execute(
            "insert or ignore into membership values (?, ?)", (row["id"], entitlement)
        ).rowcount
        return row["id"], made > 0

    def op_revoke(self, operation):
        row, entitlement = self.must_be_there(operation["account"]), self.known(operation["entitlement"])
        gone = self.database.execute(
            "delete from membership where account = ? and entitlement = ?", (row["id"], entitlement)
        ).rowcount
        return row["id"], gone > 0

    def op_end_sessions(self, operation):
        row = self.must_be_there(operation["account"])
        gone = self.database.execute("delete from session where account = ?", (row["id"],)).rowcount
        return row["id"], gone > 0

    def op_set_password(self, operation):
        row = self.must_be_there(operation["account"])
        if row["password"] is not None and opens(row["password"], operation["password"]):
            return row["id"], False
        stored = hashed(operation["password"])
        self.database.execute("update account set password = ? where id = ?", (stored, row["id"]))
        return row["id"], True

    def op_issue_credential(self, operation):
        row = self.must_be_there(operation["account"])
        kind, material = operation["kind"], operation["material"]
        if kind == "password" and isinstance(material, dict) and "secret" in material:
            self.issue = {"receipt": {"id": "password", "kind": "password"}, "minted": None}
            return self.op_set_password({"account": operation["account"], "password": material["secret"]})
        if kind != "token" or material != "by_system":
            raise Refused("unsupported", f"there is no {kind!r} to be issued this way")
        token = self.issued(row["id"], self.key)
        if token is not None:
            # It cannot be shown again: only its hash is here.
            self.issue = {"receipt": {"id": str(token["id"]), "kind": "token"}, "minted": {"secret": None}}
            return row["id"], False
        count = self.database.execute(
            "select count(*) from token where account = ? and key is not null", (row["id"],)
        ).fetchone()[0]
        if count >= 2:
            raise Refused("full", "the account has two tokens; end one of them first")
        secret = os.urandom(32).hex()
        made = self.database.execute(
            "insert into token (account, hash, key) values (?, ?, ?)",
            (row["id"], hashlib.sha256(secret.encode()).hexdigest(), self.key),
        ).lastrowid
        self.issue = {"receipt": {"id": str(made), "kind": "token"}, "minted": {"secret": secret}}
        return row["id"], True

    def op_activate_credential(self, operation):
        account, token = self.token(operation)
        if token is None:
            raise Refused("not_found", "the account has no such token")
        if token["active"]:
            return account, False
        self.database.execute("update token set active = 1 where id = ?", (token["id"],))
        return account, True

    def op_deactivate_credential(self, operation):
        account, token = self.token(operation)
        if token is None or not token["active"]:
            return account, False
        self.database.execute("update token set active = 0 where id = ?", (token["id"],))
        return account, True

    def op_destroy_credential(self, operation):
        account, token = self.token(operation)
        if token is None:
            return account, False
        self.database.execute("delete from token where id = ?", (token["id"],))
        return account, True

    def op_transfer_ownership(self, operation):
        source, target = self.must_be_there(operation["from"]), self.must_be_there(operation["to"])
        if source["id"] == target["id"]:
            return source["id"], False
        moved = self.database.execute(
            "update document set owner = ? where owner = ?", (target["id"], source["id"])
        ).rowcount
        return source["id"], moved > 0

    def op_action(self, operation):
        """`add_document` with `{"name": ..., "account": ...}`, and `add_token` with `{"account": ...}`."""
        if operation["action"] == "add_token":
            row = self.must_be_there(operation["with"].get("account"))
            # Told to nobody: a token that is handed out this way would stand in a case for ever.
            secret = hashlib.sha256(os.urandom(32)).hexdigest()
            self.database.execute("insert into token (account, hash) values (?, ?)", (row["id"], secret))
            return row["id"], True
        if operation["action"] != "add_document":
            raise Refused("unsupported", f"there is no action {operation['action']!r}")
        row = self.must_be_there(operation["with"].get("account"))
        name = text_of(operation["with"].get("name"), "the document's name")
        made = self.database.execute("insert or ignore into document values (?, ?)", (name, row["id"])).rowcount
        return row["id"], made > 0


def without_nulls(attributes):
    """A null removes an attribute."""
    return {name: value for name, value in attributes.items() if value is not None}


# The protocol -----------------------------------------------------------------------------------------


class Plugin:
    def __init__(self):
        self.config = None
        self.directory = None

    def answer(self, request):
        call = request["call"]
        if call == "hello":
            # Says what it can do and opens nothing: a system that is away is no reason not to greet.
            self.config = request.get("config") or {}
            return {
                "protocol": PROTOCOL,
                "name": "example_directory",
                "version": "1.0",
                "concurrent": False,
                "capabilities": CAPABILITIES,
            }
        if self.config is None:
            raise Refused("bug", "the first call must be hello")
        if call not in ("check", "list", "get", "changes", "apply", "verify", "credentials", "dependents"):
            raise Refused("unsupported", f"there is no call {call!r}")
        if self.directory is None:
            try:
                self.directory = Directory(self.config)
            except sqlite3.Error as error:
                if call == "check":
                    fix = "correct `config.database`: a file that this user may write, or make"
                    return {"findings": [{"what": "reach", "good": False, "detail": str(error), "fix": fix}]}
                raise Refused("unreachable", f"cannot open the database: {error}") from error
        return getattr(self.directory, call)(request)

    def respond(self, request):
        try:
            return {"ok": self.answer(request)}
        except Refused as refused:
            return {"error": {"kind": refused.kind, "message": str(refused)}}
        except sqlite3.OperationalError as error:
            # Locked, full, read only: our transaction was rolled back, so nothing was changed.
            return {"error": {"kind": "transient", "message": str(error)}}
        except (KeyError, TypeError, ValueError) as error:
            return {"error": {"kind": "invalid", "message": f"{type(error).__name__}: {error}"}}


def serve():
    plugin = Plugin()
    # Bytes in, bytes out: the protocol is UTF-8 wherever this runs.
    for line in sys.stdin.buffer:
        request = json.loads(line)
        reply = {"id": request["id"], **plugin.respond(request)}
        sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n")
        sys.stdout.buffer.flush()


def login(arguments):
    stay = "--stay" in arguments
    path, name = [argument for argument in arguments if argument != "--stay"]
    database = open_database(path)
    row = database.execute("select * from account where name = ?", (name,)).fetchone()
    password = sys.stdin.readline().rstrip("\n")
    if row is None or not row["enabled"] or row["password"] is None or not opens(row["password"], password):
        print("refused")
        return 1
    if stay:
        database.execute("insert into session (account) values (?)", (row["id"],))
    print("welcome")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["login"]:
        sys.exit(login(sys.argv[2:]))
    serve()
