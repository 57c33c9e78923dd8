#!/bin/sh
# Makes the certificates of the TLS tests, valid until 2125. They protect nothing: their keys are public.
set -eu
cd "$(dirname "$0")"

authority() { # name
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 36500 -subj "/CN=lazyattn test $1" \
        -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign" \
        -keyout "$1.key" -out "$1.pem"
}

signed() { # name, authority, extended key usage
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -subj "/CN=lazyattn test $1" \
        -keyout "$1.key" -out "$1.csr"
    printf '%s\n' "basicConstraints=CA:FALSE" "keyUsage=digitalSignature" "extendedKeyUsage=$3" \
        "subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1" > "$1.ext"
    openssl x509 -req -in "$1.csr" -CA "$2.pem" -CAkey "$2.key" -CAcreateserial -days 36500 -extfile "$1.ext" -out "$1.pem"
    rm "$1.csr" "$1.ext"
}

authority ca
authority other-ca
signed server ca serverAuth
signed client ca clientAuth
signed stranger other-ca clientAuth
# Nothing more is signed with them.
rm ca.key other-ca.key ./*.srl
