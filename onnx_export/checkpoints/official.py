"""An official checkpoint to a bundle, in one call: find, load, export.

A checkpoint or text encoder is a local directory, or a repository on the Hugging Face hub, for
which the user's own token is used (``HF_TOKEN`` or ``hf auth login``).
"""

from __future__ import annotations

import errno
import fnmatch
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack

from bridge.bundles.manifest import AttentionForm
from bridge.errors import InputError, ModelError
from bridge.files import expanded
from onnx_export.checkpoints.checkpoint import load_vision_encoder, open_checkpoint, read_config
from onnx_export.checkpoints.weights import (
    RELEASES,
    WEIGHTS_FILES,
    digest,
    find_weights,
    read_weights,
)
from onnx_export.export import CONFIG_FILE, Progress, export_bundle
from onnx_export.networks.judge import load_judge
from onnx_export.networks.phrases import (
    PREPROCESSOR_FILE,
    TOKENIZER_FILE,
    load_clap,
    load_span_predictor,
    load_text_encoder,
)
from onnx_export.networks.sam_audio import SamAudioConfig
from onnx_export.recipes import (
    Blueprint,
    Provenance,
    sam_audio_blueprint,
    with_clap,
    with_judge,
    with_span_predictor,
    with_vision,
)
from onnx_export.trace import Precision

CHECKPOINT_FILES = ("config.json", "|".join(WEIGHTS_FILES))
TEXT_ENCODER_FILES = ("config.json", "model.safetensors", "tokenizer.json")
CLAP_FILES = (*TEXT_ENCODER_FILES, PREPROCESSOR_FILE)
_REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Source:
    """Where the files of a model lie, and what is known of them.

    Attributes
    ----------
    directory : Path
    label : str
        What to call it, without telling where on this machine it lies; of a repository with the
        commit.
    licence : str or None
        As the card of the repository names it; None for a directory.
    """

    directory: Path
    label: str
    licence: str | None = None


def locate(
    source: str | Path, files: Sequence[str], what: str, revision: str | None = None
) -> Source:
    """Find a directory with the given files, downloading it if it is a hub id.

    Parameters
    ----------
    source : str or Path
        A local directory, or a repository such as ``facebook/sam-audio-base``.
    files : sequence of str
        Names or patterns of the files that are needed; of those divided by ``|`` the first that
        is there.
    what : str
        What is looked for, for the error messages.
    revision : str, optional
        Commit, tag or branch of the repository. The commit that it is at present is what is
        downloaded and recorded.

    Raises
    ------
    ModelError
        If `source` is neither, the repository isn't there or needs a token or consent, the hub
        can't be reached, or files are missing.
    InputError
        If the disk is full.
    """
    directory = expanded(source)
    found = (
        Source(directory, directory.resolve().name)
        if directory.is_dir()
        else _download(str(source), files, what, revision)
    )
    for wanted in files:
        if not any(any(found.directory.glob(name)) for name in wanted.split("|")):
            raise ModelError(
                f"{found.directory}: no {wanted.replace('|', ' or ')}; {what} needs the files "
                f"{', '.join(files).replace('|', ' or ')}"
            )
    return found


