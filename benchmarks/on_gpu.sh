#!/usr/bin/env bash
# For the day a GPU is lent: install what is missing, run the CUDA tests, and measure. It takes
# less than eight minutes, and what is done by then is kept.
#
#   benchmarks/on_gpu.sh [WHEELS]             writes cuda_tests.xml, gpu.json and gpu.md
#   benchmarks/on_gpu.sh --dry-run [WHEELS]   the same on the CPU, as far as it goes
#
# They go to $OUT, or runs/gpu. WHEELS, or $WHEELS, is a folder of wheels, since there may be no
# network; torch and torchvision must be there already. Fill it beforehand, such as with
#   pip download --no-deps -d .whl torch-pruning
# The exit status is not 0 if a test failed, or the measuring broke off.
set -euo pipefail
cd "$(dirname "$0")/.."

dry=()
if [[ ${1:-} == --dry-run ]]; then dry=(--dry-run); shift; fi
wheels=${1:-${WHEELS:-}}
out=${OUT:-runs/gpu}
python=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
all_seconds=450    # leaves half a minute of the eight minutes for what comes after
test_seconds=120
if [[ ${dry[*]} ]]; then
    export PRUNEKIT_TEST_DEVICE=cpu CUDA_VISIBLE_DEVICES=
    all_seconds=1200 test_seconds=900
elif ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
    echo "on_gpu.sh: There is no CUDA device here; add --dry-run to try it on the CPU." >&2
    exit 2
fi

importable() { "$python" -c "import importlib.util as u, sys; sys.exit(not u.find_spec('$1'))"; }

missing=()
for package in torch_pruning:torch-pruning timm:timm safetensors:safetensors rich:rich \
    accelerate:accelerate matplotlib:matplotlib sklearn:scikit-learn pytest:pytest \
    hypothesis:hypothesis; do
    importable "${package%:*}" || missing+=("${package#*:}")
done
if [[ ${missing[*]} ]]; then
    if [[ ! -d $wheels ]]; then
        echo "on_gpu.sh: ${missing[*]} must be installed; name a folder with their wheels." >&2
        exit 2
    fi
    # Without their own needs, which pip would hold against versions of torch that it did not choose.
    "$python" -m pip install --quiet --no-index --no-deps --find-links "$wheels" "${missing[@]}"
fi

mkdir -p "$out"
rm -f "$out"/{cuda_tests.xml,gpu.json,gpu.md}
mapfile -t files < <(grep -l 'mark\.cuda' tests/test_*.py)
workers=()
if importable xdist; then workers=(-n 4); fi
# Other versions of torch and timm than ours may warn of anything, which is no reason to fail here.
# Tests that have not begun by then are skipped; the kill is for one that hangs.
export PRUNEKIT_TEST_UNTIL=$(($(date +%s) + test_seconds))
status=0
timeout --signal=INT --kill-after=10 $((test_seconds + 30)) "$python" -m pytest -m cuda \
    -W default -p no:cacheprovider "${workers[@]}" --junitxml "$out/cuda_tests.xml" \
    "${files[@]}" || status=$?

# The script stops by itself; the kill is for a device that hangs, and leaves the record.
left=$((all_seconds - SECONDS))
timeout --kill-after=5 $((left + 15)) "$python" benchmarks/on_gpu.py "${dry[@]}" \
    --out "$out/gpu.json" --tests "$out/cuda_tests.xml" --seconds "$left" || status=$?
"$python" benchmarks/gpu_page.py "$out/gpu.json" --out "$out/gpu.md"
exit "$status"
