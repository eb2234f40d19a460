#!/usr/bin/env bash
# UCF-101, from the official videos to rFVD and class-conditional gFVD.
#   bash scripts/reproduce_ucf101.sh DATA OUT     DATA holds UCF-101/ and ucfTrainTestlist/
#   NPROC=8 bash scripts/reproduce_ucf101.sh …    on eight GPUs
#   SMOKE=1 bash scripts/reproduce_ucf101.sh …    the same chain on synthetic videos in UCF-101's
#                                                 layout, 4 steps a stage: a smoke test
# Hours of trainings are the models' FLOPs (docs/configs.md, docs/prior.md; a backward pass is two
# forward ones) at 300 TFLOP/s: counted, not measured; convolutions of few channels reach less.
set -euo pipefail
DATA=${1:?the folder of UCF-101 and its lists, packed or unpacked}
OUT=${2:?a folder for stores and runs}
NPROC=${NPROC:-1}
SMOKE=${SMOKE:-}
PRECISION=${PRECISION:-bf16}
SIZE=128 TOKENIZER=() PRIOR=() NUM=2048 SAMPLE_BATCH=64
if [ -n "$SMOKE" ]; then
  PRECISION=no NUM=2 SAMPLE_BATCH=2 SIZE=64
  SHORT=(optim.steps=4 optim.batch_size=2 optim.warmup_steps=1 run.log_every=2
         run.validate_every=4 run.checkpoint_every=4 run.validation_clips=2 run.num_workers=0)
  TOKENIZER=("${SHORT[@]}" model.backbone.channels=8 model.backbone.num_blocks=1
             model.quantizer.codebook_size=64 model.quantizer.codebook_dim=8)
  PRIOR=("${SHORT[@]}" model.width=32 model.depth=2 model.heads=2)
  data-prep synthetic "$DATA" --layout ucf101 --videos 32 --frames 20 --seed 1 --workers 1
fi
MULTI=()
[ "$NPROC" -gt 1 ] && MULTI=(--multi_gpu)
LAUNCH=(accelerate launch "${MULTI[@]}" --num_processes "$NPROC" --num_machines 1
        --dynamo_backend no --mixed_precision "$PRECISION" -m video_vq)

# A training that was stopped has saved and ends well: the next step must not take it for finished.
finished() { [ -e "$1/config.json" ] || { echo "stopped; run this again to resume" >&2; exit 130; }; }

# 1. 13,320 videos, split 1, val carved from train by group. 122 GB at 128 px, an hour on 16 cores.
data-prep ucf101 "$DATA" --out "$OUT/clips" --split 1 --size "$SIZE"
data-prep verify "$OUT/clips" --sheet "$OUT/clips.png"

# 2. The tokenizer: 16 frames -> 4x16x16 tokens. 6.7 hours at 300 TFLOP/s.
"${LAUNCH[@]}" train-tokenizer --config ucf101 --data "$OUT/clips" --out "$OUT/tokenizer" \
  "${TOKENIZER[@]}"

finished "$OUT/tokenizer/tokenizer"

# 3. Clips as tokens, a window every 8 frames.
"${LAUNCH[@]}" encode "$OUT/clips" --tokenizer "$OUT/tokenizer" --out "$OUT/tokens" --hop 8

# 4. The class-conditional prior. 9 hours at 300 TFLOP/s.
"${LAUNCH[@]}" train-prior --config ucf101 --tokens "$OUT/tokens" --out "$OUT/prior" "${PRIOR[@]}"

finished "$OUT/prior/prior"

# 5. Samples of all classes in turn, resumable.
"${LAUNCH[@]}" sample --prior "$OUT/prior" --tokenizer "$OUT/tokenizer" --out "$OUT/samples" \
  --num "$NUM" --batch-size "$SAMPLE_BATCH" --temperature 1.0 --top-p 0.95

# 6. rFVD and gFVD against clips of the test split, beside controls.
video-vq evaluate --data "$OUT/clips" --tokenizer "$OUT/tokenizer" --samples "$OUT/samples" \
  --tokens "$OUT/tokens" --prior "$OUT/prior" --split test --num "$NUM" --controls \
  --out "$OUT/scores"
