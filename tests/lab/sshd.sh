#!/usr/bin/env bash
# OpenSSH as a server. It lets in whom an authority certified whose folder is `authority` below its own (user_ca.pub, krl),
# and whoever's key stands in `credentials/keys/authorized_keys`. Both are empty at first, and then nobody gets in.
#
#   TENURE_LAB_SSHD_PORT, _USER    where, and as whom
#   TENURE_LAB_SSHD_FOLDER         has `authority` and `credentials`
#   TENURE_LAB_SSHD_KNOWN_HOSTS    its own key, as `ssh` wants it

# shellcheck source=tests/lab/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

lab_install() {
    lab_apt sshd openssh-server
    lab_apt ssh openssh-client
}

lab_start() {
    local port
    read -r port <<<"$(lab_free_ports 1)"
    mkdir -p "$LAB_DIR/authority" "$LAB_DIR/credentials"
    chmod 0700 "$LAB_DIR/authority"
    [ "$(id -u)" != 0 ] || mkdir -p /run/sshd
    ssh-keygen -q -t ed25519 -N "" -f "$LAB_DIR/hostkey" <<<y >/dev/null
    cat >"$LAB_DIR/sshd_config" <<CONFIG
Port $port
ListenAddress 127.0.0.1
HostKey $LAB_DIR/hostkey
PidFile none
AuthorizedKeysFile $LAB_DIR/credentials/keys/authorized_keys
TrustedUserCAKeys $LAB_DIR/authority/user_ca.pub
RevokedKeys $LAB_DIR/authority/krl
AuthorizedPrincipalsFile none
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
StrictModes no
MaxStartups 100
PrintMotd no
LogLevel VERBOSE
CONFIG
    lab_spawn sshd "$(PATH="$PATH:/usr/sbin" command -v sshd)" -D -e -f "$LAB_DIR/sshd_config"
    lab_wait sshd "$LAB_DIR/sshd.log" ssh-keyscan -p "$port" 127.0.0.1
    echo "[127.0.0.1]:$port $(cut -d' ' -f1,2 "$LAB_DIR/hostkey.pub")" >"$LAB_DIR/known_hosts"
    lab_env \
        TENURE_LAB_SSHD_PORT "$port" \
        TENURE_LAB_SSHD_USER "$(id -un)" \
        TENURE_LAB_SSHD_FOLDER "$LAB_DIR" \
        TENURE_LAB_SSHD_KNOWN_HOSTS "$LAB_DIR/known_hosts"
}

lab_halt() {
    lab_stop sshd
}

lab_main "$@"
