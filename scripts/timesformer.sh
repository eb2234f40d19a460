#!/usr/bin/env bash
# Train the paper's TimeSformer in its three arms at a reduced size on 400 synthetic videos and score
# their reconstructions: about ten minutes of one core. It shows that the arms train; it ranks nothing.
set -euo pipefail
OUT=${1:-runs/timesformer}
STEPS=${2:-200}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

if [ ! -e "$OUT/clips/manifest.json" ]; then
  data-prep synthetic "$OUT/raw" --layout ucf101 --videos 400 --frames 30 --size 64 --seed 0
  data-prep ucf101 "$OUT/raw" --out "$OUT/clips" --size 32 --split 1
fi
for ARM in straight_through_raw straight_through_l2 rotation_l2; do
  video-vq train-tokenizer --config "timesformer/bair_$ARM" --data "$OUT/clips" --out "$OUT/$ARM" \
    model.backbone.size_thw=[16,32,32] model.backbone.patch_thw=[1,4,4] \
    model.backbone.width=64 model.backbone.depth=2 model.backbone.mlp_width=192 \
    model.quantizer.codebook_size=256 loss.perceptual.weight=0.0 \
    loss.adversarial.start=$((STEPS / 2)) loss.adversarial.warmup_steps=$((STEPS / 4)) \
    loss.adversarial.channels=16 loss.adversarial.levels=2 \
    optim.steps="$STEPS" optim.batch_size=8 optim.lr=1e-3 optim.warmup_steps=$((STEPS / 10)) \
    run.log_every=10 run.validate_every="$STEPS" run.checkpoint_every=100 \
    run.validation_clips=28 run.num_workers=0 run.average_decay=0.98
  video-vq evaluate --data "$OUT/clips" --tokenizer "$OUT/$ARM" --num 24 \
    --out "$OUT/$ARM-scores"
done
