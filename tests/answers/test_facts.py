"""Facts are read out of files exactly, or not at all."""

from __future__ import annotations

import pytest

from tests.answers.facts import Fact, base_of, default_of, defined_in, raised_in, says, value_of
from tests.answers.matching import Expected

FILES = {
    "shop/cart.py": '''
from typing import overload

LIMIT: int = 12
EVENTS = ["paid"]

class Cart(dict):
    """A cart."""
    currency = "EUR"
    frozen = False

    def add(self, item, count=1, *, key=None, sort=list.sort):
        if count < 1:
            raise ValueError("count")
        raise ValueError

    @overload
    def pay(self) -> None: ...
    def pay(self, card=None):
        if card: raise KeyError
        raise TypeError("no card")

    def header(self):
        return {"X-Cart": "1"}
''',
    "shop/bill.py": "class Bill: pass\nLIMIT_TEXT = 'LIMIT'\n",
}


@pytest.mark.parametrize(
    ("fact", "expected"),
    [
        (default_of("shop/cart.py", "Cart.add", "count"), Expected(("1",))),
        (default_of("shop/cart.py", "Cart.add", "sort"), Expected(("list.sort",))),
        (value_of("shop/cart.py", "LIMIT"), Expected(("12",))),
        (value_of("shop/cart.py", "EVENTS"), Expected(("paid",))),
        (value_of("shop/cart.py", "Cart.currency"), Expected(("EUR",))),
        (value_of("shop/cart.py", "Cart.frozen"), Expected(("False",), ("True",))),
        (raised_in("shop/cart.py", "Cart.add"), Expected(("ValueError",))),
        (base_of("shop/cart.py", "Cart"), Expected(("dict",))),
        (defined_in("LIMIT"), Expected(("cart.py",), ("bill.py",))),
        (defined_in("Bill"), Expected(("bill.py",), ("cart.py",))),
        (says("shop/cart.py", "Cart.header", "X-Cart"), Expected(("X-Cart",))),
    ],
)
def test_found(fact: Fact, expected: Expected) -> None:
    assert fact(FILES) == expected


@pytest.mark.parametrize(
    "fact",
    [
        default_of("shop/cart.py", "Cart.add", "item"),
        default_of("shop/cart.py", "Cart.remove", "item"),
        default_of("shop/cart.py", "Cart", "item"),
        value_of("shop/cart.py", "currency"),
        raised_in("shop/cart.py", "Cart.pay"),
        raised_in("shop/cart.py", "Cart.header"),
        base_of("shop/bill.py", "Bill"),
        base_of("shop/cart.py", "Cart.add"),
        defined_in("Receipt"),
        says("shop/cart.py", "Cart.header", "EUR"),
    ],
)
def test_refused(fact: Fact) -> None:
    with pytest.raises(LookupError):
        fact(FILES)
