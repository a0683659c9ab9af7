# Shell functions that every lab script shares. Source it; it starts nothing by itself.
#
# A lab script `tests/lab/<server>.sh` has three verbs:
#
#   install     installs the server when it is missing (Debian 12, root)
#   start DIR   starts it below DIR and writes `export NAME=value` lines to DIR/env
#   stop DIR    ends the processes that `start` made, by their own pids, and nothing else
#   down DIR    ends the server and keeps what it holds and its addresses; `up DIR` starts it on them again
#               (where the script has an `lab_up`)
#
# Tests read the variables of DIR/env; `start` returns only when the server has answered a question.

set -euo pipefail

# How long a server may take to answer its first question, and to leave when asked to.
LAB_READY_SECONDS_MAX=60
LAB_STOP_SECONDS_MAX=15

lab_die() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

lab_say() {
    echo "$(basename "$0"): $*" >&2
}

# Prints as many free TCP ports of 127.0.0.1 as asked for, all different, on one line. They come from below
# the kernel's range of ephemeral ports: an outgoing connection cannot take one before the server does.
lab_free_ports() {
    python3 - "${1:-1}" <<'PYTHON'
import random, socket, sys

FIRST, LAST, TRIES_MAX = 20000, 31999, 5000
wanted, held = int(sys.argv[1]), []
for _ in range(TRIES_MAX):
    if len(held) == wanted:
        break
    candidate = socket.socket()
    try:
        candidate.bind(("127.0.0.1", random.randint(FIRST, LAST)))
        held.append(candidate)
    except OSError:
        candidate.close()
if len(held) < wanted:
    sys.exit("no free ports between %d and %d" % (FIRST, LAST))
print(*(each.getsockname()[1] for each in held))
PYTHON
}

# lab_apt COMMAND PACKAGE... : installs the packages unless COMMAND is there already. Services are kept
# from starting: the lab starts its own. Two scripts that install at the same time wait for each other.
lab_apt() {
    local command="$1"
    shift
    if PATH="$PATH:/usr/sbin:/sbin" command -v "$command" >/dev/null; then
        return 0
    fi
    [ "$(id -u)" = 0 ] || lab_die "\`$command\` is missing and only root can install $*"
    lab_say "installing $*"
    (
        flock 9
        if [ -z "$(find /var/lib/apt/lists -name '*_Packages*' -mmin -1440 2>/dev/null | head -n 1)" ]; then
            apt-get update -qq
        fi
        local policy=/usr/sbin/policy-rc.d made=
        if [ ! -e "$policy" ]; then
            printf '#!/bin/sh\nexit 101\n' >"$policy"
            chmod +x "$policy"
            made=yes
        fi
        local status=0
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
            -o DPkg::Lock::Timeout=300 "$@" >/tmp/lab-apt.$$.log 2>&1 || status=$?
        [ -z "$made" ] || rm -f "$policy"
        if [ "$status" != 0 ]; then
            tail -n 20 "/tmp/lab-apt.$$.log" >&2
            exit "$status"
        fi
        rm -f "/tmp/lab-apt.$$.log"
    ) 9>/var/lock/tenure-lab-apt.lock
}

# lab_venv_path REQUIREMENTS : where the Python environment of a list of packages is. One for each content of the list;
# kept outside the checkout because it outlives it.
lab_venv_path() {
    echo "${TENURE_LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tenure-lab}/venv-$(sha256sum "$1" | cut -c1-16)"
}

# lab_venv REQUIREMENTS : makes that environment when it is missing.
lab_venv() {
    local requirements="$1" venv
    venv="$(lab_venv_path "$1")"
    lab_apt python3 python3
    if [ -e "$venv/whole" ]; then
        return 0
    fi
    # Python comes with Debian 12, its `venv` module does not.
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        lab_apt "python3-venv" python3 python3-venv
    fi
    mkdir -p "$(dirname "$venv")"
    (
        # Two scripts that install at the same time wait for each other; the second finds it done.
        flock 9
        if [ ! -e "$venv/whole" ]; then
            lab_say "installing the Python packages of $requirements"
            rm -rf "$venv"
            python3 -m venv "$venv"
            "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
                --requirement "$requirements" || {
                rm -rf "$venv"
                exit 1
            }
            # Half an environment must not look like a whole one.
            touch "$venv/whole"
        fi
    ) 9>"$venv.lock"
}

# lab_go : prints where Go is, and fails where it is not. Its own installer puts it outside of the path.
lab_go() {
    PATH="$PATH:/usr/local/go/bin" command -v go
}

# lab_wait WHAT LOG COMMAND... : repeats COMMAND until it succeeds; on giving up shows the end of LOG.
lab_wait() {
    local what="$1" log="$2" deadline
    shift 2
    deadline=$((SECONDS + LAB_READY_SECONDS_MAX))
    until "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$deadline" ]; then
            [ ! -f "$log" ] || tail -n 20 "$log" >&2
            lab_die "$what did not answer within ${LAB_READY_SECONDS_MAX} s"
        fi
        sleep 0.05
    done
}

# lab_spawn NAME COMMAND... : runs COMMAND in the background, cut off from this shell and its descriptors,
# with its output in $LAB_DIR/NAME.log and its pid in $LAB_DIR/NAME.pid. The pid is written together with
# the process's start time, so that `lab_stop` can never hit a later process that got the same number.
lab_spawn() {
    local name="$1"
    shift
    setsid "$@" </dev/null >"$LAB_DIR/$name.log" 2>&1 9>&- &
    local pid=$!
    echo "$pid $(lab_born "$pid")" >"$LAB_DIR/$name.pid"
    disown "$pid"
}

