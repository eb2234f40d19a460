"""Says in one line what a machine lacks for a GPU day, before anything starts."""

import importlib.util
import sys

# The modules that the parts import, and their packages; av and decord are not needed.
MODULES = {
    "torch": "torch>=2.11",
    "accelerate": "accelerate",
    "einops": "einops",
    "google_crc32c": "google-crc32c",
    "huggingface_hub": "huggingface_hub",
    "jaxtyping": "jaxtyping",
    "jinja2": "jinja2",
    "markupsafe": "markupsafe",
    "numpy": "numpy",
    "PIL": "pillow",
    "pydantic": "pydantic",
    "yaml": "PyYAML",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "torchmetrics": "torchmetrics",
    "tqdm": "tqdm",
}


def missing(is_smoke: bool) -> str | None:
    """Return what is missing; None if nothing is."""
    if sys.version_info < (3, 11):  # noqa: UP036 (any Python may be started)
        return f"Python >= 3.11; {sys.executable} is {sys.version.split()[0]} (PYTHON=…)"
    lacking = [name for module, name in MODULES.items() if importlib.util.find_spec(module) is None]
    if lacking:
        return (
            f"{', '.join(lacking)} for {sys.executable}: `make setup`, or, without network, their "
            "wheels in gpu/wheels (docs/gpu.md)"
        )
    import torch

    release = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if release < (2, 11):
        return f"torch >= 2.11, found {torch.__version__}"
    if is_smoke or torch.cuda.is_available():
        return None
    if torch.version.cuda is None:
        return f"a torch built for CUDA, found {torch.__version__}; without a GPU: SMOKE=1 make gpu"
    return "a GPU that CUDA sees (try nvidia-smi); without one: SMOKE=1 make gpu"


if __name__ == "__main__":
    if said := missing("--smoke" in sys.argv[1:]):
        sys.exit(f"make gpu: this machine lacks {said}")
