"""Finds an OpenGL that renders without a screen, in a separate process, as drivers may crash."""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from video_vq.errors import InputError

# On a processor both are Mesa's; EGL needs no package beyond what most machines have.
BACKENDS = {
    "egl": {"MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "egl", "EGL_PLATFORM": "surfaceless"},
    "osmesa": {"MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "osmesa"},
}
# One thread for each rendering process, whose number the user chooses.
SINGLE_THREAD = {"LP_NUM_THREADS": "0", "OMP_NUM_THREADS": "1"}
PROBE_SECONDS = 120
PROBE = """
import json
import mujoco
context = mujoco.GLContext(16, 16)
context.make_current()
from OpenGL import GL
names = [GL.glGetString(name).decode() for name in (GL.GL_RENDERER, GL.GL_VERSION)]
context.free()
print("found " + json.dumps([mujoco.__version__, *names]), flush=True)
import os
os._exit(0)
"""


@dataclass(frozen=True)
class Graphics:
    """The renderer in use.

    Attributes:
        environment: environment variables that a rendering process needs before it imports MuJoCo.
        mujoco: version of MuJoCo.
        renderer: name of the OpenGL renderer; different renderers draw different pixels.
    """

    environment: dict[str, str]
    mujoco: str
    renderer: str


def bindings() -> Any:
    """Import and return MuJoCo's module, which looks for OpenGL when it is imported."""
    return importlib.import_module("mujoco")


def find_graphics() -> Graphics:
    """Return a renderer that works on this machine: that of MUJOCO_GL if set, else EGL or OSMesa.

    Raises:
        InputError: MuJoCo is not installed, or no OpenGL works; the message says what to install.
    """
    if importlib.util.find_spec("mujoco") is None:
        raise InputError(
            "MuJoCo, which simulates the pushing, is not installed; "
            "install it with `pip install 'video-vq[sim]'`"
        )
    wanted = os.environ.get("MUJOCO_GL", "").lower()
    candidates = [wanted] if wanted in BACKENDS else list(BACKENDS)
    problems = []
    for name in candidates:
        environment = {**BACKENDS[name], **SINGLE_THREAD}
        found, problem = _try(environment)
        if found is not None:
            return Graphics(environment, mujoco=found[0], renderer=", ".join(found[1:]))
        problems.append(f"  {name}: {problem}")
    listed = "\n".join(problems)
    raise InputError(
        f"no OpenGL that renders without a screen works here:\n{listed}\n"
        "Install Mesa's, for example with `apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri` "
        "or `apt-get install libosmesa6`, and run the command again"
    )


def _try(environment: dict[str, str]) -> tuple[list[str] | None, str]:
    """Return versions, or None with the last line that the attempt wrote."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE],
            env={**os.environ, **environment},
            capture_output=True,
            timeout=PROBE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f"no answer for {PROBE_SECONDS} s"
    for line in done.stdout.decode(errors="replace").splitlines():
        if line.startswith("found "):
            return json.loads(line.removeprefix("found ")), ""
    last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return None, last or f"ended with exit code {done.returncode}"
