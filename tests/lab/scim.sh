#!/usr/bin/env bash
# A SCIM 2.0 application that we did not write: scim2-server (PyPI), over HTTP and HTTPS on the loopback.
#
# It keeps everything in memory: `stop` forgets it. Its log has one line for each request with method, path and
# status, which serves as the independent record of what was asked of it.
#
#   TENURE_LAB_SCIM_URL     base address, ends in /v2
#   TENURE_LAB_SCIM_TLS_URL the same over HTTPS
#   TENURE_LAB_SCIM_CA, _OTHER_CA  the authority that signed its certificate, and one that did not
#   TENURE_LAB_SCIM_TOKEN   the bearer token it accepts
#   TENURE_LAB_SCIM_LOG     its log
#   TENURE_LAB_SCIM_PYTHON  the Python of the environment it runs in (has scim2-cli and scim2-tester too)

# shellcheck source=tests/lab/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

SCIM_REQUIREMENTS="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)/requirements.txt"
# One environment for each content of the requirements; kept outside the checkout because it outlives it.
SCIM_VENV="${TENURE_LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tenure-lab}/venv-$(sha256sum "$SCIM_REQUIREMENTS" | cut -c1-16)"

lab_install() {
    lab_apt openssl openssl
    lab_apt python3 python3
    if [ -x "$SCIM_VENV/bin/scim2-server" ]; then
        return 0
    fi
    # Python comes with Debian 12, its `venv` module does not.
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        lab_apt "python3-venv" python3 python3-venv
    fi
    mkdir -p "$(dirname "$SCIM_VENV")"
    (
        # Two scripts that install at the same time wait for each other; the second finds it done.
        flock 9
        if [ ! -x "$SCIM_VENV/bin/scim2-server" ]; then
            lab_say "installing the Python packages of $SCIM_REQUIREMENTS"
            rm -rf "$SCIM_VENV"
            python3 -m venv "$SCIM_VENV"
            # Half an environment must not look like a whole one.
            "$SCIM_VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
                --requirement "$SCIM_REQUIREMENTS" || {
                rm -rf "$SCIM_VENV"
                exit 1
            }
        fi
    ) 9>"$SCIM_VENV.lock"
}

lab_start() {
    local port tls_port token
    read -r port tls_port <<<"$(lab_free_ports 2)"
    token="lab-$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')"
    lab_spawn scim "$SCIM_VENV/bin/scim2-server" --port "$port" --bearer-token "$token"
    lab_wait scim2-server "$LAB_DIR/scim.log" \
        python3 -c 'import sys, urllib.request as r
r.urlopen(r.Request(sys.argv[1], headers={"Authorization": "Bearer " + sys.argv[2]}), timeout=2).read()' \
        "http://127.0.0.1:$port/v2/ServiceProviderConfig" "$token"
    lab_certificates "$LAB_DIR/tls" localhost
    lab_spawn front python3 "$(dirname "$SCIM_REQUIREMENTS")/tls_front.py" "$tls_port" \
        "$LAB_DIR/tls/server.pem" "$LAB_DIR/tls/server.key" "$port"
    lab_wait "TLS in front of scim2-server" "$LAB_DIR/front.log" \
        openssl s_client -connect "127.0.0.1:$tls_port" -CAfile "$LAB_DIR/tls/ca.pem" -verify_return_error
    lab_env \
        TENURE_LAB_SCIM_URL "http://127.0.0.1:$port/v2" \
        TENURE_LAB_SCIM_TLS_URL "https://localhost:$tls_port/v2" \
        TENURE_LAB_SCIM_CA "$LAB_DIR/tls/ca.pem" \
        TENURE_LAB_SCIM_OTHER_CA "$LAB_DIR/tls/other-ca.pem" \
        TENURE_LAB_SCIM_TOKEN "$token" \
        TENURE_LAB_SCIM_LOG "$LAB_DIR/scim.log" \
        TENURE_LAB_SCIM_PYTHON "$SCIM_VENV/bin/python"
}

lab_halt() {
    lab_stop front
    lab_stop scim
}

lab_main "$@"
