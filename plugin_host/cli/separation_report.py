"""What ``stembridge separate`` says about a file that it separated."""

from pathlib import Path
from typing import Any

import msgspec

from bridge.separation import Report
from plugin_host.audio_files import AudioInfo


def describe(
    info: AudioInfo,
    files: dict[str, Path],
    report: Report,
    picture: Path | None,
    notes: list[str],
) -> dict[str, Any]:
    """Return what ``--json`` prints for one input."""
    return {
        "input": str(info.path),
        "files": {name: str(path) for name, path in files.items()},
        "picture": None if picture is None else str(picture),
        "notes": notes,
        **msgspec.to_builtins(report),
    }


def tell(report: dict[str, Any]) -> None:
    """Print the lines for one input, from what `describe` made of it."""
    depth = report["null_depth_db"]
    null = "exactly" if depth is None else f"to {depth:.0f} dBFS"
    sums = "" if report["reconstruct"] == "raw" else f", stems sum to the mixture {null}"
    print(
        f"{report['input']}: {report['seconds']:.1f} s for "
        f"{report['samples'] / report['sample_rate']:.1f} s of audio "
        f"({report['nfe']} evaluations, {report['provider']}){sums}"
    )
    for note in report["notes"]:
        print(f"  note: {note}")
    selected = {chosen["stem"]: chosen for chosen in report["selections"]}
    for name, path in report["files"].items():
        print(f"  {name}: {path}{_told(selected.get(name), report['candidates'])}")
    if report["picture"]:
        print(f"  picture: {report['picture']}")


def _told(chosen: dict[str, Any] | None, candidates: int) -> str:
    """Say in brackets which candidate a stem is, who chose it, and how it was scored."""
    if chosen is None:
        return ""
    parts = []
    if chosen["ranker"] is not None:
        parts.append(f"candidate {chosen['candidate'] + 1} of {candidates} by {chosen['ranker']}")
    parts += [f"{name} {score:.2f}" for name, score in (chosen["scores"] or {}).items()]
    return f" ({', '.join(parts)})"
