"""File extensions of videos, and the fraction of videos that may be unusable."""

VIDEO_SUFFIXES = (
    ".3gp", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg",
    ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv",
)  # fmt: skip
PICTURE_SUFFIXES = (".jpeg", ".jpg", ".png", ".webp")
ARRAY_SUFFIXES = (".npy", ".npz", ".safetensors")
PICKLE_SUFFIXES = (".pickle", ".pkl", ".pt", ".pth")  # never read
TAKEN_SUFFIXES = (*VIDEO_SUFFIXES, *PICTURE_SUFFIXES, *ARRAY_SUFFIXES)
MAX_SKIPPED = 0.01  # default fraction of the videos that may be unusable
