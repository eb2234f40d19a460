"""Lookup of models by name, in local folders and on the Hugging Face Hub, and upload to the Hub.

Loading a model fetches only config.json and model.safetensors, and never unpickles data or executes
downloaded code.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import video_vq
from video_vq.errors import InputError
from video_vq.models.model_folder import CONFIG, TENSORS, Kind, read_model_config
from video_vq.models.starter import named

if TYPE_CHECKING:
    from huggingface_hub import HfApi

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.\-]{0,95}/[A-Za-z0-9][\w.\-]{0,95}", re.ASCII)


def find_model_folder(name: str | Path, revision: str | None, kind: Kind) -> Path:
    """Return the folder of a local model, or of a model downloaded from the Hub.

    Args:
        name: an existing folder, or "starter"; or, if a str, "org/name" on the Hub. A Path is
            always local.
        revision: branch, tag or commit of a repository; None for the main branch.
        kind: required model kind; tensors are downloaded only if the kind matches.

    Raises:
        InputError: the name is neither a folder nor a repository, a revision of a local folder is
            requested, the repository holds no model of this kind, or the Hub cannot be reached.
    """
    path = named(name)
    if isinstance(name, Path) or path.exists() or path != Path(name):
        if revision is not None:
            raise InputError(f"{name}: is a folder here, which has no revision {revision!r}")
        return path
    check_repository(name)
    if Path(name).parent.is_dir():  # probably a mistyped path rather than a Hub model
        raise InputError(f"{name}: no such folder in {Path(name).parent.resolve()}")
    api = _api()
    with _explained(name, revision):
        config = Path(api.hf_hub_download(name, CONFIG, revision=revision))
        read_model_config(config.parent, kind)
        # The cache folder is named after the commit, so both files come from the same commit.
        api.hf_hub_download(name, TENSORS, revision=config.parent.name)
    return config.parent


def fetch_file(name: str, file: str) -> Path:
    """Return the path of a file in a Hub repository, downloaded unless it is cached.

    Raises:
        InputError: the name is invalid, there is no such repository or file, or the Hub cannot be
            reached.
    """
    check_repository(name)
    api = _api()
    from huggingface_hub import errors

    with _explained(name, None):
        try:
            return Path(api.hf_hub_download(name, file))
        except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
            raise InputError(
                f"{name}/{file}: the Hugging Face Hub cannot be reached (no network, or "
                "HF_HUB_OFFLINE is set) and the file was not fetched before; name a local file"
            ) from None
        except errors.EntryNotFoundError:
            raise InputError(f"{name}: holds no {file} on the Hugging Face Hub") from None


def check_repository(name: str) -> None:
    """Check that a name is a valid repository name.

    Raises:
        InputError: the name is not valid; the message describes valid names.
    """
    if not REPOSITORY.fullmatch(name):
        raise InputError(
            f"{name!r}: there is no such folder here, and a model of the Hugging Face Hub is "
            'named "org/name"; name a model\'s folder, its run folder, or such a model'
        )


def upload_model(name: str, files: dict[str, bytes], private: bool, revision: str | None) -> str:
    """Create the repository if it is missing, then upload all files in one commit.

    Args:
        name: "org/name".
        files: file contents by name in the repository.
        private: whether a new repository is private.
        revision: existing branch; None for main.

    Returns:
        The commit URL.

    Raises:
        InputError: the Hub cannot be reached, or rejects the upload.
    """
    api = _api()
    from huggingface_hub import CommitOperationAdd

    operations = [CommitOperationAdd(file, data) for file, data in files.items()]
    with _explained(name, revision):
        api.create_repo(name, private=private, exist_ok=True)
        commit = api.create_commit(
            name, operations, commit_message="Upload a model of video-vq", revision=revision
        )
    return commit.commit_url


def _api() -> "HfApi":
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise InputError(
            "models of the Hugging Face Hub need `pip install huggingface_hub`; "
            "or download config.json and model.safetensors into a folder and name that"
        ) from None
    return HfApi(library_name="video-vq", library_version=video_vq.__version__)


@contextmanager
def _explained(name: str, revision: str | None) -> Iterator[None]:
    """Re-raise exceptions of the Hub client as InputErrors whose messages give advice."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{name}"
    try:
        yield
    except InputError:
        raise
    except errors.GatedRepoError:
        raise InputError(
            f"{name}: is a gated model; accept its terms on {page}, then run `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise InputError(
            f"{name}: there is no such folder here, and no such model on the Hugging Face Hub "
            "(or it is private: run `hf auth login`); check the name"
        ) from None
    except errors.RevisionNotFoundError:
        raise InputError(
            f"{name}: has no revision {revision!r}; its branches, tags and commits: "
            f"{page}/commits/main"
        ) from None
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        raise InputError(
            f"{name}: there is no such folder here, and the Hugging Face Hub cannot be reached "
            "(no network, or HF_HUB_OFFLINE is set) and it was not fetched before; "
            f"name a folder, or copy {CONFIG} and {TENSORS} from a machine with network"
        ) from None
    except errors.EntryNotFoundError:
        raise InputError(
            f"{name}: holds no {CONFIG} or no {TENSORS}: not a model of video-vq"
        ) from None
    except Exception as error:  # the HTTP library of the client raises errors of other types
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{name}: the Hugging Face Hub refused or broke the connection: {first}; to publish, "
            "log in with `hf auth login` as a user who may write there"
        ) from None
