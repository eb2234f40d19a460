"""Entry point for `python -m video_vq` and `accelerate launch -m video_vq`."""

import sys

from video_vq.cli import main

if __name__ == "__main__":
    sys.exit(main())
