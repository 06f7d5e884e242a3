#!/bin/sh
# Builds the fuzz targets and runs each of them for a while.
#
#   fuzz/run.sh [SECONDS [TARGET]...]       10 seconds, all targets
#
# A target is a file in src/bin/ and nothing else; seeds for it, if any, are the files in seeds/TARGET/. What is found
# worth keeping goes to corpus/TARGET/, what crashes to artifacts/TARGET/. Needs a C++ compiler, no cargo-fuzz and no
# nightly compiler. Fails when a target does, after all have run.
set -eu
cd "$(dirname "$0")"

seconds=${1:-10}
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- $(basename -s .rs src/bin/*.rs)

# With --target, build scripts and macros are built without the flags.
host=$(rustc -vV | sed -n 's/^host: //p')
coverage="-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4"
coverage="$coverage -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table"
coverage="$coverage -Cllvm-args=-sanitizer-coverage-trace-compares"
RUSTFLAGS="$coverage --cfg fuzzing -Ccodegen-units=1" cargo build --locked --quiet --bins --target "$host"
programs=${CARGO_TARGET_DIR:-target}/$host/debug

# The resident set is limited by libFuzzer, but memory that is only reserved is not in it.
ulimit -v 4194304

failed=
for target in "$@"; do
    mkdir -p "corpus/$target" "artifacts/$target"
    seeds="seeds/$target"
    [ -d "$seeds" ] || seeds=
    log="artifacts/$target.log"
    if "$programs/$target" "corpus/$target" $seeds -artifact_prefix="artifacts/$target/" -max_total_time="$seconds" \
        -max_len=65536 -len_control=20 -rss_limit_mb=1024 -timeout=10 >"$log" 2>&1; then
        echo "$target: $(sed -n 's/^Done //p' "$log")"
    else
        failed="$failed $target"
        sed -n '/panicked at/,+3p' "$log"
        grep '^SUMMARY' "$log" || tail -n 20 "$log"
        echo "$target: failed, see fuzz/$log; the input is in fuzz/artifacts/$target/"
    fi
done
[ -z "$failed" ]
