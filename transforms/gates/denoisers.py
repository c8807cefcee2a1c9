"""Gates on a mixture of denoisers: each is drawn as often as its rate says, and its spans are those of its law."""

from __future__ import annotations

from transforms.gates.chance import FALSE_ALARM, SHARE_FLOOR, Share
from transforms.gates.gate import Evidence, Gate
from transforms.gates.spans import span_gates
from transforms.objectives.denoisers import Denoisers
from transforms.statistics.significance import detectable_proportion


def denoiser_gates(e: Evidence, denoisers: Denoisers) -> list[Gate]:
    """One gate on the shares of train rows, in each source and in all, and those on spans.

    Rows draw by their names, so counts are multinomial. Validation rows are left out: every stage has rows of the
    same documents, which draw the same.
    """
    sources = sorted({group.source for group, _ in e.found.select(split="train")})
    shares = denoisers.shares.tolist()
    tests = len(shares) * (len(sources) + 1) + 1
    level = FALSE_ALARM / tests
    off: list[tuple[float, str]] = []
    for source in (None, *sources):
        where = {} if source is None else {"source": source}
        counts = e.found.histogram("denoiser", split="train", **where) or [0] * len(shares)
        n = sum(counts)
        for denoiser, count, share in zip(denoisers.members, counts, shares, strict=True):
            drawn = Share(count, n, share)
            if drawn.fails(level, SHARE_FLOOR):
                text = f"{denoiser.name} {drawn.observed:.2%} in {source or 'all sources'}, {share:.2%} expected"
                off.append((drawn.effect, text))
    counts = e.found.histogram("denoiser", split="train") or [0] * len(shares)
    n = sum(counts)
    detectable = max(detectable_proportion(n, share, level) for share in shares)
    return [
        Gate(
            name="denoiser_shares",
            passed=not off,
            expected=", ".join(f"{d.name} {share:.2%}" for d, share in zip(denoisers.members, shares, strict=True)),
            observed=max(off)[1]
            if off
            else ", ".join(f"{d.name} {c / max(1, n):.2%}" for d, c in zip(denoisers.members, counts, strict=True)),
            bound=f"binomial tail ≥ {level:.0e} or deviation ≤ {SHARE_FLOOR:.1%}; smallest deviation detectable: "
            f"{detectable:.2%}",
            n=n,
            effect=max(
                (effect for effect, _ in off),
                default=max(Share(c, n, p).effect for c, p in zip(counts, shares, strict=True)),
            ),
        ),
        *span_gates(e, tests),
    ]
