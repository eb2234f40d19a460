"""Sample from a prior: `accelerate launch scripts/sample.py --prior … --tokenizer … --out …`."""

import sys

from video_vq.cli import main

sys.exit(main(["sample", *sys.argv[1:]]))
