#!/usr/bin/env bash
# AWS as moto (PyPI) plays it: IAM, STS and Secrets Manager, over HTTP on the loopback. Signatures and policies are checked,
# except for the three calls with which this script makes an administrator. An access key that is switched off still lets in
# there, so nothing about that can be shown on it. Everything is in memory.
#
#   TENURE_LAB_MOTO_URL     its address
#   TENURE_LAB_MOTO_ID, TENURE_LAB_MOTO_SECRET   files with the two halves of the administrator's access key
#   TENURE_LAB_MOTO_PYTHON  a Python that has boto3, AWS's own client, for tests to prepare and to look

# shellcheck source=tests/lab/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

MOTO_HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
MOTO_VENV="$(lab_venv_path "$MOTO_HERE/moto-requirements.txt")"

lab_install() {
    lab_venv "$MOTO_HERE/moto-requirements.txt"
}

lab_start() {
    local port
    read -r port <<<"$(lab_free_ports 1)"
    INITIAL_NO_AUTH_ACTION_COUNT=3 lab_spawn moto "$MOTO_VENV/bin/moto_server" -H 127.0.0.1 -p "$port"
    lab_wait moto "$LAB_DIR/moto.log" \
        python3 -c 'import socket, sys; socket.create_connection(("127.0.0.1", int(sys.argv[1])), 2)' "$port"
    python3 - "$port" "$LAB_DIR" <<'PYTHON'
import json, os, re, sys, urllib.parse, urllib.request

port, folder = sys.argv[1], sys.argv[2]
SCOPE = "AWS4-HMAC-SHA256 Credential=nobody/20260101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=none"


def call(action, **fields):
    body = urllib.parse.urlencode({"Action": action, "Version": "2010-05-08", "UserName": "admin", **fields}).encode()
    request = urllib.request.Request("http://127.0.0.1:%s/" % port, body, {"Authorization": SCOPE})
    return urllib.request.urlopen(request, timeout=10).read().decode()


call("CreateUser")
everything = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
call("PutUserPolicy", PolicyName="everything", PolicyDocument=json.dumps(everything))
answer = call("CreateAccessKey")
for name, element in (("id", "AccessKeyId"), ("secret", "SecretAccessKey")):
    with open(os.path.join(folder, name), "w") as file:
        file.write(re.search("<%s>([^<]+)<" % element, answer).group(1))
PYTHON
    lab_env \
        TENURE_LAB_MOTO_URL "http://127.0.0.1:$port/" \
        TENURE_LAB_MOTO_ID "$LAB_DIR/id" \
        TENURE_LAB_MOTO_SECRET "$LAB_DIR/secret" \
        TENURE_LAB_MOTO_PYTHON "$MOTO_VENV/bin/python"
}

lab_halt() {
    lab_stop moto
}

lab_main "$@"
