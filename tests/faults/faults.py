#!/usr/bin/env python3
"""Breaks an installation of two nodes while it works, and counts what became of it.

    faults.py --program target/release/tenure --work DIR [--short] [--only FAULT ...] [--times N] [--people N] [--json FILE]

Every run has a database of its own, two nodes (`tenure serve`, a lease of 2 s) and three target systems that keep a log of
every effect, on disk before they answer, and never look whether there is anything to do: what is done twice is two
lines (target.py). People are hired, and while their cases run one fault is injected. Then everything has to end: each
person has an account and a right on each system.

  lost      effects that should be there and are not, by the systems' logs
  doubled   effects that happened more than once, by the systems' logs
  recovery  for a fault of a node: from the fault to the first effect that another node makes on a shard that was its;
            else: the longest time without any effect from the fault on, with whatever lasts (a server that is down, a
            disk that is full) in it

Needs PostgreSQL 15 and psql. A full disk needs the right to mount, a jump of the clock needs libfaketime; without them
these are told as left out. Exits 1 when anything was lost or doubled, or did not end.
"""

import argparse
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys
import time

from installation import LEASE_SECONDS, POSTGRES_BIN, SYSTEMS, Installation, Node, Server, Trouble, as_postgres, judged, until
from proxy import Proxy

# An attempt that had looked at the clock when its node stopped sends its request when the node goes on: no fence can hold
# that back. The next owner has read back before it repeated, and nothing may be doubled.
ON_ITS_WAY = 1
DONE_SECONDS_MAX = 90
# How far the work has come when the fault strikes, as a share of all effects.
STRIKE = (0.15, 0.6)
# How long a database is away.
AWAY_SECONDS = 1.0
FAKETIME_PLACES = ("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1", "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1")


class LeftOut(Exception):
    """This machine cannot do it."""


class Run:
    """One installation, one fault."""

    def __init__(self, given, folder, seed):
        self.given, self.folder, self.random = given, folder, random.Random(seed)
        self.closing = []
        self.installation = self.server = self.proxy = None

    def on_postgres(self, server=None):
        """Behind a proxy, so that the connections can be broken and the server be moved."""
        self.server = server or Server(self.folder / "postgres").make().start()
        self.closing.append(self.server.stop)
        self.server.sql("CREATE DATABASE tenure", "postgres")
        self.proxy = Proxy(self.server.port)
        self.closing.append(self.proxy.close)
        store = f"postgres://tenure@127.0.0.1:{self.proxy.port}/tenure?sslmode=disable"
        return self.work_on(store, lambda text: self.server.sql(text))

    def on_sqlite(self, folder=None):
        file = (folder or self.folder) / "tenure.db"

        def ask(text):
            done = subprocess.run(
                [sys.executable, "-c", "import sqlite3,sys\nfor row in sqlite3.connect(f'file:{sys.argv[1]}?mode=ro', uri=True, timeout=5).execute(sys.argv[2]): print('|'.join(map(str, row)))", str(file), text],
                capture_output=True, text=True, check=False,
            )
            if done.returncode != 0:
                raise Trouble(done.stderr.strip().splitlines()[-1])
            return [line.split("|") for line in done.stdout.splitlines()]

        return self.work_on(f"sqlite:{file}", ask)

    def work_on(self, store, ask):
        self.installation = Installation(self.given.program, self.folder / "installation", store, ask)
        self.closing.append(self.installation.close)
        return self.installation

    def begin(self, nodes=2, environment=None):
        """Nodes that share, people that are hired, and a moment in the middle of the work."""
        self.installation.start(nodes, environment)
        self.installation.hire(self.given.people)
        self.strike_later()

    def strike_later(self):
        share = self.random.uniform(*STRIKE)
        count = int(self.installation.expected() * share)
        until(f"{count} effects", lambda: len(self.installation.effects()) >= count, DONE_SECONDS_MAX)
        # Somewhere within the time that one step takes.
        time.sleep(self.random.uniform(0, 0.1))

    def end(self, struck, victim=None, shards=None):
        """Waits until all is done, and judges. A fault of a node names it and the shards it had."""
        installation = self.installation
        try:
            until("all cases succeed", installation.is_done, DONE_SECONDS_MAX)
            ended = True
        except Trouble:
            ended = False
        lost, doubled, effects = judged(installation)
        if victim is None:
            times = [struck, *(effect["at"] for effect in effects if effect["at"] > struck)]
            recovery = max((later - earlier for earlier, later in zip(times, times[1:])), default=None)
        else:
            rows = installation.ask("SELECT case_id, shard_id FROM case_head")
            held_up = {case for case, shard in rows if int(shard) in shards}
            # What the node had sent may still happen after its end; its plugin then belongs to nobody.
            others = (
                effect["at"] - struck for effect in effects
                if effect["at"] > struck and effect["by"] not in (victim, 0, 1) and effect["key"].split("/")[0] in held_up
            )
            recovery = next(others, None)
        result = {"lost": lost, "doubled": doubled, "recovery_s": None if recovery is None else round(recovery, 2)}
        if not ended:
            result["open"] = {state: count for state, count in installation.states().items() if state != "succeeded"}
        return result

    def close(self):
        for close in reversed(self.closing):
            try:
                close()
            except Exception as error:  # what is left is reported, and the rest is still closed
                print(f"closing: {error}", file=sys.stderr)


