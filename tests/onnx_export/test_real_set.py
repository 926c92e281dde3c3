"""The set of real recordings: made of what is held out alone, and measured with what is known."""

import numpy as np
import pytest
import soundfile

from bridge.engine import Engine
from onnx_export.evaluation import find_cases
from onnx_export.training.real_measures import (
    REST_PROMPT,
    measure_real,
    real_rows,
    to_json,
    to_markdown,
)
from onnx_export.training.real_set import (
    MODULES,
    MUSIC,
    SONGS_PACKAGE,
    Module,
    make_real_set,
    package_files,
    read_index,
    read_set,
)
from tests.support import tiny_bundle
from tests.support.modules import write_module

pytestmark = [pytest.mark.needs("libopenmpt0"), pytest.mark.slow]

HEADER = "path\tlabel\tgroup\tsong\n"
#: One group of each kind is held out; the other trains, and would be heard as a tone of 3 kHz.
ROWS = [
    ("a.wav", "vocals", "producerspace-etv_cm_136", ""),
    ("train.wav", "vocals", "pjs-singer", ""),
    ("b.wav", "speech", "librispeech-198", ""),
    ("train.wav", "speech", "librispeech-3436", ""),
    ("c.wav", "rain", "berklee-dog2", ""),
    ("d.wav", "dog-barking", "soundbible-5", ""),
    ("train.wav", "dog-barking", "pjs-dog", ""),
    ("e.wav", "saxophone", "weresax", ""),
    ("a.wav", "violin", "soundbible-5", ""),
    ("long.wav", "drums", "efree-sodium", "Sodium part 1"),
    ("long2.wav", "synth-bass", "efree-sodium", "Sodium part 1"),
    ("train.wav", "drums", "efree-caesium", "Caesium part 1"),
]


def write(path, seconds, seed, rate=16_000, channels=1, tone_hz=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = round(seconds * rate)
    audio = 0.1 * np.random.default_rng(seed).normal(size=(samples, channels))
    if tone_hz:
        audio = 0.5 * np.sin(2 * np.pi * tone_hz * np.arange(samples) / rate)[:, None]
    soundfile.write(path, audio, rate)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    root = tmp_path_factory.mktemp("material")
    recordings, packages = root / "recordings", root / "packages"
    for seed, name in enumerate("abcde"):
        write(recordings / f"{name}.wav", 3, seed)
    write(recordings / "train.wav", 3, 0, tone_hz=3000)
    for seed, name in enumerate(("long", "long2")):
        write(recordings / f"{name}.wav", 21, 10 + seed)
    lines = ["\t".join(row) + "\n" for row in ROWS]
    (recordings / "index.tsv").write_text(HEADER + "".join(lines))
    for package, names in MUSIC.items():
        for number, name in enumerate(names):
            write(packages / package / "usr" / "music" / name, 16, number)
    for package, names in MODULES.items():
        for name in names:
            write_module(packages / package / name, ["BassDrum 1", "slap bass", "lead"])
    for seed, name in enumerate(("guitar.ogg", "song.ogg")):
        write(packages / SONGS_PACKAGE / "usr" / "My Song" / name, 45, seed, channels=2)
    return recordings, packages


@pytest.fixture(scope="module")
def real_set(material, tmp_path_factory):
    out = tmp_path_factory.mktemp("set") / "real"
    make_real_set(out, *material, scenes=3)
    return out


def test_every_mixture_is_the_sum_of_its_stems_in_stereo(real_set):
    kinds = read_set(real_set)
    assert list(kinds) == [
        "guitar", "singers", "speakers", "productions", "modules", "sounds", "instruments",
    ]  # fmt: skip
    for kind in kinds:
        for case in find_cases(real_set / kind):
            mixture, rate = soundfile.read(case.mixture, dtype="int16")
            stems = [soundfile.read(path, dtype="int16")[0] for path in case.stems.values()]
            assert rate == 44_100
            assert mixture.shape[1] == 2
            assert len(stems) >= 2
            np.testing.assert_array_equal(sum(s.astype(int) for s in stems), mixture)


def test_nothing_that_training_hears_is_in_the_set(real_set):
    for path in real_set.rglob("*.wav"):
        audio, rate = soundfile.read(path)
        spectrum = np.abs(np.fft.rfft(audio.mean(axis=1)))
        line = round(3000 * len(audio) / rate)
        assert spectrum[line - 2 : line + 3].max() < 50 * np.median(spectrum[: 3 * line]), path


def test_instruments_of_a_module_are_told_apart_by_their_names(material):
    path = next((material[1] / "rafkill-data").iterdir())
    module = Module(path)
    assert module.names[:4] == ("BassDrum 1", "slap bass", "lead", "")
    whole = module.render(44_100, 4.0)
    parts = [module.render(44_100, 4.0, [number]) for number in range(3)]
    assert whole.shape == (2, 4 * 44_100)
    assert np.abs(sum(parts) - whole).max() < 1e-3 * np.abs(whole).max()
    assert all(np.abs(part).max() > 0.01 for part in parts)
    with pytest.raises(ValueError, match="cannot read it as a module"):
        Module(material[0] / "index.tsv")


def test_the_same_seed_makes_the_same_set(real_set, material, tmp_path):
    make_real_set(tmp_path, *material, scenes=3)
    for path in real_set.rglob("*.wav"):
        assert path.read_bytes() == (tmp_path / path.relative_to(real_set)).read_bytes()


def test_a_model_that_gives_half_scores_as_the_mixture_does(real_set, tmp_path):
    bundle = tiny_bundle.build(tmp_path / "tiny", tiny_bundle.Tiny())
    with Engine(bundle, threads=1) as engine:
        scores = list(measure_real(engine, real_set, engine, kinds=["guitar", "sounds"]))
    there = [score for score in scores if score.estimate_db is not None]
    assert {score.kind for score in scores} == {"guitar", "sounds"}
    assert {"electric guitar", REST_PROMPT, "rain"} <= {score.prompt for score in there}
    for score in there:
        assert score.improvement_db == pytest.approx(0, abs=0.3)
        assert score.beside_db == pytest.approx(score.estimate_db, abs=1e-6)
        assert score.oracle_db > score.mixture_db
    absent = [score for score in scores if score.estimate_db is None]
    assert {round(score.level_db) for score in absent} == {-12}  # a quarter of the mixture
    assert len(real_rows(scores)) == len(to_markdown(scores).splitlines()) - 2
    assert '"kind": "guitar"' in to_json(scores)


def test_what_is_missing_is_named(tmp_path, material):
    recordings, packages = material
    with pytest.raises(FileNotFoundError, match="index of recordings"):
        read_index(tmp_path)
    (tmp_path / "index.tsv").write_text("file\tname\nx\ty\n")
    with pytest.raises(ValueError, match="expected the columns path, label, group, song"):
        read_index(tmp_path)
    with pytest.raises(FileNotFoundError, match="apt-get install no-such-package"):
        package_files("no-such-package", packages)
    with pytest.raises(FileNotFoundError, match=r"expected set\.json"):
        read_set(recordings)
