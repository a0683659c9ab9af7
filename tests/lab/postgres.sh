#!/usr/bin/env bash
# A PostgreSQL cluster with two databases: one for Tenure's own store, one as a target system whose roles
# Tenure manages.
#
# Passwords are SCRAM, TLS is offered, fsync stays on. Every change of a role is in the log (log_statement=ddl),
# which serves as the independent record of effects.
#
#   TENURE_LAB_POSTGRES_HOST, _PORT        where it listens
#   TENURE_LAB_POSTGRES_STORE_URL          the store's database, as its owner and superuser
#   TENURE_LAB_POSTGRES_TARGET_DATABASE, _TARGET_USER, _TARGET_PASSWORD
#                                          the target, as a role with CREATEROLE and pg_signal_backend
#   TENURE_LAB_POSTGRES_ADMIN_URL          the target's database as superuser, for tests to prepare and to look
#   TENURE_LAB_POSTGRES_CA                 the authority that signed the server's certificate
#   TENURE_LAB_POSTGRES_OTHER_CA           an authority that did not
#   TENURE_LAB_POSTGRES_LOG                the log
#   TENURE_LAB_POSTGRES_CTL                stops and starts it: `$TENURE_LAB_POSTGRES_CTL stop|start`
#
# LAB_POSTGRES_BIN chooses other binaries than Debian 12's PostgreSQL 15.

# shellcheck source=tests/lab/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

POSTGRES_BIN="${LAB_POSTGRES_BIN:-/usr/lib/postgresql/15/bin}"

lab_install() {
    lab_apt openssl openssl
    lab_apt python3 python3
    if [ ! -x "$POSTGRES_BIN/initdb" ]; then
        [ -z "${LAB_POSTGRES_BIN:-}" ] || lab_die "no initdb in LAB_POSTGRES_BIN=\`$POSTGRES_BIN\`"
        # The package makes a cluster of its own unless told not to.
        mkdir -p /etc/postgresql-common
        [ -e /etc/postgresql-common/createcluster.conf ] ||
            echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
        lab_apt "$POSTGRES_BIN/initdb" postgresql-15
    fi
}

# PostgreSQL refuses to run as root.
postgres_user() {
    if [ "$(id -u)" = 0 ]; then
        (cd / && exec setpriv --reuid=postgres --regid=postgres --init-groups -- env HOME=/ "$@")
    else
        "$@"
    fi
}

# psql of Debian, whichever server runs: builds made for embedding carry none.
postgres_sql() {
    PGPASSWORD="$ADMIN_PASSWORD" psql -X -q -v ON_ERROR_STOP=1 -h 127.0.0.1 -p "$PORT" -U lab_admin "$@"
}

secret() {
    od -An -N16 -tx1 /dev/urandom | tr -d ' \n'
}

# Everything below belongs to user postgres, who must be able to reach it.
postgres_reachable() {
    local directory="$LAB_DIR/postgres"
    mkdir -p "$directory"
    if [ "$(id -u)" = 0 ]; then
        chown postgres:postgres "$directory"
        postgres_user test -w "$directory" ||
            lab_die "user postgres cannot reach \`$LAB_DIR\`: choose a folder below /tmp or open the folders above it"
    fi
    chmod 0755 "$directory"
}

postgres_configure() {
    local data="$1"
    cat >>"$data/postgresql.conf" <<CONF
listen_addresses = '127.0.0.1'
port = $PORT
unix_socket_directories = ''
max_connections = 200
shared_buffers = 128MB
fsync = on
synchronous_commit = on
password_encryption = 'scram-sha-256'
ssl = on
ssl_cert_file = 'server.pem'
ssl_key_file = 'server.key'
logging_collector = off
log_destination = 'stderr'
log_statement = 'ddl'
log_connections = on
log_line_prefix = '%m [%p] %u@%d/%a '
log_timezone = 'UTC'
CONF
    cat >"$data/pg_hba.conf" <<HBA
host all all 127.0.0.1/32 scram-sha-256
HBA
    # An external program may end the server and start it again: the tests of "the system is away" do.
    cat >"$LAB_DIR/ctl" <<CTL
#!/usr/bin/env bash
exec "$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)/postgres.sh" ctl "$LAB_DIR" "\$@"
CTL
    chmod 0755 "$LAB_DIR/ctl"
}

