"""A broker as one writes it with proton's Container and MessagingHandler: what comes in goes out to every subscriber."""

from __future__ import annotations

import socket

from proton import Endpoint, Event
from proton.handlers import MessagingHandler
from proton.reactor import Container


class Broker(MessagingHandler):
    def __init__(self, url: str) -> None:
        super().__init__(prefetch=1000)  # the agent's PUBLISHER_WINDOW
        self.url, self.subscribers = url, set()

    def on_start(self, event: Event) -> None:
        event.container.listen(self.url)
        print(f"ready amqp://{self.url}", flush=True)

    def on_link_opening(self, event: Event) -> None:
        link = event.link
        link.source.copy(link.remote_source)
        link.target.copy(link.remote_target)
        link.snd_settle_mode = link.remote_snd_settle_mode
        if link.is_sender:
            self.subscribers.add(link)

    def on_message(self, event: Event) -> None:
        for subscriber in self.subscribers:
            subscriber.send(event.message)

    def on_link_closing(self, event: Event) -> None:
        self.subscribers.discard(event.link)

    def on_disconnected(self, event: Event) -> None:
        self.subscribers = {link for link in self.subscribers if link.state & Endpoint.LOCAL_ACTIVE}


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as probe:  # proton does not tell which port it got
        port = probe.getsockname()[1]
    Container(Broker(f"127.0.0.1:{port}")).run()
