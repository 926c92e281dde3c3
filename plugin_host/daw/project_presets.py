"""The presets of a project, wherever its kind of session keeps them."""

from pathlib import Path

from presets import PresetStore
from presets.library import project_store


def project_presets(project: Path) -> PresetStore:
    """Return the presets that belong to a project.

    Parameters
    ----------
    project
        A folder, or any file in it: both keep presets in ``.stembridge/presets``.
    """
    return project_store(project if project.is_dir() else project.parent)
