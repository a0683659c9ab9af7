#!/usr/bin/env bash
# An OpenLDAP server with the overlays a company runs: memberOf, password policy, unique uid, access log.
#
#   openldap.sh install | start DIR | stop DIR
#
# DIR/env then has (all with the prefix TENURE_LAB_OPENLDAP_):
#   URL, LDAPS_URL      ldap:// (StartTLS works) and ldaps:// on 127.0.0.1
#   CA_FILE             the authority of the server's certificate;  OTHER_CA_FILE: one that did not sign it
#   BASE, PEOPLE_BASE, GROUP_BASE, LOG_BASE
#   BIND_DN, PASSWORD   a service account that may write people and groups and nothing else: what Tenure gets
#   READER_DN           another one that may only read (same PASSWORD)
#   ADMIN_DN            the one that may do everything, for oracles (same PASSWORD)
#   FLAVOUR             openldap
#
# LOG_BASE holds a record of every effective write, made by the server: who changed what, in which order.

. "$(dirname "$0")/common.sh"

BASE=dc=lab,dc=test
PASSWORD=lab-Secret-1

lab_install() {
    lab_apt slapd slapd ldap-utils
    lab_apt openssl openssl
}

write_configuration() {
    cat >"$LAB_DIR/slapd.conf" <<CONF
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
include /etc/ldap/schema/nis.schema

# What OpenSSH's patch for LDAP brings: Debian has it in no package of schemas.
attributetype ( 1.3.6.1.4.1.24552.500.1.1.1.13 NAME 'sshPublicKey'
    EQUALITY octetStringMatch SYNTAX 1.3.6.1.4.1.1466.115.121.1.40 )
objectclass ( 1.3.6.1.4.1.24552.500.1.1.2.0 NAME 'ldapPublicKey' SUP top AUXILIARY
    MAY ( sshPublicKey \$ uid ) )

modulepath /usr/lib/ldap
moduleload back_mdb
moduleload accesslog
moduleload memberof
moduleload ppolicy
moduleload refint
moduleload unique

sortvals member memberOf
pidfile  $LAB_DIR/slapd.own.pid
argsfile $LAB_DIR/slapd.args

TLSCACertificateFile  $LAB_DIR/tls/ca.pem
TLSCertificateFile    $LAB_DIR/tls/server.pem
TLSCertificateKeyFile $LAB_DIR/tls/server.key

# The service accounts get what a careful administrator would give them.
access to dn.subtree="cn=log"
    by * none
access to dn.subtree="ou=people,$BASE" attrs=userPassword
    by dn.exact="cn=tenure,ou=services,$BASE" write
    by self write
    by anonymous auth
    by * none
access to attrs=userPassword
    by self write
    by anonymous auth
    by * none
access to dn.subtree="ou=people,$BASE"
    by dn.exact="cn=tenure,ou=services,$BASE" write
    by users read
    by * none
access to dn.subtree="ou=groups,$BASE"
    by dn.exact="cn=tenure,ou=services,$BASE" write
    by users read
    by * none
access to *
    by users read
    by * none

database mdb
suffix cn=log
rootdn cn=admin,$BASE
directory $LAB_DIR/log-database
maxsize 1073741824
# What a lab loses when the machine crashes nobody misses.
envflags nosync writemap
index objectClass,reqStart,reqDN,reqType,reqResult eq

database mdb
suffix $BASE
rootdn cn=admin,$BASE
rootpw $PASSWORD
directory $LAB_DIR/database
maxsize 1073741824
# What a lab loses when the machine crashes nobody misses.
envflags nosync writemap
index objectClass,entryUUID,entryCSN,uid,cn,employeeNumber,member,memberOf,owner eq
# Without these a group is written anew, whole, for each member it gets.
multival member,memberOf 50,10

# Without this a listing ends with an error after 500 entries.
limits dn.exact="cn=tenure,ou=services,$BASE" size=unlimited time=unlimited

overlay memberof
memberof-refint TRUE
overlay refint
refint_attributes member manager
overlay unique
unique_uri ldap:///ou=people,$BASE?uid?sub
overlay ppolicy
ppolicy_default cn=default,ou=policies,$BASE
ppolicy_use_lockout
overlay accesslog
logdb cn=log
logops writes
logsuccess TRUE
CONF
}

