"""The feature network for FVD: I3D, VideoMAE, V-JEPA or the user's own module."""

import hashlib
import importlib
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import nn

from video_vq.errors import ConfigError, InputError
from video_vq.evaluation.preset_weights import load_preset
from video_vq.metrics.i3d import NUM_LOGITS, load_i3d
from video_vq.metrics.network_choice import I3D_NAME, PUBLISHED, read_preset
from video_vq.metrics.protocol import DEFAULT_PROTOCOL, FVDProtocol
from video_vq.metrics.resize import NETWORK_SIZE
from video_vq.metrics.weights import CHECKPOINT


class FeatureNetwork(NamedTuple):
    """A frozen network that maps b 3 t 224 224 to b d, and a name that is reported with scores.

    Attributes:
        module: network in eval mode, on the device for computing features.
        name: name that is shown to users.
        sha256: hash of the weights; scores from networks with different hashes are never compared.
        num_features: number of features, d.
    """

    module: nn.Module
    name: str
    sha256: str
    num_features: int

    def require(self, protocols: Iterable[FVDProtocol]) -> None:
        """Reject protocols that do not prepare clips in the form that a published network expects.

        Raises:
            InputError: a protocol does not suit the network; the message names the protocol.
        """
        for protocol in protocols:
            if self.name in PUBLISHED and protocol.preparation != DEFAULT_PROTOCOL.preparation:
                raise InputError(
                    f"FVD protocol {protocol.name!r} prepares clips only for I3D; {self.name} "
                    f"takes them as {DEFAULT_PROTOCOL.name!r} does: name that one"
                )

    def cache_settings(self, protocol: FVDProtocol) -> dict:
        """Return the settings that determine a clip's features, to identify the feature cache."""
        return {"network": self.sha256, "name": self.name, **protocol.feature_settings()}


def named_i3d() -> FeatureNetwork:
    """Return I3D's name, hash and feature count without weights, for reading saved features."""
    return FeatureNetwork(nn.Identity(), I3D_NAME, CHECKPOINT.sha256, NUM_LOGITS)


def load_feature_network(name: str | None, device: torch.device | str) -> FeatureNetwork:
    """Return I3D, a published network with the user's weights, or a network from the user's code.

    Args:
        name: None for I3D; "videomae=FILE" or "jedi=FILE,FILE" for a published network (see
            `read_preset`); or "module:function" for an importable function without arguments, which
            is called and must return a module that maps b 3 t 224 224 in [-1, 1] to b d.
        device: device for the network.

    Raises:
        ConfigError: the name has an invalid form, or the function cannot be imported.
        InputError: weights are missing or are not the expected weights, or the function does not
            return such a module.
    """
    if name is None:
        return named_i3d()._replace(module=load_i3d().to(device))
    preset = read_preset(name)
    if preset is not None:
        found = load_preset(preset)
        hashed = weights_hash(preset.name, found)
        return FeatureNetwork(found.eval().to(device), preset.name, hashed, found.sizes.width)
    module_name, colon, function_name = name.partition(":")
    if not colon or not module_name or not function_name:
        raise ConfigError(
            f"--network {name!r}: write package.module:function, or "
            f"{' or '.join(f'{preset}=FILE' for preset in PUBLISHED)}"
        )
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"--network {name!r}: cannot be imported: {error}") from None
    network = function()
    if not isinstance(network, nn.Module):
        raise InputError(
            f"--network {name!r}: must return a torch module, found {type(network).__name__}"
        )
    network = network.to(device).eval().requires_grad_(False)
    with torch.no_grad():
        probe = network(torch.zeros(1, 3, 16, NETWORK_SIZE, NETWORK_SIZE, device=device))
    if not isinstance(probe, torch.Tensor) or probe.ndim != 2:
        raise InputError(f"--network {name!r}: must map b 3 t h w to b d features")
    return FeatureNetwork(network, name, weights_hash(name, network), probe.shape[1])


def weights_hash(name: str, network: nn.Module) -> str:
    """Return the SHA-256 of a network's name and of all tensors in its state dict."""
    digest = hashlib.sha256(name.encode())
    for key, value in sorted(network.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
