#!/usr/bin/env python3
"""Takes the CERT company through its months on real systems, and asks the oracle after each.

    company.py --program target/release/tenure --work DIR [--store sqlite:FILE | postgres://...]
               [--months 12] [--people 0] [--kills 0] [--seed 1] [--data FOLDER]
               [--feed files|events] [--disorder]

For every month: the snapshot is imported, the cases are run to their end, and oracle.py compares what the three
systems hold with what the month calls for. `--people N` takes N people of the company (0: all). `--kills N` ends the
running program with SIGKILL at N random moments, spread over the months, and starts it again each time; at the end
the systems' own logs must show no creation and no disabling that took effect twice.

`--feed events` makes events of the months instead: a hire, a transfer, an end, and for each project a window that opens
and one that closes. `--disorder` shuffles the rows of every file, delivers files twice, and some of them only after those
of the next month; whoever has been told everything must hold the same access. A month is compared once everything up to
it has been delivered.

The servers are the ones of tests/lab; their env files must have been read. Prints one JSON object; exits 1 when
anything differs.
"""

import argparse
import csv
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MONTHS_MAX = 12
RUN_SECONDS_MAX = 3_600


def data_folder():
    """Where the public data lies: beside the project, or where TENURE_DATA says."""
    return pathlib.Path(os.environ.get("TENURE_DATA", ROOT / "../shared/data"))


def months_of(data):
    months = sorted(path.stem for path in (data / "cert-r5.2").glob("*.csv"))
    if not months:
        sys.exit(f"no snapshots in {data / 'cert-r5.2'}; give the folder that holds cert-r5.2 with --data or TENURE_DATA")
    return months


def env(name):
    value = os.environ.get(name)
    if not value:
        sys.exit(f"{name} is not set; start the servers with tests/lab/*.sh and read their env files, or run tests/run")
    return value


def say(text):
    print(text, file=sys.stderr, flush=True)


# Files the program and the oracle read.


def take_people(data, folder, months, people):
    """Copies the months, with all people or a deterministic part that keeps leavers in."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = {}
    for month in months:
        with open(data / f"{month}.csv", newline="", encoding="utf-8") as file:
            tables[month] = list(csv.DictReader(file))
    first = tables[months[0]]
    if people:
        last_keys = {row["user_id"] for row in tables[months[-1]]}
        leavers = [row["user_id"] for row in first if row["user_id"] not in last_keys]
        kept = set(leavers[: max(3, people // 10)])
        supervisors = {row["employee_name"]: row["user_id"] for row in first}
        for row in first:
            if len(kept) >= people:
                break
            kept.add(row["user_id"])
            if row["supervisor"] in supervisors:
                kept.add(supervisors[row["supervisor"]])
    for month in months:
        rows = [row for row in tables[month] if not people or row["user_id"] in kept]
        with open(folder / f"{month}.csv", "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(first[0].keys()), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


# A year that is told within the hour, person by person: what the guard is there to hold back.
UNGUARDED = """guard:
  privileged: []
  limits:
    - { operation: account.close, by: system, share_max: 1.0 }
    - { operation: grant.take, by: all, share_max: 1.0 }
