#!/usr/bin/env bash
# A Samba domain controller: the Active Directory dialect of LDAP.
#
#   samba.sh install | start DIR | stop DIR
#
# DIR/env then has (all with the prefix TENURE_LAB_AD_):
#   URL, LDAPS_URL      ldap:// (StartTLS works) and ldaps:// on 127.0.0.1
#   CA_FILE             the authority of the server's certificate;  OTHER_CA_FILE: one that did not sign it
#   BASE, PEOPLE_BASE, GROUP_BASE, REALM
#   BIND_DN, PASSWORD   the domain's administrator
#   FLAVOUR             active_directory
#
# The domain controller insists on ports 389 and 636, so it runs in a network namespace of its own and
# bridge.py carries connections in.

. "$(dirname "$0")/common.sh"

REALM=LAB.TEST
DOMAIN=LAB
BASE=DC=lab,DC=test
PASSWORD=lab-Secret-1

lab_install() {
    lab_apt samba samba samba-ad-dc samba-ad-provision winbind
    lab_apt ldapsearch ldap-utils
    lab_apt openssl openssl
    lab_apt ip iproute2
    lab_apt python3 python3
}

provision() {
    rm -rf "$LAB_DIR/domain"
    mkdir -p "$LAB_DIR/domain"
    # posix:eadb keeps extended attributes in a file: not every file system of a container has them.
    samba-tool domain provision --quiet \
        --targetdir="$LAB_DIR/domain" --realm="$REALM" --domain="$DOMAIN" --adminpass="$PASSWORD" \
        --server-role=dc --host-name=dc1 --host-ip=127.0.0.1 --dns-backend=NONE \
        --option="posix:eadb=$LAB_DIR/domain/attributes.tdb" \
        --option="tls enabled=yes" \
        --option="tls keyfile=$LAB_DIR/tls/server.key" \
        --option="tls certfile=$LAB_DIR/tls/server.pem" \
        --option="tls cafile=$LAB_DIR/tls/ca.pem" \
        >"$LAB_DIR/provision.log" 2>&1 ||
        { tail -n 20 "$LAB_DIR/provision.log" >&2; lab_die "cannot provision the domain"; }
}

lab_start() {
    local ldap_port ldaps_port namespace
    read -r ldap_port ldaps_port < <(lab_free_ports 2)
    local url="ldap://127.0.0.1:$ldap_port" ldaps_url="ldaps://127.0.0.1:$ldaps_port"

    lab_certificates "$LAB_DIR/tls" localhost dc1.lab.test
    chmod 600 "$LAB_DIR/tls/server.key"
    provision

    namespace="lab-$ldap_port"
    ip netns add "$namespace" || lab_die "cannot make a network namespace; the lab needs to be root"
    echo "$namespace" >"$LAB_DIR/namespace"
    ip netns exec "$namespace" ip link set lo up

    lab_spawn samba ip netns exec "$namespace" /usr/sbin/samba --foreground --model=single \
        --configfile="$LAB_DIR/domain/etc/smb.conf" --debug-stdout --debuglevel=1 \
        --option="server services=ldap" --option="dcerpc endpoint servers=-dnsserver" \
        --option="interfaces=127.0.0.1" --option="bind interfaces only=yes" \
        --option="pid directory=$LAB_DIR/domain" --option="ncalrpc dir=$LAB_DIR/domain/ncalrpc"
    lab_spawn bridge python3 "$(dirname "$0")/bridge.py" "$namespace" "$ldap_port:389" "$ldaps_port:636"

    export LDAPTLS_CACERT="$LAB_DIR/tls/ca.pem"
    local login=(-x -H "$ldaps_url" -D "CN=Administrator,CN=Users,$BASE" -w "$PASSWORD")
    lab_wait samba "$LAB_DIR/samba.log" ldapsearch "${login[@]}" -b "$BASE" -s base 1.1
    ldapadd "${login[@]}" >>"$LAB_DIR/provision.log" <<LDIF
dn: OU=people,$BASE
objectClass: organizationalUnit
ou: people

dn: OU=groups,$BASE
objectClass: organizationalUnit
ou: groups
LDIF

    lab_env \
        TENURE_LAB_AD_URL "$url" \
        TENURE_LAB_AD_LDAPS_URL "$ldaps_url" \
        TENURE_LAB_AD_CA_FILE "$LAB_DIR/tls/ca.pem" \
        TENURE_LAB_AD_OTHER_CA_FILE "$LAB_DIR/tls/other-ca.pem" \
        TENURE_LAB_AD_BASE "$BASE" \
        TENURE_LAB_AD_PEOPLE_BASE "OU=people,$BASE" \
        TENURE_LAB_AD_GROUP_BASE "OU=groups,$BASE" \
        TENURE_LAB_AD_REALM "$REALM" \
        TENURE_LAB_AD_BIND_DN "CN=Administrator,CN=Users,$BASE" \
        TENURE_LAB_AD_PASSWORD "$PASSWORD" \
        TENURE_LAB_AD_FLAVOUR active_directory
}

lab_halt() {
    lab_stop bridge
    lab_stop samba
    if [ -f "$LAB_DIR/namespace" ]; then
        ip netns del "$(cat "$LAB_DIR/namespace")" 2>/dev/null || true
        rm -f "$LAB_DIR/namespace"
    fi
}

lab_main "$@"
