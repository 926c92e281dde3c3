from onnx_export.training.stem_pool import (
    HELD_OUT_GROUPS,
    HELD_OUT_PACKAGES,
    is_held_out_file,
    is_held_out_group,
)


def test_named_groups_and_packages_are_held_out():
    assert all(is_held_out_group(group) for group in HELD_OUT_GROUPS)
    assert all(is_held_out_file(package, "song.ogg") for package in HELD_OUT_PACKAGES)


def test_sources_of_few_groups_are_split_by_hand_alone():
    for source in ("producerspace", "pjs", "mtg", "solfege", "shinyguitar"):
        assert not any(is_held_out_group(f"{source}-{number}") for number in range(50))


def test_a_fifth_of_single_recordings_and_of_files_is_held_out():
    groups = [is_held_out_group(f"freesound-{number}") for number in range(5000)]
    files = [is_held_out_file("widelands-data", f"ingame_{number}.ogg") for number in range(5000)]
    assert 0.18 < sum(groups) / 5000 < 0.22
    assert 0.18 < sum(files) / 5000 < 0.22