postgres_up() {
    local data="$LAB_DIR/postgres/data"
    touch "$LAB_DIR/postgres/log"
    [ "$(id -u)" != 0 ] || chown postgres:postgres "$LAB_DIR/postgres/log"
    # `-W`: readiness is asked for below, not read from a file.
    postgres_user "$POSTGRES_BIN/pg_ctl" -s -W -D "$data" -l "$LAB_DIR/postgres/log" start </dev/null >&2 9>&-
    local deadline=$((SECONDS + LAB_READY_SECONDS_MAX))
    until [ -s "$data/postmaster.pid" ]; do
        [ "$SECONDS" -lt "$deadline" ] || lab_die "the server did not start; see $LAB_DIR/postgres/log"
        sleep 0.02
    done
    lab_adopt postgres "$(head -n 1 "$data/postmaster.pid")"
}

lab_start() {
    postgres_reachable
    local data="$LAB_DIR/postgres/data" store_password target_password
    PORT="$(lab_free_ports 1)"
    ADMIN_PASSWORD="$(secret)"
    store_password="$(secret)"
    target_password="$(secret)"
    rm -rf "$data"
    (
        umask 077
        echo "$ADMIN_PASSWORD" >"$LAB_DIR/postgres/password"
    )
    [ "$(id -u)" != 0 ] || chown postgres:postgres "$LAB_DIR/postgres/password"
    postgres_user "$POSTGRES_BIN/initdb" -D "$data" -U lab_admin -E UTF8 --no-locale -A scram-sha-256 \
        --pwfile="$LAB_DIR/postgres/password" >"$LAB_DIR/initdb.log" 2>&1 || {
        tail -n 20 "$LAB_DIR/initdb.log" >&2
        lab_die "initdb failed"
    }
    lab_certificates "$LAB_DIR/tls" localhost
    local name
    for name in server.pem server.key; do
        cp "$LAB_DIR/tls/$name" "$data/$name"
        chmod 0600 "$data/$name"
        [ "$(id -u)" != 0 ] || chown postgres:postgres "$data/$name"
    done
    postgres_configure "$data"
    postgres_up
    lab_wait postgres "$LAB_DIR/postgres/log" postgres_sql -d postgres -c 'select 1'
    postgres_sql -d postgres <<SQL
create role tenure_store superuser login password '$store_password';
create database tenure_store owner tenure_store;
create role tenure_target createrole login password '$target_password';
grant pg_signal_backend to tenure_target;
create database target;
SQL
    local host=127.0.0.1
    lab_env \
        TENURE_LAB_POSTGRES_HOST "$host" \
        TENURE_LAB_POSTGRES_PORT "$PORT" \
        TENURE_LAB_POSTGRES_STORE_URL "postgres://tenure_store:$store_password@$host:$PORT/tenure_store" \
        TENURE_LAB_POSTGRES_TARGET_DATABASE target \
        TENURE_LAB_POSTGRES_TARGET_USER tenure_target \
        TENURE_LAB_POSTGRES_TARGET_PASSWORD "$target_password" \
        TENURE_LAB_POSTGRES_ADMIN_URL "postgres://lab_admin:$ADMIN_PASSWORD@$host:$PORT/target" \
        TENURE_LAB_POSTGRES_CA "$LAB_DIR/tls/ca.pem" \
        TENURE_LAB_POSTGRES_OTHER_CA "$LAB_DIR/tls/other-ca.pem" \
        TENURE_LAB_POSTGRES_LOG "$LAB_DIR/postgres/log" \
        TENURE_LAB_POSTGRES_CTL "$LAB_DIR/ctl"
}

lab_halt() {
    # SIGINT is PostgreSQL's "fast" shutdown: sessions are ended, nothing is lost.
    lab_stop postgres INT
}

# ctl DIR stop|start : ends a started server and brings it back on the same port with the same data.
if [ "${1:-}" = ctl ]; then
    LAB_DIR="$(lab_dir "${2:?ctl needs a folder}")"
    case "${3:-}" in
    stop) lab_halt ;;
    start)
        # shellcheck source=/dev/null
        . "$LAB_DIR/env"
        PORT="$TENURE_LAB_POSTGRES_PORT"
        ADMIN_PASSWORD="$(cat "$LAB_DIR/postgres/password")"
        postgres_up
        lab_wait postgres "$LAB_DIR/postgres/log" postgres_sql -d postgres -c 'select 1'
        ;;
    *) lab_die "ctl needs stop or start" ;;
    esac
    exit 0
fi

lab_main "$@"
