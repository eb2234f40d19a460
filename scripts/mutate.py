"""Changes one line at a time in a copy of the repository, to see whether a test fails.

    python scripts/mutate.py --files video_vq/quantizers --num 25 --seed 0
    python scripts/mutate.py --files video_vq/stores/files.py:70-80 --tests tests/unit/stores

A mutant is a copy with one changed line: another comparison or operator, a constant off by one, a
flipped condition, a dropped statement or call, two swapped arguments. It is killed if a test fails
or the time is up; a survivor shows a line that no test covers, or a change without effect. Error
messages, f-strings, annotations, decorators and assertions are not changed. The same seed draws the
same mutants.

The tests run in a child process, forked after PyTorch is imported, up to the first failure.
Expensive tests come last; among the others, those whose file imports the changed file come first.
The working tree is never changed.
"""

import argparse
import ast
import contextlib
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TESTS = {
    "video_vq/quantizers": ["tests/unit/quantizers"],
    "video_vq/stores": ["tests/unit/stores"],
    "video_vq/metrics": ["tests/unit/metrics"],
    "video_vq/training/checkpoint.py": [
        "tests/unit/training/test_checkpoint.py",
        "tests/unit/training/test_checkpoint_layout.py",
        "tests/unit/training/test_hostile_checkpoints.py",
    ],
}
# Slow to import, and the same for every mutant; none of them imports this package.
PRELOADED = ("torch", "scipy.linalg", "torchmetrics", "accelerate", "vector_quantize_pytorch")
PYTEST = (
    *("-x", "-q", "-p", "no:cacheprovider", "--hypothesis-seed=0", "--no-header"),
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # of plugins that PRELOADED brings in
)
DEAR_SECONDS = 2.0
SWAPS: dict[type, str] = {
    ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==",
    ast.Is: "is not", ast.IsNot: "is", ast.In: "not in", ast.NotIn: "in", ast.And: "or",
    ast.Or: "and", ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*",
    ast.Mod: "*", ast.Pow: "*", ast.BitAnd: "|", ast.BitOr: "&", ast.LShift: ">>", ast.RShift: "<<",
}  # fmt: skip
OPERATOR = re.compile(
    rb"<=|>=|==|!=|<<|>>|//|\*\*|\bnot\s+in\b|\bis\s+not\b|\b(?:is|in|and|or)\b|[-+*/%&|<>]"
)


@dataclass(frozen=True)
class Mutant:
    """A replacement for the bytes from `first` to `last` (exclusive) in one line of a file."""

    path: str  # relative to the repository
    line: int
    first: int
    last: int
    new: str

    def apply(self, source: bytes) -> tuple[bytes, str, str]:
        """Return the changed source, and the line before and after the change."""
        lines = source.splitlines(keepends=True)
        before = lines[self.line - 1]
        after = before[: self.first] + self.new.encode() + before[self.last :]
        lines[self.line - 1] = after
        return b"".join(lines), before.decode().strip(), after.decode().strip()


class Finder(ast.NodeVisitor):
    """Collects every possible mutant of a file."""

    def __init__(self, path: str, source: bytes):
        self.path = path
        self.lines = source.splitlines(keepends=True)
        self.mutants: list[Mutant] = []
        tree = ast.parse(source)
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        self.names = {name.asname or name.name for node in imports for name in node.names}
        self.visit(tree)

    def visit(self, node: ast.AST) -> None:
        """Find the mutants of a node and of its children."""
        if isinstance(node, ast.Raise | ast.If | ast.Expr | ast.AugAssign | ast.Assign):
            self._statement(node)
        if isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr):
            return
        if isinstance(node, ast.BinOp):
            self._operator(node.left, node.op, node.right)
        elif isinstance(node, ast.AugAssign):
            self._operator(node.target, node.op, node.value)
        elif isinstance(node, ast.BoolOp):
            self._operator(node.values[0], node.op, node.values[1])
        elif isinstance(node, ast.Compare):
            self._operator(node.left, node.ops[0], node.comparators[0])
        elif isinstance(node, ast.UnaryOp):
            self._replace(node, self._text(node.operand))
        elif isinstance(node, ast.Constant):
            self._constant(node)
        elif isinstance(node, ast.Call):
            self._call(node)
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST):
                    self.visit(child)

    def _text(self, node: Any) -> str:
        line = self.lines[node.lineno - 1]
        return line[node.col_offset : node.end_col_offset].decode()

    def _replace(self, node: Any, new: str) -> None:
        if node.lineno == node.end_lineno:
            place = (node.lineno, node.col_offset, node.end_col_offset)
            self.mutants.append(Mutant(self.path, *place, new))

    def _operator(self, left: Any, operator: ast.AST, right: Any) -> None:
        new = SWAPS.get(type(operator))
        if new is None or left.end_lineno != right.lineno:
            return
        between = self.lines[right.lineno - 1][left.end_col_offset : right.col_offset]
        found = OPERATOR.search(between)
        if found is None:
            return
        first, last = (left.end_col_offset + place for place in found.span())
        self.mutants.append(Mutant(self.path, right.lineno, first, last, new))

    def _constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, bool):
            self._replace(node, str(not node.value))
        elif isinstance(node.value, int | float):
            for change in (1, -1):
                self._replace(node, repr(node.value + change))

    def _call(self, node: ast.Call) -> None:
        """Add mutants that swap the first two arguments, or replace f(x) or x.method(…) with x."""
        function = node.func
        if len(node.args) >= 2 and self._text(function) not in ("min", "max"):
            self._swapped(*node.args[:2])
        of_module = isinstance(function, ast.Attribute) and self._text(function.value) in self.names
        if isinstance(function, ast.Attribute) and not of_module:
            self._replace(node, f"({self._text(function.value)})")
        elif len(node.args) == 1 and not isinstance(node.args[0], ast.Starred | ast.GeneratorExp):
            self._replace(node, f"({self._text(node.args[0])})")

    def _swapped(self, first: Any, second: Any) -> None:
        if ast.Starred in (type(first), type(second)) or first.lineno != second.end_lineno:
            return
        between = self.lines[first.lineno - 1][first.end_col_offset : second.col_offset].decode()
        new = self._text(second) + between + self._text(first)
        ends = first.col_offset, second.end_col_offset
        self.mutants.append(Mutant(self.path, first.lineno, *ends, new))

    def _statement(self, node: Any) -> None:
        """Add a mutant that negates a condition, or drops a statement that defines no name."""
        if isinstance(node, ast.If):
            self._replace(node.test, f"not ({self._text(node.test)})")
            return
        if isinstance(node, ast.Expr):
            dropped = isinstance(node.value, ast.Call)
        elif isinstance(node, ast.Assign):
            dropped = isinstance(node.targets[0], ast.Attribute | ast.Subscript)
        else:
            dropped = True
        if dropped:
            self._replace(node, "pass")


