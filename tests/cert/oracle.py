#!/usr/bin/env python3
"""Says whether three systems hold exactly what one month of the CERT company calls for.

Independent of the program it judges: it reads the month's CSV and a plain table (policy.csv), and asks every system
with that system's own client (ldapsearch, HTTP, psql). It shares no code and no configuration with the program.

    oracle.py MONTH.csv [--since YYYY-MM] [--systems directory,scim,database]

Leavers are the people of any earlier month in the folder of MONTH.csv, from --since on, who are not in MONTH.csv.

What has to be so, for each system:

- everybody of the month has exactly one account, found by the owner key, and it can log in;
- they hold every entitlement the table gives them and no other;
- the account of a leaver, if there is one, cannot log in and holds nothing the table gives;
- no other account can log in, and nobody unknown is in an entitlement.

Prints one JSON object; exits 0 when nothing differs, 1 when something does, 2 when a system could not be asked.

| system    | asked with | account of                                  | can log in unless             | environment |
|-----------|------------|---------------------------------------------|-------------------------------|-------------|
| directory | ldapsearch | employeeNumber                              | pwdAccountLockedTime is set   | TENURE_LAB_OPENLDAP_URL, _ADMIN_DN, _PASSWORD, _PEOPLE_BASE, _GROUP_BASE |
| scim      | HTTP       | externalId                                  | active is false               | TENURE_LAB_SCIM_URL, _TOKEN |
| database  | psql       | first line of COMMENT, `tenure:owner=<key>` | NOLOGIN                       | TENURE_LAB_POSTGRES_ADMIN_URL |
"""

import argparse
import base64
import csv
import json
import os
import pathlib
import subprocess
import sys
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
EXAMPLES_MAX = 20
TIMEOUT_SECONDS = 120
PAGE_SIZE = 500
PAGES_MAX = 10_000
SYSTEMS = ("directory", "scim", "database")


class CannotAsk(Exception):
    """A system did not answer; nothing is known about it."""


# What should be so.


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def holds(person, column, operator, value):
    cell = person[column]
    if operator == "any":
        return True
    if operator == "nonempty":
        return cell != ""
    if operator == "equals":
        return cell == value
    if operator == "prefix":
        return cell.startswith(value)
    raise SystemExit(f"policy.csv: unknown operator `{operator}`")


def wanted_by_table(people, table):
    """{system: {key: set of entitlements}}"""
    wanted = {system: {person["user_id"]: set() for person in people} for system in SYSTEMS}
    for line in table:
        for person in people:
            if not holds(person, line["column"], line["operator"], line["value"]):
                continue
            if line["and_column"] and not holds(
                person, line["and_column"], line["and_operator"], line["and_value"]
            ):
                continue
            wanted[line["system"]][person["user_id"]].add(line["entitlement"])
    return wanted


def keys_before(month, since):
    keys = set()
    for path in sorted(month.parent.glob("????-??.csv")):
        if since <= path.stem < month.stem:
            keys.update(person["user_id"] for person in read_csv(path))
    return keys


# What is so. Each asker returns (accounts, members, unclear):
#   accounts  list of {"name", "owner" or None, "enabled"}
#   members   {entitlement: set of account names}
#   unclear   members of entitlements that are no account we know, as text


def environment(name):
    value = os.environ.get(name)
    if not value:
        raise CannotAsk(f"{name} is not set; start the lab and read its `env` file")
    return value


