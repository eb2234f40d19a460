"""Saving, loading and publishing of trained models, with strict checks and without pickle."""

import hashlib
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn

from video_vq.config import check_config, to_json
from video_vq.errors import InputError
from video_vq.models import starter
from video_vq.models.card import is_our_card, model_card
from video_vq.models.hub import check_repository, find_model_folder, upload_model
from video_vq.models.model_folder import (
    CARD,
    CONFIG,
    DTYPES,
    FORMAT,
    TENSORS,
    VERSION,
    Kind,
    read_model_config,
)
from video_vq.nn.blocks import num_parameters
from video_vq.stores.files import canonical_json, readable_json, write_bytes
from video_vq.stores.lock import held

Config = TypeVar("Config")
Facts = TypeVar("Facts")
Model = TypeVar("Model", bound="Pretrained")


class Pretrained(nn.Module, Generic[Config, Facts]):
    """Base class of models that are saved as config.json, model.safetensors and a model card.

    Attributes:
        kind: model kind, as named in config.json.
        config_type: class of the model settings.
        facts_type: class of the training details.
    """

    kind: ClassVar[Kind]
    config_type: ClassVar[type]
    facts_type: ClassVar[type]

    def __init__(self, config: Config):
        super().__init__()
        self.config: Config = config
        self._facts: Facts | None = None
        self._hash: str | None = None

    @property
    def facts(self) -> Facts:
        """Return details of the model's training, which are set by loading or training.

        Raises:
            InputError: the model was neither loaded nor trained, so its training data are unknown.
        """
        if self._facts is None:
            raise InputError(
                f"this {self.kind} was not loaded, so what it was trained on is unknown; load it "
                f"with from_pretrained, or set .facts to a {self.facts_type.__name__}"
            )
        return self._facts

    @facts.setter
    def facts(self, facts: Facts) -> None:
        self._facts = facts

    @property
    def hash(self) -> str:
        """Return the SHA-256 of the config and tensors that were last loaded or saved.

        Raises:
            InputError: the model was neither loaded nor saved.
        """
        if self._hash is None:
            raise InputError(f"this {self.kind} has no hash before it is loaded or saved")
        return self._hash

    @classmethod
    def from_pretrained(
        cls: type[Model],
        name: str | Path,
        revision: str | None = None,
        device: str | torch.device = "cpu",
    ) -> Model:
        """Load a model in eval mode, without gradients, in the dtype in which it was saved.

        Args:
            name: the model's folder, or the run folder that contains it; a str that is not a local
                folder may be a repository on the Hugging Face Hub, "org/name", or "starter", the
                package's own tokenizer, which is loaded in float32. A Path is always local.
            revision: branch, tag or commit of a Hub repository; None for its main branch.
            device: device for the model.

        Raises:
            InputError: there is no such folder, repository or revision, a file is missing or
                damaged, the model is of another kind, a setting is invalid, or the tensors do not
                match the settings or the hash.
        """
        found = read_model_config(find_model_folder(name, revision, cls.kind), cls.kind)
        source, file = str(found.folder / CONFIG), found.folder / TENSORS
        config = check_config(cls.config_type, found.model, source)
        facts = check_config(cls.facts_type, found.facts, source)
        tensors = read_tensors(file)
        # Checked on meta tensors first, so an oversized config does not allocate memory.
        dtype = getattr(torch, found.dtype)
        check_tensors(_blank(cls, config, dtype), tensors, str(file))
        # The hash covers only settings in the file, so settings added later do not change it.
        if hash_of(found.model, tensors) != found.hash:
            raise InputError(
                f"{file}: its tensors are not those that {CONFIG} names (the hash differs); "
                "copy both files of the folder again"
            )
        model = cls(config).to(dtype)
        model.load_state_dict(tensors)
        if found.folder == starter.FOLDER:  # in bfloat16 only to be small
            model = model.float()
        model._facts, model._hash = facts, found.hash
        return model.eval().requires_grad_(False).to(device)

    def save_pretrained(
        self,
        path: str | Path,
        scores: str | Path | dict[str, Any] | None = None,
        license: str | None = None,
    ) -> str:
        """Write a model folder, and return the hash of the tensors and config.

        Tensors are written in the model's dtype, from any device. For a model in a wrapper such as
        DistributedDataParallel, save the wrapped model, `wrapper.module`.

        Args:
            path: folder, created if missing. config.json is written last, so a folder with
                config.json is complete.
            scores: scores for the model card: the result of `video-vq evaluate`, the path of
                scores.json, or the folder that contains scores.json.
            license: license identifier used on the Hub, such as "mit" or "cc-by-4.0"; None for a
                card without a license.

        Raises:
            InputError: the scores are missing, damaged or those of another model, the license
                identifier is invalid, the training details are unknown, the folder contains a
                README.md that is not a model card of video-vq, another process is writing to the
                folder, or the tensors could not be loaded again, because they are on the meta
                device or have unsupported or mixed dtypes or changed names or shapes.
        """
        folder = Path(path)
        if not is_our_card(folder / CARD):
            raise InputError(
                f"{folder / CARD}: is not a model card of video-vq and would be replaced; "
                "name another folder"
            )
        files = self._files("path/to/this/folder", scores, license)
        with held(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for name, data in files.items():
                write_bytes(folder / name, data)
        return self.hash

    def push_to_hub(
        self,
        name: str,
        scores: str | Path | dict[str, Any] | None = None,
        license: str | None = None,
        private: bool = False,
        revision: str | None = None,
    ) -> str:
        """Publish the model to the Hugging Face Hub in one commit, and return the commit URL.

        Args:
            name: "org/name"; the repository is created if missing.
            scores: see `save_pretrained`.
            license: see `save_pretrained`.
            private: whether a new repository is private.
            revision: existing branch; None for main.

        Raises:
            InputError: the name is invalid, the scores, license identifier, training details or
                tensors are unsuitable for `save_pretrained`, or the Hub cannot be reached or
                rejects the upload.
        """
        check_repository(name)
        return upload_model(name, self._files(name, scores, license), private, revision)

    def _files(
        self, name: str, scores: str | Path | dict[str, Any] | None, license: str | None
    ) -> dict[str, bytes]:
        """Return file contents by name, in the order of writing, and set the model's hash."""
        facts = to_json(self.facts)
        tensors, dtype = self._tensors()
        settings = to_json(self.config)
        self._hash = hash_of(settings, tensors)
        config = {
            "format": FORMAT,
            "version": VERSION,
            "kind": self.kind,
            **({} if dtype == "float32" else {"dtype": dtype}),
            "model": settings,
            "hash": self._hash,
            "facts": facts,
        }
        card = model_card(name, config, num_parameters(self), scores, license)
        return {
            TENSORS: safetensors.torch.save(tensors),
            CARD: card.encode(),
            CONFIG: readable_json(config),
        }

    def _tensors(self) -> tuple[dict[str, torch.Tensor], str]:
        """Return the tensors to write, and the dtype to record in config.json."""
        # torch.compile on a part of the model adds a prefix to tensor names.
        state = {key.replace("_orig_mod.", ""): value for key, value in self.state_dict().items()}
        if any(value.is_meta for value in state.values()):
            raise InputError(
                f"this {self.kind} is on the meta device, where tensors have no values to save; "
                "load it with from_pretrained"
            )
        dtype = str(next(self.parameters()).dtype).removeprefix("torch.")
        if dtype not in DTYPES:
            raise InputError(
                f"this {self.kind} is in {dtype}; bring it to one of {', '.join(DTYPES)}, for "
                f"example {self.kind}.float()"
            )
        source = f"this {self.kind} cannot be saved as a model in {dtype}: its state_dict"
        check_tensors(_blank(type(self), self.config, getattr(torch, dtype)), state, source)
        return {key: value.detach().cpu().contiguous() for key, value in state.items()}, dtype


def _blank(cls: type[Pretrained], config: Any, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return meta tensors, without values, for the model that a config describes."""
    with torch.device("meta"):
        return cls(config).to(dtype).state_dict()


def hash_of(settings: dict[str, Any], tensors: dict[str, torch.Tensor]) -> str:
    """Return the SHA-256 of the model config and all tensors (names, dtypes, shapes and bytes)."""
    digest = hashlib.sha256(canonical_json(settings))
    for name in sorted(tensors):
        value = tensors[name]
        digest.update(canonical_json([name, str(value.dtype), list(value.shape)]))
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_tensors(file: Path) -> dict[str, torch.Tensor]:
    """Read a safetensors file, without executing code.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        return safetensors.torch.load(file.read_bytes())
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise InputError(f"{file}: not a readable safetensors file: {error}") from None


def check_tensors(
    expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor], source: str
) -> None:
    """Check that the found tensors have the expected names, shapes and dtypes.

    Raises:
        InputError: tensors are missing or extra, or have a wrong shape or dtype; the message lists
            up to ten problems.
    """
    problems = [f"missing: {name}" for name in expected if name not in found]
    problems += [f"not part of the model: {name}" for name in found if name not in expected]
    for name in expected.keys() & found.keys():
        want, have = expected[name], found[name]
        if (want.shape, want.dtype) != (have.shape, have.dtype):
            problems.append(
                f"{name}: expected {tuple(want.shape)} {want.dtype}, "
                f"found {tuple(have.shape)} {have.dtype}"
            )
    if problems:
        raise InputError("\n  ".join([f"{source}: does not fit the model", *problems[:10]]))
