"""`python -m video_vq`, and what `accelerate launch -m video_vq` starts."""

import sys

from video_vq.cli import main

if __name__ == "__main__":
    sys.exit(main())
