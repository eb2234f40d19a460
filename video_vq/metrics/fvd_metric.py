"""FVD as a torchmetrics metric, which collects statistics over ranks."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchmetrics import Metric

from video_vq.errors import InputError
from video_vq.metrics.frechet import Moments, frechet_distance
from video_vq.metrics.fvd import clip_features
from video_vq.metrics.i3d import NUM_LOGITS, load_i3d
from video_vq.metrics.protocol import DEFAULT_PROTOCOL, FVDProtocol, fvd_protocol
from video_vq.nn.inputs import Clips, as_tensor


class FrechetVideoDistance(Metric):
    """FVD metric that is updated with clips on any number of ranks and computed once.

    The sums of the features and of their outer products are kept in float64 and added up over the
    ranks. The result therefore does not depend on the order of the clips, the batch size or the
    number of ranks, except for rounding in the network. Plain sums, without first subtracting a
    reference vector, are accurate enough: for I3D logits of real clips, |mean| is 0.9 times the
    standard deviation (median; at most 6 times). Even if |mean| is 1000 times the
    standard deviation, the distance agrees with two-pass statistics to 1e-7 (see the tests).

    Args:
        network: module that maps b 3 t 224 224 in [-1, 1] to b d; None for I3D with the pinned
            weights. The network stays in eval mode.
        num_features: number of features, d.
        protocol: FVD protocol or its name; report `protocol.describe()` with the score.
        batch_size: number of clips per forward pass; None for the device's default.

    Raises:
        InputError: there is no protocol of that name, or the I3D weights are missing (the message
            says how to fetch the weights).
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    real_count: Tensor
    real_sum: Tensor
    real_outer: Tensor
    fake_count: Tensor
    fake_sum: Tensor
    fake_outer: Tensor

    def __init__(
        self,
        network: nn.Module | None = None,
        num_features: int = NUM_LOGITS,
        protocol: FVDProtocol | str = DEFAULT_PROTOCOL,
        batch_size: int | None = None,
    ):
        super().__init__()
        self.protocol = fvd_protocol(protocol) if isinstance(protocol, str) else protocol
        self.network = (load_i3d() if network is None else network).eval()
        self.num_features = num_features
        self.batch_size = batch_size
        for side in ("real", "fake"):
            zeros = torch.zeros(num_features, dtype=torch.float64)
            self.add_state(f"{side}_count", torch.zeros((), dtype=torch.int64), "sum")
            self.add_state(f"{side}_sum", zeros, "sum")
            self.add_state(f"{side}_outer", torch.outer(zeros, zeros), "sum")

    def update(self, clips: Clips, real: bool) -> None:
        """Add real, generated or reconstructed clips.

        Args:
            clips: RGB in 0..255; see `network_input`.
            real: whether the clips are real, rather than generated or reconstructed.

        Raises:
            InputError: as for `clip_features`, or the network does not return `num_features`
                features.
        """
        features = clip_features(clips, self.network, self.protocol, self.batch_size)
        self.update_features(features, real)

    def update_features(self, features: Float[Tensor, "n d"], real: bool) -> None:
        """Add the features of clips, as returned by `clip_features` under the same protocol.

        Args:
            real: whether the clips are real, rather than generated or reconstructed.

        Raises:
            InputError: the number of features is not `num_features`.
        """
        features = as_tensor(features, "features")
        if features.shape[-1] != self.num_features:
            raise InputError(
                f"the metric was made for {self.num_features} features, found "
                f"{features.shape[-1]}; give num_features={features.shape[-1]}"
            )
        side = "real" if real else "fake"
        values = features.to(self.real_sum.device, torch.float64)
        count, total, outer = self._sums(side)
        setattr(self, f"{side}_count", count + len(values))
        setattr(self, f"{side}_sum", total + values.sum(0))
        setattr(self, f"{side}_outer", outer + values.T @ values)

    def compute(self) -> Tensor:
        """Return the FVD over all ranks as a float64 tensor.

        Raises:
            InputError: there are too few real or too few generated clips.
        """
        distance = frechet_distance(
            self.moments(real=True), self.moments(real=False), self.protocol.ddof
        )
        return torch.tensor(distance, dtype=torch.float64, device=self.real_sum.device)

    def moments(self, real: bool) -> Moments:
        """Return the moments of one set of clips; outside compute(), only of this rank's clips."""
        count, total, outer = self._sums("real" if real else "fake")
        return Moments.from_sums(int(count), total.cpu().numpy(), outer.cpu().numpy())

    def _sums(self, side: str) -> tuple[Tensor, Tensor, Tensor]:
        return (
            getattr(self, f"{side}_count"),
            getattr(self, f"{side}_sum"),
            getattr(self, f"{side}_outer"),
        )

    def train(self, mode: bool = True) -> "FrechetVideoDistance":
        """Set the metric's training mode, but keep the feature network in eval mode."""
        super().train(mode)
        self.network.eval()
        return self

    def set_dtype(self, dst_type: str | torch.dtype) -> "FrechetVideoDistance":
        """Raise an error, since FVD requires a float32 network and float64 statistics."""
        raise InputError(f"FVD keeps its own precision; do not set its dtype to {dst_type}")
