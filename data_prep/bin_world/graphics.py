"""Search for an OpenGL backend that renders without a display.

Each backend is tried in a separate process, because drivers may crash.
"""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from video_vq.errors import InputError

# Without a GPU, Mesa provides both backends; most machines already have the packages for EGL.
BACKENDS = {
    "egl": {"MUJOCO_GL": "egl", "PYOPENGL_PLATFORM": "egl", "EGL_PLATFORM": "surfaceless"},
    "osmesa": {"MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "osmesa"},
}
# Each rendering process uses one thread; the user chooses the number of processes.
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
    """A working OpenGL backend.

    Attributes:
        environment: environment variables that a rendering process needs before importing MuJoCo.
        mujoco: version of MuJoCo.
        renderer: name and version of the OpenGL renderer; different renderers draw different
            pixels.
    """

    environment: dict[str, str]
    mujoco: str
    renderer: str


def bindings() -> Any:
    """Import and return the `mujoco` module, which looks for OpenGL on import."""
    return importlib.import_module("mujoco")


def find_graphics() -> Graphics:
    """Return an OpenGL backend that works on this machine.

    If MUJOCO_GL is "egl" or "osmesa", only that backend is tried; otherwise EGL, then OSMesa.

    Raises:
        InputError: MuJoCo is not installed, or no backend works; the message says what to install.
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
    """Return MuJoCo's version and OpenGL's renderer and version, or None and what failed."""
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
