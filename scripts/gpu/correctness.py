"""Checks that a GPU computes correctly, mostly against float64 or float32 on the CPU."""

from collections.abc import Callable

import torch
from day import Day, Figures, check, free, relative, tokenizer_config
from torch import Tensor
from torch.nn import functional as F

from video_vq.errors import InputError
from video_vq.metrics.frechet import Moments, frechet_distance
from video_vq.metrics.fvd_metric import FrechetVideoDistance
from video_vq.metrics.i3d import I3D, load_i3d
from video_vq.metrics.protocol import PROTOCOLS
from video_vq.models.prior import Prior
from video_vq.models.prior_config import PriorConfig, TransformerConfig
from video_vq.models.sampling import TokenSampler
from video_vq.models.tokenizer import VideoTokenizer
from video_vq.nn import cards
from video_vq.quantizers import fused, gradient
from video_vq.quantizers.lookup import Implementation, nearest_codes
from video_vq.quantizers.quantizer_config import Estimator
from video_vq.quantizers.vector import VectorQuantizer
from video_vq.training.losses import reconstruction_loss

FLOAT32, TF32, BF16, FP16 = 1e-4, 5e-3, 5e-2, 2e-2  # allowed relative errors
SIZES = [(4096, 256, 1024), (8192, 64, 1024), (8192, 16, 8192), (1000, 5, 33)]  # n, d, k


def implementations(day: Day) -> list[Implementation]:
    """Return the implementations of the lookup that can run on the device."""
    return ["torch", "triton"] if day.device == "cuda" else ["torch"]


def lookup(day: Day) -> Figures:
    """Compare codes with a float64 argmin, and with the codes found under TF32 and autocast.

    Only codes that are tied within float32 precision may differ from the argmin.
    """
    checks = {}
    for n, d, k in day.pick(SIZES, SIZES[3:]):
        x, codes = torch.randn(n, d), torch.randn(k, d)
        distance = torch.cdist(x.double(), codes.double()).square() / 2
        best = distance.min(1).values
        scale = x.norm(dim=1).double() * codes.norm(dim=1).max() + codes.square().sum(1).max() / 2
        for name in implementations(day):
            found = nearest_codes(x.to(day.device), codes.to(day.device), name).cpu()
            gap = distance.gather(1, found[:, None])[:, 0] - best
            tie = 4 * torch.finfo(torch.float32).eps * scale
            checks[f"{name} {n}x{d}x{k}"] = check(int((gap > tie).sum()), 0)
        for name in implementations(day):  # the codes are the same under every setting
            plain = nearest_codes(x.to(day.device), codes.to(day.device), name)
            with coarse(day):
                again = nearest_codes(x.to(day.device), codes.to(day.device), name)
            checks[f"{name} {n}x{d}x{k}, TF32 and autocast on"] = check(
                int((plain != again).sum()), 0
            )
    return {"checks": checks}


class coarse:  # noqa: N801 (a context, as torch names them)
    """A context with TF32 and bf16 autocast on, as a training run may have them."""

    def __init__(self, day: Day):
        self._autocast = torch.autocast(day.device, torch.bfloat16)

    def __enter__(self) -> None:
        self._before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("high")
        self._autocast.__enter__()

    def __exit__(self, *error: object) -> None:
        self._autocast.__exit__(*error)
        torch.set_float32_matmul_precision(self._before)


def rotation(day: Day) -> Figures:
    """Compare the rotation's backward pass, eager and compiled, with float64 on the CPU."""
    checks = {}
    ways: dict[str, Callable[..., Tensor]] = {"as written": gradient.rotate_everywhere}
    if day.device == "cuda":
        torch._dynamo.config.suppress_errors = False
        ways["compiled"] = torch.compile(gradient.rotate_everywhere, dynamic=True)
    for n, d in day.pick([(65536, 64), (16384, 256), (100, 5)], [(100, 5)]):
        e, q, g = (torch.randn(n, d) for _ in range(3))
        e[:3] = -q[:3] + 1e-3 * torch.randn(3, d)
        q[3], e[4] = 0, 0
        expected = gradient.rotate_back(e.double(), q.double(), g.double())
        far = torch.ones(n, dtype=torch.bool)
        far[:3] = False  # near e = −q, digits are lost to the angle itself
        for name, way in ways.items():
            on_device = (value.to(day.device) for value in (e, q, g))
            found = way(*on_device, None, gradient.MAX_RATIO).cpu()
            checks[f"{name} {n}x{d}"] = check(relative(found[far], expected[far]), 1e-5)
            near = relative(found[~far], expected[~far])
            checks[f"{name} {n}x{d}, e near -q"] = check(near, 1e-2)
    return {"checks": checks}


