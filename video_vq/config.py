"""Loads YAML configurations with `base:` files and overrides; an error lists all bad settings.

The settings dataclasses are defined next to the code that they configure, not in this module.
"""

import dataclasses
import json
import re
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

from video_vq.errors import ConfigError, nearest

Settings = TypeVar("Settings")

# Every settings class is a frozen pydantic dataclass with this config: unknown keys are errors.
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

MAX_FILE_BYTES = 1 << 20
MAX_BASES = 8
OWN_SETTINGS_PER_KIND = ("backbone", "quantizer")  # sections whose settings depend on `kind`


class _Loader(yaml.SafeLoader):
    """Safe YAML loader that reads 1e-4 as a number and rejects aliases and duplicate keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(
                problem="aliases are not allowed", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key.value!r} is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def _parse_yaml(text: str | bytes, source: str) -> Any:
    try:
        # Use the loader above, a SafeLoader, directly instead of through yaml.load.
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise ConfigError(f"{source}: not valid YAML: {error}") from None


def shipped_configs() -> Path:
    """Return the folder that contains the configs shipped with the package."""
    package = Path(__file__).parent
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def find_config(name: str, kind: str) -> Path:
    """Return the file for a `--config` argument, which is a path or the name of a shipped config.

    Args:
        name: a path ending in .yaml or .yml, or a name such as `bair` or `demo/tokenizer`.
        kind: folder of shipped configs that is searched first: `tokenizer` or `prior`.

    Raises:
        ConfigError: there is no such file, the name is malformed, or no shipped config has the
            name, in which case the message lists the shipped configs.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise ConfigError(f"{name}: no such config file")
        return path
    folder = shipped_configs()
    if not re.fullmatch(r"[A-Za-z0-9_\-/]+", name):
        raise ConfigError(f"--config {name!r}: give a .yaml file or the name of a shipped config")
    for candidate in (folder / kind / f"{name}.yaml", folder / f"{name}.yaml"):
        if candidate.is_file():
            return candidate
    known = config_names(kind)
    close = nearest(name, known)
    hint = f"did you mean {close!r}? The shipped ones are" if close else "the shipped ones are"
    raise ConfigError(
        f"--config {name!r}: no shipped config has this name; {hint}: {', '.join(known)} (or "
        "give a .yaml file)"
    )


def config_names(kind: str) -> list[str]:
    """Return the names of the shipped tokenizer or prior configs, as `find_config` accepts them."""
    folder = shipped_configs()
    names = [
        str(path.relative_to(folder / kind).with_suffix(""))
        for path in sorted((folder / kind).rglob("*.yaml"))
    ]
    names += [
        str(path.relative_to(folder).with_suffix(""))
        for path in sorted(folder.glob(f"*/{kind}*.yaml"))
    ]
    return names


def read_yaml(path: Path) -> dict[str, Any]:
    """Return a config file's settings, merged over its `base:` file, if any, recursively.

    A `base:` path is relative to the folder of the file that names the base.

    Raises:
        ConfigError: a file cannot be read, is too large or is not a YAML mapping, or the chain of
            `base:` files is circular or too long.
    """
    chain: list[Path] = []
    layers: list[dict[str, Any]] = []
    current: Path | None = path
    while current is not None:
        if current.resolve() in chain or len(chain) == MAX_BASES:
            raise ConfigError(f"{path}: its chain of `base:` files is circular or too long")
        chain.append(current.resolve())
        try:
            if current.stat().st_size > MAX_FILE_BYTES:
                raise ConfigError(f"{current}: larger than {MAX_FILE_BYTES} bytes; not a config")
            value = _parse_yaml(current.read_bytes(), str(current))
        except OSError as error:
            raise ConfigError(f"{current}: cannot be read: {error.strerror}") from None
        value = {} if value is None else value
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            raise ConfigError(f"{current}: expected a mapping of names to settings")
        base = value.pop("base", None)
        layers.append(dict(value))
        current = None if base is None else current.parent / str(base)
    merged: dict[str, Any] = {}
    for layer in reversed(layers):
        merged = merge(merged, layer)
    return merged


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return one mapping merged over another: nested mappings are merged, other values replaced.

    A backbone or quantizer of a different `kind` is replaced as a whole, because its settings
    differ. Optimizers of all kinds have the same settings, so they are merged.

    Args:
        below: mapping with the values to replace.
        above: mapping with the replacements.
    """
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        is_replaced = key in OWN_SETTINGS_PER_KIND and _is_other_kind(old, value)
        if isinstance(old, dict) and isinstance(value, dict) and not is_replaced:
            value = merge(old, value)
        result[key] = value
    return result


def _is_other_kind(below: Any, above: Any) -> bool:
    both = isinstance(below, dict) and isinstance(above, dict)
    return both and "kind" in below and "kind" in above and below["kind"] != above["kind"]


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Return a nested mapping from `section.key=value` arguments, whose values are YAML.

    Raises:
        ConfigError: an argument has no `=`, its name does not consist of dotted words, or its value
            is not valid YAML.
    """
    result: dict[str, Any] = {}
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or not re.fullmatch(r"\w+(\.\w+)*", name):
            raise ConfigError(f"{override!r}: an override is written section.key=value")
        value: Any = _parse_yaml(text, override)
        for key in reversed(name.split(".")):
            value = {key: value}
        result = merge(result, value)
    return result


