#!/usr/bin/env bash
# The API server of Kubernetes on its etcd, both built from their source: Debian has no package of the first. That takes Go and,
# once for each version, many minutes. The versions and checksums are those of kubernetes/go.mod and go.sum beside this
# script. There is no controller beside it: nobody counts quotas, and what is deleted with its owner stays. What happened
# is compacted after seconds, not minutes, so that listings are forgotten while a test waits for that.
#
#   TENURE_LAB_KUBERNETES_URL, _CA   its address, and whom to trust for it
#   TENURE_LAB_KUBERNETES_ADMIN_CERTIFICATE, _ADMIN_KEY   files of somebody who may do everything
#   TENURE_LAB_KUBERNETES_CLIENT_CA, _CLIENT_CA_KEY       who certifies people there
#   TENURE_LAB_KUBERNETES_EXPIRED_TOKEN   a file with a token of a service account whose time is over

# shellcheck source=tests/lab/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

KUBERNETES_HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)/kubernetes"
# One folder of programs for each list of versions.
KUBERNETES_PROGRAMS="${TENURE_LAB_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tenure-lab}/kubernetes-$(
    cat "$KUBERNETES_HERE/go.mod" "$KUBERNETES_HERE/go.sum" | sha256sum | cut -c1-16
)"
KUBERNETES_ISSUER=https://kubernetes.default.svc

