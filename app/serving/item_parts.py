"""The item parts of a bundle: whether a service holds them, and where."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

from app.bundle.bundle import Bundle
from app.catalogue.item_parts import ItemParts
from app.catalogue.parts_file import PREFIX, PartsFile, remove_unused
from app.scoring.split_engine import SplitEngine
from app.settings import Settings
from app.workers.memory import memory_limit
from app.workers.shared_numbers import SharedNumbers

MEMORY_SHARE = 4
"""Item parts take one in so many bytes of the memory limit, where no setting says how many."""
log = logging.getLogger(__name__)

OpenParts = Callable[[], ItemParts | str]
"""Opens the item parts, or says why there are none: items are scored from their indices then."""


def parts_opener(
    settings: Settings, shared: SharedNumbers, bundle: Bundle, split: SplitEngine | None
) -> OpenParts:
    """Return what opens the item parts of a bundle whose split graphs ``split`` runs."""

    def open_parts() -> ItemParts | str:
        if split is None:
            return "the bundle has no graphs for them, or does not run on the CPU"
        limit = settings.item_parts_bytes
        limit = memory_limit() // MEMORY_SHARE if limit is None else limit
        if not limit:
            return "CTR_ITEM_PARTS_BYTES is 0"
        directory = settings.parts_dir
        name = f"{PREFIX}{shared.service}-{bundle.number:012x}_{split.precision}.parts"
        try:
            directory = directory or Path(tempfile.gettempdir())
            remove_unused(directory)
            file = PartsFile(directory / name, split.widths, shared.worker, shared.workers, limit)
        except (OSError, ValueError) as error:
            # ValueError: the address space is limited.
            reason = getattr(error, "strerror", None) or str(error)
            log.warning("item parts are not held: their directory cannot be used: %s", reason)
            return f"the directory for them cannot be used: {reason}"
        return ItemParts(file, split)

    return open_parts