# The faults. Each takes a run, breaks something in the middle of the work, and gives the result.


def node_killed(run):
    """kill -9 of one node of two"""
    installation = run.on_postgres()
    run.begin()
    victim = installation.nodes[0]
    shards = installation.shards_of(victim)
    struck = time.time()
    victim.kill()
    return run.end(struck, victim.process.pid, shards)


def node_killed_elsewhere(run):
    """kill -9 of one node of two as on another machine: only its lease tells"""
    if os.geteuid() != 0:
        raise LeftOut("needs the right to make a process namespace")
    installation = run.on_postgres()
    # A process namespace of its own: the other node cannot see whether it lives.
    away = Node(installation, "away")
    away.start(before=("unshare", "--pid", "--fork", "--kill-child", "--mount-proc"))
    installation.nodes.append(away)
    run.begin(nodes=1)
    here = installation.nodes[1]
    shards = installation.shards_other_than(here)
    struck = time.time()
    away.kill()
    # Inside its namespace it is process 1, and its plugins see no parent.
    return run.end(struck, 0, shards)


def node_paused(run):
    """SIGSTOP of a node past its lease, then SIGCONT"""
    installation = run.on_postgres()
    run.begin()
    victim = installation.nodes[0]
    shards = installation.shards_of(victim)
    struck = time.time()
    victim.pause()
    result = run.end(struck, victim.process.pid, shards)
    if "open" in result:
        victim.go_on()
        return result
    before, effects = installation.written(), len(installation.effects())
    epochs = installation.ask("SELECT max(epoch) FROM shard")
    victim.go_on()
    time.sleep(LEASE_SECONDS)
    result["written_after"] = 0 if installation.written() == before else 1
    result["effects_after"] = len(installation.effects()) - effects
    result["epochs"] = f"{epochs[0][0]} -> {installation.ask('SELECT max(epoch) FROM shard')[0][0]}"
    installation.share()
    return result


def node_paused_at_work(run):
    """SIGSTOP past the lease, then SIGCONT while the other still works"""
    installation = run.on_postgres()
    run.begin()
    victim = installation.nodes[0]
    shards = installation.shards_of(victim)
    struck = time.time()
    victim.pause()
    time.sleep(LEASE_SECONDS * 1.7)
    victim.go_on()
    return run.end(struck, victim.process.pid, shards)


def postgres_killed(run):
    """kill -9 of PostgreSQL, and its start a second later"""
    run.on_postgres()
    run.begin()
    struck = time.time()
    run.server.kill()
    time.sleep(AWAY_SECONDS)
    run.server.start()
    return run.end(struck)