lab_install() {
    local go wanted found version
    lab_apt openssl openssl
    lab_apt python3 python3
    if [ -e "$KUBERNETES_PROGRAMS/whole" ]; then
        return 0
    fi
    wanted="$(sed -n 's/^go //p' "$KUBERNETES_HERE/go.mod")"
    go="$(lab_go)" ||
        lab_die "the API server of Kubernetes has to be built, and \`go\` is missing; install Go $wanted or newer (https://go.dev/doc/install)"
    found="$(cd / && GOTOOLCHAIN=local "$go" env GOVERSION)"
    [ "$(printf '%s\n' "$wanted" "${found#go}" | sort -V | head -n 1)" = "$wanted" ] ||
        lab_die "\`$go\` is $found, and the API server of Kubernetes is built with Go $wanted or newer (https://go.dev/doc/install)"
    version="$(sed -n 's/^\tk8s.io\/kubernetes \(v[^ ]*\).*/\1/p' "$KUBERNETES_HERE/go.mod")"
    mkdir -p "$KUBERNETES_PROGRAMS"
    (
        # Two scripts that build at the same time wait for each other; the second finds it done.
        flock 9
        [ ! -e "$KUBERNETES_PROGRAMS/whole" ] || exit 0
        lab_say "building kube-apiserver $version and etcd; the first time this takes many minutes"
        cd "$KUBERNETES_HERE"
        export CGO_ENABLED=0 GOTOOLCHAIN=local
        "$go" build -mod=readonly -trimpath -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$version" \
            -o "$KUBERNETES_PROGRAMS/kube-apiserver" k8s.io/kubernetes/cmd/kube-apiserver
        "$go" build -mod=readonly -trimpath -ldflags "-s -w" -o "$KUBERNETES_PROGRAMS/etcd" go.etcd.io/etcd/server/v3
        touch "$KUBERNETES_PROGRAMS/whole"
    ) 9>"$KUBERNETES_PROGRAMS.lock"
}

# kubernetes_certified NAME GROUP : NAME.pem and NAME.key of a person whom the cluster knows.
kubernetes_certified() {
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/O=$2/CN=$1" \
        -keyout "$LAB_DIR/$1.key" -out "$LAB_DIR/$1.csr" 2>/dev/null
    openssl x509 -req -in "$LAB_DIR/$1.csr" -CA "$LAB_DIR/clients/ca.pem" -CAkey "$LAB_DIR/clients/ca.key" \
        -CAcreateserial -days 30 -out "$LAB_DIR/$1.pem" -extfile <(echo "extendedKeyUsage=clientAuth") 2>/dev/null
    rm -f "$LAB_DIR/$1.csr"
}

# kubernetes_expired_token : a token as the cluster signs them, of long ago.
kubernetes_expired_token() {
    local head claims
    head="$(printf '{"alg":"RS256"}' | kubernetes_base64)"
    claims="$(printf '{"iss":"%s","aud":["%s"],"sub":"system:serviceaccount:default:late","iat":1600000000,"nbf":1600000000,"exp":1600003600,"kubernetes.io":{"namespace":"default","serviceaccount":{"name":"late","uid":"1"}}}' \
        "$KUBERNETES_ISSUER" "$KUBERNETES_ISSUER" | kubernetes_base64)"
    printf '%s.%s.%s' "$head" "$claims" \
        "$(printf '%s.%s' "$head" "$claims" | openssl dgst -sha256 -sign "$LAB_DIR/accounts.key" | kubernetes_base64)"
}

kubernetes_base64() {
    base64 -w 0 | tr '+/' '-_' | tr -d '='
}

lab_start() {
    local etcd_port peer_port port
    read -r etcd_port peer_port port <<<"$(lab_free_ports 3)"
    lab_certificates "$LAB_DIR/tls" localhost
    lab_certificates "$LAB_DIR/clients" clients
    kubernetes_certified admin system:masters
    openssl genrsa -out "$LAB_DIR/accounts.key" 2048 2>/dev/null
    openssl rsa -in "$LAB_DIR/accounts.key" -pubout -out "$LAB_DIR/accounts.pub" 2>/dev/null
    kubernetes_expired_token >"$LAB_DIR/expired-token"
    lab_spawn etcd "$KUBERNETES_PROGRAMS/etcd" --name lab --data-dir "$LAB_DIR/etcd-data" --unsafe-no-fsync \
        --listen-client-urls "http://127.0.0.1:$etcd_port" --advertise-client-urls "http://127.0.0.1:$etcd_port" \
        --listen-peer-urls "http://127.0.0.1:$peer_port" --initial-advertise-peer-urls "http://127.0.0.1:$peer_port" \
        --initial-cluster "lab=http://127.0.0.1:$peer_port"
    lab_wait etcd "$LAB_DIR/etcd.log" \
        python3 -c 'import sys, urllib.request as r; r.urlopen(sys.argv[1], timeout=2).read()' "http://127.0.0.1:$etcd_port/health"
    lab_spawn kube-apiserver "$KUBERNETES_PROGRAMS/kube-apiserver" \
        --etcd-servers "http://127.0.0.1:$etcd_port" --etcd-compaction-interval 2s \
        --bind-address 127.0.0.1 --advertise-address 127.0.0.1 --secure-port "$port" --endpoint-reconciler-type none \
        --tls-cert-file "$LAB_DIR/tls/server.pem" --tls-private-key-file "$LAB_DIR/tls/server.key" \
        --client-ca-file "$LAB_DIR/clients/ca.pem" --authorization-mode RBAC --service-cluster-ip-range 10.0.0.0/24 \
        --service-account-issuer "$KUBERNETES_ISSUER" --service-account-key-file "$LAB_DIR/accounts.pub" \
        --service-account-signing-key-file "$LAB_DIR/accounts.key"
    lab_wait kube-apiserver "$LAB_DIR/kube-apiserver.log" python3 -c 'import ssl, sys, urllib.request as r
trusting = ssl.create_default_context(cafile=sys.argv[2])
trusting.load_cert_chain(sys.argv[3], sys.argv[4])
r.urlopen(sys.argv[1], timeout=2, context=trusting).read()' \
        "https://127.0.0.1:$port/readyz" "$LAB_DIR/tls/ca.pem" "$LAB_DIR/admin.pem" "$LAB_DIR/admin.key"
    lab_env \
        TENURE_LAB_KUBERNETES_URL "https://127.0.0.1:$port" \
        TENURE_LAB_KUBERNETES_CA "$LAB_DIR/tls/ca.pem" \
        TENURE_LAB_KUBERNETES_ADMIN_CERTIFICATE "$LAB_DIR/admin.pem" \
        TENURE_LAB_KUBERNETES_ADMIN_KEY "$LAB_DIR/admin.key" \
        TENURE_LAB_KUBERNETES_CLIENT_CA "$LAB_DIR/clients/ca.pem" \
        TENURE_LAB_KUBERNETES_CLIENT_CA_KEY "$LAB_DIR/clients/ca.key" \
        TENURE_LAB_KUBERNETES_EXPIRED_TOKEN "$LAB_DIR/expired-token"
}

lab_halt() {
    local each
    for each in kube-apiserver etcd; do
        lab_stop "$each"
    done
}

lab_main "$@"
