#!/usr/bin/env python3
"""A target system whose only memory is the log of what was done to it: an `exec` plugin for tests that count effects.

The log is a file of JSON lines, one for each effect, each on disk (fsync) before the call is answered. What accounts
there are and what they hold is read from it, so the record of effects and the state cannot differ. Several processes
use one log side by side.

It is deliberately unkind: it never looks whether there is anything to do. Creating an account that exists, or giving
what is held, is one more effect and one more line. So a program that repeats what it did is found out.

    config:
      log: /path/to/effects.log
      entitlements: [staff]
      before_ms: 0        # the time between a call and its effect
      after_ms: 0         # the time between the effect and its answer
"""

import fcntl
import json
import os
import sys
import time

PROTOCOL = 1
CAPABILITIES = {
    "operations": ["create_account", "update_account", "enable_account", "disable_account", "delete_account", "grant", "revoke"],
    "claims": ["account_exists", "account_enabled", "account_disabled", "account_absent", "attributes_are", "granted", "not_granted"],
    "lists": ["account", "entitlement"],
    "changes": False,
    "dependents": False,
    "finds_by_owner": True,
}


class Refused(Exception):
    def __init__(self, kind, message):
        super().__init__(message)
        self.kind = kind


class Target:
    def __init__(self, config):
        self.entitlements = config.get("entitlements", [])
        self.before = config.get("before_ms", 0) / 1000
        self.after = config.get("after_ms", 0) / 1000
        self.file = os.open(config["log"], os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self.read_to = 0
        self.accounts = {}
        self.by_owner = {}

    # The state, from the log ----------------------------------------------------------------------------

    def catch_up(self):
        """Reads what other processes appended. Called under the lock."""
        size = os.fstat(self.file).st_size
        if size > self.read_to:
            text = os.pread(self.file, size - self.read_to, self.read_to)
            self.read_to = size
            for line in text.splitlines():
                self.happened(json.loads(line))

    def happened(self, effect):
        op, account = effect["op"], effect["account"]
        if op == "create_account":
            self.accounts[account] = {
                "name": effect["name"], "owner": effect["owner"], "enabled": effect["enabled"],
                "attributes": effect["attributes"], "holds": set(),
            }
            self.by_owner.setdefault(effect["owner"], account)
            return
        held = self.accounts.get(account)
        if held is None:
            return
        if op == "update_account":
            held["attributes"].update(effect["attributes"])
        elif op in ("enable_account", "disable_account"):
            held["enabled"] = op == "enable_account"
        elif op == "delete_account":
            del self.accounts[account]
            self.by_owner.pop(held["owner"], None)
        elif op == "grant":
            held["holds"].add(effect["entitlement"])
        elif op == "revoke":
            held["holds"].discard(effect["entitlement"])

    def locked(self, do):
        fcntl.flock(self.file, fcntl.LOCK_EX)
        try:
            self.catch_up()
            return do()
        finally:
            fcntl.flock(self.file, fcntl.LOCK_UN)

    # Calls ------------------------------------------------------------------------------------------------

    def find(self, reference):
        (how, what), = reference.items()
        if how == "account":
            return what if what in self.accounts else None
        if how == "account_owned_by":
            return self.by_owner.get(what)
        named = [key for key, account in self.accounts.items() if account["name"] == what]
        return named[0] if named else None

    def shown(self, key):
        account = self.accounts[key]
        return {
            "kind": "account", "id": key, "name": account["name"], "enabled": account["enabled"], "owner": account["owner"],
            "attributes": account["attributes"], "entitlements": sorted(account["holds"]), "version": None,
        }

    def check(self, _):
        return {"findings": [{"what": "reach", "good": True, "detail": "the log can be written"}]}

    def get(self, request):
        reference = request["object"]
        if "entitlement" in reference:
            name = reference["entitlement"]
            return {"kind": "entitlement", "id": name, "name": name} if name in self.entitlements else None
        key = self.locked(lambda: self.find(reference))
        return None if key is None else self.shown(key)

    def list(self, request):
        if request["kind"] == "entitlement":
            items = [{"kind": "entitlement", "id": name, "name": name} for name in self.entitlements]
        else:
            items = self.locked(lambda: [self.shown(key) for key in self.accounts])
        return {"items": items, "next": None, "complete": True}

    def verify(self, request):
        claim = request["claim"]
        return self.locked(lambda: self.judged(claim))

    def judged(self, claim):
        what = claim["claim"]
        key = self.by_owner.get(claim["owner"]) if what == "account_exists" else claim["account"]
        account = self.accounts.get(key)
        there = account is not None
        holds = {
            "account_exists": there,
            "account_absent": not there,
            "account_enabled": there and account["enabled"],
            "account_disabled": there and not account["enabled"],
            "granted": there and claim.get("entitlement") in account["holds"],
            "not_granted": not there or claim.get("entitlement") not in account["holds"],
            "attributes_are": there and all(account["attributes"].get(name) == value for name, value in claim.get("attributes", {}).items()),
        }[what]
        return {"verdict": "proven" if holds else "refuted", "by": "the log", "account": key if there else None, "seen": {"there": there}}

    def apply(self, request):
        operation, key = request["operation"], request["key"]
        time.sleep(self.before)
        answer = self.locked(lambda: self.done(operation, key))
        time.sleep(self.after)
        return answer

    def done(self, operation, key):
        op = operation["op"]
        effect = {"op": op, "key": key["idempotency"], "attempt": key["attempt"], "epoch": key["epoch"]}
        if op == "create_account":
            account = self.by_owner.get(operation["owner"]) or f"a{len(self.accounts) + 1}-{os.getpid()}"
            effect.update(name=operation["name"], owner=operation["owner"], enabled=bool(operation["enabled"]), attributes=operation["attributes"])
        else:
            account = operation["account"]
            if account not in self.accounts:
                raise Refused("not_found", f"there is no account {account!r}")
            effect.update({name: operation[name] for name in ("attributes", "entitlement") if name in operation})
        effect.update(account=account, at=time.time(), by=os.getppid())
        line = json.dumps(effect).encode() + b"\n"
        os.write(self.file, line)
        os.fsync(self.file)
        self.catch_up()
        return {"outcome": "done", "receipt": {"account": account, "name": operation.get("name")}}


def main():
    config = target = None
    for line in sys.stdin.buffer:
        request = json.loads(line)
        call = request["call"]
        try:
            if call == "hello":
                config = request["config"]
                answer = {"protocol": PROTOCOL, "name": "counting target", "concurrent": False, "capabilities": CAPABILITIES}
            else:
                target = target or Target(config)
                answer = getattr(target, call)(request)
            reply = {"ok": answer}
        except Refused as refused:
            reply = {"error": {"kind": refused.kind, "message": str(refused)}}
        sys.stdout.buffer.write(json.dumps({"id": request["id"], **reply}).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