def _download(repository: str, files: Sequence[str], what: str, revision: str | None) -> Source:
    if not _REPOSITORY.fullmatch(repository) or repository.startswith("."):
        raise ModelError(
            f"{repository}: no such directory, nor a repository of the hub; give {what} as a "
            "directory or an id such as facebook/sam-audio-base"
        )
    from huggingface_hub import errors, snapshot_download

    try:
        info = _ask_hub(repository, revision)
        if info is None:
            return _cached(repository, files, revision)
        present = [sibling.rfilename for sibling in info.siblings or ()]
        chosen = [
            next((p for p in wanted.split("|") if fnmatch.filter(present, p)), wanted)
            for wanted in files
        ]
        directory = Path(
            snapshot_download(repository, revision=info.sha, allow_patterns=_with_parts(chosen))
        )
        return Source(directory, f"{repository}@{info.sha}", _licence(info))
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
        raise ModelError(
            f"{repository}: the hub doesn't give you {what}: there is no such directory here, and "
            "the repository doesn't exist or needs an account with access. Ask for it at "
            f"https://huggingface.co/{repository}, then run `hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(
            f"{repository}: has no revision {revision!r}; give a commit or a tag of it"
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


def _ask_hub(repository: str, revision: str | None) -> Any:
    """Ask what a repository holds at a revision; None if the hub can't be reached."""
    from huggingface_hub import HfApi, errors

    try:
        return HfApi().model_info(repository, revision=revision)
    except (errors.GatedRepoError, errors.RepositoryNotFoundError, errors.RevisionNotFoundError):
        raise
    except Exception:  # which library it comes from depends on the version
        return None


def _cached(repository: str, files: Sequence[str], revision: str | None) -> Source:
    """Find a repository that was downloaded before, with the first choice of files that is whole.

    Raises
    ------
    huggingface_hub.errors.LocalEntryNotFoundError
        If there is none.
    """
    from huggingface_hub import errors, snapshot_download

    missing = errors.LocalEntryNotFoundError(repository)
    for chosen in itertools.product(*(wanted.split("|") for wanted in files)):
        try:
            directory = Path(
                snapshot_download(
                    repository,
                    revision=revision,
                    allow_patterns=_with_parts(chosen),
                    local_files_only=True,
                )
            )
        except errors.LocalEntryNotFoundError as error:
            missing = error
            continue
        if all(any(directory.glob(name)) for name in chosen):
            return Source(directory, f"{repository}@{directory.name}")
    raise missing


def _with_parts(chosen: Sequence[str]) -> list[str]:
    """Add to patterns of files the parts that an index lists, and the licence."""
    index = ".safetensors.index.json"
    parts = [name.replace(index, "-*.safetensors") for name in chosen if name.endswith(index)]
    return [*chosen, *parts, "LICENSE*"]


def _licence(info: Any) -> str | None:
    card = info.card_data
    named = None if card is None else card.get("license_name") or card.get("license")
    return str(named) if named else None


def _reason(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


LICENCE = "SAM License"
#: Where a -tv checkpoint did better with words alone, in the one comparison that was published:
#: one clip of speech, mean of two candidates (widgetii/sam-audio, bench/OBSERVATIONS.md).
BETTER_FOR_TEXT = {
    "sam-audio-small": "for text alone sam-audio-small-tv scored better (judge 4.55 for 3.94)",
    "sam-audio-base": "for text alone sam-audio-base-tv scored better (CLAP 0.35 for 0.27)",
}


class Parts(TypedDict, total=False):
    """What goes into a bundle with a checkpoint, and from where.

    Attributes
    ----------
    text_encoder : str or Path, optional
        Directory or hub id of the T5 encoder; by default the one that the configuration names.
    span_predictor : str or Path or True, optional
        Directory or hub id of PE-A-Frame, to have spans predicted for text prompts; True takes
        the one that the configuration names.
    judge : str or Path, optional
        Directory or hub id of the judge of stems, in transformers' format.
    clap : str or Path, optional
        Directory or hub id of a CLAP without fusion, in transformers' format.
    vision : bool
        Whether to export the checkpoint's vision encoder, for prompts that a video shows.
    """

    text_encoder: str | Path | None
    span_predictor: str | Path | Literal[True] | None
    judge: str | Path | None
    clap: str | Path | None
    vision: bool


def export_checkpoint(
    checkpoint: str | Path,
    out: str | Path,
    *,
    precision: Precision = "fp32",
    attention: AttentionForm = "plain",
    revision: str | None = None,
    progress: Progress = lambda _line: None,
    **parts: Unpack[Parts],
) -> Path:
    """Turn an official SAM Audio checkpoint into a bundle.

    Parameters
    ----------
    checkpoint : str or Path
        Directory with ``config.json`` and ``checkpoint.pt`` or safetensors, or a hub id.
    out : str or Path
        Directory to make; its name becomes the model's.
    precision : {"fp32", "fp16", "fp16-weights", "int8"}
    attention : {"plain", "fused"}
        See `onnx_export.export_bundle`.
    revision : str, optional
        Commit or tag of the checkpoint's repository; by default its newest commit.
    progress : callable
        Called with a line of text at each step.
    **parts
        See `Parts`; none but the text encoder by default.

    Returns
    -------
    Path
        The bundle's directory.

    Raises
    ------
    ModelError
        If the checkpoint or the text encoder can't be found, is damaged, or they don't fit.
    InputError
        If `out` exists or can't be written.
    """
    blueprint = checkpoint_blueprint(
        checkpoint, name=Path(out).name, revision=revision, progress=progress, **parts
    )
    return export_bundle(
        blueprint, out, precision=precision, attention=attention, progress=progress
    )


def checkpoint_blueprint(
    checkpoint: str | Path,
    *,
    name: str,
    revision: str | None = None,
    progress: Progress = lambda _line: None,
    **parts: Unpack[Parts],
) -> Blueprint:
    """Load a checkpoint and what belongs to it, and describe their bundle.

    The checkpoint's own weights stay in its file, see `onnx_export.recipes.Graph`. Parameters and
    errors are those of `export_checkpoint`.
    """
    found = locate(checkpoint, CHECKPOINT_FILES, "a SAM Audio checkpoint", revision)
    directory = found.directory
    progress(f"{found.label}, licence: {found.licence or LICENCE}")
    config = read_config(directory / CONFIG_FILE)
    t5 = locate(
        parts.get("text_encoder") or config.text_encoder, TEXT_ENCODER_FILES, "the text encoder"
    )
    span_source = _span_source(parts.get("span_predictor"), config)
    spans = (
        None
        if span_source is None
        else locate(span_source, TEXT_ENCODER_FILES, "the span predictor")
    )
    clap, judge = parts.get("clap"), parts.get("judge")
    clap_files = None if clap is None else locate(clap, CLAP_FILES, "CLAP")
    judge_files = None if judge is None else locate(judge, TEXT_ENCODER_FILES, "the judge")
    progress("loading weights")
    encoder = load_text_encoder(t5.directory)
    if encoder.dim != config.text_dim:
        raise ModelError(
            f"{t5.directory}: a text encoder of width {encoder.dim}, but the checkpoint expects "
            f"{config.text_dim}; give the one it was trained with ({config.text_encoder})"
        )
    model, weights = open_checkpoint(directory)
    files = find_weights(directory)
    checksum = digest(files)
    release = RELEASES.get(checksum)
    if release is not None:
        progress(f"the weights are those of {release}")
    if better := BETTER_FOR_TEXT.get(release or found.label.partition("@")[0].split("/")[-1]):
        progress(better)
    source = (
        f"{found.label} ({', '.join(path.name for path in files)} sha256 {checksum}"
        f"{f', {release}' if release else ''}); text encoder {t5.label}; exported by stembridge"
    )
    if spans is not None:
        source += f"; span predictor {spans.label}"
    if judge_files is not None:
        source += f"; judge {judge_files.label}"
    if clap_files is not None:
        source += f"; CLAP {clap_files.label}"
    blueprint = sam_audio_blueprint(
        model,
        encoder,
        t5.directory / TOKENIZER_FILE,
        Provenance(name, found.licence or LICENCE, source),
        weights,
    )
    if spans is not None:
        predictor = load_span_predictor(spans.directory)
        blueprint = with_span_predictor(blueprint, predictor, spans.directory / TOKENIZER_FILE)
    if judge_files is not None:
        loaded = load_judge(judge_files.directory)
        blueprint = with_judge(blueprint, loaded, judge_files.directory / TOKENIZER_FILE)
    if clap_files is not None:
        likeness = load_clap(clap_files.directory)
        blueprint = with_clap(blueprint, likeness, clap_files.directory / TOKENIZER_FILE)
    if parts.get("vision"):
        settings = config.raw.get("vision_encoder") or {}
        tower = load_vision_encoder(read_weights(directory), settings, str(directory))
        blueprint = with_vision(blueprint, tower)
    return blueprint


def _span_source(
    asked: str | Path | Literal[True] | None, config: SamAudioConfig
) -> str | Path | None:
    """Tell where the span predictor comes from, None if it isn't wanted."""
    if asked is not True:
        return asked
    named = config.raw.get("span_predictor")
    if not isinstance(named, str) or not named:
        raise InputError(
            "the checkpoint's configuration names no span_predictor; give one with "
            "--span-predictor DIR_OR_ID, or do without it (models fetch --without spans)"
        )
    return named if "/" in named else f"facebook/{named}"
