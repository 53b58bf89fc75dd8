"""The audit log has a bound: however often somebody is refused, the log says so with few lines and right counts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from clacks.agent.audit import LINES_EACH, LINES_TOGETHER, WINDOW, Rationed
from conftest import wait_for


class Book(logging.Handler):
    """`clacks.audit` behind the filter, with what it writes and a clock of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.now = 0.0
        self.lines: list[dict[str, Any]] = []
        self.rationed = Rationed(clock=lambda: self.now, **options)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(vars(record))

    def not_let_in(self, kind: str, peer: str, times: int = 1) -> None:
        for number in range(times):
            fields = {"kind": kind, "user": f"user{number}", "peer": peer, "reason": "wrong"}
            logging.getLogger("clacks.audit").warning("not let in", extra=fields)

    def refused(self, user: str, origin: str) -> None:
        fields = {"user": user, "action": "publish", "what": "PhoneStatus", "origin": origin}
        logging.getLogger("clacks.audit").warning("refused", extra=fields)

    @property
    def counts(self) -> list[tuple[str, str, str, int]]:
        return [(line["what"], line["peer"], line["user"], line["left_out"]) for line in self.lines if "left_out" in line]

    @property
    def plain(self) -> list[dict[str, Any]]:
        return [line for line in self.lines if "left_out" not in line]


@pytest.fixture
def book(request: pytest.FixtureRequest) -> Iterator[Book]:
    log, found = logging.getLogger("clacks.audit"), Book(**getattr(request, "param", {}))
    log.addHandler(found)
    log.addFilter(found.rationed)
    yield found
    log.removeFilter(found.rationed)
    log.removeHandler(found)
    found.rationed.flush()  # ends its timer


def test_one_address_has_so_many_lines_of_a_kind_and_then_a_count(book: Book) -> None:
    book.not_let_in("credentials", "192.0.2.1", 1000)
    book.not_let_in("tls", "192.0.2.1")
    book.not_let_in("credentials", "192.0.2.2")
    assert len(book.plain) == LINES_EACH + 2, "whatever names it claims; other kinds and other addresses have their own lines"
    assert book.counts == []
    book.now = WINDOW
    book.not_let_in("credentials", "192.0.2.1")
    assert book.counts == [("credentials", "192.0.2.1", "", 1000 - LINES_EACH)]
    assert len(book.plain) == LINES_EACH + 3, "another minute has begun"


def test_an_ipv6_network_is_one_address(book: Book) -> None:
    for number in range(100):
        book.not_let_in("credentials", f"2001:db8::{number:x}")
    assert len(book.plain) == LINES_EACH


def test_another_port_is_no_other_address_and_a_user_is_told_from_others(book: Book) -> None:
    for port in range(1000, 1100):
        book.refused("mallory", f"amqp 192.0.2.1:{port}")
    book.refused("anna", "amqp 192.0.2.1:999")
    assert [line["user"] for line in book.plain] == ["mallory"] * LINES_EACH + ["anna"]
    book.rationed.flush()
    assert book.counts == [("publish", "amqp 192.0.2.1", "mallory", 100 - LINES_EACH)]


def test_many_addresses_together_have_a_bound_and_so_has_what_is_remembered(book: Book) -> None:
    for number in range(10 * LINES_TOGETHER):
        book.not_let_in("half-open", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(book.plain) == LINES_TOGETHER
    assert len(book.rationed._written) + len(book.rationed._left_out) <= LINES_TOGETHER + 2
    book.rationed.flush()
    assert book.counts == [("half-open", "all", "", 9 * LINES_TOGETHER)]


@pytest.mark.parametrize("book", [{"window": 0.05}], indirect=True)
def test_the_count_comes_also_when_nothing_else_does(book: Book) -> None:
    book.not_let_in("credentials", "192.0.2.1", LINES_EACH + 5)
    wait_for(lambda: book.counts, "the count is logged")
    assert book.counts == [("credentials", "192.0.2.1", "", 5)]