# lab_adopt NAME PID : notes a process that put itself into the background (pg_ctl, for example).
lab_adopt() {
    echo "$2 $(lab_born "$2")" >"$LAB_DIR/$1.pid"
}

# The start time of a process in clock ticks since boot; empty when there is no such process.
lab_born() {
    # The second field, the command, may hold blanks and brackets: count from the last bracket.
    sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20 || true
}

# lab_running NAME : whether the process noted in $LAB_DIR/NAME.pid still runs.
lab_running() {
    local pid born
    [ -f "$LAB_DIR/$1.pid" ] || return 1
    read -r pid born <"$LAB_DIR/$1.pid" || true
    [ -n "${born:-}" ] && [ "$(lab_born "$pid")" = "$born" ] || return 1
    # A zombie has ended; only its parent has not noticed.
    [ "$(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null | cut -d' ' -f1)" != Z ]
}

# lab_stop NAME [SIGNAL] : asks the process to leave, waits, and in the end kills it.
lab_stop() {
    local name="$1" signal="${2:-TERM}" pid deadline
    if lab_running "$name"; then
        read -r pid _ <"$LAB_DIR/$name.pid"
        kill -s "$signal" "$pid" 2>/dev/null || true
        deadline=$((SECONDS + LAB_STOP_SECONDS_MAX))
        while lab_running "$name"; do
            if [ "$SECONDS" -ge "$deadline" ]; then
                lab_say "$name ($pid) did not stop on SIG$signal, killing it"
                kill -s KILL "$pid" 2>/dev/null || true
                break
            fi
            sleep 0.05
        done
    fi
    rm -f "$LAB_DIR/$name.pid"
}

# lab_env NAME VALUE... : writes `export NAME=VALUE` pairs to $LAB_DIR/env, all or nothing.
lab_env() {
    local partial="$LAB_DIR/env.partial"
    : >"$partial"
    while [ "$#" -ge 2 ]; do
        printf "export %s='%s'\n" "$1" "${2//\'/\'\\\'\'}" >>"$partial"
        shift 2
    done
    mv "$partial" "$LAB_DIR/env"
}

# lab_dir DIR : makes DIR, prints its absolute path. An LDIF or a configuration file needs no quoting then.
lab_dir() {
    mkdir -p "$1"
    local absolute
    absolute="$(cd "$1" && pwd -P)"
    case "$absolute" in
    *[!A-Za-z0-9/._-]*) lab_die "the lab folder \`$absolute\` must have only letters, digits and /._- in its name" ;;
    esac
    echo "$absolute"
}

# lab_certificates DIR HOST... : a certificate authority (ca.pem), a certificate for the hosts and 127.0.0.1
# signed by it (server.pem, server.key), and a second authority that signed nothing (other-ca.pem).
lab_certificates() {
    local directory="$1" host names="IP:127.0.0.1"
    shift
    for host in "$@"; do
        names="$names,DNS:$host"
    done
    mkdir -p "$directory"
    local authority
    for authority in ca other-ca; do
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
            -subj "/CN=Tenure lab $authority" -addext basicConstraints=critical,CA:TRUE \
            -addext keyUsage=critical,keyCertSign,cRLSign \
            -keyout "$directory/$authority.key" -out "$directory/$authority.pem" 2>/dev/null
    done
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$1" \
        -keyout "$directory/server.key" -out "$directory/server.csr" 2>/dev/null
    openssl x509 -req -in "$directory/server.csr" -CA "$directory/ca.pem" -CAkey "$directory/ca.key" \
        -CAcreateserial -days 30 -out "$directory/server.pem" -extfile <(
            echo "subjectAltName=$names"
            echo "extendedKeyUsage=serverAuth"
            echo "basicConstraints=CA:FALSE"
        ) 2>/dev/null
    rm -f "$directory/server.csr"
}

# lab_main VERB [DIR] : the command line of every lab script. The script defines lab_install, lab_start and
# lab_halt; the last two find their folder in $LAB_DIR.
lab_main() {
    local verb="${1:-}"
    case "$verb" in
    install)
        lab_install
        ;;
    start)
        [ -n "${2:-}" ] || lab_die "start needs a folder: $0 start DIR"
        lab_install
        LAB_DIR="$(lab_dir "$2")"
        if [ -f "$LAB_DIR/env" ]; then
            lab_die "\`$LAB_DIR\` is in use; run \`$0 stop $2\` first"
        fi
        # What half started must not stay behind.
        trap 'lab_halt' EXIT
        lab_start
        trap - EXIT
        ;;
    stop)
        [ -n "${2:-}" ] || lab_die "stop needs a folder: $0 stop DIR"
        [ -d "$2" ] || return 0
        LAB_DIR="$(lab_dir "$2")"
        lab_halt
        rm -f "$LAB_DIR/env"
        ;;
    down | up)
        [ "$(type -t lab_up)" = function ] || lab_die "this server cannot be taken $verb"
        [ -f "${2:-}/env" ] || lab_die "nothing was started in \`${2:-}\`"
        LAB_DIR="$(lab_dir "$2")"
        if [ "$verb" = down ]; then lab_halt; else lab_up; fi
        ;;
    *)
        echo "usage: $0 install | start DIR | stop DIR | down DIR | up DIR" >&2
        exit 2
        ;;
    esac
}
