"""New channels and identifiers in a DAWproject."""

import copy
from xml.etree import ElementTree as ET


class Identifiers:
    """Gives identifiers that nothing in a project has.

    Parameters
    ----------
    root
        The project.
    """

    def __init__(self, root: ET.Element) -> None:
        self._taken = {element.get("id") for element in root.iter()}
        self._number = 0

    def new(self) -> str:
        """Return an identifier that is not taken, and take it."""
        while True:
            self._number += 1
            if (identifier := f"stembridge{self._number}") not in self._taken:
                return identifier


def new_channel(identifiers: Identifiers, like: ET.Element | None, *, role: str) -> ET.Element:
    """Return a channel for a new track.

    Parameters
    ----------
    identifiers
        Of the project.
    like
        A track whose level, place and destination it gets; None for unity, centre and none.
    role
        ``"regular"``, or ``"master"`` for a group.
    """
    channel = ET.Element(
        "Channel", {"audioChannels": "2", "role": role, "solo": "false", "id": identifiers.new()}
    )
    old = None if like is None else like.find("Channel")
    if old is not None and old.get("destination"):
        channel.set("destination", old.get("destination", ""))
    plain = (("Mute", None, "false"), ("Pan", "normalized", "0.5"), ("Volume", "linear", "1.0"))
    for tag, unit, value in plain:
        found = None if old is None or tag == "Mute" else old.find(tag)
        element = ET.Element(tag) if found is None else copy.deepcopy(found)
        if found is None:
            element.set("value", value)
            if unit:
                element.set("unit", unit)
        element.set("id", identifiers.new())
        channel.append(element)
    return channel