def find_mutants(files: Sequence[str]) -> list[Mutant]:
    """Return all mutants of files and folders; `FILE:FIRST-LAST` selects lines."""
    found = []
    for name in files:
        path, _, lines = name.partition(":")
        first, _, last = lines.partition("-")
        wanted = range(int(first), int(last or first) + 1) if first else None
        whole = ROOT / path
        if not whole.exists():
            raise SystemExit(f"mutate: no {path} in {ROOT}")
        for file in sorted(whole.rglob("*.py")) if whole.is_dir() else [whole]:
            relative = str(file.relative_to(ROOT))
            found += [
                mutant
                for mutant in Finder(relative, file.read_bytes()).mutants
                if wanted is None or mutant.line in wanted
            ]
    return found


def tests_of(path: str) -> list[str]:
    """Return the tests of a source file, from the most specific entry in TESTS."""
    entries = [entry for entry in TESTS if path == entry or path.startswith(f"{entry}/")]
    if entries:
        return TESTS[max(entries, key=len)]
    raise SystemExit(f"mutate: name the tests of {path} with --tests, or in TESTS")


def near(tests: Sequence[str], path: str) -> list[str]:
    """Return the test files that import a source file, or all test files if none does."""
    parent, _, name = path.removesuffix(".py").replace("/", ".").rpartition(".")
    imports = re.compile(
        rf"import {parent}\.{name}\b|from {parent}(\.{name} | import .*\b{name}\b)"
    )
    wholes = [ROOT / name for name in tests]
    found = [file for one in wholes for file in (sorted(one.rglob("test_*.py")) or [one])]
    close = [file for file in found if imports.search(file.read_text())]
    return [str(file.relative_to(ROOT)) for file in close or found]


