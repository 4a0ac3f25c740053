"""The fields that requests may leave out because the store has them, as the settings say."""

from __future__ import annotations

from app.bundle.bundle import Bundle
from app.errors import BundleError
from app.features.encoder import Encoder
from app.features.keys import TextKey, text_key
from app.metrics.registry import Metrics
from app.profiles.stored import StoredProfiles
from app.settings import Settings


def item_key(settings: Settings, bundle: Bundle, encoder: Encoder) -> tuple[str, TextKey] | None:
    """Return the field of an instance that has an item's id, and how its values are read.

    Raises:
        BundleError: the field is a context field of the bundle.
    """
    field = settings.item_key
    if field is None:
        return None
    if field in encoder.context.fields:
        raise BundleError(f"setting item_key: {field!r} is a context field of {bundle.path}")
    return field, text_key(bundle.spec, field)


def stored_profiles(
    settings: Settings, bundle: Bundle, encoder: Encoder, metrics: Metrics
) -> StoredProfiles | None:
    """Prepare to look up profiles, where the settings say by which field; nothing is asked yet.

    Raises:
        BundleError: the field is a candidate field of the bundle.
    """
    field = settings.profile_key
    if field is None:
        return None
    assert settings.store is not None, "the settings see to that"
    if field in encoder.candidate.fields:
        raise BundleError(f"setting profile_key: {field!r} is a candidate field of {bundle.path}")
    return StoredProfiles(
        settings.store.get_secret_value(),
        field,
        bundle.spec,
        encoder.context,
        settings.redis_timeout_ms / 1000,
        settings.profile_seconds,
        metrics.profiles,
    )
