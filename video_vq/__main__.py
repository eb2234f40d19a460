"""`python -m video_vq`, also started by `accelerate launch -m video_vq`."""

import sys

from video_vq.cli import main

if __name__ == "__main__":
    sys.exit(main())
