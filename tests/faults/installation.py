"""An installation to break: a database of its own, nodes as real processes, target systems that keep their own log."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
POSTGRES_BIN = pathlib.Path(os.environ.get("LAB_POSTGRES_BIN", "/usr/lib/postgresql/15/bin"))
SYSTEMS = ("alpha", "beta", "gamma")
LEASE_SECONDS = 2
READY_SECONDS_MAX = 60
LOOK_SECONDS = 0.05


class Trouble(Exception):
    """The harness itself cannot go on."""


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def until(what, holds, seconds=READY_SECONDS_MAX):
    """Waits for a condition; gives how long it took."""
    start = time.monotonic()
    while True:
        found = holds()
        if found:
            return time.monotonic() - start
        if time.monotonic() - start > seconds:
            raise Trouble(f"it does not happen within {seconds} s: {what}")
        time.sleep(LOOK_SECONDS)


def as_postgres(*command, **options):
    """PostgreSQL refuses to run as the superuser of the machine."""
    if os.geteuid() == 0:
        command = ("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--", *command)
    return subprocess.run([str(word) for word in command], cwd="/", capture_output=True, text=True, check=False, **options)


class Server:
    """A PostgreSQL of its own, in a folder of its own."""

    def __init__(self, folder, port=None):
        self.folder, self.port = pathlib.Path(folder), port or free_port()

    def make(self):
        self.folder.mkdir(parents=True, exist_ok=True)
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        self.run("initdb", "-D", self.folder / "data", "-U", "tenure", "-E", "UTF8", "--no-locale", "-A", "trust", "--wal-segsize=1")
        self.configure()
        return self

    def configure(self):
        settings = self.folder / "data" / "postgresql.auto.conf"
        with open(settings, "a", encoding="utf-8") as file:
            file.write(
                f"listen_addresses = '127.0.0.1'\nport = {self.port}\nunix_socket_directories = ''\nmax_connections = 100\n"
                "shared_buffers = 32MB\nfsync = on\nsynchronous_commit = on\nmin_wal_size = 4MB\nmax_wal_size = 16MB\n"
                "wal_recycle = off\nlogging_collector = off\n"
            )

    def run(self, program, *arguments):
        done = as_postgres(POSTGRES_BIN / program, *arguments)
        if done.returncode != 0:
            raise Trouble(f"{program} failed: {done.stderr or done.stdout}")

    def start(self):
        done = as_postgres(POSTGRES_BIN / "pg_ctl", "-s", "-w", "-t", "30", "-D", self.folder / "data", "-l", self.folder / "log", "start")
        if done.returncode != 0:
            raise Trouble(f"PostgreSQL does not start; see {self.folder / 'log'}")
        return self

    def pid(self):
        return int((self.folder / "data" / "postmaster.pid").read_text().split()[0])

    def kill(self):
        """As a machine that goes: no process of the server ends in order."""
        postmaster = self.pid()
        children = pathlib.Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        for pid in [postmaster, *map(int, children)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        until("the server's processes are gone", lambda: not pathlib.Path(f"/proc/{postmaster}").exists(), 10)

    def stop(self):
        as_postgres(POSTGRES_BIN / "pg_ctl", "-s", "-m", "immediate", "-D", self.folder / "data", "stop")

    def sql(self, text, database="tenure"):
        done = subprocess.run(
            ["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(self.port), "-U", "tenure", "-d", database, "-c", text],
            capture_output=True, text=True, check=False, env={**os.environ, "PGCONNECT_TIMEOUT": "3"},
        )
        if done.returncode != 0:
            raise Trouble(done.stderr.strip())
        return [line.split("|") for line in done.stdout.splitlines() if line]


class Node:
    """One `tenure serve`."""

    def __init__(self, installation, name):
        self.installation, self.name = installation, name
        self.log = open(installation.folder / f"{name}.log", "ab")
        self.process = None

    def start(self, environment=None, before=()):
        self.process = subprocess.Popen(
            [*before, *self.installation.command("serve", "--no-api", "--json")], stdout=subprocess.PIPE, stderr=self.log,
            env={**self.installation.environment, "TENURE_LOG": "info", **(environment or {})},
        )
        line = self.process.stdout.readline()
        if not line:
            raise Trouble(f"node {self.name} did not start; see {self.log.name}")
        return self

    def kill(self):
        self.process.kill()
        self.process.wait()

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def end(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.kill()
        self.log.close()


class Installation:
    """Configuration, people and effects. `store` is the address that nodes use, `ask` runs SQL on its database."""

    def __init__(self, program, folder, store, ask, before_ms=15, after_ms=15):
        self.program, self.folder, self.ask = str(program), pathlib.Path(folder), ask
        self.folder.mkdir(parents=True, exist_ok=True)
        self.environment = {**os.environ, "TENURE_FAULTS_STORE": store, "TENURE_STORE": ""}
        del self.environment["TENURE_STORE"]
        self.logs = {system: self.folder / f"{system}.effects" for system in SYSTEMS}
        self.nodes = []
        self.people = 0
        self.configure(before_ms, after_ms)

    def configure(self, before_ms, after_ms):
        config = self.folder / "tenure"
        for name in ("sources", "systems", "policy"):
            (config / name).mkdir(parents=True, exist_ok=True)
        (config / "tenure.yaml").write_text(
            f"store: {{ url: 'env:TENURE_FAULTS_STORE' }}\nnode: {{ lease: {LEASE_SECONDS}s, drain: 10s }}\n"
        )
        (config / "sources" / "hr.yaml").write_text(
            "name: hr\nkind: snapshot\nformat: csv\nkey: id\ntime_zone: UTC\ncomplete: false\n"
            "columns: { name: name, department: department }\nrequired: [name]\n"
        )
        grants = "".join(f"      - {{ system: {system}, entitlement: staff }}\n" for system in SYSTEMS)
        (config / "policy" / "roles.yaml").write_text(
            f"roles:\n  - name: staff\n    when: \"true\"\n    grants:\n{grants}"
        )
        for system, log in self.logs.items():
            settings = {
                "command": [sys.executable, str(HERE / "target.py")], "processes_max": 2,
                "config": {"log": str(log), "entitlements": ["staff"], "before_ms": before_ms, "after_ms": after_ms},
            }
            text = {
                "name": system, "kind": "exec", "settings": settings,
                "account": {"name": "lower(identity.key)", "attributes": {"name": "identity.name"}},
                "limits": {"concurrency": 2, "revocation_reserved": 1},
            }
            (config / "systems" / f"{system}.yaml").write_text(json.dumps(text, indent=2) + "\n")

    def command(self, *arguments):
        return [self.program, "--config", str(self.folder / "tenure"), *arguments]

    def call(self, *arguments):
        done = subprocess.run(self.command(*arguments, "--json"), capture_output=True, text=True, check=False, env=self.environment)
        if done.returncode != 0:
            raise Trouble(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr}{done.stdout}")
        return json.loads(done.stdout)

    def start(self, count, environment=None):
        """Starts nodes and waits until each has its share."""
        for number in range(count):
            self.nodes.append(Node(self, f"node{number}").start(environment))
        self.share()

    def share(self):
        """Waits until all shards are owned, evenly; gives how long it took."""
        living = [node for node in self.nodes if node.process.poll() is None]

        def shared():
            view = self.call("nodes")
            owners = [item["shards"] for item in view["items"] if item["shards"]]
            return view["unowned"] == 0 and len(owners) == len(living) and max(owners) - min(owners) <= 1

        return until(f"{len(living)} nodes share the shards", shared)

    def owned(self):
        """Shards by owner."""
        owned = {}
        for item in self.call("nodes")["items"]:
            shards = owned.setdefault(item["owner"], set())
            for part in item["ranges"].split():
                first, _, last = part.partition("-")
                shards.update(range(int(first), int(last or first) + 1))
        return owned

    def shards_of(self, node):
        mine = f"/{node.process.pid}/"
        return set().union(*(shards for owner, shards in self.owned().items() if mine in owner))

    def shards_other_than(self, node):
        mine = f"/{node.process.pid}/"
        return set().union(*(shards for owner, shards in self.owned().items() if mine not in owner))

    def hire(self, count):
        """Imports `count` more people."""
        first, self.people = self.people, self.people + count
        file = self.folder / f"people-{self.people}.csv"
        rows = "".join(f"E{number:05},Person {number},Sales\n" for number in range(first, self.people))
        file.write_text("id,name,department\n" + rows)
        self.call("import", str(file), "--source", "hr", "--as-of", "2026-03-01")

    def effects(self):
        """All effects by the systems' own logs, in order of time."""
        found = []
        for system, log in self.logs.items():
            if not log.exists():
                continue
            for line in log.read_bytes().splitlines():
                try:
                    found.append({"system": system, **json.loads(line)})
                except ValueError:
                    found.append({"system": system, "op": "torn", "key": "", "at": 0})
        return sorted(found, key=lambda effect: effect["at"])

    def expected(self):
        """An account and a grant for each person on each system."""
        return self.people * len(SYSTEMS) * 2

    def is_done(self):
        try:
            (closed,), = self.ask("SELECT count(*) FROM case_state WHERE state = 'succeeded'")
            (unread,), = self.ask("SELECT count(*) FROM inbox")
        except Trouble:
            return False
        return int(closed) >= self.people and int(unread) == 0

    def states(self):
        return {state: int(count) for state, count in self.ask("SELECT state, count(*) FROM case_state GROUP BY state")}

    def written(self):
        """What the database holds of cases: any write would change it."""
        return self.ask("SELECT (SELECT count(*) FROM case_history), (SELECT count(*) FROM evidence), (SELECT sum(version) FROM case_state)")

    def close(self):
        for node in self.nodes:
            node.end()


def judged(installation):
    """Effects lost and doubled, by the systems' own logs."""
    effects = installation.effects()
    keys = {}
    for effect in effects:
        # One effect of one case, whoever made it and however often it was tried.
        key = (effect["system"], effect["op"], effect["key"])
        keys[key] = keys.get(key, 0) + 1
    doubled = sum(count - 1 for count in keys.values())
    return max(0, installation.expected() - len(keys)), doubled, effects
