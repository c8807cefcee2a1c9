"""Speed of training from the stream beside the same batches built in memory beforehand, and their losses.

    python tests/benchmarks/train_speed.py DATASET [--recipe bert-base] [--steps 100] [--tokens-per-batch 64K]

On a GPU: bf16 autocast, and MFU against the device's peak. On a processor the same with the tiny recipe, in fp32.
Both runs start from the same weights and take the same batches in the same order, so their losses must agree; what
differs is where the time goes. The first tenth of the steps warms up and is not timed.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import time
from collections.abc import Iterable

import torch

from schemas.counts import parse_count
from trainer.evaluation import to_device
from trainer.meter import peak_flops
from trainer.models import Recipe, choose_recipe
from trainer.step import Losses, backward, decay_groups
from trainer.stream import Batch, Stream
from trainer.world import World


def train(
    recipe: Recipe, stream: Stream, batches: Iterable[Batch], steps: int, world: World, compiled: bool
) -> dict[str, float]:
    """Train so many steps; returns rates and the mean loss of the last tenth."""
    torch.manual_seed(0)
    model = recipe.build(stream.manifest, stream.longest_row).to(world.device).train()
    parameters = sum(p.numel() for p in model.parameters())
    if compiled:
        for backbone in recipe.family.backbones(model):
            backbone.compile(dynamic=False)
    module = Losses(recipe.family, model, smoothing=0.0, bf16=world.device.type == "cuda")
    optimizer = torch.optim.AdamW(decay_groups(module, 0.01), lr=recipe.learning_rate, fused=True)
    names, warm = list(recipe.family.part_weights), max(1, steps // 10)
    losses, waited_seconds, positions, tokens, began = [], 0.0, 0, torch.zeros(()), 0.0
    iterator = iter(batches)
    for step in range(steps):
        if step == warm:
            if world.device.type == "cuda":
                torch.cuda.synchronize()
            waited_seconds, positions, tokens, began = 0.0, 0, torch.zeros(()), time.perf_counter()
        asked = time.perf_counter()
        batch = next(iterator)
        waited_seconds += time.perf_counter() - asked
        counts = recipe.family.counts(batch)
        labels = torch.stack([counts.get(n, torch.zeros(())).float() for n in names]).to(world.device)
        sums, _ = backward(module, recipe.family, to_device(batch, world.device), labels, world, 1, 1)
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(sums / labels.clamp(min=1))
        positions += batch["input_ids"].numel()
        tokens += (batch["attention_mask"].sum(1) * batch["row_weight"]).sum()
    last = torch.stack(losses[-warm:]).mean(0).tolist()  # waits for the device
    seconds = time.perf_counter() - began
    peak = peak_flops(world.device, None)
    return {
        "tokens_per_second": float(tokens) / seconds,
        "data_wait_share": waited_seconds / seconds,
        "mfu": 6 * parameters * positions / seconds / peak if peak else float("nan"),
        "last_loss": sum(w * x for w, x in zip(recipe.family.part_weights.values(), last, strict=True)),
    }


def main() -> int:
    """Print both runs and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("--recipe")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--tokens-per-batch", type=parse_count, default=None)
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    cuda = torch.cuda.is_available()
    world = World(rank=0, size=1, device=torch.device("cuda" if cuda else "cpu"))
    tokens_per_batch = options.tokens_per_batch or (65536 if cuda else 4096)

    def stream() -> Stream:
        return Stream(options.dataset, tokens_per_batch=tokens_per_batch, sources=True)

    about = stream()
    recipe = choose_recipe(options.recipe, about.manifest.objective)
    device = torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} threads of a processor"
    print(f"{recipe.name} on {device}, {options.steps} steps of {tokens_per_batch:,} tokens")
    with contextlib.closing(iter(stream())) as batches:
        built = list(itertools.islice(batches, options.steps))
    found = {}
    for name in ("memory", "stream"):
        found[name] = train(
            recipe, about, built if name == "memory" else stream(), options.steps, world, options.compile
        )
        print(f"{name:7}" + "  ".join(f"{key} {value:.4g}" for key, value in found[name].items()), flush=True)
    ratio = found["stream"]["tokens_per_second"] / found["memory"]["tokens_per_second"]
    difference = found["stream"]["last_loss"] - found["memory"]["last_loss"]
    print(f"stream/memory {ratio:.3f} tokens/s; losses differ by {difference:+.2g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
