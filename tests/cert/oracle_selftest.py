#!/usr/bin/env python3
"""Shows that the oracle sees: on real servers it must pass a right state and fail every wrong one.

    oracle_selftest.py

Needs the servers of tests/lab with their `env` files read (OpenLDAP, SCIM, PostgreSQL). Builds the state of a small
company with ldapadd, HTTP and psql, has it judged, then breaks one thing after the other and mends it again.
"""

import csv
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
specification = importlib.util.spec_from_file_location("oracle", HERE / "oracle.py")
oracle = importlib.util.module_from_spec(specification)
specification.loader.exec_module(oracle)

COLUMNS = (
    "employee_name,user_id,email,role,projects,business_unit,functional_unit,department,team,supervisor".split(",")
)
UNITS = ["1 - Adminstration", "2 - ResearchAndEngineering", "3 - Manufacturing", ""]
TITLES = ["SoftwareEngineer", "Manager", "ITAdmin", "Attorney", "Nurse"]
PEOPLE_COUNT = 23
LEAVER = "SELF0000"
DISABLED = "000001010000Z"


def company():
    return [
        {
            "employee_name": f"Person {number}",
            "user_id": f"SELF{number:04}",
            "email": f"p{number}@example.org",
            "role": TITLES[number % len(TITLES)],
            "projects": "" if number % 3 else f"Project {number}",
            "business_unit": "1 - Executive",
            "functional_unit": UNITS[number % len(UNITS)],
            "department": "3 - SoftwareManagement" if number % 2 else "",
            "team": "",
            "supervisor": "Person 1",
        }
        for number in range(PEOPLE_COUNT)
    ]


def write_csv(path, people):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(people)


def ldap(tool, ldif):
    subprocess.run(
        [tool, "-x", "-H", os.environ["TENURE_LAB_OPENLDAP_URL"], "-D", os.environ["TENURE_LAB_OPENLDAP_ADMIN_DN"]]
        + ["-w", os.environ["TENURE_LAB_OPENLDAP_PASSWORD"]],
        input=ldif, text=True, check=True, stdout=subprocess.DEVNULL,
    )


def scim(method, path, body=None):
    request = urllib.request.Request(
        os.environ["TENURE_LAB_SCIM_URL"] + path,
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "Authorization": "Bearer " + os.environ["TENURE_LAB_SCIM_TOKEN"],
            "Content-Type": "application/scim+json",
        },
    )
    with urllib.request.urlopen(request) as response:
        text = response.read()
    return json.loads(text) if text else None


def sql(*statements):
    subprocess.run(
        ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", os.environ["TENURE_LAB_POSTGRES_ADMIN_URL"]],
        input=";\n".join(statements) + ";\n", text=True, check=True,
    )


def dn(key):
    return f"uid={key.lower()},{os.environ['TENURE_LAB_OPENLDAP_PEOPLE_BASE']}"


def group_dn(name):
    return f"cn={name},{os.environ['TENURE_LAB_OPENLDAP_GROUP_BASE']}"


def member_patch(operation, user):
    value = [{"value": user}]
    if operation == "remove":
        change = {"op": "remove", "path": f'members[value eq "{user}"]'}
    else:
        change = {"op": "add", "path": "members", "value": value}
    return {"schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"], "Operations": [change]}


def active_patch(active):
    return {
        "schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"],
        "Operations": [{"op": "replace", "path": "active", "value": active}],
    }


def build(people, wanted, entitlements):
    """The right state, made without the program under test. Returns the SCIM ids of users and groups."""
    placeholder = f"cn=nobody,{os.environ['TENURE_LAB_OPENLDAP_GROUP_BASE']}"
    entries = [
        f"dn: {dn(p['user_id'])}\nobjectClass: inetOrgPerson\nuid: {p['user_id'].lower()}\ncn: {p['employee_name']}\n"
        f"sn: x\nemployeeNumber: {p['user_id']}\n"
        for p in people
    ]
    users, groups = {}, {}
    for person in people:
        users[person["user_id"]] = scim("POST", "/Users", {
            "schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"],
            "userName": person["user_id"].lower(), "externalId": person["user_id"], "active": True,
        })["id"]
    statements = []
    for person in people:
        name = person["user_id"].lower()
        statements += [f'create role "{name}" login', f"comment on role \"{name}\" is 'tenure:owner={person['user_id']}'"]
    for line in entitlements:
        system, name = line["system"], line["entitlement"]
        holders = sorted(key for key, names in wanted[system].items() if name in names)
        if system == "directory":
            members = "".join(f"member: {dn(key)}\n" for key in holders)
            entries.append(f"dn: {group_dn(name)}\nobjectClass: groupOfNames\ncn: {name}\nmember: {placeholder}\n{members}")
        elif system == "scim":
            groups[name] = scim("POST", "/Groups", {
                "schemas": ["urn:ietf:params:scim:schemas:core:2.0:Group"],
                "displayName": name, "members": [{"value": users[key]} for key in holders],
            })["id"]
        else:
            statements.append(f'create role "{name}" nologin')
            statements += [f'grant "{name}" to "{key.lower()}"' for key in holders]
    ldap("ldapadd", "\n".join(entries))
    sql(*statements)
    return users, groups


