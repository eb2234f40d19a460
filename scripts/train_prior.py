"""Train a prior: `accelerate launch scripts/train_prior.py --config bair --tokens …`."""

import sys

from video_vq.cli import main

sys.exit(main(["train-prior", *sys.argv[1:]]))
