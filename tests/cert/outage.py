#!/usr/bin/env python3
"""Takes a month of the CERT company while the directory is stopped, then starts it again.

    outage.py --program target/release/tenure --work DIR --directory LAB_DIR
              [--store sqlite:FILE | postgres://...] [--people 40] [--data FOLDER]

LAB_DIR is the folder `tests/lab/openldap.sh start` was given; this stops the server there and starts it again.
What has to be so, for hire day and then for the day the leavers go:

- while the directory is down, the other systems reach exactly what the month calls for, as oracle.py sees it;
- nothing is lost and no budget of attempts is spent: every step that waits for the directory says it is away, and
  has no counted failure;
- `tenure check` and `tenure case list` show the breaker and who waits for it;
- once the directory is back, everything is caught up without anybody's doing, on all three systems.

Prints one JSON object; exits 1 when something is otherwise.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

import company

LIMIT_SECONDS = 120
PAUSE_SECONDS = 0.5


def directory(verb, folder):
    subprocess.run(["bash", str(company.ROOT / "tests/lab/openldap.sh"), verb, str(folder)], check=True)


def oracle(file, since, systems):
    done = subprocess.run(
        [sys.executable, str(company.HERE / "oracle.py"), str(file), "--since", since, "--systems", systems],
        capture_output=True, text=True, check=False,
    )
    return done.returncode == 0, done.stdout + done.stderr


def until(what, ask):
    """Asks until the answer is good; gives the seconds it took."""
    started = time.monotonic()
    while True:
        good, said = ask()
        if good:
            return round(time.monotonic() - started, 1)
        if time.monotonic() - started > LIMIT_SECONDS:
            sys.exit(f"{what}: not within {LIMIT_SECONDS} s\n{said}")
        time.sleep(PAUSE_SECONDS)


class Node:
    """A running `tenure serve`, ended when done."""

    def __init__(self, program, work):
        self.log = open(work / "serve.log", "w", encoding="utf-8")
        self.process = subprocess.Popen(program.command("serve", "--no-api"), stdout=self.log, stderr=self.log)

    def stop(self):
        self.process.terminate()
        code = self.process.wait(timeout=60)
        self.log.close()
        return code


def text_of(program, *arguments):
    done = subprocess.run(program.command(*arguments), capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def waiting(program):
    """Open cases, and the instances of their steps that failed for good or were counted as failures."""
    listed = program.call("case", "list", "--open", "--limit", "1000")
    spent = []
    for case in listed["cases"]:
        shown = program.call("case", "show", case["id"])
        for step in shown["steps"]:
            for instance in step.get("instances", []):
                if instance.get("failures") or instance.get("state") == "parked":
                    spent.append({"case": case["id"], "step": step["id"], "instance": instance})
    return listed["cases"], spent


def month(program, folder, file, since, systems_up):
    """One month with the directory down, then up."""
    directory("down", folder)
    program.call("import", str(file), "--source", "hr")
    others = until("the other systems", lambda: oracle(file, since, systems_up))
    cases, spent = waiting(program)
    if not cases:
        sys.exit("no case waits, though the directory is down")
    if spent:
        sys.exit(f"an attempt was counted against a system that is away: {json.dumps(spent[:3], indent=1)}")
    checked, listed = text_of(program, "check"), text_of(program, "case", "list", "--open")
    for where, text in (("check", checked), ("case list", listed)):
        if "directory" not in text or "away" not in text:
            sys.exit(f"`tenure {where}` does not say that the directory is away:\n{text}")
    directory("up", folder)
    back = until("everything", lambda: oracle(file, since, systems_up + ",directory"))

    def closed():
        open_cases = program.call("case", "list", "--open", "--limit", "1000")["cases"]
        return not open_cases, json.dumps(open_cases[:3], indent=1)

    until("the cases", closed)
    return {"others_seconds": others, "waited": len(cases), "caught_up_seconds": back,
            "check": checked.splitlines(), "case_list": listed.splitlines()[:4]}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--program", required=True, type=pathlib.Path)
    arguments.add_argument("--work", required=True, type=pathlib.Path)
    arguments.add_argument("--directory", required=True, type=pathlib.Path)
    arguments.add_argument("--store", default="sqlite:tenure.db")
    arguments.add_argument("--people", type=int, default=40)
    arguments.add_argument("--data", type=pathlib.Path, default=company.data_folder())
    given = arguments.parse_args()
    months = company.months_of(given.data)
    months = [months[0], months[-1]]
    given.work.mkdir(parents=True, exist_ok=True)
    feed = given.work / "feed"
    company.take_people(given.data / "cert-r5.2", feed, months, given.people)
    company.write_configuration(given.work / "config", given.store, bool(given.people))
    company.prepare()
    program = company.Program(given.program.resolve(), given.work / "config", given.work)
    subprocess.run(program.command("migrate"), check=True, stdout=subprocess.DEVNULL)
    node = Node(program, given.work)
    report = {}
    try:
        for each in months:
            report[each] = month(program, given.directory, feed / f"{each}.csv", months[0], "scim,database")
            company.say(f"{each}: others after {report[each]['others_seconds']} s, "
                        f"caught up {report[each]['caught_up_seconds']} s after the directory was back")
    finally:
        code = node.stop()
    twice, _ = company.effective_twice()
    report["effective_twice"] = twice
    print(json.dumps(report, indent=1))
    sys.exit(1 if twice or code != 0 else 0)


if __name__ == "__main__":
    main()