def quantizer(day: Day) -> Figures:
    """Compare the forward and backward passes of the whole quantizer with a float64 reference."""
    checks = {}
    estimators: tuple[Estimator, ...] = ("rotation", "straight_through", "reflection")
    for estimator in estimators:
        for name in implementations(day):
            n, d, k = day.pick((4096, 64, 512), (64, 8, 16))
            module = VectorQuantizer(d, k, d, estimator=estimator, implementation=name)
            with torch.no_grad():
                module.codebook.codes.normal_()
            features, g = torch.randn(n, d, 1), torch.randn(n, d, 1)
            expected = in_float64(module, features, g, estimator)
            moved, leaf = module.to(day.device), features.to(day.device).requires_grad_()
            output = moved.train()(leaf)
            output.quantized.backward(g.to(day.device))
            assert leaf.grad is not None
            for what, found, wanted in zip(
                ("forward", "gradient"), (output.quantized, leaf.grad), expected, strict=True
            ):
                checks[f"{estimator}, {name}, {what}"] = check(relative(found, wanted), FLOAT32)
    return {"checks": checks}


def in_float64(
    module: VectorQuantizer, features: Tensor, g: Tensor, estimator: str
) -> tuple[Tensor, Tensor]:
    """Return the output and dL/dfeatures, computed from the formulas in float64 on the CPU."""
    leaf = features.double().requires_grad_()
    weights = {name: value.detach().double() for name, value in module.named_parameters()}
    e = F.linear(leaf[:, :, 0], weights["project_in.weight"], weights["project_in.bias"])
    codes = module.codebook.codes.detach().double()
    q = codes[torch.cdist(e.detach(), codes).argmin(1)]
    passed = gradient.ESTIMATORS[estimator](e, q)
    out = F.linear(passed, weights["project_out.weight"], weights["project_out.bias"])[:, :, None]
    out.backward(g.double())
    assert leaf.grad is not None
    return out.detach(), leaf.grad


def fvd(day: Day) -> Figures:
    """Check the FVD computation on the device.

    Fréchet distances are compared with a closed form, the output of I3D with its output on the CPU,
    and FVD with published values.
    """
    n, d = day.pick((4096, 64), (512, 4))
    x = torch.randn(n, d, dtype=torch.float64, device=day.device)
    a, b = Moments.of(x.cpu().numpy()), Moments.of((2 * x + 1).cpu().numpy())
    closed = float((x.mean(0) + 1).square().sum() + (x.var(0, correction=1)).sum())
    checks = {
        "N(m, S) against N(2m + 1, 4S)": check(abs(frechet_distance(a, b, 1) / closed - 1), 1e-9)
    }
    torch.manual_seed(1)
    network = I3D().eval()
    frames = day.pick(16, 9)
    clips = torch.rand(day.pick(2, 1), 3, frames, 224, 224) * 2 - 1
    with torch.no_grad(), coarse(day):  # I3D switches TF32 and autocast off
        here = network.to(day.device)(clips.to(day.device))
        wide = network.to("cpu")(clips)
    checks["I3D of random weights, GPU and CPU"] = check(relative(here, wide), 1e-5)
    try:
        network = load_i3d().to(day.device)
    except InputError as error:
        return {"checks": checks, "left_out": f"published values: {str(error).splitlines()[0]}"}
    if day.is_smoke:
        return {"checks": checks, "left_out": "published values: a rehearsal"}
    for count, expected in ((16, 152.902), (15, 133.908)):
        score = FrechetVideoDistance(network, protocol=PROTOCOLS["google"]).to(day.device)
        for value, real in ((0, True), (255, False)):
            black = torch.full((2, count, 64, 64, 3), value, dtype=torch.uint8)
            score.update(black.to(day.device), real=real)
        difference = abs(float(score.compute()) - expected)
        checks[f"black against white, {count} frames, as published"] = check(difference, 5e-3)
    return {"checks": checks}


