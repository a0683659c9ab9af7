#!/usr/bin/env bash
# An ACME authority that we did not write: Pebble, the test server of Let's Encrypt. Beside it the DNS it asks (every name is
# 127.0.0.1), and a web server that shows what lies in a folder, where it looks for proofs. A second Pebble takes only accounts
# that are bound to one of its own. Nonces are refused now and then, as in life. Certificates live for 90 days.
#
#   TENURE_LAB_PEBBLE_URL, _EAB_URL   the directories of the two
#   TENURE_LAB_PEBBLE_CA              whom to trust for their addresses
#   TENURE_LAB_PEBBLE_PROOFS          the folder that the web server shows as /.well-known/acme-challenge
#   TENURE_LAB_PEBBLE_DNS_URL         the management of the DNS: POST /set-txt, /clear-txt
#   TENURE_LAB_PEBBLE_MANAGEMENT_URL  the management of the first: /roots/0, /cert-status-by-serial/
#   TENURE_LAB_PEBBLE_EAB_ID, _EAB_KEY   the account of the second, and a file with its key

# shellcheck source=tests/lab/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

lab_install() {
    lab_apt openssl openssl
    lab_apt python3 python3
    lab_apt pebble pebble
}

# pebble_config PORT MANAGEMENT HTTP EAB : what one Pebble reads.
pebble_config() {
    cat <<JSON
{"pebble": {"listenAddress": "127.0.0.1:$1", "managementListenAddress": "127.0.0.1:$2",
 "certificate": "$LAB_DIR/tls/server.pem", "privateKey": "$LAB_DIR/tls/server.key", "httpPort": $3, "tlsPort": 1,
 "ocspResponderURL": "", "certificateValidityPeriod": 7776000, $4}}
JSON
}

lab_start() {
    local port management eab_port eab_management http dns dns_management key
    read -r port management eab_port eab_management http dns dns_management <<<"$(lab_free_ports 7)"
    lab_certificates "$LAB_DIR/tls" localhost
    mkdir -p "$LAB_DIR/www/.well-known/acme-challenge"
    key="$(od -An -N48 -tx1 /dev/urandom | tr -d ' \n' | cut -c1-64)"
    printf '%s' "$key" >"$LAB_DIR/eab.key"
    pebble_config "$port" "$management" "$http" '"externalAccountBindingRequired": false' >"$LAB_DIR/pebble.json"
    pebble_config "$eab_port" "$eab_management" "$http" \
        "\"externalAccountBindingRequired\": true, \"externalAccountMACKeys\": {\"kid-1\": \"$key\"}" >"$LAB_DIR/eab.json"
    # Many names are proven at once, and each is looked at several times.
    lab_spawn web python3 -c 'import functools, http.server, sys
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256
shown = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[1])
Server(("127.0.0.1", int(sys.argv[2])), shown).serve_forever()' "$LAB_DIR/www" "$http"
    lab_spawn dns pebble-challtestsrv -defaultIPv4 127.0.0.1 -defaultIPv6 "" -dns01 "127.0.0.1:$dns" \
        -management "127.0.0.1:$dns_management" -http01 "" -https01 "" -tlsalpn01 ""
    PEBBLE_VA_NOSLEEP=1 PEBBLE_AUTHZREUSE=0 lab_spawn pebble pebble -config "$LAB_DIR/pebble.json" -dnsserver "127.0.0.1:$dns"
    PEBBLE_VA_NOSLEEP=1 PEBBLE_AUTHZREUSE=0 lab_spawn eab pebble -config "$LAB_DIR/eab.json" -dnsserver "127.0.0.1:$dns"
    local each
    for each in "$port pebble" "$eab_port eab"; do
        lab_wait "Pebble" "$LAB_DIR/${each#* }.log" python3 -c 'import ssl, sys, urllib.request as r
r.urlopen(sys.argv[1], timeout=2, context=ssl.create_default_context(cafile=sys.argv[2])).read()' \
            "https://localhost:${each% *}/dir" "$LAB_DIR/tls/ca.pem"
    done
    lab_wait "the web server" "$LAB_DIR/web.log" \
        python3 -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=2).read()' "http://127.0.0.1:$http/"
    lab_env \
        TENURE_LAB_PEBBLE_URL "https://localhost:$port/dir" \
        TENURE_LAB_PEBBLE_EAB_URL "https://localhost:$eab_port/dir" \
        TENURE_LAB_PEBBLE_CA "$LAB_DIR/tls/ca.pem" \
        TENURE_LAB_PEBBLE_PROOFS "$LAB_DIR/www/.well-known/acme-challenge" \
        TENURE_LAB_PEBBLE_DNS_URL "http://127.0.0.1:$dns_management" \
        TENURE_LAB_PEBBLE_MANAGEMENT_URL "https://localhost:$management" \
        TENURE_LAB_PEBBLE_EAB_ID kid-1 \
        TENURE_LAB_PEBBLE_EAB_KEY "$LAB_DIR/eab.key"
}

lab_halt() {
    local each
    for each in pebble eab dns web; do
        lab_stop "$each"
    done
}

lab_main "$@"
