"""Train a tokenizer: `accelerate launch scripts/train_tokenizer.py --config bair --data …`."""

import sys

from video_vq.cli import main

sys.exit(main(["train-tokenizer", *sys.argv[1:]]))
