#!/usr/bin/env bash
# Measure and check everything on this machine's GPU; the same command resumes it (docs/gpu.md).
#   make gpu                all of it         MINUTES=9 make gpu   begin no part that may end later
#   SMOKE=1 make gpu        in miniature, on the CPU, as a smoke test
#   OUT=folder make gpu     results in another folder              ONLY="correct/ speed/sampling"
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-gpu}
# An environment of this project, or whatever Python has PyTorch: a machine may be without network.
PYTHON=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
mkdir -p "$OUT"
SITE=$(cd "$OUT" && pwd)/site
if compgen -G "$OUT/wheels/*.whl" >/dev/null && [ ! -e "$SITE" ]; then
  "$PYTHON" -m pip install -q --no-index --no-deps --target "$SITE.partial" "$OUT"/wheels/*.whl
  mv "$SITE.partial" "$SITE"
fi
export PYTHONPATH="$PWD:$PWD/scripts:$PWD/scripts/gpu:$PWD/scripts/bench:$SITE${PYTHONPATH:+:$PYTHONPATH}"
OPTIONS=()
if [ "${SMOKE:-0}" = 1 ]; then
  OPTIONS+=(--smoke)
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
fi
"$PYTHON" scripts/gpu/missing.py ${OPTIONS[@]+"${OPTIONS[@]}"}
[ -z "${MINUTES:-}" ] || OPTIONS+=(--minutes "$MINUTES")
[ -z "${ONLY:-}" ] || OPTIONS+=(--only $ONLY)
exec "$PYTHON" scripts/gpu/run_day.py "$OUT" ${OPTIONS[@]+"${OPTIONS[@]}"}
