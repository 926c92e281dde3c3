"""A training run: resumable, seeded, on one GPU or on several single-threaded CPU processes.

On CPU every operation of a multi-threaded network ends in a barrier, which costs more than the
network when the cores have other work; processes that meet once a step do not.

Matrix products run in bfloat16 (autocast) where that is quick; weights and optimiser stay in
float32.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import socket
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from bridge.bundles.bundle import load_prompted
from onnx_export.networks.mini import MiniModel
from onnx_export.rebuild import rebuild_mini
from onnx_export.training.mixing import Batch, Mixer
from onnx_export.training.objective import (
    SHARE,
    Alignment,
    draw_times,
    interpolate,
    learning_rate,
    likeness_loss,
    make_optimisers,
    objective,
    relative_error,
    si_sdr_db,
)
from onnx_export.training.run import (
    LOG_FILE,
    RECIPE_FILE,
    DataConfig,
    Recipe,
    carry_over,
    keep_tokenizer,
    tokenise,
    write_curves,
)
from onnx_export.training.sound.families import ancestors
from onnx_export.training.stem_pool import StemPool

CHECKPOINT = "checkpoint.pt"
TOKENIZER = "tokenizer.json"
#: What the bundle was that a run began with.
START = "start.txt"
VALIDATION_ITEMS = 256
#: Unaugmented, and the same whatever a recipe says: runs are judged on the same mixtures of a pool.
VALIDATION_DATA = DataConfig(
    crop_s=4.096, max_sources=5, singing=0.45, sounds=0.25, absent=0.0, plain_names=1.0,
    spans=0.0, equaliser=0.0, varispeed=0.0, extra_families=1e-6,
)  # fmt: skip
REFRESH_EVERY = 200


class Trainer:
    """One process of a training run.

    Parameters
    ----------
    recipe : Recipe
        What to train and how.
    pool : Path
        The stem pool.
    out : Path
        The run's directory: checkpoint, tokenizer and log.
    rank, world : int
        This process and how many there are.
    start : Path or None
        A bundle whose weights a new run begins with.
    precision : torch.dtype
        Of matrix products, see `quickest_precision`.
    """

    def __init__(
        self,
        recipe: Recipe,
        pool: Path,
        out: Path,
        rank: int,
        world: int,
        start: Path | None,
        precision: torch.dtype = torch.float32,
    ) -> None:
        self.recipe, self.out, self.rank, self.world = recipe, out, rank, world
        self.precision = precision
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cpu":
            torch.set_num_threads(1 if world > 1 else os.cpu_count() or 1)
        self.tokenizer = Tokenizer.from_file(str(out / TOKENIZER))
        torch.manual_seed(recipe.train.seed)
        self.model = MiniModel(recipe.model)
        aligned = recipe.align.tagger is not None
        self.alignment = Alignment(recipe.align, self.model, self.device) if aligned else None
        self.stems = StemPool(pool, "train", recipe.data.pools)
        self.mixer = Mixer(self.stems, recipe.model, recipe.data)
        self.late_mixer = Mixer(self.stems, recipe.model, recipe.late_data or recipe.data)
        plain = msgspec.structs.replace(VALIDATION_DATA, panned=float(recipe.model.stereo))
        self.held_out = Mixer(StemPool(pool, "valid"), recipe.model, plain)
        if start is None:
            self.model.codec.scale.copy_(self._measure_scale())
        elif not (out / CHECKPOINT).exists():
            self._begin_with(start)
        self.model.to(self.device)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimisers = make_optimisers(self.model, recipe.train)
        self.step = 0
        if (out / CHECKPOINT).exists():
            self._resume()
        self.clean = self.model.velocity.clean
        if self.alignment is not None:
            self.alignment.watch()
        if recipe.train.compile:
            # Block by block: equal blocks share one compilation. One that is watched has none.
            for layer in self.model.velocity.transformer.layers:
                if self.alignment is None or layer is not self.alignment.layer:
                    layer.compile(dynamic=False)
            if self.model.velocity.refine is not None:
                self.model.velocity.refine.compile(dynamic=False)

    def _begin_with(self, start: Path) -> None:
        """Take over a bundle's weights; what it did not hear or know is measured or spelled."""
        other = rebuild_mini(start)
        self.model.take_over(other)
        known = other.config.latent_channels
        scale = self.model.codec.scale
        if known < len(scale):
            scale[known:] = self._measure_scale()[known:]
            if self.world > 1:
                torch.distributed.broadcast(scale, 0)  # the pool may have grown in between
        old = Tokenizer.from_file(str(start / load_prompted(start).tokenizer))
        if old.get_vocab() != self.tokenizer.get_vocab():
            theirs = other.text_encoder.get_input_embeddings().weight
            mine = self.model.text_encoder.get_input_embeddings().weight
            with torch.no_grad():
                mine.copy_(carry_over(theirs, old, self.tokenizer, len(mine)))

    def _measure_scale(self) -> Tensor:
        """Measure the standard deviation per channel over seeded training mixtures."""
        batch = self.mixer.batch(np.random.default_rng(self.recipe.train.seed), 512)
        return batch.mixture.pow(2).mean((0, 1)).sqrt()

    def _resume(self) -> None:
        state = torch.load(self.out / CHECKPOINT, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        self.step = int(state["step"])

    def save(self) -> None:
        """Write the checkpoint under a temporary name, then rename it."""
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimisers": [o.state_dict() for o in self.optimisers],
            "step": self.step,
        }
        temporary = self.out / (CHECKPOINT + ".part")
        torch.save(state, temporary)
        temporary.replace(self.out / CHECKPOINT)

    def _to_network(
        self, batch: Batch, model: MiniModel
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        scale = model.codec.scale
        mixture, target = batch.mixture.to(self.device), batch.target.to(self.device)
        ids, mask = tokenise(self.tokenizer, batch.prompts, self.recipe.model.text.max_tokens)
        ids, mask = ids.to(self.device), mask.to(self.device)
        text = model.text_encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        beside = batch.beside.to(self.device) / scale
        return mixture / scale, beside, target / scale, text, mask, batch.spans.to(self.device)

    def _autocast(self) -> torch.autocast:
        enabled = self.precision == torch.bfloat16
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Objective of one batch."""
        train = self.recipe.train
        with self._autocast():
            mixture, beside, target, text, mask, spans = self._to_network(batch, self.model)
            t = draw_times(len(mixture), train.at_zero, generator).to(self.device)
            clean = torch.cat([target, mixture - target], dim=-1)
            noise = torch.randn(clean.shape, generator=generator).to(self.device)
            predicted = self.clean(
                interpolate(clean, noise, t), t, mixture, text.float(), mask, spans, beside
            )
        weight = self.model.codec.scale / self.model.codec.scale.mean()
        loss = objective(relative_error(predicted, target, mixture, weight), train.loss_floor)
        if train.likeness:
            heard = predicted[..., : target.shape[-1]]
            loss = loss + train.likeness * likeness_loss(heard, target, weight)
        if self.alignment is not None:
            wav = self.model.codec.decode(batch.target.to(self.device))[:, 0]
            loss = loss + self.alignment.weight * self.alignment.loss(wav)
        return loss

    @torch.no_grad()
    def validate(self) -> dict[str, Any]:
        """Improvement in SI-SDR on mixtures of held-out sources, one evaluation from t = 0."""
        rng = np.random.default_rng(0)
        gains: dict[str, list[float]] = defaultdict(list)
        for _ in range(VALIDATION_ITEMS // 16):
            batch = self.held_out.batch(rng, 16)
            mixture, beside, target, text, mask, spans = self._to_network(batch, self.average)
            zero = torch.zeros(len(mixture), device=self.device)
            with self._autocast():
                state = torch.zeros(*mixture.shape[:2], 2 * mixture.shape[2], device=self.device)
                predicted = self.average.velocity.clean(
                    state, zero, mixture, text, mask, spans, beside
                )
            scale = self.average.codec.scale
            estimate = predicted[..., : mixture.shape[-1]] * scale
            gain = si_sdr_db(estimate, target * scale) - si_sdr_db(mixture * scale, target * scale)
            for family, value, truth in zip(batch.families, gain.tolist(), target, strict=True):
                if truth.abs().max() > 0:
                    gains[family].append(value)
        every = np.array([g for values in gains.values() for g in values])
        kinds: dict[str, list[float]] = defaultdict(list)
        for family, values in gains.items():
            wider = ancestors(family)
            kind = next((k for k in ("vocals", "voice", "music") if k in wider), "sounds")
            kinds["music as a whole" if family == "music" else kind] += values
        return {
            "kinds": {
                kind: [len(v), *(round(float(q), 1) for q in np.percentile(v, (10, 50)))]
                for kind, v in sorted(kinds.items())
            },
            "median_db": float(np.median(every)),
            "mean_db": float(every.mean()),
            "families": {f: round(float(np.median(v)), 2) for f, v in sorted(gains.items())},
        }

    def _batches(self) -> Iterator[Batch]:
        """Draw the next batch in a thread while the network works on this one."""

        def draw(step: int) -> Batch:
            seed = (self.recipe.train.seed, step, self.rank)
            mixer = self.late_mixer if step >= self.recipe.train.late_from else self.mixer
            return mixer.batch(np.random.default_rng(seed), mixer.data.batch // self.world)

        with ThreadPoolExecutor(1) as thread:
            upcoming = thread.submit(draw, self.step)
            for step in range(self.step, self.recipe.train.steps):
                batch = upcoming.result()
                if step % REFRESH_EVERY == 0:
                    self.stems.refresh()
                upcoming = thread.submit(draw, step + 1)
                yield batch

    def _share_gradients(self) -> None:
        params = [p for p in self.model.parameters() if p.grad is not None]
        flat = torch.cat([p.grad.flatten() for p in params if p.grad is not None])
        torch.distributed.all_reduce(flat)
        flat /= self.world
        for p, piece in zip(params, torch.split(flat, [p.numel() for p in params]), strict=True):
            p.grad = piece.view_as(p)

    def run(self) -> None:
        """Train to the last step, logging, validating and saving on the way."""
        started, first = time.monotonic(), self.step
        recent: list[float] = []
        for batch in self._batches():
            for optimiser in self.optimisers:
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate(self.step, self.recipe) * group.get(SHARE, 1.0)
            generator = torch.Generator().manual_seed(
                (self.recipe.train.seed * 1_000_003 + self.step) * self.world + self.rank
            )
            loss = self.loss(batch, generator)
            if not torch.isfinite(loss):
                raise FloatingPointError(
                    f"the loss is {float(loss)} at step {self.step}: the checkpoint before it is "
                    "whole; try compile = false, a lower rate or another crop length"
                )
            loss.backward()  # type: ignore[no-untyped-call]
            if self.world > 1:
                self._share_gradients()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            for optimiser in self.optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            self.step += 1
            self._follow()
            recent.append(float(loss.detach()))
            if self.rank == 0 and self.step % 50 == 0:
                pace = (time.monotonic() - started) / (self.step - first)
                self._log(loss=float(np.mean(recent)), seconds_per_step=round(pace, 3))
                recent.clear()
            if self.step % self.recipe.train.validate_every == 0 and self.rank == 0:
                self.save()
                self._log(**self.validate())
                write_curves(self.out)
        if self.rank == 0:
            self.save()

    def _follow(self) -> None:
        """Move the average towards the weights; early on it follows faster."""
        keep = min(self.recipe.train.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()), list(self.model.parameters()), 1 - keep
            )

    def _log(self, **values: object) -> None:
        line = json.dumps({"step": self.step, **values})
        print(line, flush=True)
        with (self.out / LOG_FILE).open("a") as log:
            log.write(line + "\n")


#: bfloat16 has to be quicker than float32 by this factor to be worth its rounding.
_WORTH = 1.1
_SHAPE = (2048, 320, 896)
_REPETITIONS = 3


def _seconds(device: torch.device, dtype: torch.dtype) -> float:
    frames, width, hidden = _SHAPE
    left = torch.randn(frames, width, device=device, dtype=dtype)
    right = torch.randn(width, hidden, device=device, dtype=dtype)
    best = float("inf")
    for _ in range(_REPETITIONS + 1):  # the first builds the kernels
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        started = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - started)
    return best


def quickest_precision(device: torch.device) -> torch.dtype:
    """Measure products of the network's size in both precisions, and return the quicker one.

    Processors without instructions for bfloat16 emulate it, at a hundred times the cost of
    float32; those with them gain severalfold.
    """
    plain = _seconds(device, torch.float32)
    return torch.bfloat16 if _seconds(device, torch.bfloat16) * _WORTH < plain else torch.float32


def _worker(
    rank: int,
    world: int,
    port: int,
    recipe: Recipe,
    pool: Path,
    out: Path,
    start: Path | None,
    precision: torch.dtype,
) -> None:
    if world > 1:
        if hasattr(os, "sched_setaffinity"):  # two on one core would wait for each other
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, {cores[rank % len(cores)]})
        torch.distributed.init_process_group(
            "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world
        )
    trainer = Trainer(recipe, pool, out, rank, world, start, precision)
    trainer.run()
    if world > 1:
        torch.distributed.destroy_process_group()


def train(recipe: Recipe, pool: Path, out: Path, start: Path | None = None) -> None:
    """Train a model; a run that was stopped goes on from its last checkpoint.

    Parameters
    ----------
    recipe : Recipe
        What to train and how.
    pool : Path
        A stem pool with the splits ``train`` and ``valid``.
    out : Path
        Directory of the run: recipe, tokenizer, checkpoint and log.
    start : Path or None
        A bundle whose weights and tokenizer a new run begins with, to teach it more. The recipe's
        model has to be the bundle's or extend it, see `MiniConfig.extends`; one that knows more
        tokens learns a new tokenizer. A run that has a checkpoint goes on from that.

    Raises
    ------
    ModelError
        If `start` holds no model that is trained here.
    ValueError
        If it is a model of other sizes than the recipe's.
    """
    if start is not None:
        sizes = rebuild_mini(start).config
        if not recipe.model.extends(sizes):
            raise ValueError(f"{start}: the recipe's model is {recipe.model}, the bundle's {sizes}")
    out.mkdir(parents=True, exist_ok=True)
    (out / RECIPE_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(recipe)))
    if start is not None and not (out / TOKENIZER).is_file():
        manifest = load_prompted(start)
        if recipe.model.text.vocab_size == sizes.text.vocab_size:
            shutil.copyfile(start / manifest.tokenizer, out / TOKENIZER)
        (out / START).write_text(manifest.provenance, encoding="utf-8")
    keep_tokenizer(
        out / TOKENIZER,
        StemPool(pool, "train", recipe.data.pools).vocabulary(),
        recipe.model.text.vocab_size,
    )
    world = 1 if torch.cuda.is_available() else recipe.train.workers
    precision = quickest_precision(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    print(f"matrix products in {str(precision).removeprefix('torch.')}", flush=True)
    if world == 1:
        _worker(0, 1, 0, recipe, pool, out, start, precision)
        return
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    spawn(_worker, (world, port, recipe, pool, out, start, precision), nprocs=world)  # type: ignore[no-untyped-call]