def copy_repository(to: Path) -> None:
    """Copy all files that git tracks or would add, in their current state."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    for name in names.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, to / name)


class Recorder:
    """A pytest plugin that runs cheap tests first, and records durations and the first failure."""

    def __init__(self, close: Sequence[str], durations: dict[str, float]):
        self.durations = durations
        self.seen: dict[str, float] = {}
        self.failed = ""
        self._close = close

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Put expensive tests last and files in `close` first; keep files together for fixtures."""
        files: dict[str, float] = {}
        for item in items:
            file = item.nodeid.split("::")[0]
            files[file] = files.get(file, 0.0) + self.durations.get(item.nodeid, 0.0)

        def key(item: Any) -> tuple[bool, bool, float, str, float]:
            file, duration = item.nodeid.split("::")[0], self.durations.get(item.nodeid, 0.0)
            far = file not in self._close
            return duration > DEAR_SECONDS, far, files[file], file, duration

        items.sort(key=key)

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Add up the times of setup, call and teardown, and note the first failure."""
        self.seen[report.nodeid] = self.seen.get(report.nodeid, 0.0) + report.duration
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report: Any) -> None:
        """Note the first failure to collect a file."""
        if report.failed and not self.failed:
            self.failed = report.nodeid or "collection"


def run_in_child(folder: Path, tests: Sequence[str], recorder: Recorder) -> None:
    """Run the copy's tests in this process and write result.json beside the copy; never return."""
    status = 70
    try:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.chdir(folder)
        log = os.open(folder.parent / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        sys.path.insert(0, str(folder))
        os.environ |= {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        sys.dont_write_bytecode = True
        import pytest

        own = f"--basetemp={folder.parent / 'tmp'}"
        status = int(pytest.main([*PYTEST, own, *tests], plugins=[recorder]))
        package = sys.modules.get("video_vq")
        if package is not None and not str(package.__file__).startswith(str(folder)):
            status = 71  # the copy was not what ran
        seen = json.dumps({"durations": recorder.seen, "failed": recorder.failed})
        (folder.parent / "result.json").write_text(seen)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def run_tests(
    folder: Path, tests: Sequence[str], recorder: Recorder, limit: float
) -> tuple[int | None, dict[str, Any]]:
    """Run tests in a child; return pytest's status and the findings, or None and {} if too slow."""
    result = folder.parent / "result.json"
    result.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        run_in_child(folder, tests, recorder)
    end = time.monotonic() + limit
    try:
        while time.monotonic() < end:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                seen = json.loads(result.read_text()) if result.exists() else {}
                return os.waitstatus_to_exitcode(status), seen
            time.sleep(0.05)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return None, {}
    finally:
        with contextlib.suppress(ProcessLookupError):  # whatever the tests left running
            os.killpg(child, signal.SIGKILL)


def log_of(folder: Path) -> str:
    return (folder.parent / "log.txt").read_text(errors="replace")[-4000:]


def measure(folder: Path, tests: Sequence[str], limit: float) -> dict[str, float]:
    """Run the tests on the unchanged copy, and return their durations.

    Raises:
        SystemExit: the tests fail or take too long.
    """
    status, seen = run_tests(folder, tests, Recorder([], {}), limit)
    if status != 0:
        raise SystemExit(
            f"mutate: the tests fail without a change (status {status})\n{log_of(folder)}"
        )
    return seen["durations"]


def verdicts(
    folder: Path,
    mutants: Sequence[Mutant],
    tests: Sequence[str] | None,
    only_near: bool,
    limit: float,
) -> Iterator[tuple[Mutant, str, str, str]]:
    """Try each mutant; yield it with its line before and after the change, and the verdict."""
    measured: dict[str, dict[str, float]] = {}
    for mutant in mutants:
        chosen = list(tests or tests_of(mutant.path))
        close = near(chosen, mutant.path)
        chosen = close if only_near else chosen
        key = " ".join(chosen)
        if key not in measured:
            measured[key] = measure(folder, chosen, 10 * limit)
        source = (folder / mutant.path).read_bytes()
        changed, before, after = mutant.apply(source)
        (folder / mutant.path).write_bytes(changed)
        status, seen = run_tests(folder, chosen, Recorder(close, measured[key]), limit)
        (folder / mutant.path).write_bytes(source)
        if status in (70, 71):
            raise SystemExit(f"mutate: the tests did not run on the copy\n{log_of(folder)}")
        if status is None:
            yield mutant, before, after, f"killed (no end after {limit:.0f} s)"
        elif status == 0:
            yield mutant, before, after, "survived"
        else:
            yield mutant, before, after, f"killed ({seen.get('failed') or f'status {status}'})"


def main() -> None:
    """Draw mutants and try them; print a line for each, and the share that was killed."""
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("--files", nargs="+", required=True, help="FILE, FOLDER or FILE:FIRST-LAST")
    parser.add_argument("--tests", nargs="+", help="files or folders; else those in TESTS")
    parser.add_argument("--num", type=int, default=25, help="how many to draw (default 25)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=180, help="seconds a mutant; more if busy")
    parser.add_argument("--near", action="store_true", help="only tests that import the file")
    arguments = parser.parse_args()
    mutants = find_mutants(arguments.files)
    drawn = random.Random(arguments.seed).sample(mutants, min(arguments.num, len(mutants)))
    drawn.sort(key=lambda mutant: (mutant.path, mutant.line, mutant.first, mutant.new))
    print(f"{len(drawn)} of {len(mutants)} possible mutants", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("mutate: stopped"))
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    for name in PRELOADED:
        importlib.import_module(name)
    killed = 0
    with tempfile.TemporaryDirectory(prefix="mutate-") as scratch:
        folder = Path(scratch, "repository")
        copy_repository(folder)
        for mutant, before, after, verdict in verdicts(
            folder, drawn, arguments.tests, arguments.near, arguments.limit
        ):
            killed += verdict != "survived"
            print(f"{mutant.path}:{mutant.line}: {before} → {after}: {verdict}", flush=True)
    print(f"{killed} of {len(drawn)} killed ({killed / max(1, len(drawn)):.0%})")


if __name__ == "__main__":
    main()
