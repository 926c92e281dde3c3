"""What the tests of the host share: a bundle of formulas, and audio to feed it."""

import pytest
import soundfile

from tests.support import tiny_bundle
from tests.support.host_audio import RATE, music


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    """A model whose prompts "everything", "half" and "nothing" give these shares."""
    return tiny_bundle.build(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def song(tmp_path):
    """A 16-bit stereo file of 1.5 s."""
    path = tmp_path / "song.wav"
    soundfile.write(path, music().T, RATE, subtype="PCM_16")
    return path
