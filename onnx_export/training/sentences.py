"""Random sentences for the speech synthesisers."""

from __future__ import annotations

import numpy as np

__all__ = ["english_sentence", "made_up_sentence"]

_WORDS = {
    "who": (
        "the engineer; my neighbour; our old teacher; the captain; a tall stranger; "
        "the night nurse; her brother; the baker; every student; the committee; "
        "a tired driver; the young painter; their lawyer; nobody; the orchestra; a clever fox; "
        "the weather office; our visitor; the mayor"
    ),
    "did": (
        "carried; forgot; repaired; described; measured; painted; followed; ordered; "
        "questioned; sold; borrowed; examined; finished; noticed; recorded; promised; "
        "returned; opened; counted; moved"
    ),
    "what": (
        "the broken window; seven yellow boxes; a letter from Vienna; the last train ticket; "
        "every single page; a very heavy piano; the missing key; some fresh bread; "
        "the wrong number; the garden fence; an unusual machine; the final report; "
        "a bottle of water; their new plan; the green bicycle; a photograph of the harbour; "
        "thirty old records; the early show"
    ),
    "when": (
        "on Thursday; before breakfast; after the storm; last winter; in the afternoon; "
        "at midnight; without asking; as quickly as possible; in complete silence; "
        "for the second time; near the river; under the bridge; at the corner; "
        "behind the station; with great care"
    ),
    "say": (
        "I think; to be honest; as you know; believe me; in my opinion; well; listen; "
        "of course; however; by the way; strangely enough; first of all; in other words; "
        "for example"
    ),
    "ask": (
        "can you hear me; what time is it; where did they go; shall we start again; "
        "is that right; how much does it cost; who left the door open; why is it so quiet; "
        "are we still live"
    ),
}
_SYLLABLES = "ka ra to mi lo sen ta ri no ma pe du ve la si ne ko da ba fi ul ti an es or"


def english_sentence(rng: np.random.Generator) -> str:
    """Make up a sentence or a question from a small grammar."""

    def pick(kind: str) -> str:
        return str(rng.choice(_WORDS[kind].split("; ")))

    shape = rng.random()
    if shape < 0.15:
        return f"{pick('ask')}?".capitalize()
    if shape < 0.25:
        digits = " ".join(str(d) for d in rng.integers(0, 100, size=rng.integers(2, 5)))
        return f"{pick('say')}, {digits}.".capitalize()
    core = f"{pick('who')} {pick('did')} {pick('what')} {pick('when')}"
    if shape < 0.55:
        return f"{pick('say')}, {core}.".capitalize()
    if shape < 0.75:
        return f"{core}, and {pick('who')} {pick('did')} {pick('what')}.".capitalize()
    return f"{core}.".capitalize()


def made_up_sentence(rng: np.random.Generator) -> str:
    """Make up words of syllables that any language's rules can pronounce."""
    syllables = _SYLLABLES.split()
    words = ["".join(rng.choice(syllables, size=rng.integers(1, 4))) for _ in range(10)]
    return " ".join(words[: int(rng.integers(5, 11))]).capitalize() + "."
