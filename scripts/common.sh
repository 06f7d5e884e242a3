# What the scripts share; they source it. No program of its own.

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# Servers are in sbin folders, and rustup's programs in a folder that not every shell knows.
PATH="$PATH:/usr/sbin:/usr/local/sbin:$HOME/.cargo/bin"
# Absolute, because not every build is started from here.
CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-target}")
export PATH CARGO_TARGET_DIR

MINIMUM_RUST=1.95

# Debian's packages that a build needs, and how to tell that they are there, also on other systems.
BUILD_NEEDS=(
    "gcc=command -v cc"
    "libc6-dev=test -e /usr/include/stdio.h"
    "make=command -v make"
    "pkg-config=command -v pkg-config"
    "libelf-dev=pkg-config --exists libelf"
    "zlib1g-dev=pkg-config --exists zlib"
)

fail() {
    echo "$0: $*" >&2
    exit 1
}

# install_missing PACKAGE=TEST...: installs the packages whose test fails, or says which they are.
install_missing() {
    local need missing=()
    for need in "$@"; do
        eval "${need#*=}" >/dev/null 2>&1 || missing+=("${need%%=*}")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || fail "missing: ${missing[*]} (names of Debian's packages); install them and start again"
    [ "$(id -u)" = 0 ] || fail "missing: run \`sudo apt-get install -y ${missing[*]}\` and start again"
    echo "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# need_space GIB: a build that fills the disk fails in ways that do not say so.
need_space() {
    local folder=$CARGO_TARGET_DIR free built=0
    # What an earlier build left there is written over.
    [ ! -d "$folder" ] || built=$(du -sk "$folder" | cut -f1)
    while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
    free=$(($(df -Pk "$folder" | awk 'END { print $4 }') + built))
    [ "$free" -ge $(($1 * 1024 * 1024)) ] ||
        fail "needs about $1 GiB of disk for what it builds, and $folder has $((free / 1024 / 1024)) GiB:" \
            "make room, or set CARGO_TARGET_DIR to a folder on another disk"
}

need_rust() {
    local found
    found=$(rustc --version 2>/dev/null | cut -d' ' -f2) || true
    [ -n "$found" ] && command -v cargo >/dev/null ||
        fail "no Rust compiler: install Rust $MINIMUM_RUST or later, see https://rustup.rs"
    [ "$(printf '%s\n' "$MINIMUM_RUST" "$found" | sort -V | head -n1)" = "$MINIMUM_RUST" ] ||
        fail "Rust $found is too old: \`rustup update\` brings $MINIMUM_RUST or later"
}
