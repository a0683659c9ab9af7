#!/usr/bin/env bash
# A mail server that we did not write (aiosmtpd), with STARTTLS and a login, which keeps what comes (smtp_sink.py).
#
#   TENURE_LAB_SMTP_PORT      takes STARTTLS
#   TENURE_LAB_SMTP_TLS_PORT  protected from the first byte
#   TENURE_LAB_SMTP_FOLDER    received.jsonl, recipients.jsonl, mode, password, tls/ca.pem, tls/other-ca.pem

# shellcheck source=tests/lab/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

SMTP_HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
SMTP_VENV="$(lab_venv_path "$SMTP_HERE/smtp-requirements.txt")"

lab_install() {
    lab_apt openssl openssl
    lab_venv "$SMTP_HERE/smtp-requirements.txt"
}

smtp_spawn() {
    lab_spawn smtp "$SMTP_VENV/bin/python" "$SMTP_HERE/smtp_sink.py" "$1" "$2" "$LAB_DIR"
    lab_wait "the mail server" "$LAB_DIR/smtp.log" \
        python3 -c 'import smtplib, sys; smtplib.SMTP("127.0.0.1", int(sys.argv[1]), timeout=2).quit()' "$1"
}

lab_start() {
    local port tls_port
    read -r port tls_port <<<"$(lab_free_ports 2)"
    lab_certificates "$LAB_DIR/tls" localhost
    echo "sesame-$port" >"$LAB_DIR/password"
    : >"$LAB_DIR/received.jsonl"
    : >"$LAB_DIR/recipients.jsonl"
    smtp_spawn "$port" "$tls_port"
    lab_env \
        TENURE_LAB_SMTP_PORT "$port" \
        TENURE_LAB_SMTP_TLS_PORT "$tls_port" \
        TENURE_LAB_SMTP_FOLDER "$LAB_DIR"
}

lab_up() {
    # shellcheck source=/dev/null
    . "$LAB_DIR/env"
    smtp_spawn "$TENURE_LAB_SMTP_PORT" "$TENURE_LAB_SMTP_TLS_PORT"
}

lab_halt() {
    lab_stop smtp
}

lab_main "$@"
