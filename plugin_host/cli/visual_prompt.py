"""The options ``--video`` and ``--mask``: what the one stem looks like."""

from pathlib import Path

from bridge.bundles import manifest as manifests
from bridge.bundles.bundle import find_bundle
from bridge.bundles.consistency import VISION_ENCODER
from bridge.errors import InputError
from bridge.video import Video


def read_visual_prompt(
    video: Path | None, mask: Path | None, model: str, inputs: int
) -> Video | None:
    """Read the visual prompt, in the size that the model takes; None if there is none.

    Raises
    ------
    InputError
        The options don't fit each other or the number of inputs, a file is no video, or the model
        has no vision encoder.
    """
    if video is None:
        if mask is not None:
            msg = "--mask needs the --video that it belongs to"
            raise InputError(msg)
        return None
    if inputs > 1:
        msg = f"--video belongs to one file, but there are {inputs}; separate them one by one"
        raise InputError(msg)
    from plugin_host.video_files import read_video

    graph = manifests.load(find_bundle(model)).graphs.get(VISION_ENCODER)
    if graph is None:
        msg = f"the model {model} has no vision encoder; leave --video out, or export it with one"
        raise InputError(msg)
    return read_video(video, mask, int(graph.inputs[0].dims[-1]))