def training_step(day: Day) -> Figures:
    """Compare the loss and gradient of a step in every precision with float32 on the CPU."""
    config = tokenizer_config(day, "bair_small")
    torch.manual_seed(0)
    tokenizer = VideoTokenizer(config.model).train()
    size = day.pick(64, 16)
    video = torch.rand(2, 3, config.data.num_frames, size, size) * 2 - 1
    with torch.no_grad():
        tokenizer.quantizer.codebook.initialize((tokenizer.latents(video),), seed=0)
    loss, expected, codes = one_step(tokenizer, video, "cpu", None)
    precisions: dict[str, tuple[torch.dtype | None, str, float]] = {
        "float32": (None, "highest", FLOAT32),
        "TF32": (None, "high", TF32),
        "bf16": (torch.bfloat16, "highest", BF16),
        "fp16": (torch.float16, "highest", FP16),
    }
    checks, figures = {}, {}
    for name, (dtype, products, limit) in precisions.items():
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = products == "high"
        here, grads, found = one_step(tokenizer.to(day.device), video, day.device, dtype)
        torch.set_float32_matmul_precision(before)
        checks[f"loss, {name}"] = check(abs(here / loss - 1), limit)
        figures[f"relative error of the gradient, {name}"] = relative(grads, expected)
        figures[f"share of other codes, {name}"] = float((found != codes).float().mean())
    exact = figures["relative error of the gradient, float32"]
    same = figures["share of other codes, float32"] == 0
    checks["gradient, float32"] = check(exact, 1e-2 if same else 0.2)  # a different code is a jump
    return {"checks": checks, **figures}


def one_step(
    tokenizer: VideoTokenizer, video: Tensor, device: str, dtype: torch.dtype | None
) -> tuple[float, Tensor, Tensor]:
    """Return the loss of a forward and backward pass, its gradient as one vector, and the codes."""
    tokenizer.zero_grad()
    video = video.to(device)
    with torch.autocast(device, dtype or torch.bfloat16, enabled=dtype is not None):
        output = tokenizer(video)
        commitment = output.quantized.losses["commitment"]
        loss = 4 * reconstruction_loss(output.video, video, "mse") + 0.25 * commitment
    scale = 1024 if dtype == torch.float16 else 1  # keeps small gradients from underflowing
    (loss * scale).backward()
    grads = torch.cat(
        [value.grad.flatten().cpu() for value in tokenizer.parameters() if value.grad is not None]
    )
    return float(loss.detach()), grads / scale, output.quantized.codes.cpu()


def layouts(day: Day) -> Figures:
    """Compare forward and backward passes in the channels-last and the usual memory layout."""
    config = tokenizer_config(day, "bair_small")
    torch.manual_seed(0)
    tokenizer = VideoTokenizer(config.model).to(day.device)
    size = day.pick(64, 16)
    video = torch.rand(2, 3, config.data.num_frames, size, size, device=day.device) * 2 - 1
    results = []
    for features in ((), ("channels_last",)):
        with switched_on(*features):
            tokenizer.zero_grad()
            result = tokenizer.decoder(tokenizer.encoder(video))
            result.square().mean().backward()
            weight = next(tokenizer.encoder.parameters()).grad
            assert weight is not None
            results.append((result.detach(), weight.clone()))
    (usual, grads), (last, others) = results
    return {
        "checks": {
            "forward": check(relative(last, usual), TF32),  # convolutions take TF32 by default
            "gradient": check(relative(others, grads), 2e-2),
        }
    }


class switched_on:  # noqa: N801
    """A context in which only the given features are on, whatever the record of cards says."""

    def __init__(self, *features: str):
        self.features = features

    def __enter__(self) -> None:
        self._before = cards.is_verified, fused.is_verified

        def is_on(feature: cards.Feature, device: torch.device) -> bool:
            return feature in self.features and not torch.compiler.is_compiling()

        cards.is_verified = fused.is_verified = is_on

    def __exit__(self, *error: object) -> None:
        cards.is_verified, fused.is_verified = self._before


