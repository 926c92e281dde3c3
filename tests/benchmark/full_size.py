"""A SAM Audio of full size (dim 1536, 12 heads, 12 layers), with seeded weights, end to end.

Run as ``python -m tests.benchmark.full_size [DIRECTORY] [--seconds 25] [-- OPTIONS OF SEPARATE]``.
Writes a checkpoint in the official layout and a T5 of base size, and lets the commands export,
verify and separate, each in a process of its own. Prints how long each took and its peak memory,
that of exporting and separating as a ratio to the weights that they read. ``--export-only`` stops
after the first. Needs 12 GB of disk and 10 GB of memory. What is in the directory already is not
made again.

The peak is what was resident at once, the program and pages of mapped files included; beside it
stands the largest part that was seen, every tenth of a second, to belong to no file. The system may
drop pages of files at any time, so that part is the memory which a machine needs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile

DIM, HEADS, LAYERS = 1536, 12, 12
#: What the sizes of the small reference model's transformer become; other sizes stay.
SCALED = {128: DIM, 384: 4096, 768: 6 * DIM, 32: DIM // HEADS}
RATE = 44_100


def full_shape(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The full-size shape of a tensor of the small model."""
    if name.startswith("transformer."):
        return tuple(SCALED.get(size, size) for size in shape)
    if name.startswith("audio_codec.") or name == "embed_anchors.embed.weight":
        return shape
    return (DIM if shape[0] == 128 else shape[0], *shape[1:])  # entry layers: their output


def write_checkpoint(directory: Path) -> None:
    """Write the seeded weights in the official layout."""
    import torch

    from tests.support import parity, seeded

    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in parity.shapes().items():
        head, dot, tail = name.partition("transformer.layers.0.")
        copies = range(LAYERS) if dot and not head else ()
        if name.startswith("transformer.layers.") and not copies:
            continue  # layers 1 and 2 of the small model
        for layer in copies:
            shapes[f"transformer.layers.{layer}.{tail}"] = full_shape(name, shape)
        if not copies:
            shapes[name] = full_shape(name, shape)
    config = json.loads((parity.HERE / "sam_audio_tiny.config.json").read_text())
    config["transformer"] = {
        "dim": DIM, "n_heads": HEADS, "n_layers": LAYERS, "context_dim": DIM,
    }  # fmt: skip
    state = {
        name: torch.from_numpy(np.asarray(seeded.tensor(name, shape), np.float32))
        for name, shape in shapes.items()
    }
    torch.save(state, directory / "checkpoint.pt")
    (directory / "config.json").write_text(json.dumps(config))


def write_text_encoder(directory: Path) -> None:
    """Write a T5 encoder of base size with random weights, and a tokenizer of a few words."""
    import torch
    from transformers import T5Config, T5EncoderModel

    from tests.support import parity

    torch.manual_seed(0)
    config = T5Config(
        vocab_size=32128, d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12
    )
    T5EncoderModel(config).save_pretrained(directory)
    parity.write_tokenizer(directory)


def command(label: str, *arguments: object) -> tuple[int, int]:
    """Run ``stembridge`` with arguments and print what it took.

    Returns
    -------
    peak, own : int
        Bytes that were resident at most, and those of no file.
    """
    program = "import sys; from plugin_host.cli import main; sys.exit(main())"
    words = [sys.executable, "-c", program, *map(str, arguments)]
    began = time.perf_counter()
    pid = os.posix_spawn(sys.executable, words, os.environ)
    own, ended = 0, 0
    while not ended:
        own = max(own, _own_bytes(pid))
        time.sleep(0.1)
        ended, status, usage = os.wait4(pid, os.WNOHANG)
    seconds = time.perf_counter() - began
    peak = usage.ru_maxrss * 1024
    print(
        f"{label}: {seconds:.0f} s, {usage.ru_utime + usage.ru_stime:.0f} s of processors, "
        f"peak {peak / 1e9:.2f} GB, {own / 1e9:.2f} GB of it in no file",
        flush=True,
    )
    if status:
        sys.exit(f"{label} failed")
    return peak, own


def _own_bytes(pid: int) -> int:
    """Return the bytes of a process that are resident and belong to no file (Linux)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def loaded_bytes(bundle: Path) -> int:
    """Bytes of the weights that a text prompt loads: codec, velocity network and text encoder."""
    parts = ("codec_encoder", "codec_decoder", "velocity", "text_encoder")
    return sum(path.stat().st_size for path in bundle.iterdir() if path.name.startswith(parts))


def main() -> None:
    """Make what is missing, run the commands, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path)
    parser.add_argument("--seconds", type=float, default=25.0)
    parser.add_argument("--export-only", action="store_true")
    parser.add_argument("options", nargs="*", help="for separate, behind --")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = asked.directory or Path(scratch)
        checkpoint, text, bundle = root / "checkpoint", root / "t5", root / "bundle"
        if not (text / "tokenizer.json").exists():
            checkpoint.mkdir(parents=True, exist_ok=True)
            write_checkpoint(checkpoint)
            write_text_encoder(text)
        if not bundle.exists():
            peak, own = command(
                "export", "models", "export", checkpoint, bundle, "--text-encoder", text
            )
            weights = sum(f.stat().st_size for d in (checkpoint, text) for f in d.iterdir())
            print(
                f"weights {weights / 1e9:.2f} GB; peak / weights {peak / weights:.2f} (goal 1.3), "
                f"of it in no file {own / weights:.2f}"
            )
        if asked.export_only:
            return
        command("verify", "models", "verify", bundle)
        song = root / "song.wav"
        noise = np.random.default_rng(0).normal(0, 0.1, (round(asked.seconds * RATE), 2))
        soundfile.write(song, noise.astype(np.float32), RATE, subtype="FLOAT")
        peak, _ = command(
            f"separate {asked.seconds:g} s of stereo", "separate", song, "--prompt", "drums",
            "--model", bundle, "--in-process", "--overwrite", "-o", root / "stems",
            *asked.options,
        )  # fmt: skip
        weights = loaded_bytes(bundle)
        print(f"weights {weights / 1e9:.2f} GB; peak / weights {peak / weights:.3f} (goal 1.5)")


if __name__ == "__main__":
    main()