def retire(key, users, groups, wanted):
    ldap("ldapmodify", f"dn: {dn(key)}\nchangetype: modify\nadd: pwdAccountLockedTime\npwdAccountLockedTime: {DISABLED}\n")
    for name in wanted["directory"][key]:
        ldap("ldapmodify", f"dn: {group_dn(name)}\nchangetype: modify\ndelete: member\nmember: {dn(key)}\n")
    scim("PATCH", f"/Users/{users[key]}", active_patch(False))
    for name in wanted["scim"][key]:
        scim("PATCH", f"/Groups/{groups[name]}", member_patch("remove", users[key]))
    sql(
        f'alter role "{key.lower()}" nologin',
        *[f'revoke "{name}" from "{key.lower()}"' for name in wanted["database"][key]],
    )


def judged(month):
    done = subprocess.run([sys.executable, HERE / "oracle.py", month], capture_output=True, text=True)
    if not done.stdout:
        sys.exit(done.stderr)
    return done.returncode, json.loads(done.stdout)


def expect(what, month, kind=None, system=None):
    code, result = judged(month)
    if kind is None:
        right = code == 0 and result["differences"] == 0
    else:
        right = code == 1 and result[kind] == result["differences"] == 1 and result["systems"][system][kind] == 1
    print(f"{'ok ' if right else 'BAD'}  {what}")
    if not right:
        print(json.dumps(result, indent=2))
        sys.exit(1)


def main():
    people = company()
    table = oracle.read_csv(HERE / "policy.csv")
    wanted = oracle.wanted_by_table(people, table)
    key = "SELF0003"
    login = key.lower()
    with tempfile.TemporaryDirectory() as folder:
        first, second = pathlib.Path(folder) / "2020-01.csv", pathlib.Path(folder) / "2020-02.csv"
        write_csv(first, people)
        write_csv(second, [person for person in people if person["user_id"] != LEAVER])
        users, groups = build(people, wanted, oracle.read_csv(HERE / "entitlements.csv"))
        expect("everybody has what the table gives", first)
        code, result = judged(second)
        holdings = {system: 1 + len(wanted[system][LEAVER]) for system in oracle.SYSTEMS}
        assert code == 1 and {s: result["systems"][s]["live_leavers"] for s in oracle.SYSTEMS} == holdings, result
        print("ok   a leaver who was left alone is seen everywhere")
        retire(LEAVER, users, groups, wanted)
        expect("a leaver who is disabled and holds nothing is right", second)

        lock = f"dn: {dn(LEAVER)}\nchangetype: modify\n"
        ldap("ldapmodify", lock + "delete: pwdAccountLockedTime\n")
        expect("directory: a leaver who can log in", second, "live_leavers", "directory")
        ldap("ldapmodify", lock + f"add: pwdAccountLockedTime\npwdAccountLockedTime: {DISABLED}\n")
        scim("PATCH", f"/Users/{users[LEAVER]}", active_patch(True))
        expect("scim: a leaver who can log in", second, "live_leavers", "scim")
        scim("PATCH", f"/Users/{users[LEAVER]}", active_patch(False))
        sql(f'alter role "{LEAVER.lower()}" login')
        expect("database: a leaver who can log in", second, "live_leavers", "database")
        sql(f'alter role "{LEAVER.lower()}" nologin')
        sql(f'grant crm_write to "{LEAVER.lower()}"')
        expect("database: a leaver who holds something", second, "live_leavers", "database")
        sql(f'revoke crm_write from "{LEAVER.lower()}"')

        change = f"dn: {group_dn('legal')}\nchangetype: modify\n{{}}: member\nmember: {dn('SELF0004')}\n"
        ldap("ldapmodify", change.format("add"))
        expect("directory: a group too many", second, "excess", "directory")
        ldap("ldapmodify", change.format("delete"))
        change = f"dn: {group_dn('staff')}\nchangetype: modify\n{{}}: member\nmember: {dn(key)}\n"
        ldap("ldapmodify", change.format("delete"))
        expect("directory: a group too few", second, "missing", "directory")
        ldap("ldapmodify", change.format("add"))
        scim("PATCH", f"/Groups/{groups['Price List']}", member_patch("add", users[key]))
        expect("scim: a group too many", second, "excess", "scim")
        scim("PATCH", f"/Groups/{groups['Price List']}", member_patch("remove", users[key]))
        scim("PATCH", f"/Groups/{groups['Everyone']}", member_patch("remove", users[key]))
        expect("scim: a group too few", second, "missing", "scim")
        scim("PATCH", f"/Groups/{groups['Everyone']}", member_patch("add", users[key]))
        sql(f'revoke app_connect from "{login}"')
        expect("database: a role too few", second, "missing", "database")
        sql(f'grant app_connect to "{login}"', f'grant payroll_write to "{login}"')
        expect("database: a role too many", second, "excess", "database")
        sql(f'revoke payroll_write from "{login}"', f'alter role "{login}" nologin')
        expect("database: somebody who cannot log in", second, "missing", "database")
        sql(f'alter role "{login}" login', "create role stranger login")
        expect("database: a login nobody owns", second, "unexpected_enabled", "database")
        sql("drop role stranger")
        ldap("ldapadd", f"dn: {dn('ghost')}\nobjectClass: inetOrgPerson\nuid: ghost\ncn: g\nsn: g\nemployeeNumber: GHOST\n")
        expect("directory: an account of somebody unknown", second, "unexpected_enabled", "directory")
        ldap("ldapdelete", dn("ghost") + "\n")
        double = f"dn: {dn('double')}\nobjectClass: inetOrgPerson\nuid: double\ncn: d\nsn: d\nemployeeNumber: {key}\n"
        ldap("ldapadd", double)
        expect("directory: a second account of one person", second, "excess", "directory")
        ldap("ldapdelete", dn("double") + "\n")
        expect("everything mended", second)


if __name__ == "__main__":
    main()
