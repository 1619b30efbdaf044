"""What counts as a right answer."""

from __future__ import annotations

import pytest

from tests.answers.matching import Expected


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        (Expected(("cookie-session",)), "The salt is `'cookie-session'`."),
        (Expected(("hmac",)), "It uses HMAC."),
        (Expected(("config.py",), ("globals.py",)), "It is defined in flask/config.py."),
        (Expected(("2.34.2",)), "This is version 2.34.2."),
        (Expected(("True",), ("False",)), "The default is **True**. A subclass can set it to False."),
        (Expected(("Apache-2.0", "Apache 2.0")), "Apache 2.0"),
    ],
)
def test_right(expected: Expected, answer: str) -> None:
    assert expected.met_by(answer)


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        (Expected(("SecureCookieSession",)), "SecureCookieSessionInterface"),
        (Expected(("FLASK",)), "See flask/config.py."),
        (Expected(("FLASK",)), "FLASK_"),
        (Expected(("config.py",)), "myconfig.py"),
        (Expected(("config.py",), ("globals.py",)), "It is in globals.py or config.py."),
        (Expected(("10",)), "0.10"),
        (Expected(("10",)), "10.5"),
        (Expected(("True",), ("False",)), "False, or True where it is set."),
        (Expected(("RuntimeError",)), ""),
    ],
)
def test_wrong(expected: Expected, answer: str) -> None:
    assert not expected.met_by(answer)
