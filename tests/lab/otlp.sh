#!/usr/bin/env bash
# A receiver of OTLP over HTTP that decodes with the messages of the OpenTelemetry project and keeps what came.
#
#   TENURE_LAB_OTLP_URL   base address, for OTEL_EXPORTER_OTLP_ENDPOINT
#   TENURE_LAB_OTLP_FILE  what came, one JSON object a line (otlp_sink.py)

# shellcheck source=tests/lab/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

OTLP_HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
OTLP_VENV="$(lab_venv_path "$OTLP_HERE/otlp-requirements.txt")"

lab_install() {
    lab_venv "$OTLP_HERE/otlp-requirements.txt"
}

lab_start() {
    local port
    port="$(lab_free_ports 1)"
    lab_spawn otlp "$OTLP_VENV/bin/python" "$OTLP_HERE/otlp_sink.py" "$port" "$LAB_DIR/received.jsonl"
    lab_wait "the OTLP receiver" "$LAB_DIR/otlp.log" \
        python3 -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=2).read()' "http://127.0.0.1:$port/"
    lab_env \
        TENURE_LAB_OTLP_URL "http://127.0.0.1:$port" \
        TENURE_LAB_OTLP_FILE "$LAB_DIR/received.jsonl"
}

lab_halt() {
    lab_stop otlp
}

lab_main "$@"
