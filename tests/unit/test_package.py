"""Tests of what `import video_vq` provides and loads."""

import subprocess
import sys
from pathlib import Path

import pytest

import video_vq

LAZY = """
import sys, video_vq
loaded = {"torch", "numpy", "av", "pydantic", "jaxtyping"} & set(sys.modules)
assert not loaded, f"import video_vq loads {loaded}"
assert {"VideoTokenizer", "ClipStore", "VectorQuantizer", "__version__"} <= set(dir(video_vq))
from video_vq import ClipStore, TokenStore, InputError
assert "torch" not in sys.modules, "stores load torch"
"""


def test_the_package_lists_its_names_and_loads_nothing_for_it():
    subprocess.run([sys.executable, "-c", LAZY], check=True)


# torchmetrics and what it loads take longer to import than torch does, for every rank.
SLOW_TO_IMPORT = """
import importlib, pkgutil, sys, video_vq
for module in pkgutil.walk_packages(video_vq.__path__, "video_vq."):
    # The kernels need Triton, which is only there on Linux.
    if not module.name.endswith(("__main__", "fvd_metric")) and "kernels." not in module.name:
        importlib.import_module(module.name)
loaded = {"torchmetrics", "transformers", "matplotlib", "scipy.stats"} & set(sys.modules)
assert not loaded, f"a module of video_vq loads {loaded}"
"""


def test_no_module_but_the_torchmetrics_metric_loads_what_imports_slowly():
    subprocess.run([sys.executable, "-c", SLOW_TO_IMPORT], check=True)


@pytest.mark.parametrize("name", video_vq.__all__)
def test_every_name_is_what_its_own_file_calls_so(name):
    found = getattr(video_vq, name)
    assert name in dir(video_vq)
    assert getattr(found, "__name__", name) == name
    assert getattr(video_vq, name) is found


def test_a_type_checker_sees_the_names_and_the_types():
    package = Path(video_vq.__file__).parent
    assert (package / "py.typed").exists()
    lines = (package / "__init__.py").read_text()
    for name, source in video_vq._SOURCES.items():
        assert f"from video_vq.{source} import {name} as {name}\n" in lines


def test_a_misspelt_name_is_an_error_that_python_can_help_with():
    with pytest.raises(AttributeError, match="no attribute 'VectorQuantiser'") as refused:
        _ = video_vq.VectorQuantiser  # pyright: ignore[reportAttributeAccessIssue]
    assert (refused.value.name, refused.value.obj) == ("VectorQuantiser", video_vq)
