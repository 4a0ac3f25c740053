"""``python -m app --check``: what would happen if a bundle came into the service's directory."""

from __future__ import annotations

from pathlib import Path

from app.bundle.bundle import Bundle
from app.bundle.contract import differences
from app.bundle.directory import newest
from app.bundle.manifest import SPEC, Manifest, read_manifest
from app.errors import CtrError
from app.features.hot_values import serving_encoder
from app.features.spec import FeatureSpec
from app.scoring.engine import refuse_mixed_distributions
from app.serving.engines import Engines
from app.settings import Settings
from app.workers.shared_numbers import SharedNumbers


def check(settings: Settings, against: Path | None) -> int:
    """Load and verify the bundle of the settings, score its golden requests, print the outcome.

    ``against`` is the bundle in use, whose requests the other must take too. Return 0 if the
    bundle would be served by itself, 1 if it would be refused or would wait to be activated.
    """
    try:
        bundle = _verified(settings)
        if against is None:
            print(
                "it would be served; --against compares its requests with those of another bundle"
            )
            return 0
        in_use = newest(against)
        return _compare(bundle, read_manifest(in_use), FeatureSpec.load(in_use / SPEC))
    except CtrError as error:
        print(f"it would be refused: {error}")
        return 1


def _verified(settings: Settings) -> Bundle:
    """Return the bundle once everything that the service verifies at a start is verified.

    Raises:
        CtrError: it would be refused.
    """
    refuse_mixed_distributions()
    bundle = Bundle.open(newest(settings.bundle), mapped=True)
    print(f"bundle {bundle.version}: {bundle.manifest.network}; every file is as its manifest says")
    encoder = serving_encoder(bundle.spec, bundle.vocabulary)
    started = Engines(settings, SharedNumbers()).start(bundle, encoder)
    engine, worst = started.engine, started.worst_difference
    print(
        f"{len(bundle.examples)} golden requests, in {engine.precision} on {engine.provider}:"
        f" logits within {worst:.1e} of the trainer's ({engine.tolerance:g} is allowed)"
    )
    if started.reason is not None:
        print(f"precision: {engine.precision}, because {started.reason}")
    return bundle


def _compare(bundle: Bundle, in_use: Manifest, spec: FeatureSpec) -> int:
    """Print how requests differ from those of the bundle in use; return the exit code."""
    if found := differences(spec, bundle.spec):
        print(f"its requests differ from those of {in_use.version}:")
        for difference in found:
            print(f"  {difference}")
        print("it would wait as available until it is activated")
        return 1
    print(f"it takes every request of {in_use.version}")
    if bundle.manifest.created <= in_use.created:
        print("it would be served once it is activated: it is not newer than the bundle in use")
    else:
        print("it would be served by itself")
    return 0
