#!/usr/bin/env python3
"""Holds a SCIM server against scim2-tester (PyPI), a suite that we did not write.

Each check is a line; the last line is the count by status as JSON. Ends with 1 unless every check passes.

    TENURE_SCIM_TOKEN=... python scim_check.py http://127.0.0.1:7878/scim/v2
"""

import collections
import importlib.metadata
import json
import os
import sys

import httpx2
from scim2_client.engines.httpx2 import SyncSCIMClient
from scim2_tester import Status, check_server

# What the standard demands, recommends or allows. A deviation from what it recommends is none of these, and neither is a
# check that was left out.
GOOD = {Status.SUCCESS, Status.COMPLIANT, Status.ACCEPTABLE}


def main() -> int:
    url = sys.argv[1]
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("scim2-tester", "scim2-client", "scim2-models")]
    print(", ".join(versions))
    headers = {"Authorization": "Bearer " + os.environ["TENURE_SCIM_TOKEN"]}
    with httpx2.Client(base_url=url, headers=headers, timeout=30) as http:
        results = check_server(SyncSCIMClient(http))
    counts = collections.Counter(result.status.name for result in results)
    for result in results:
        kind = f" [{result.resource_type}]" if result.resource_type else ""
        print(f"{result.status.name} {result.title}{kind}: {result.reason}")
        if result.status not in GOOD:
            print(f"    {result.data}")
    print(json.dumps(counts))
    return 0 if results and all(result.status in GOOD for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
