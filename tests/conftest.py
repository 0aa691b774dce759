"""What several test files share: the real scenes beside the repository, served by a STAC API."""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# The tests are not a package, and helper modules are imported by their bare names. Processes that tests start see the
# same helpers and the same xsen2, whatever is installed.
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
_paths = [str(HERE.parent), str(HERE), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(filter(None, _paths)))

# A developer's own weights are no part of the suite.
os.environ["XSEN2_WEIGHTS"] = tempfile.mkdtemp(prefix="xsen2-weights-")

# Each process of the suite has one core: threads of BLAS and torch would only fight with those of the others. What is
# about threads sets its own number. To be said before numpy and torch come in, and for subprocesses too.
for _library in ("OMP", "MKL", "OPENBLAS"):
    os.environ[f"{_library}_NUM_THREADS"] = "1"

import scenes  # noqa: E402
import slow  # noqa: E402
import stac_api  # noqa: E402

# Examples compute through dask and torch: the first of each kind is slow, and machines differ.
settings.register_profile("xsen2", deadline=None, max_examples=30, print_blob=True, derandomize=True)
# Other examples each time, and more of them: to look for what the fixed ones miss.
settings.register_profile("search", deadline=None, max_examples=200, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "xsen2"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that take over a second: see `slow`."""
    long = slow.listed()
    for item in items:
        if item.nodeid in long:
            item.add_marker(pytest.mark.slow)


@dataclass(frozen=True)
class City:
    """Two dates of a real city in a STAC API on this machine.

    Search `collection` at `url` for `bbox` and `datetime`; `truth` holds the pixels by date.
    """

    url: str
    collection: str
    bbox: tuple[float, float, float, float]
    datetime: str
    truth: tuple[scenes.Scene, scenes.Scene]


@pytest.fixture(scope="module")
def thin_blocks() -> Iterator[None]:
    """Blocks as thin as the chunks, however dear that is: so small images show seams."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("xsen2.engine.halo.DEARER", math.inf)
        yield


@pytest.fixture(scope="session")
def tiny_cards(tmp_path_factory: pytest.TempPathFactory) -> Any:
    import tiny  # not for tests that do without torch

    return tiny.small(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tiny_networks(tiny_cards: Any) -> Iterator[None]:
    """The names of the package's networks stand for small ones of the same architectures: see `tiny`."""
    from xsen2.methods import registry

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "cards", lambda: tiny_cards)
        yield


@pytest.fixture
def real_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's own networks after all, in a module of `tiny_networks`."""
    from xsen2.methods import registry
    from xsen2.networks.cards import cards

    monkeypatch.setattr(registry, "cards", cards)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of real scenes and fixtures; skips where it is not there."""
    if reason := scenes.missing():
        pytest.skip(reason)
    return scenes.SHARED


@pytest.fixture(scope="session")
def city(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[City]:
    """A STAC API with two dates of a real city."""
    folder = tmp_path_factory.mktemp("city")
    items = scenes.city_items(folder)
    first, second = (scenes.real(f"{scenes.CITY}_{i}") for i in (1, 2))
    with stac_api.serve(items, folder) as url:
        yield City(url, items[0]["collection"], first.lonlat(), "2016-01-01/2017-12-31", (first, second))


@pytest.fixture(scope="session")
def stac_url(city: City) -> str:
    """Address of the STAC API that serves `city`; examples read it from ``XSEN2_STAC_URL``."""
    return city.url