"""


def write_configuration(folder, store, small, by_events=False):
    shutil.copytree(HERE / "config", folder, dirs_exist_ok=True)
    systems = folder / "systems"
    systems.mkdir(exist_ok=True)
    if "://" in store:
        # An address with a password stands in no file.
        os.environ["TENURE_CERT_STORE"] = store
        store = "env:TENURE_CERT_STORE"
    (folder / "tenure.yaml").write_text(f"store: {{ url: {json.dumps(store)} }}\nnode: {{ name: cert }}\n")
    ldap = {
        "url": env("TENURE_LAB_OPENLDAP_URL"),
        "bind_dn": env("TENURE_LAB_OPENLDAP_BIND_DN"),
        "bind_password": "env:TENURE_LAB_OPENLDAP_PASSWORD",
        "flavour": "openldap",
        "people_base": env("TENURE_LAB_OPENLDAP_PEOPLE_BASE"),
        "group_base": env("TENURE_LAB_OPENLDAP_GROUP_BASE"),
    }
    scim = {"base_url": env("TENURE_LAB_SCIM_URL"), "token": "env:TENURE_LAB_SCIM_TOKEN", "timeout_ms": 30_000}
    postgres = {
        "host": env("TENURE_LAB_POSTGRES_HOST"),
        "port": int(env("TENURE_LAB_POSTGRES_PORT")),
        "database": env("TENURE_LAB_POSTGRES_TARGET_DATABASE"),
        "user": env("TENURE_LAB_POSTGRES_TARGET_USER"),
        "password": "env:TENURE_LAB_POSTGRES_TARGET_PASSWORD",
    }
    for name, kind, settings, concurrency in (
        ("directory", "ldap", ldap, 8),
        # The foreign server answers one request after another; more at once only wait there.
        ("scim", "scim", scim, 4),
        ("database", "postgres", postgres, 4),
    ):
        system = {
            "name": name,
            "kind": kind,
            "settings": settings,
            "limits": {"concurrency": concurrency, "revocation_reserved": 1, "timeout_ms": 60_000},
        }
        if kind == "scim":
            # The server keeps a list of people; nobody is ever logged in to it.
            system["sessions"] = "none"
        (systems / f"{name}.yaml").write_text(json.dumps(system, indent=2) + "\n")
    if by_events:
        (folder / "policy" / "guard.yaml").write_text(UNGUARDED)
    if small or by_events:
        # A part of the company is too small for shares; the counts still guard.
        source = folder / "sources" / "hr.yaml"
        source.write_text(re.sub(r"population_min: \d+", "population_min: 100000", source.read_text()))


# The entitlements exist before anybody holds them.


def prepare():
    wanted = {"directory": [], "scim": [], "database": []}
    with open(HERE / "entitlements.csv", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            wanted[row["system"]].append(row["entitlement"])
    groups = env("TENURE_LAB_OPENLDAP_GROUP_BASE")
    entries = "".join(
        f"dn: cn={name},{groups}\nobjectClass: groupOfNames\ncn: {name}\nmember: cn=nobody,{groups}\n\n"
        for name in wanted["directory"]
    )
    subprocess.run(
        ["ldapadd", "-x", "-c", "-H", env("TENURE_LAB_OPENLDAP_URL"), "-D", env("TENURE_LAB_OPENLDAP_ADMIN_DN"),
         "-w", env("TENURE_LAB_OPENLDAP_PASSWORD")],
        input=entries, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False,
    )
    groups = env("TENURE_LAB_SCIM_URL").rstrip("/") + "/Groups"
    headers = {"Content-Type": "application/scim+json", "Authorization": f"Bearer {env('TENURE_LAB_SCIM_TOKEN')}"}
    # A SCIM server may hold two groups of one name, so what is there is asked first.
    query = urllib.request.Request(groups + "?count=1000&excludedAttributes=members", headers=headers)
    with urllib.request.urlopen(query, timeout=60) as answer:
        there = {group["displayName"] for group in json.load(answer).get("Resources", [])}
    for name in wanted["scim"]:
        if name in there:
            continue
        body = json.dumps({"schemas": ["urn:ietf:params:scim:schemas:core:2.0:Group"], "displayName": name}).encode()
        request = urllib.request.Request(groups, data=body, method="POST", headers=headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            answer.read()
    user = env("TENURE_LAB_POSTGRES_TARGET_USER")
    for name in wanted["database"]:
        psql(f'CREATE ROLE "{name}" NOLOGIN; GRANT "{name}" TO "{user}" WITH ADMIN OPTION;', check=False)


def psql(sql, check=True):
    subprocess.run(
        ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", env("TENURE_LAB_POSTGRES_ADMIN_URL"), "-c", sql],
        check=check, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL if not check else None,
    )


# The program.


class Program:
    def __init__(self, path, config, work):
        self.path, self.config, self.work = str(path), str(config), work
        self.kills = 0

    def command(self, *arguments):
        return [self.path, "--config", self.config, *arguments]

    def call(self, *arguments):
        """The JSON answer of a command that must succeed."""
        done = subprocess.run(self.command(*arguments, "--json"), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"{' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}\n{done.stdout}")
        return json.loads(done.stdout)

    def refused(self, *arguments):
        """What a command that must not succeed says."""
        done = subprocess.run(self.command(*arguments, "--json"), capture_output=True, text=True, check=False)
        if done.returncode == 0:
            sys.exit(f"{' '.join(arguments)} should have been refused:\n{done.stdout}")
        return done.stderr + done.stdout

    def run_import(self, arguments, kill_after):
        """Imports a file and runs its cases to the end; killed at the given moments and started again."""
        started = time.monotonic()
        moments = sorted(kill_after)
        while True:
            log = open(self.work / "program.log", "a", encoding="utf-8")
            process = subprocess.Popen(
                self.command("import", *arguments, "--run", "--json"),
                stdout=subprocess.PIPE, stderr=log, text=True,
            )
            try:
                limit = moments.pop(0) if moments else RUN_SECONDS_MAX
                output, _ = process.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.communicate()
                self.kills += 1
                continue
            finally:
                log.close()
            if process.returncode != 0:
                sys.exit(f"import of {' '.join(arguments)} ended with {process.returncode}; see {self.work / 'program.log'}:\n{output}")
            return json.loads(output), time.monotonic() - started


# The feed: what is delivered for each month, as arguments of `tenure import`.


def shuffle_rows(path, draw):
    with open(path, newline="", encoding="utf-8") as file:
        head, *rows = list(csv.reader(file))
    draw.shuffle(rows)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([head, *rows])


ATTRIBUTES = {
    "employee_name": "name", "email": "email", "role": "title", "business_unit": "business_unit",
    "functional_unit": "functional_unit", "department": "department", "team": "team",
}


def events_of(feed, months):
    """{month: events}, from the differences between the months."""
    before, told, events = {}, 0, {}
    for month in months:
        with open(feed / f"{month}.csv", newline="", encoding="utf-8") as file:
            now = {row["user_id"]: row for row in csv.DictReader(file)}
        at = f"{month}-01T05:00:00Z"
        events[month] = []

        def say(kind, subject, **data):
            nonlocal told
            told += 1
            data |= {"effective_at": at, "zone": "America/New_York", "version": told}
            events[month].append({
                "specversion": "1.0", "id": f"cert-{told}", "source": "hr", "type": kind, "subject": subject,
                "time": at, "data": data,
            })

        for key, row in now.items():
            known = {name: row[column] for column, name in ATTRIBUTES.items() if row[column]}
            old = before.get(key)
            if old is None:
                say("hire", key, attributes=known | {"projects": []})
            else:
                was = {name: old[column] for column, name in ATTRIBUTES.items() if old[column]}
                changes = {name: {"to": known.get(name)} for name in was | known if was.get(name) != known.get(name)}
                if changes:
                    say("transfer", key, changes=changes)
            was, has = (old or {}).get("projects", ""), row["projects"]
            if was and was != has:
                say("project.end", key, project=was)
            if has and was != has:
                say("project.start", key, project=has)
        for key in before.keys() - now.keys():
            say("termination.effective", key)
        before = now
    return events


PARTS = 3


def deliveries(given, feed, months, draw):
    """For each month the files that are delivered then, and how many events they hold."""
    plan = {month: [] for month in months}
    events = events_of(feed, months) if given.feed == "events" else {}
    for place, month in enumerate(months):
        if given.feed == "files":
            files = [feed / f"{month}.csv"]
            if given.disorder:
                shuffle_rows(files[0], draw)
        else:
            said = events[month]
            if given.disorder:
                draw.shuffle(said)
            parts = PARTS if given.disorder else 1
            files = []
            for part in range(parts):
                files.append(feed / f"{month}-{part}.jsonl")
                with open(files[-1], "w", encoding="utf-8") as file:
                    file.writelines(json.dumps(event) + "\n" for event in said[part::parts])
        # The first file brings everybody, and nothing comes after the last month.
        is_late = given.disorder and 0 < place < len(months) - 1 and draw.random() < 0.3
        late = draw.choice(files) if is_late else None
        for file in files:
            plan[months[place + 1] if file == late else month].append((month, file))
            if given.disorder and draw.random() < 0.5:
                plan[months[min(place + draw.randrange(2), len(months) - 1)]].append((month, file))
        if given.disorder:
            draw.shuffle(plan[month])
    return plan, sum(len(said) for said in events.values())


def arguments_of(given, file):
    return ("events", str(file)) if given.feed == "events" else (str(file), "--source", "hr")


def oracle(file, since):
    done = subprocess.run(
        [sys.executable, str(HERE / "oracle.py"), str(file), "--since", since], capture_output=True, text=True, check=False
    )
    if done.returncode not in (0, 1):
        sys.exit(f"the oracle could not ask:\n{done.stderr}{done.stdout}")
    return done.returncode == 0, json.loads(done.stdout)


# The systems' own records.


def effective_twice():
    """Creations and disablings that took effect more than once, by the logs of the systems themselves."""
    found = []
    log_base = os.environ.get("TENURE_LAB_OPENLDAP_LOG_BASE", "cn=log")
    text = subprocess.run(
        ["ldapsearch", "-x", "-LLL", "-o", "ldif-wrap=no", "-E", "pr=1000/noprompt", "-H", env("TENURE_LAB_OPENLDAP_URL"),
         "-D", env("TENURE_LAB_OPENLDAP_ADMIN_DN"), "-w", env("TENURE_LAB_OPENLDAP_PASSWORD"), "-b", log_base,
         "(|(objectClass=auditAdd)(objectClass=auditModify))", "reqDN", "reqType", "reqMod", "reqResult"],
        capture_output=True, text=True, check=False,
    ).stdout
    counts = {}
    for entry in text.split("\n\n"):
        if "reqResult: 0" not in entry:
            continue
        name = re.search(r"^reqDN: (uid=[^,]+)", entry, re.M)
        if not name:
            continue
        if "reqType: add" in entry:
            kind = "create"
        elif re.search(r"^reqMod: pwdAccountLockedTime:[+=] ", entry, re.M):
            kind = "disable"
        else:
            continue
        counts[("directory", kind, name.group(1))] = counts.get(("directory", kind, name.group(1)), 0) + 1
    log = os.environ.get("TENURE_LAB_POSTGRES_LOG")
    if log and os.path.exists(log):
        with open(log, encoding="utf-8", errors="replace") as file:
            for line in file:
                made = re.search(r'statement: CREATE ROLE "([^"]+)"|execute \S+: CREATE ROLE "([^"]+)"', line)
                if made and " LOGIN" in line:
                    key = ("database", "create", made.group(1) or made.group(2))
                    counts[key] = counts.get(key, 0) + 1
    for (system, kind, who), count in sorted(counts.items()):
        if count > 1:
            found.append({"system": system, "what": kind, "account": who, "times": count})
    return found, len(counts)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--program", required=True, type=pathlib.Path)
    arguments.add_argument("--work", required=True, type=pathlib.Path)
    arguments.add_argument("--store", default="sqlite:tenure.db")
    arguments.add_argument("--months", type=int, default=MONTHS_MAX)
    arguments.add_argument("--people", type=int, default=0)
    arguments.add_argument("--kills", type=int, default=0)
    arguments.add_argument("--kill-within", type=float, default=3.0, help="seconds of work between two kills, at most")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--feed", choices=["files", "events"], default="files")
    arguments.add_argument("--disorder", action="store_true")
    arguments.add_argument("--data", type=pathlib.Path, default=data_folder())
    given = arguments.parse_args()

    months = months_of(given.data)
    data = given.data / "cert-r5.2"
    # A short run still sees somebody leave: it takes months from the start and the last one.
    if given.months < len(months):
        months = months[: given.months - 1] + months[-1:]
    given.work.mkdir(parents=True, exist_ok=True)
    feed = given.work / "feed"
    take_people(data, feed, months, given.people)
    write_configuration(given.work / "config", given.store, bool(given.people), given.feed == "events")
    prepare()

    draw = random.Random(given.seed)
    moments = {month: [] for month in months}
    for _ in range(given.kills):
        # The first month has most of the work.
        month = months[0] if draw.random() < 0.5 else draw.choice(months)
        moments[month].append(draw.uniform(0.02, given.kill_within))
    program = Program(given.program, given.work / "config", given.work)
    report = {"months": [], "differences": 0, "deliveries": 0, "refused": 0}
    plan, report["events"] = deliveries(given, feed, months, draw)
    everything = {(month, file) for files in plan.values() for month, file in files}
    delivered, newest = set(), ""
    for month in months:
        seconds, answer = 0.0, {}
        kill_after = moments[month]
        for of, file in plan[month]:
            report["deliveries"] += 1
            if given.feed == "files" and of < newest:
                said = program.refused("import", *arguments_of(given, file))
                if "already" not in said:
                    sys.exit(f"{file} of {of} came after {newest} and was refused for something else:\n{said}")
                report["refused"] += 1
                delivered.add((of, file))
                continue
            answer, took = program.run_import(arguments_of(given, file), kill_after)
            delivered.add((of, file))
            seconds, kill_after, newest = seconds + took, [], max(newest, of)
        # A snapshot says everything itself; what is missing of it is in the next one.
        missing = [of for of, file in everything - delivered if of <= month]
        if missing or (given.feed == "files" and newest < month):
            say(f"{month}: {seconds:7.2f} s  not everything was delivered yet")
            report["months"].append({"month": month, "seconds": round(seconds, 2), "equal": None, "import": answer})
            continue
        equal, said = oracle(feed / f"{month}.csv", months[0])
        report["months"].append({"month": month, "seconds": round(seconds, 2), "equal": equal, "import": answer})
        if not equal:
            report["differences"] += 1
            report["months"][-1]["oracle"] = said
        say(f"{month}: {seconds:7.2f} s  {'zero differences' if equal else 'DIFFERENT'}")
    report["compared"] = sum(month["equal"] is not None for month in report["months"])
    twice, looked_at = effective_twice()
    report["kills"] = program.kills
    report["effective_twice"] = twice
    report["effects_in_the_systems_logs"] = looked_at
    print(json.dumps(report, indent=1))
    sys.exit(0 if report["differences"] == 0 and not twice else 1)


if __name__ == "__main__":
    main()