def failover(run):
    """kill -9 of the primary, promotion of its synchronous standby"""
    primary = Server(run.folder / "primary").make().start()
    run.closing.append(primary.stop)
    standby = Server(run.folder / "standby")
    standby.folder.mkdir(parents=True)
    if os.geteuid() == 0:
        shutil.chown(standby.folder, "postgres", "postgres")
    done = as_postgres(
        POSTGRES_BIN / "pg_basebackup", "-D", standby.folder / "data", "-h", "127.0.0.1", "-p", str(primary.port), "-U", "tenure", "-R", "-c", "fast",
    )
    if done.returncode != 0:
        raise Trouble(f"pg_basebackup failed: {done.stderr}")
    standby.configure()
    standby.start()
    run.closing.append(standby.stop)
    primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'", "postgres")
    primary.sql("SELECT pg_reload_conf()", "postgres")
    until("the standby is synchronous", lambda: primary.sql("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'", "postgres"), 20)
    run.on_postgres(primary)
    run.begin()
    struck = time.time()
    primary.kill()
    done = as_postgres(POSTGRES_BIN / "pg_ctl", "-s", "-w", "-D", standby.folder / "data", "promote")
    if done.returncode != 0:
        raise Trouble(f"the standby was not promoted: {done.stderr}")
    run.proxy.target = standby.port
    run.server = standby
    return run.end(struck)


def connections_reset(run):
    """all connections to the database reset"""
    run.on_postgres()
    run.begin()
    struck = time.time()
    run.proxy.reset_all()
    return run.end(struck)


def connections_half_closed(run):
    """all connections half closed: what is sent is heard, nothing is answered"""
    run.on_postgres()
    run.begin()
    struck = time.time()
    run.proxy.half_close_all()
    return run.end(struck)


def connections_silent(run):
    """all connections silent: open, and nothing comes through"""
    run.on_postgres()
    run.begin()
    struck = time.time()
    run.proxy.silence_all()
    return run.end(struck)


def answers_lost(run):
    """the answers to five commits lost"""
    run.on_postgres()
    run.begin()
    struck = time.time()
    run.proxy.lose_answers(5)
    result = run.end(struck)
    result["answers_lost"] = run.proxy.lost
    return result


class SmallDisk:
    """A file system of its own that can be filled."""

    def __init__(self, run, megabytes):
        self.folder = run.folder / "disk"
        self.folder.mkdir(parents=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(self.folder)], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise LeftOut("needs the right to mount")
        os.chmod(self.folder, 0o755)
        run.closing.append(lambda: subprocess.run(["umount", "-l", str(self.folder)], check=False))

    def fill(self):
        with open(self.folder / "ballast", "wb", buffering=0) as file:
            for size in (65_536, 4_096, 1):
                try:
                    while True:
                        file.write(b"\0" * size)
                except OSError:
                    pass

    def make_room(self):
        (self.folder / "ballast").unlink()


def disk_full_sqlite(run):
    """the disk of the SQLite file full for a while"""
    disk = SmallDisk(run, 48)
    run.on_sqlite(disk.folder)
    run.begin()
    struck = time.time()
    disk.fill()
    time.sleep(AWAY_SECONDS * 2)
    disk.make_room()
    return run.end(struck)


def disk_full_postgres(run):
    """the disk of PostgreSQL full for a while"""
    disk = SmallDisk(run, 160)
    server = Server(disk.folder / "postgres").make().start()
    run.on_postgres(server)
    run.begin()
    struck = time.time()
    disk.fill()
    time.sleep(AWAY_SECONDS * 2)
    disk.make_room()
    time.sleep(0.2)
    # It ends itself when its log finds no room, and may not manage to come back alone.
    if as_postgres(POSTGRES_BIN / "pg_ctl", "-D", server.folder / "data", "status").returncode != 0:
        server.start()
    return run.end(struck)


