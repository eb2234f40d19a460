"""Small clip classifier, trained on real clips, that checks whether samples match their classes."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from video_vq.errors import InputError

SIDE = 32  # side of the classifier's input in pixels; larger frames are averaged down
WIDTH = 16
STEPS = 120
BATCH = 32
LR = 3e-3
WARMUP_STEPS = 20
SCORED_AT_ONCE = 64

Clips = UInt8[Tensor, "b t h w 3"]


class ClipClassifier(nn.Module):
    """Clip classifier: three 3D convolutions on gray frames and frame differences, then pooling.

    Each clip is normalized first, to remove brightness and contrast. Pooling is a mean over time
    and space. The classifier has 70,000 parameters and trains in seconds.
    """

    def __init__(self, num_classes: int):
        super().__init__()
        self.features = nn.Sequential(
            _block(2, WIDTH, (1, 2, 2)),
            _block(WIDTH, 2 * WIDTH, (2, 2, 2)),
            _block(2 * WIDTH, 4 * WIDTH, (2, 2, 2)),
        )
        self.dropout = nn.Dropout(0.3)
        self.head = nn.Linear(4 * WIDTH, num_classes)

    def forward(self, clips: Clips) -> Float[Tensor, "b classes"]:
        """Return the class logits of clips with at least two frames.

        Raises:
            InputError: the clips are not uint8.
        """
        if clips.dtype != torch.uint8:
            raise InputError(f"the classifier takes uint8 clips b t h w 3, found {clips.dtype}")
        features = self.features(_frames_and_changes(clips)).mean((2, 3, 4))
        return self.head(self.dropout(features))


def _block(channels: int, out: int, stride: tuple[int, int, int]) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(channels, out, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(4, out),
        nn.ReLU(),
    )


def _frames_and_changes(clips: Clips) -> Float[Tensor, "b 2 t_1 _ _"]:
    grey = clips.float().mean(-1)
    height, width = grey.shape[2:]
    size = (min(height, SIDE), min(width, SIDE))
    if size != (height, width):
        grey = F.interpolate(grey, size, mode="area")
    mean, std = grey.mean((1, 2, 3), keepdim=True), grey.std((1, 2, 3), keepdim=True)
    grey = (grey - mean) / (std + 1)
    # Frame differences are a few times smaller than the frames themselves.
    return torch.stack([grey[:, 1:], 4 * torch.diff(grey, dim=1)], dim=1)


def train_classifier(
    batches: Iterable[tuple[UInt8[np.ndarray, "b t h w 3"], Int[np.ndarray, " b"]]],
    num_classes: int,
    device: torch.device,
    seed: int = 0,
) -> ClipClassifier:
    """Return a classifier trained on real clips.

    Args:
        batches: STEPS batches of clips and class labels, one per optimizer step.
        seed: seed for the weights and dropout; the global generator's state does not change.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        classifier = ClipClassifier(num_classes).to(device)
        optimizer = torch.optim.AdamW(classifier.parameters(), lr=LR, weight_decay=1e-2)
        for step, (clips, labels) in enumerate(batches):
            decay = max(0.02, 1 - step / STEPS)
            optimizer.param_groups[0]["lr"] = LR * min((step + 1) / WARMUP_STEPS, decay)
            logits = classifier(torch.from_numpy(clips).to(device))
            target = torch.from_numpy(labels).to(device)
            optimizer.zero_grad()
            F.cross_entropy(logits, target, label_smoothing=0.05).backward()
            optimizer.step()
    return classifier.eval()


@torch.no_grad()
def predicted_classes(
    classifier: ClipClassifier, clips: Sequence[UInt8[np.ndarray, "t h w 3"]]
) -> Int[np.ndarray, " n"]:
    """Return the most likely class of each clip."""
    device = classifier.head.weight.device
    found = [
        classifier(torch.from_numpy(np.stack(clips[start : start + SCORED_AT_ONCE])).to(device))
        for start in range(0, len(clips), SCORED_AT_ONCE)
    ]
    return torch.cat(found).argmax(1).cpu().numpy()
