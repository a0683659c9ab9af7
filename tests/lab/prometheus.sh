#!/usr/bin/env bash
# `promtool`, which checks metrics and alert rules. There is no server to start: `start` only says where it is.
#
#   TENURE_LAB_PROMTOOL   the program

# shellcheck source=tests/lab/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

lab_install() {
    lab_apt promtool prometheus
}

lab_start() {
    lab_env TENURE_LAB_PROMTOOL "$(command -v promtool)"
}

lab_halt() {
    :
}

lab_main "$@"