def clock_jumps(run, jump):
    library = next((place for place in FAKETIME_PLACES if os.path.exists(place)), None)
    if library is None:
        raise LeftOut("needs libfaketime (apt install faketime)")
    installation = run.on_postgres()
    stamp = run.folder / "clock"
    stamp.write_text("+0")
    fake = {"LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": str(stamp), "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    run.begin(environment=fake)
    struck = time.time()
    stamp.write_text(jump)
    return run.end(struck)


def clock_forward(run):
    """the clock of both nodes an hour ahead at once"""
    return clock_jumps(run, "+3600")


def clock_back(run):
    """the clock of both nodes an hour back at once"""
    return clock_jumps(run, "-3600")


# Name, times in the full form, times in the short form.
FAULTS = (
    (node_killed, 10, 1),
    (node_killed_elsewhere, 3, 0),
    (node_paused, 5, 1),
    (node_paused_at_work, 5, 0),
    (postgres_killed, 5, 1),
    (failover, 3, 0),
    (connections_reset, 5, 1),
    (connections_half_closed, 3, 0),
    (connections_silent, 3, 0),
    (answers_lost, 5, 1),
    (disk_full_sqlite, 3, 0),
    (disk_full_postgres, 3, 0),
    (clock_forward, 2, 0),
    (clock_back, 2, 0),
)


def told(rows):
    headings = ("FAULT", "TIMES", "LOST", "DOUBLED", "RECOVERY (S): MEDIAN", "LONGEST", "")
    lines = [headings]
    for row in rows:
        number = lambda value: "" if value is None else f"{value:.2f}"
        lines.append((
            row["what"], str(row["times"]), str(row["lost"]), str(row["doubled"]), number(row["recovery_median_s"]), number(row["recovery_max_s"]),
            row["remark"],
        ))
    widths = [max(len(line[column]) for line in lines) for column in range(len(headings))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def measured(fault, times, given):
    results, remark = [], ""
    for number in range(times):
        folder = given.work / f"{fault.__name__}-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        run = Run(given, folder, f"{given.seed}/{fault.__name__}/{number}")
        good = False
        try:
            result = fault(run)
            good = not (result["lost"] or result["doubled"] or "open" in result or result.get("written_after")
                        or result.get("effects_after", 0) > ON_ITS_WAY)
        except LeftOut as why:
            remark = f"left out: {why}"
            good = True
            break
        except Trouble as trouble:
            result = {"lost": 0, "doubled": 0, "recovery_s": None, "trouble": str(trouble)}
        finally:
            run.close()
            if good and not given.keep:
                shutil.rmtree(folder, ignore_errors=True)
        results.append({**result, "good": good})
        print(f"  {fault.__name__} {number + 1}/{times}: {json.dumps(result)}", file=sys.stderr, flush=True)
        if not good:
            print(f"  what is left of it: {folder}", file=sys.stderr, flush=True)
    recoveries = sorted(result["recovery_s"] for result in results if result["recovery_s"] is not None)
    bad = sum(not result["good"] for result in results)
    return {
        "fault": fault.__name__, "what": fault.__doc__ or fault.__name__, "times": len(results),
        "lost": sum(result["lost"] for result in results), "doubled": sum(result["doubled"] for result in results),
        "recovery_median_s": recoveries[len(recoveries) // 2] if recoveries else None,
        "recovery_max_s": recoveries[-1] if recoveries else None,
        "bad": bad, "remark": remark or (f"{bad} not good" if bad else ""), "runs": results,
    }


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--program", required=True, type=pathlib.Path)
    arguments.add_argument("--work", required=True, type=pathlib.Path)
    arguments.add_argument("--short", action="store_true", help="a few of the faults, once each")
    arguments.add_argument("--only", nargs="*", default=[], metavar="FAULT", help=", ".join(fault.__name__ for fault, _, _ in FAULTS))
    arguments.add_argument("--times", type=int, help="how often each fault is injected")
    arguments.add_argument("--people", type=int)
    arguments.add_argument("--seed", default="1")
    arguments.add_argument("--json", type=pathlib.Path, help="where the results go beside the table")
    arguments.add_argument("--keep", action="store_true", help="keep the folders of good runs too")
    given = arguments.parse_args()
    given.program = given.program.resolve()
    given.work = given.work.resolve()
    given.people = given.people or (48 if given.short else 150)
    given.work.mkdir(parents=True, exist_ok=True)
    os.chmod(given.work, 0o755)
    started = time.monotonic()
    rows = []
    for fault, full, short in FAULTS:
        times = given.times or (short if given.short else full)
        if given.only and fault.__name__ not in given.only or not times:
            continue
        rows.append(measured(fault, times, given))
    report = {"faults": rows, "people": given.people, "systems": len(SYSTEMS), "lease_s": LEASE_SECONDS, "took_s": round(time.monotonic() - started, 1)}
    if given.json:
        given.json.write_text(json.dumps(report, indent=2) + "\n")
    print(told(rows))
    return 1 if any(row["bad"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
