"""One process of a training run: its model, its data, its steps, its checkpoints.

Matrix products run in bfloat16 (autocast), weights and optimiser stay in float32.
"""

from __future__ import annotations

import copy
import json
import os
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

from onnx_export.mini import MiniModel
from onnx_export.rebuild import rebuild_mini
from onnx_export.training.alignment import Alignment
from onnx_export.training.config import LOG_FILE, Recipe
from onnx_export.training.curves import write_curves
from onnx_export.training.mixing import Batch, Mixer
from onnx_export.training.objective import (
    draw_times,
    interpolate,
    objective,
    relative_error,
    si_sdr_db,
)
from onnx_export.training.optimisation import learning_rate, make_optimisers
from onnx_export.training.stem_pool import StemPool
from onnx_export.training.vocabulary import tokenise

CHECKPOINT = "checkpoint.pt"
TOKENIZER = "tokenizer.json"
#: What the bundle was that a run began with.
START = "start.txt"
VALIDATION_ITEMS = 256
VALIDATION_CROP_S = 4.096
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
    """

    def __init__(
        self, recipe: Recipe, pool: Path, out: Path, rank: int, world: int, start: Path | None
    ) -> None:
        self.recipe, self.out, self.rank, self.world = recipe, out, rank, world
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if self.device.type == "cpu":
            torch.set_num_threads(1 if world > 1 else os.cpu_count() or 1)
        self.tokenizer = Tokenizer.from_file(str(out / TOKENIZER))
        torch.manual_seed(recipe.train.seed)
        self.model = MiniModel(recipe.model)
        aligned = recipe.align.tagger is not None
        self.alignment = Alignment(recipe.align, self.model, self.device) if aligned else None
        self.stems = StemPool(pool, "train")
        self.mixer = Mixer(self.stems, recipe.model, recipe.data)
        self.late_mixer = Mixer(self.stems, recipe.model, recipe.late_data or recipe.data)
        # Unaugmented, so that runs with other data settings are judged on the same mixtures.
        plain = msgspec.structs.replace(
            recipe.data, equaliser=0.0, varispeed=0.0, absent=0.0, spans=0.0, spread=0.0,
            panned=float(recipe.model.stereo),
            plain_names=1.0, extra_families=1e-6, crop_s=VALIDATION_CROP_S,
        )  # fmt: skip
        self.held_out = Mixer(StemPool(pool, "valid"), recipe.model, plain)
        if start is None:
            self.model.codec.scale.copy_(self._measure_scale())
        else:
            self.model.take_over(rebuild_mini(start))
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

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Objective of one batch."""
        train = self.recipe.train
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            mixture, beside, target, text, mask, spans = self._to_network(batch, self.model)
            t = draw_times(len(mixture), train.at_zero, generator).to(self.device)
            clean = torch.cat([target, mixture - target], dim=-1)
            noise = torch.randn(clean.shape, generator=generator).to(self.device)
            predicted = self.clean(
                interpolate(clean, noise, t), t, mixture, text.float(), mask, spans, beside
            )
        weight = self.model.codec.scale / self.model.codec.scale.mean()
        loss = objective(relative_error(predicted, target, mixture, weight), train.loss_floor)
        if self.alignment is not None:
            wav = self.model.codec.decode(batch.target.to(self.device))[:, 0]
            loss = loss + self.alignment.weight * self.alignment.loss(wav)
        return loss

    @torch.no_grad()
    def validate(self) -> dict[str, Any]:
        """Improvement in SI-SDR on mixtures of held-out timbres, one evaluation from t = 0."""
        rng = np.random.default_rng(0)
        gains: dict[str, list[float]] = defaultdict(list)
        for _ in range(VALIDATION_ITEMS // 16):
            batch = self.held_out.batch(rng, 16)
            mixture, beside, target, text, mask, spans = self._to_network(batch, self.average)
            zero = torch.zeros(len(mixture), device=self.device)
            with torch.autocast(self.device.type, dtype=torch.bfloat16):
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
        return {
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
                    group["lr"] = learning_rate(self.step, self.recipe)
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
