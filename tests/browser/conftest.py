"""A real JupyterLab, a real cluster and a headless Chromium for the browser tests."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
from playwright.sync_api import Browser, BrowserContext

from conftest import client as client  # of the system tests: one cluster in a home of its own
from conftest import home as home
from resilient_nb.client import Client
from tests.browser.chromium import MISSING, chromium, chromium_path
from tests.browser.desk import Desk
from tests.browser.lab import BUILT, Lab

_FAILED = pytest.StashKey[bool]()
NOT_BUILT = f"The labextension isn't built ({BUILT} is missing): `make labextension` builds it."


def _give_up(reason: str) -> NoReturn:
    """Skip on somebody's machine; fail where the tests are run to be believed."""
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A headless Chromium."""
    path = chromium_path()
    if path is None:
        _give_up(MISSING)
    with chromium(path) as browser:
        yield browser


@pytest.fixture(scope="session")
def built() -> None:
    """The labextension, as `make` builds it."""
    if not BUILT.is_dir():
        _give_up(NOT_BUILT)


@pytest.fixture(scope="session")
def lab(built: None, client: Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """JupyterLab beside the cluster."""
    lab = Lab(tmp_path_factory.mktemp("lab"))
    try:
        yield lab.start()
    finally:
        lab.stop()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note for the fixtures that a test has failed."""
    report = yield
    if report.when == "call" and report.failed:
        item.stash[_FAILED] = True
    return report


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser profile; its tabs share cookies."""
    context = browser.new_context(viewport={"width": 1500, "height": 1100})
    yield context
    context.close()


@pytest.fixture
def desks(
    context: BrowserContext, lab: Lab, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[[], Desk]]:
    """Makes browser tabs. If the test fails, there is a picture of each."""
    made: list[Desk] = []

    def make() -> Desk:
        made.append(Desk(context.new_page(), lab))
        return made[-1]

    yield make
    if request.node.stash.get(_FAILED, False):
        for number, desk in enumerate(made):
            picture = tmp_path / f"tab{number}.png"
            desk.page.screenshot(path=picture)
            print(f"The tab as it was: {picture}")
    lab.shut_kernels_down()


@pytest.fixture
def desk(desks: Callable[[], Desk]) -> Desk:
    """One browser tab."""
    return desks()
