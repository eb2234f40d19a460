#!/usr/bin/env bash
# Builds the wheel, installs it into an empty environment outside the clone, and uses it there.
set -euo pipefail
PYTHON=${PYTHON:-python3}
REPOSITORY=$(cd "$(dirname "$0")/.." && pwd)
OUT=$(mktemp -d)
trap 'rm -rf "$OUT"' EXIT
PIP=(-m pip --disable-pip-version-check -q)

"$PYTHON" "${PIP[@]}" wheel --no-deps -w "$OUT" "$REPOSITORY"
"$PYTHON" -m venv "$OUT/env"
"$OUT/env/bin/python" "${PIP[@]}" install -c "$REPOSITORY/constraints.txt" "$OUT"/video_vq-*.whl
cd "$OUT"
export PATH="$OUT/env/bin:$PATH"
unset PYTHONPATH

python -c 'import sys, video_vq; assert video_vq.__file__.startswith(sys.prefix), video_vq.__file__'
video-vq doctor
data-prep synthetic raw --layout ucf101 --videos 8 --frames 16 --size 32 --seed 0
data-prep folder raw/UCF-101 --out clips --size 64
for config in ucf101 video64 bair; do
  # BAIR's clips have 17 frames: what is not there is an error of its own, after the config's.
  video-vq train-tokenizer --config "$config" --data clips --out run --dry-run data.num_frames=16 \
    model.backbone.causal=false | tail -1
done
video-vq fvd raw/UCF-101 raw/UCF-101
video-vq train-tokenizer --config video64 --data clips --out run optim.steps=1 optim.batch_size=2 \
  run.validation_clips=1 model.backbone.channels=8
video-vq report run
echo "the wheel works outside the clone"