write_entries() {
    cat <<LDIF
dn: $BASE
objectClass: organization
objectClass: dcObject
o: Lab
dc: lab

dn: ou=people,$BASE
objectClass: organizationalUnit
ou: people

dn: ou=groups,$BASE
objectClass: organizationalUnit
ou: groups

dn: ou=services,$BASE
objectClass: organizationalUnit
ou: services

dn: ou=policies,$BASE
objectClass: organizationalUnit
ou: policies

dn: cn=default,ou=policies,$BASE
objectClass: organizationalRole
objectClass: pwdPolicy
cn: default
pwdAttribute: userPassword
pwdLockout: TRUE
pwdMaxFailure: 5
pwdMinLength: 8
pwdCheckQuality: 2
pwdLockoutDuration: 900

dn: cn=tenure,ou=services,$BASE
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: tenure
userPassword: $hashed

dn: cn=reader,ou=services,$BASE
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: reader
userPassword: $hashed
LDIF
}

lab_start() {
    local ldap_port ldaps_port hashed
    read -r ldap_port ldaps_port < <(lab_free_ports 2)
    local url="ldap://127.0.0.1:$ldap_port" ldaps_url="ldaps://127.0.0.1:$ldaps_port"

    rm -rf "$LAB_DIR/database" "$LAB_DIR/log-database"
    mkdir -p "$LAB_DIR/database" "$LAB_DIR/log-database"
    lab_certificates "$LAB_DIR/tls" localhost
    write_configuration
    hashed="$(/usr/sbin/slappasswd -s "$PASSWORD")"
    write_entries | /usr/sbin/slapadd -q -f "$LAB_DIR/slapd.conf" -b "$BASE" 2>"$LAB_DIR/slapadd.log" ||
        { cat "$LAB_DIR/slapadd.log" >&2; lab_die "cannot load the first entries"; }

    echo "$url/ $ldaps_url/" >"$LAB_DIR/urls"
    lab_up
    lab_wait slapd "$LAB_DIR/slapd.log" env LDAPTLS_CACERT="$LAB_DIR/tls/ca.pem" \
        ldapsearch -x -H "$ldaps_url" -D "cn=tenure,ou=services,$BASE" -w "$PASSWORD" -b "$BASE" -s base 1.1

    lab_env \
        TENURE_LAB_OPENLDAP_URL "$url" \
        TENURE_LAB_OPENLDAP_LDAPS_URL "$ldaps_url" \
        TENURE_LAB_OPENLDAP_CA_FILE "$LAB_DIR/tls/ca.pem" \
        TENURE_LAB_OPENLDAP_OTHER_CA_FILE "$LAB_DIR/tls/other-ca.pem" \
        TENURE_LAB_OPENLDAP_BASE "$BASE" \
        TENURE_LAB_OPENLDAP_PEOPLE_BASE "ou=people,$BASE" \
        TENURE_LAB_OPENLDAP_GROUP_BASE "ou=groups,$BASE" \
        TENURE_LAB_OPENLDAP_LOG_BASE cn=log \
        TENURE_LAB_OPENLDAP_BIND_DN "cn=tenure,ou=services,$BASE" \
        TENURE_LAB_OPENLDAP_READER_DN "cn=reader,ou=services,$BASE" \
        TENURE_LAB_OPENLDAP_ADMIN_DN "cn=admin,$BASE" \
        TENURE_LAB_OPENLDAP_PASSWORD "$PASSWORD" \
        TENURE_LAB_OPENLDAP_FLAVOUR openldap
}

# The server on what it held before, at the addresses it had.
lab_up() {
    lab_spawn slapd /usr/sbin/slapd -d 0 -f "$LAB_DIR/slapd.conf" -h "$(cat "$LAB_DIR/urls")"
}

lab_halt() {
    lab_stop slapd
}

lab_main "$@"
