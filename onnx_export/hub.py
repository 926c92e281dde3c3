"""Checkpoints and text encoders: a local directory, or a repository on the Hugging Face hub.

The user's own token is used, from ``HF_TOKEN`` or ``hf auth login``. Only this module talks to the
network, and it loads no PyTorch.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from pathlib import Path

from bridge.errors import InputError, ModelError

CHECKPOINT_FILES = ("config.json", "checkpoint.pt")
TEXT_ENCODER_FILES = ("config.json", "model.safetensors", "tokenizer.json")
_REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")


def locate(source: str | Path, files: Sequence[str], what: str) -> Path:
    """Find a directory with the given files, downloading it if it is a hub id.

    Parameters
    ----------
    source : str or Path
        A local directory, or a repository such as ``facebook/sam-audio-base``.
    files : sequence of str
        Names or patterns of the files that are needed.
    what : str
        What is looked for, for the error messages.

    Returns
    -------
    Path
        The directory itself, or the repository's snapshot in the hub's cache.

    Raises
    ------
    ModelError
        If `source` is neither, the repository isn't there or needs a token or consent, the hub
        can't be reached, or files are missing.
    InputError
        If the disk is full.
    """
    directory = Path(source).expanduser()
    if not directory.is_dir():
        directory = _download(str(source), files, what)
    missing = [name for name in files if not any(directory.glob(name))]
    if missing:
        raise ModelError(f"{directory}: no {missing[0]}; {what} needs the files {', '.join(files)}")
    return directory


def _download(repository: str, files: Sequence[str], what: str) -> Path:
    if not _REPOSITORY.fullmatch(repository) or repository.startswith("."):
        raise ModelError(
            f"{repository}: no such directory, nor a repository of the hub; give {what} as a "
            "directory or an id such as facebook/sam-audio-base"
        )
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=list(files)))
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
        raise ModelError(
            f"{repository}: the hub doesn't give you {what}: there is no such directory here, and "
            "the repository doesn't exist or needs an account with access. Ask for it at "
            f"https://huggingface.co/{repository}, then run `hf auth login` or set HF_TOKEN"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise ModelError(
            f"{repository}: no such directory here, and the hub can't be reached to download "
            f"{what}; connect to the network, or give a directory"
        ) from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise InputError(
                f"{repository}: the disk is full; free some space, or set HF_HOME to another place"
            ) from error
        raise ModelError(f"{repository}: downloading {what} failed ({_reason(error)})") from error


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