def run(command, **more):
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, **more)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotAsk(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        raise CannotAsk(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def ldap_search(base, wanted_filter, attributes):
    """Entries as {lower-case attribute: [values]}, with their `dn`."""
    # The password goes by a descriptor: an argument can be seen by everybody on the machine.
    read_end, write_end = os.pipe()
    os.write(write_end, environment("TENURE_LAB_OPENLDAP_PASSWORD").encode())
    os.close(write_end)
    try:
        text = run(
            ["ldapsearch", "-x", "-LLL", "-o", "ldif-wrap=no", "-E", "pr=500/noprompt"]
            + ["-H", environment("TENURE_LAB_OPENLDAP_URL"), "-D", environment("TENURE_LAB_OPENLDAP_ADMIN_DN")]
            + ["-y", f"/dev/fd/{read_end}", "-b", base, wanted_filter, *attributes],
            pass_fds=(read_end,),
        )
    finally:
        os.close(read_end)
    entries, entry = [], {}
    for line in text.split("\n"):
        if not line:
            if "dn" in entry:
                entries.append(entry)
            entry = {}
        elif not line.startswith("#"):
            name, _, value = line.partition(":")
            if value.startswith(":"):
                value = base64.b64decode(value[1:].strip()).decode("utf-8")
            entry.setdefault(name.lower(), []).append(value.strip())
    return entries


def ask_directory():
    people_base = environment("TENURE_LAB_OPENLDAP_PEOPLE_BASE")
    group_base = environment("TENURE_LAB_OPENLDAP_GROUP_BASE")
    people = ldap_search(
        people_base,
        "(objectClass=inetOrgPerson)",
        ["uid", "employeeNumber", "pwdAccountLockedTime"],
    )
    accounts, names = [], {}
    for entry in people:
        dn = entry["dn"][0]
        names[dn.lower()] = dn
        accounts.append(
            {
                "name": dn,
                "owner": entry.get("employeenumber", [None])[0],
                "enabled": "pwdaccountlockedtime" not in entry,
            }
        )
    members, unclear = {}, []
    for group in ldap_search(group_base, "(objectClass=groupOfNames)", ["cn", "member"]):
        name = group["cn"][0]
        members[name] = set()
        for member in group.get("member", []):
            if member.lower() in names:
                members[name].add(names[member.lower()])
            # A group of OpenLDAP cannot be empty: what is not a person keeps it alive.
            elif member.lower().endswith(people_base.lower()):
                unclear.append(f"{name}: {member}")
    return accounts, members, unclear


def scim_list(resource):
    base, token = environment("TENURE_LAB_SCIM_URL"), environment("TENURE_LAB_SCIM_TOKEN")
    found, seen = [], set()
    for _ in range(PAGES_MAX):
        query = urllib.parse.urlencode({"startIndex": len(found) + 1, "count": PAGE_SIZE})
        request = urllib.request.Request(
            f"{base.rstrip('/')}/{resource}?{query}",
            headers={"Authorization": f"Bearer {token}", "Accept": "application/scim+json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
                page = json.load(response)
        except (OSError, ValueError) as error:
            raise CannotAsk(f"GET /{resource}: {error}") from error
        items = page.get("Resources", [])
        for item in items:
            if item["id"] in seen:
                raise CannotAsk(f"GET /{resource} gave `{item['id']}` on two pages")
            seen.add(item["id"])
        found.extend(items)
        if not items or len(found) >= page["totalResults"]:
            if len(found) != page["totalResults"]:
                raise CannotAsk(f"GET /{resource} gave {len(found)} of {page['totalResults']}")
            return found
    raise CannotAsk(f"GET /{resource}: more than {PAGES_MAX} pages")


def ask_scim():
    accounts, names = [], {}
    for user in scim_list("Users"):
        names[user["id"]] = user["userName"]
        accounts.append(
            {"name": user["userName"], "owner": user.get("externalId"), "enabled": user.get("active") is not False}
        )
    members, unclear = {}, []
    for group in scim_list("Groups"):
        name = group["displayName"]
        members.setdefault(name, set())
        for member in group.get("members") or []:
            if member["value"] in names:
                members[name].add(names[member["value"]])
            else:
                unclear.append(f"{name}: {member['value']}")
    return accounts, members, unclear


DATABASE_QUESTION = """
select json_build_object(
  'roles', (
    select coalesce(json_agg(json_build_object(
      'name', r.rolname, 'login', r.rolcanlogin, 'super', r.rolsuper or r.rolcreaterole,
      'comment', shobj_description(r.oid, 'pg_authid'))), '[]')
    from pg_roles r where r.rolname !~ '^pg_'),
  'members', (
    select coalesce(json_agg(json_build_object('role', g.rolname, 'member', m.rolname)), '[]')
    from pg_auth_members a
    join pg_roles g on g.oid = a.roleid
    join pg_roles m on m.oid = a.member
    where g.rolname !~ '^pg_'))
"""


def ask_database():
    url = environment("TENURE_LAB_POSTGRES_ADMIN_URL")
    split = urllib.parse.urlsplit(url)
    without_password = urllib.parse.urlunsplit(
        split._replace(netloc=f"{split.username}@{split.hostname}:{split.port or 5432}")
    )
    answer = json.loads(
        run(
            ["psql", "-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", without_password, "-c", DATABASE_QUESTION],
            env={**os.environ, "PGPASSWORD": urllib.parse.unquote(split.password or "")},
        )
    )
    accounts, administrators, entitlements = [], set(), {}
    for role in answer["roles"]:
        comment = (role["comment"] or "").split("\n")[0]
        if comment.startswith("tenure:owner="):
            owner = comment.removeprefix("tenure:owner=")
            accounts.append({"name": role["name"], "owner": owner, "enabled": role["login"]})
        elif role["super"]:
            administrators.add(role["name"])
        elif role["login"]:
            accounts.append({"name": role["name"], "owner": None, "enabled": True})
        else:
            entitlements[role["name"]] = set()
    names, unclear = {account["name"] for account in accounts}, []
    for pair in answer["members"]:
        if pair["member"] in names:
            entitlements.setdefault(pair["role"], set()).add(pair["member"])
        # Who makes a role may administer it (PostgreSQL 16 and later); that is no access of a person.
        elif pair["member"] not in administrators:
            unclear.append(f"{pair['role']}: {pair['member']}")
    return accounts, entitlements, unclear


ASKERS = {"directory": ask_directory, "scim": ask_scim, "database": ask_database}


# What differs.


def judge(wanted, leavers, given, accounts, members, unclear):
    """Differences of one system, as {kind: [text]}; `given` is every entitlement the table knows."""
    differences = {kind: [] for kind in ("missing", "excess", "live_leavers", "unexpected_enabled")}
    held = {}
    for entitlement, names in members.items():
        for name in names:
            held.setdefault(name, set()).add(entitlement)
    by_owner = {}
    for account in accounts:
        by_owner.setdefault(account["owner"], []).append(account)

    for key, entitlements in wanted.items():
        owned = by_owner.get(key, [])
        if not owned:
            differences["missing"].append(f"{key}: no account")
            continue
        for extra in owned[1:]:
            differences["excess"].append(f"{key}: a second account `{extra['name']}`")
        account = owned[0]
        if not account["enabled"]:
            differences["missing"].append(f"{key}: `{account['name']}` cannot log in")
        has = set().union(*(held.get(each["name"], set()) for each in owned))
        differences["missing"] += [f"{key}: {name}" for name in sorted(entitlements - has)]
        differences["excess"] += [f"{key}: {name}" for name in sorted(has - entitlements)]

    for owner, owned in by_owner.items():
        if owner in wanted:
            continue
        for account in owned:
            who = owner or "nobody"
            if account["enabled"]:
                kind = "live_leavers" if owner in leavers else "unexpected_enabled"
                differences[kind].append(f"{who}: `{account['name']}` can log in")
            # Of an account that is not ours only what the table gives is our business.
            has = held.get(account["name"], set())
            for name in sorted(has if owner else has & given):
                kind = "live_leavers" if owner in leavers else "excess"
                differences[kind].append(f"{who}: `{account['name']}` holds {name}")
    differences["excess"] += [f"nobody: {text}" for text in unclear]
    return differences


def report(system, wanted, leavers, given):
    accounts, members, unclear = ASKERS[system]()
    differences = judge(wanted, leavers, given, accounts, members, unclear)
    owners = {account["owner"] for account in accounts}
    return {
        "accounts": len(accounts),
        "enabled": sum(account["enabled"] for account in accounts),
        "memberships": sum(len(names) for names in members.values()),
        "wanted_accounts": len(wanted),
        "wanted_memberships": sum(len(entitlements) for entitlements in wanted.values()),
        "leavers": len(leavers),
        "leavers_with_account": len(leavers & owners),
        **{kind: len(texts) for kind, texts in differences.items()},
        "examples": {kind: sorted(texts)[:EXAMPLES_MAX] for kind, texts in differences.items() if texts},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("month", type=pathlib.Path, help="the CSV of the month, in the folder with the earlier ones")
    parser.add_argument("--policy", type=pathlib.Path, default=HERE / "policy.csv")
    parser.add_argument("--since", default="", help="the first month that was imported, as 2009-12")
    parser.add_argument("--systems", default=",".join(SYSTEMS), help="which systems to ask")
    arguments = parser.parse_args()
    asked = arguments.systems.split(",")
    if unknown := set(asked) - set(SYSTEMS):
        parser.error(f"unknown systems {sorted(unknown)}; known are {', '.join(SYSTEMS)}")

    people, table = read_csv(arguments.month), read_csv(arguments.policy)
    wanted = wanted_by_table(people, table)
    present = {person["user_id"] for person in people}
    leavers = keys_before(arguments.month, arguments.since) - present
    result = {"month": arguments.month.stem, "people": len(present), "leavers": len(leavers), "systems": {}}
    unanswered = {}
    for system in asked:
        given = {line["entitlement"] for line in table if line["system"] == system}
        try:
            result["systems"][system] = report(system, wanted[system], leavers, given)
        except CannotAsk as error:
            unanswered[system] = str(error)
    for kind in ("missing", "excess", "live_leavers", "unexpected_enabled"):
        result[kind] = sum(each[kind] for each in result["systems"].values())
    result["differences"] = sum(
        result[kind] for kind in ("missing", "excess", "live_leavers", "unexpected_enabled")
    )
    if unanswered:
        result["unanswered"] = unanswered
    json.dump(result, sys.stdout, indent=2)
    print()
    if unanswered:
        return 2
    return 1 if result["differences"] else 0


if __name__ == "__main__":
    sys.exit(main())