def load_config(settings: type[Settings], path: Path, overrides: Sequence[str] = ()) -> Settings:
    """Return the checked settings from a config file and overrides.

    Args:
        settings: frozen dataclass that describes the configuration.
        path: the YAML file (see `find_config`).
        overrides: `section.key=value` arguments, which replace values in the file.

    Raises:
        ConfigError: as for `read_yaml`, `parse_overrides` and `check_config`.
    """
    merged = merge(read_yaml(path), parse_overrides(overrides))
    source = f"{path} and the command line" if overrides else str(path)
    return check_config(settings, merged, source)


def check_config(settings: type[Settings], value: dict[str, Any], source: str) -> Settings:
    """Return the settings dataclass for a mapping, after validation.

    Args:
        settings: frozen dataclass that describes the configuration.
        value: mapping of names to values.
        source: description of the mapping's origin, for error messages.

    Raises:
        ConfigError: keys are unknown or missing, or values are wrong; the message lists all such
            mistakes, with the nearest known keys.
    """
    try:
        return TypeAdapter(settings).validate_json(json.dumps(value, allow_nan=False, default=str))
    except ValidationError as error:
        problems = [_problem(settings, detail) for detail in error.errors()]
    except (ValueError, RecursionError) as error:
        problems = [str(error)]
    count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
    raise ConfigError("\n  ".join([f"{source}: {count}", *problems]))


def to_json(settings: Any) -> dict[str, Any]:
    """Return a settings dataclass as a JSON object that `check_config` accepts."""
    return json.loads(TypeAdapter(type(settings)).dump_json(settings))


def _problem(settings: type, detail: Any) -> str:
    location = [part for part in detail["loc"] if isinstance(part, int) or "[" not in part]
    name = ".".join(str(part) for part in location)
    if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        return f"{name}: no such setting; {_hint(settings, location)}"
    if detail["type"] in ("missing", "missing_argument"):
        return f"{name}: missing; it has no default"
    found = detail.get("input")
    shown = f" (found {found!r})" if isinstance(found, str | int | float | bool) else ""
    message = detail["msg"].removeprefix("Value error, ")
    known = re.findall("'([^']+)'", str(detail.get("ctx", {}).get("expected", "")))
    if isinstance(found, str) and (close := nearest(found, known)):
        shown += f"; did you mean {close!r}?"
    return f"{name}: {message}{shown}" if name else message


def _hint(settings: type, location: Sequence[Any]) -> str:
    """Return a hint about an unknown setting, such as the right section or the nearest name."""
    leaf = str(location[-1])
    paths = dict.fromkeys(_setting_paths(settings))
    known = sorted(set(_field_names(settings, location[:-1])))
    named = [path for path in paths if path.rpartition(".")[2] == leaf]
    # The location also contains the tags of unions.
    elsewhere = [path for path in named if not set(path.split(".")) <= set(map(str, location))]
    if len(elsewhere) < len(named):
        return "it belongs to a `kind` other than the one that is set; leave one of them out"
    if elsewhere:
        return f"did you mean {' or '.join(elsewhere)}?"
    if close := nearest(leaf, known, cutoff=0.5):
        return f"did you mean {close!r}?"
    leaves = sorted({path.rpartition(".")[2] for path in paths})
    if close := nearest(leaf, leaves, cutoff=0.7):
        meant = [path for path in paths if path.rpartition(".")[2] == close]
        return f"did you mean {' or '.join(meant)}?"
    return f"known: {', '.join(known)}"


def _setting_paths(settings: Any, prefix: str = "") -> Iterator[str]:
    """Yield the dotted name of every setting in a settings class and in all union members."""
    if not dataclasses.is_dataclass(settings):
        for inner in typing.get_args(settings):
            yield from _setting_paths(inner, prefix)
        return
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        path = f"{prefix}{field.name}"
        yield path
        yield from _setting_paths(hints[field.name], f"{path}.")


def _field_names(settings: Any, location: Sequence[Any]) -> Iterator[str]:
    """Yield the names of the settings at a location, in all union members and list items."""
    if dataclasses.is_dataclass(settings):
        if not location:
            yield from (field.name for field in dataclasses.fields(settings))
            return
        hints = typing.get_type_hints(settings)
        if location[0] in hints:
            yield from _field_names(hints[location[0]], location[1:])
            return
        if len(location) > 1 or isinstance(location[0], str):
            # The location contains the discriminator tag of a union member.
            yield from _field_names(settings, location[1:])
        return
    for inner in typing.get_args(settings):
        yield from _field_names(inner, location)