def streams(day: Day) -> Figures:
    """Compare encoding and decoding of a stream with those of the whole video.

    `decode` is also compared with a single pass of the decoder.
    """
    config = tokenizer_config(day, "bair_small")
    torch.manual_seed(0)
    tokenizer = VideoTokenizer(config.model).to(day.device).eval()
    with torch.no_grad():
        tokenizer.state_dict()["quantizer.codebook.codes"].normal_(std=0.3)
    frames, size = day.pick(65, 17), day.pick(64, 16)
    video = torch.rand(1, 3, frames, size, size, device=day.device) * 2 - 1
    codes = tokenizer.encode(video)
    cut = [video[:, :, :1], video[:, :, 1:8], video[:, :, 8:]]
    streamed = torch.cat(list(tokenizer.encode_stream(cut)), dim=1)
    decoded = tokenizer.decode(codes)
    pieces = torch.cat(list(tokenizer.decode_stream([codes[:, :2], codes[:, 2:]])), dim=2)
    with torch.no_grad():
        whole = tokenizer.decoder(tokenizer.quantizer.decode(codes)).clamp(-1, 1)
    return {
        "checks": {
            "codes of a stream that differ": check(int((codes != streamed).sum()), 0),
            "pixels of a stream that differ": check(int((decoded != pieces).sum()), 0),
            "decoder at once": check(relative(decoded, whole), TF32),
        }
    }


def sampling(day: Day) -> Figures:
    """Check that CUDA graphs, a second draw and another order of the seeds give the same tokens."""
    sizes = day.pick(
        TransformerConfig(width=256, depth=4, heads=4),
        TransformerConfig(width=32, depth=1, heads=2),
    )
    torch.manual_seed(0)
    prior = Prior(PriorConfig(512, day.pick((4, 16, 16), (2, 2, 2)), 4, 0, sizes)).to(day.device)
    with torch.no_grad():
        prior.head.weight.normal_(std=0.2)
    labels = [0, 1, 2, 3]
    checks = {}
    for dtype in (torch.float32, torch.bfloat16):
        samplers = [
            TokenSampler(prior, batch_size=4, dtype=dtype, graphs=graphs)
            for graphs in day.pick((False, True), (False, False))
        ]
        plain, graphed, again = (
            sampler.draw([1, 2, 3, 4], labels) for sampler in (*samplers, samplers[1])
        )
        name = str(dtype).removeprefix("torch.")
        checks[f"tokens that differ with graphs, {name}"] = check(int((plain != graphed).sum()), 0)
        checks[f"the same once more, {name}"] = check(int((plain != again).sum()), 0)
        turned = samplers[1].draw([4, 3, 2, 1], labels[::-1]).flip(0)
        checks[f"in another order, {name}"] = check(int((plain != turned).sum()), 0)
    return {"checks": checks}


def compiled_training(day: Day) -> Figures:
    """Compare the loss and gradient of the compiled encoder and decoder with the eager ones."""
    config = tokenizer_config(day, "bair_small")
    torch.manual_seed(0)
    tokenizer = VideoTokenizer(config.model).to(day.device)
    size = day.pick(64, 16)
    video = torch.rand(2, 3, config.data.num_frames, size, size, device=day.device) * 2 - 1
    backend = day.pick("inductor", "aot_eager")
    encoder, decoder = tokenizer.encoder, tokenizer.decoder
    results = []
    for is_compiled in (False, True):
        if is_compiled:
            encoder.compile(backend=backend)
            decoder.compile(backend=backend)
        tokenizer.zero_grad()
        loss = decoder(encoder(video)).square().mean()
        loss.backward()
        weight = next(tokenizer.encoder.parameters()).grad
        assert weight is not None
        results.append((loss.detach(), weight.clone()))
        free(day)
    (loss, grads), (other, others) = results
    return {
        "checks": {
            "loss": check(relative(other, loss), TF32),
            "gradient": check(relative(others, grads), 2e-2),
        }
    }
