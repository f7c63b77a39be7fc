#!/bin/sh
# Compiles steering.c to steering.o, the object that is committed and embedded in the gateway.
#   build.sh          writes steering.o
#   build.sh --check  exits 1 unless the committed steering.o is what steering.c compiles to
# Needs clang 16 (CLANG names another one). No debug information, no paths: the same source gives the same bytes.
set -eu
cd "$(dirname "$0")"

compile() {
    "${CLANG:-clang-16}" -target bpfel -mcpu=v2 -O2 -g0 -std=gnu11 -ffreestanding -nostdinc -fno-ident -fno-addrsig \
        -ffile-prefix-map="$PWD"=. -Wall -Wextra -Werror -c steering.c -o "$1"
}

case "${1:-}" in
"")
    compile steering.o
    ;;
--check)
    fresh=$(mktemp)
    trap 'rm -f "$fresh"' EXIT
    compile "$fresh"
    if ! cmp "$fresh" steering.o; then
        echo "steering.o is not what steering.c compiles to: run dataplane/bpf/build.sh with clang 16 and commit" >&2
        exit 1
    fi
    ;;
*)
    echo "usage: build.sh [--check]" >&2
    exit 1
    ;;
esac
