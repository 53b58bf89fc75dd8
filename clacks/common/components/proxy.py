"""Calling an agent's commands as methods."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Self

from ..trust import Certificate
from .background import Background
from .client import CALL_SECONDS, BusClient, Dial, dial, parameters
from .command import CORE
from .url import DEFAULT_DOMAIN

if TYPE_CHECKING:
    from lxml import etree


class AMQPServiceProxy:
    """Every command of an agent as a method: `AMQPServiceProxy(url).getNodes()`.

    Arguments are positional or keyword. A command's failure is raised as `ClacksError`. The connection is opened at once, so a wrong URL
    fails here, and again by itself when it is lost between two calls. Usable from several threads.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        domain: str = DEFAULT_DOMAIN,
        *,
        target: str = CORE,
        timeout: float = CALL_SECONDS,
        certificate: Certificate | None = None,
        dial: Dial = dial,
    ) -> None:
        """`target` names the commands' queue, "core" or "core.NODE"; `timeout` (seconds) bounds each call; `certificate` (chain and key,
        two PEM files) says who comes where the URL has no password. Raises ClacksError."""
        self._target = target
        self._background = Background.get()
        self._client = self._background.run(_connected(url, domain, timeout, certificate, dial))
        self._background.clients.add(self._client)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._call(name, *args, **kwargs)

        call.__name__ = name
        return call

    def sendEvent(self, data: bytes | str | etree._Element) -> bool:
        """Publish an event, given as XML or as an element. Raises ClacksError with every problem if it is refused."""
        from ..event import to_text

        return bool(self._call("sendEvent", data=to_text(data)))

    def close(self) -> None:
        self._background.run(self._client.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        params = parameters(args, kwargs)
        return self._background.run(self._client.request(name, params, target=self._target))


async def _connected(url: str | Sequence[str], domain: str, timeout: float, certificate: Certificate | None, dial: Dial) -> BusClient:
    client = BusClient(url, domain, timeout=timeout, certificate=certificate, dial=dial)
    await client.route()
    return client
