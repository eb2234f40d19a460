#!/usr/bin/env bash
# From raw files in UCF-101's layout to samples and scores, on two CPU cores in about 10 minutes.
# Run it again and it only reports: every step goes on where it stopped.
set -euo pipefail
# SMOKE=1 runs every step in miniature, as a smoke test.
OUT=${1:-demo}
VIDEOS=800 SAMPLES=64 TRAIN=()
if [ "${SMOKE:-0}" = 1 ]; then
  VIDEOS=16 SAMPLES=2
  TRAIN=(optim.steps=4 optim.warmup_steps=1 optim.batch_size=2 run.validation_clips=2)
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(nproc)}

# bf16 is about twice as fast where the processor multiplies it in hardware, and slow elsewhere.
PRECISION=no
grep -qsE 'avx512_bf16|amx_bf16' /proc/cpuinfo && PRECISION=bf16
# One process: `accelerate launch --mixed_precision` would set the same and load torch to do so.
AT_PRECISION=(env ACCELERATE_MIXED_PRECISION="$PRECISION" video-vq)

BOLD='' PLAIN=''
if [ -t 2 ]; then BOLD=$'\033[1m' PLAIN=$'\033[0m'; fi
step() { printf '\n%s%s%s\n' "$BOLD" "$*" "$PLAIN" >&2; }

# A training that was stopped has saved and ends well: the next step must not take it for finished.
finished() { [ -e "$1/config.json" ] || { echo "stopped; run make demo again to resume" >&2; exit 130; }; }

step "1/8 render a pushing world and write it as UCF-101 would be (half a minute)"
data-prep synthetic "$OUT/raw" --layout ucf101 --videos "$VIDEOS" --frames 30 --size 64 --seed 0

step "2/8 prepare: raw videos to a clip store"
data-prep ucf101 "$OUT/raw" --out "$OUT/clips" --size 32 --split 1

step "3/8 train the tokenizer (about 4 minutes)"
"${AT_PRECISION[@]}" train-tokenizer --config demo/tokenizer --data "$OUT/clips" --out "$OUT/tokenizer" \
  "${TRAIN[@]}"

finished "$OUT/tokenizer/tokenizer"
step "4/8 encode: clips to tokens"
"${AT_PRECISION[@]}" encode "$OUT/clips" --tokenizer "$OUT/tokenizer" --out "$OUT/tokens" --hop 4

step "5/8 train the prior (about 3 minutes)"
"${AT_PRECISION[@]}" train-prior --config demo/prior --tokens "$OUT/tokens" --out "$OUT/prior" \
  "${TRAIN[@]}"

finished "$OUT/prior/prior"
step "6/8 sample"
video-vq sample --prior "$OUT/prior" --tokenizer "$OUT/tokenizer" --out "$OUT/samples" \
  --num "$SAMPLES" --temperature 0.95 --top-p 0.95 --guidance 2

step "7/8 evaluate, beside controls (about 3 minutes)"
video-vq evaluate --data "$OUT/clips" --tokenizer "$OUT/tokenizer" --samples "$OUT/samples" \
  --tokens "$OUT/tokens" --prior "$OUT/prior" --num "$SAMPLES" --controls --out "$OUT/scores"

step "8/8 report: everything on one page"
video-vq report "$OUT"
