#!/usr/bin/env bash
# Train the demo's tokenizer for 100 steps with every config of configs/ablations: a smoke test of
# the estimators, about a minute of one core each. Prints the last line of each run's log.
# loss_perceptual needs weights: video-vq doctor --st-lpips.
set -euo pipefail
OUT=${1:-runs/ablations}
CONFIGS=$(cd "$(dirname "$0")/../configs/ablations" && pwd)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
if grep -qsE 'avx512_bf16|amx_bf16' /proc/cpuinfo; then export ACCELERATE_MIXED_PRECISION=bf16; fi

if [ ! -e "$OUT/clips/manifest.json" ]; then
  data-prep synthetic "$OUT/raw" --layout ucf101 --videos 200 --frames 30 --size 64 --seed 0
  data-prep ucf101 "$OUT/raw" --out "$OUT/clips" --size 32 --split 1
fi
for CONFIG in "$CONFIGS"/*.yaml; do
  NAME=$(basename "$CONFIG" .yaml)
  video-vq train-tokenizer --config "$CONFIG" --data "$OUT/clips" --out "$OUT/$NAME" >/dev/null 2>"$OUT/$NAME.stderr" \
    || { tail -5 "$OUT/$NAME.stderr" >&2; exit 1; }
  printf '%s ' "$NAME"; grep '"loss/reconstruction"' "$OUT/$NAME/metrics.jsonl" | tail -1
done
