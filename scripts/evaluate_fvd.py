"""Compute the FVD between two sets of videos: `python scripts/evaluate_fvd.py REAL FAKE`."""

import sys

from video_vq.cli import main

sys.exit(main(["fvd", *sys.argv[1:]]))
