#!/usr/bin/env bash
# BAIR robot pushing, from the official TFRecords to rFVD and gFVD.
#   bash scripts/reproduce_bair.sh DATA OUT       DATA holds softmotion30_44k/{train,test}
#   NPROC=8 bash scripts/reproduce_bair.sh …      on eight GPUs
#   SMOKE=1 bash scripts/reproduce_bair.sh …      the same chain on synthetic records in BAIR's
#                                                 layout, 4 steps a stage: a smoke test
# Hours of trainings are the models' FLOPs (docs/configs.md, docs/prior.md; a backward pass is two
# forward ones) at 300 TFLOP/s: counted, not measured; convolutions of few channels reach less.
set -euo pipefail
DATA=${1:?the tar of BAIR, or the folder that holds softmotion30_44k}
OUT=${2:?a folder for stores and runs}
NPROC=${NPROC:-1}
SMOKE=${SMOKE:-}
PRECISION=${PRECISION:-bf16}
TOKENIZER=() PRIOR=() NUM=256 SAMPLE_BATCH=64 GENERATION=(--generation bair-256)
if [ -n "$SMOKE" ]; then
  PRECISION=no NUM=2 SAMPLE_BATCH=2 GENERATION=()
  SHORT=(optim.steps=4 optim.batch_size=2 optim.warmup_steps=1 run.log_every=2
         run.validate_every=4 run.checkpoint_every=4 run.validation_clips=2 run.num_workers=0)
  TOKENIZER=("${SHORT[@]}" model.backbone.channels=8 model.backbone.num_blocks=1
             model.quantizer.codebook_size=64 model.quantizer.codebook_dim=8)
  PRIOR=("${SHORT[@]}" model.width=32 model.depth=2 model.heads=2)
  data-prep synthetic "$DATA" --layout bair --videos 24 --seed 1 --workers 1
fi
MULTI=()
[ "$NPROC" -gt 1 ] && MULTI=(--multi_gpu)
LAUNCH=(accelerate launch "${MULTI[@]}" --num_processes "$NPROC" --num_machines 1
        --dynamo_backend no --mixed_precision "$PRECISION" -m video_vq)

# A training that was stopped has saved and ends well: the next step must not take it for finished.
finished() { [ -e "$1/config.json" ] || { echo "stopped; run this again to resume" >&2; exit 130; }; }

# 1. 43,264 + 256 videos, camera aux1, actions and poses kept. 16 GB, minutes on a few cores.
data-prep bair "$DATA" --out "$OUT/clips" --camera aux1
data-prep verify "$OUT/clips" --sheet "$OUT/clips.png"

# 2. The tokenizer: causal, 17 frames -> 5x16x16 tokens. 1.8 hours at 300 TFLOP/s.
"${LAUNCH[@]}" train-tokenizer --config bair --data "$OUT/clips" --out "$OUT/tokenizer" \
  "${TOKENIZER[@]}"

finished "$OUT/tokenizer/tokenizer"

# 3. Every window of every video as tokens: 14 a video.
"${LAUNCH[@]}" encode "$OUT/clips" --tokenizer "$OUT/tokenizer" --out "$OUT/tokens" --hop 1

# 4. The prior. 4 hours at 300 TFLOP/s.
"${LAUNCH[@]}" train-prior --config bair --tokens "$OUT/tokens" --out "$OUT/prior" "${PRIOR[@]}"

finished "$OUT/prior/prior"

# 5. Samples, resumable: one for each test video, continuing its first frame.
"${LAUNCH[@]}" sample --prior "$OUT/prior" --tokenizer "$OUT/tokenizer" --out "$OUT/samples" \
  --given "$OUT/clips" --num "$NUM" --batch-size "$SAMPLE_BATCH" --temperature 1.0 --top-p 0.95

# 6. rFVD and gFVD against the 256 test videos, beside controls. Frames 0-15 are scored: FVD of 17
#    frames is another metric.
video-vq evaluate --data "$OUT/clips" --tokenizer "$OUT/tokenizer" --samples "$OUT/samples" \
  --tokens "$OUT/tokens" --prior "$OUT/prior" --split test --num "$NUM" --controls \
  "${GENERATION[@]}" \
  --out "$OUT/scores"
