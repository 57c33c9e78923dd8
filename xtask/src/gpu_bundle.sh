#!/usr/bin/env bash
# Runs the device tests, the sanitizer on small ones and on one whole generation, then the benches. Arguments select rows of the
# benches by name; `--tests` leaves the benches out. Logs lie in $OUT or here; the last lines say how each step ended.
set -uo pipefail
cd "$(dirname "$0")"
root="${LAZY_ATTN_ROOT:-$PWD/../..}"
export LAZY_ATTN_KERNELS="$PWD/lazy_kernels.fatbin"
# Tests of models read files of their crate.
export CARGO_MANIFEST_DIR="$root/crates/lazy-attn-models"
model="$CARGO_MANIFEST_DIR/assets/smollm2-block-47m.Q4_0.gguf"
out="${OUT:-$PWD}"
benches=yes
[ "${1:-}" = --tests ] && { benches=no; shift; }
: >"$out/steps.txt"

# step NAME SECONDS COMMAND..: its log, and a line of how it ended.
step() {
    local name="$1" limit="$2" begun code=0
    shift 2
    begun=$(date +%s)
    timeout "$limit" "$@" >"$out/$name.log" 2>&1 || code=$?
    echo "$name: $([ "$code" = 0 ] && echo passed || echo "failed ($code)") in $(($(date +%s) - begun)) s" | tee -a "$out/steps.txt"
}

# One question over a document, as the command answers it.
generation() {
    printf 'MV Swallow\nThe MV Swallow is a ferry. Her captain is Maria Stone. She is 42 metres long.\n' >"$out/swallow.txt"
    "$@" ./lazyattn --model "$model" --device cuda:0 --kv-cache-memory 64MiB \
        run "Who is the captain of the MV Swallow?" --doc "$out/swallow.txt" --max-tokens 12
}
sanitized_generation() { generation compute-sanitizer --tool memcheck --error-exitcode 9; }
export -f generation sanitized_generation
export out model

nvidia-smi -L
# What is only right or wrong runs beside one another: nothing here is timed.
step tests 240 ./tests --test-threads 8 &
step tests_models 240 ./tests_models --test-threads 3 &
if [ "$(uname -r)" = 4.4.0 ]; then
    echo "compute-sanitizer: not run, gVisor refuses it"
elif command -v compute-sanitizer >/dev/null; then
    # Its kernels are for one kind of device.
    watched="$LAZY_ATTN_KERNELS"
    nvidia-smi --query-gpu=compute_cap --format=csv,noheader | grep -q '^9\.0$' && watched="$PWD/lazy_kernels.sanitizer.fatbin"
    for tool in memcheck racecheck synccheck; do
        LAZY_ATTN_KERNELS="$watched" step "$tool" 300 compute-sanitizer --tool "$tool" --error-exitcode 9 ./tests sanitizer &
    done
    [ -x lazyattn ] && step memcheck_generation 120 bash -c sanitized_generation &
fi
wait
[ -x lazyattn ] && step generation 60 bash -c generation
if [ "$benches" = yes ]; then
    step bench_copies 60 ./bench_copies
    step bench_reuse 60 ./bench_reuse
    step bench_load 100 ./bench_load
    step bench_models 100 ./bench_models
    step bench 200 ./bench --bench --out "$out/bench.json" "$@"
fi
tail -n 40 "$out"/bench*.log 2>/dev/null
echo "== steps"
cat "$out/steps.txt"
! grep -q failed "$out/steps.txt"
