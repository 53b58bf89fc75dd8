"""Every error of the bus, once: code, sentence, AMQP condition, exit code and HTTP status in one table.

An error speaks three times: `code` to machines, the sentence to people (it ends with the next thing to try), and `__cause__` to the
log. Nothing here knows where an error is shown; the AMQP layer, the commands and the RPC replies each take their column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

# Exit codes of every program of ours (sysexits.h is not used: the guide's users write `case $?` over small numbers).
EXIT_DONE: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_INVALID: Final = 3
EXIT_NOT_PERMITTED: Final = 4
EXIT_UNREACHABLE: Final = 5
EXIT_NOTHING_ARRIVED: Final = 6

EXIT_CODES: Final[dict[int, str]] = {
    EXIT_DONE: "done",
    EXIT_FAILED: "failed",
    EXIT_USAGE: "usage: the command line, the configuration or the filter is wrong",
    EXIT_INVALID: "the event is invalid",
    EXIT_NOT_PERMITTED: "not permitted",
    EXIT_UNREACHABLE: "no agent can be reached",
    EXIT_NOTHING_ARRIVED: "nothing arrived in time",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One row: `sentence` is a `str.format` template over the keyword arguments of the error."""

    code: str
    sentence: str
    condition: str
    exit_code: int
    http: int


def _rows(*rows: tuple[str, str, str, int, int]) -> dict[str, Entry]:
    return {row[0]: Entry(*row) for row in rows}


# Conditions of the form amqp:* are those of AMQP 1.0 part 2.8.15-2.8.19; clacks:* are ours.
# fmt: off
ERRORS: Final[dict[str, Entry]] = _rows(
    # --- events ---
    ("xml-malformed", "The event is not well-formed XML: {reason} (line {line}, column {column}). Check it with xmllint.",
     "amqp:decode-error", EXIT_INVALID, 400),
    ("xml-doctype", "The event has a DOCTYPE, which is refused because it can read files and expand without bound. Leave it out.",
     "amqp:not-allowed", EXIT_INVALID, 400),
    ("xml-limit", "The event has {found} {what}; the limit is {limit}. Send less, or raise {setting} in the agent's configuration.",
     "amqp:resource-limit-exceeded", EXIT_INVALID, 413),
    ("event-too-large", "The event has {found} bytes; the limit is {limit}. Send less, or raise limits.event_size in the agent's"
     " configuration.", "amqp:link:message-size-exceeded", EXIT_INVALID, 413),
    ("message-too-large", "The message has {found} bytes; the other end takes {limit} at most. Send less, or raise limits.event_size in the"
     " agent's configuration.", "amqp:link:message-size-exceeded", EXIT_INVALID, 413),
    ("event-empty", "The message has no body. Send the event's XML in a data section or as a string value.",
     "amqp:decode-error", EXIT_INVALID, 400),
    ("event-body-type", "The message's body is {found}. Send the event's XML in a data section or as a string or binary value.",
     "amqp:decode-error", EXIT_INVALID, 415),
    ("event-encoding", "The content-encoding {found!r} is not known. Send the event's XML without a content-encoding.",
     "amqp:not-implemented", EXIT_INVALID, 415),
    ("event-root", "The root element is {found}; an event is <Event xmlns=\"http://www.gonicus.de/Events\"> around exactly one element.",
     "amqp:invalid-field", EXIT_INVALID, 422),
    ("event-unknown", "No schema describes the event {name}. {hint}", "amqp:not-found", EXIT_INVALID, 422),
    ("event-invalid", "The event {name} does not fit its schema: {summary}. `clacks schemas {name}` shows what is expected.",
     "clacks:event-invalid", EXIT_INVALID, 422),
    ("event-field", "{path}: {reason}. {expected}", "clacks:event-invalid", EXIT_INVALID, 422),
    # --- schemas ---
    ("schema-broken", "{path}, line {line}: {reason}. Mend the file; {kept}.", "amqp:internal-error", EXIT_USAGE, 500),
    ("schema-conflict", "{path}, line {line}: the event {name} is described by {other} already. Remove one of the two; {kept}.",
     "amqp:internal-error", EXIT_USAGE, 500),
    ("schema-unknown", "No schema is called {name}. {hint}", "amqp:not-found", EXIT_USAGE, 404),
    # --- filters ---
    ("filter-invalid", "The filter does not compile: line {line}, column {column}: [{w3c}] {reason}", "amqp:invalid-field",
     EXIT_USAGE, 400),
    ("filter-suspended", "The filter is suspended: {reason} Make it cheaper and attach again.", "amqp:resource-limit-exceeded",
     EXIT_FAILED, 429),
    # --- who and what ---
    ("not-authenticated", "The user name or the password is wrong. Check the URL, or set the password with `clacks user passwd NAME`.",
     "amqp:unauthorized-access", EXIT_NOT_PERMITTED, 401),
    ("mechanism-unusable", "No common way to authenticate: the agent offers {offered}. {hint}", "amqp:unauthorized-access",
     EXIT_NOT_PERMITTED, 401),
    ("not-permitted", "{user} may not {action} {what}. An administrator can allow it: `clacks user allow {user} {rule}`.",
     "amqp:unauthorized-access", EXIT_NOT_PERMITTED, 403),
    ("user-removed", "The user {user} is not known to the agent any more. Ask an administrator for another one.",
     "amqp:unauthorized-access", EXIT_NOT_PERMITTED, 401),
    ("user-id-forged", "The message's user-id is {found!r}, but the connection is authenticated as {user!r}. Leave user-id out.",
     "amqp:unauthorized-access", EXIT_NOT_PERMITTED, 403),
    ("user-id-unverified", "The broker cannot say who has sent this message. On ActiveMQ, set reply-to-group-id to the name you are"
     " authenticated by, and have no timestamp among application properties and annotations.", "amqp:unauthorized-access",
     EXIT_NOT_PERMITTED, 403),
    ("user-id-missing", "The message has no user-id. Set it to the name you are authenticated by: on a broker, that alone says who sends.",
     "amqp:unauthorized-access", EXIT_NOT_PERMITTED, 403),
    # --- addresses and links ---
    ("address-unknown", "Nothing is at the address {address!r}. {hint}", "amqp:not-found", EXIT_USAGE, 404),
    ("link-refused", "{reason}", "amqp:not-allowed", EXIT_USAGE, 400),
    ("bus-overloaded", "The agent does not take the event right now: it has too much to do, or a durable subscription has no room. Send"
     " it again in a moment; `clacks subscriptions` shows what waits.", "amqp:resource-limit-exceeded",
     EXIT_FAILED, 503),
    ("bus-stopping", "The agent is stopping. Connect again in a moment, or to another agent.", "amqp:connection:forced",
     EXIT_UNREACHABLE, 503),
    ("queue-full", "More waited for this subscriber than may ({limit}), and it asked to be detached then. Attach again, and read faster.",
     "amqp:resource-limit-exceeded", EXIT_FAILED, 503),
    # --- durable subscriptions ---
    ("subscription-differs", "The subscription {name!r} exists with another {what}. Leave that as it was, ask to replace it"
     " (clacks:replace, --replace), or take another name.", "amqp:precondition-failed", EXIT_USAGE, 409),
    ("subscription-other", "The subscription {name!r} exists with another {what}, which nothing changes. Delete it, or take another name.",
     "amqp:precondition-failed", EXIT_USAGE, 409),
    ("subscription-unknown", "No subscription is called {name!r}. {hint}", "amqp:not-found", EXIT_USAGE, 404),
    ("subscription-in-use", "The subscription {name!r} has consumers. Let them end, or delete it anyway with --force.",
     "amqp:resource-locked", EXIT_FAILED, 409),
    ("subscription-deleted", "The subscription {name!r} was deleted by {user}.", "amqp:resource-deleted", EXIT_FAILED, 410),
    ("subscriptions-full", "{user} has {limit} durable subscriptions, which is the limit. Delete one with `clacks subscriptions delete`, or"
     " raise durable.per_user in the agent's configuration.", "amqp:resource-limit-exceeded", EXIT_FAILED, 507),
    ("subscription-full", "A durable subscription that this event is for has no room for it, and may lose nothing. Nobody got it. Send it"
     " again later; `clacks subscriptions` shows an administrator which one it is.", "amqp:resource-limit-exceeded", EXIT_FAILED, 507),
    ("subscription-taken", "Another consumer of the same name has taken the subscription {name!r} over. Give each its own name, or ask for"
     " a shared one.", "amqp:link:stolen", EXIT_FAILED, 409),
    ("store-failed", "Durable subscriptions cannot be written or read: {reason}. Nothing of this was done. See whether the disk is full,"
     " and try again.", "amqp:internal-error", EXIT_FAILED, 507),
    # --- commands ---
    ("nothing-arrived", "{found} arrived within {seconds:g} s. Is one published, and does the filter match it? `clacks consume` without a"
     " filter shows everything.", "amqp:resource-limit-exceeded", EXIT_NOTHING_ARRIVED, 504),
    ("command-malformed", "The command is not JSON of the form {{\"method\", \"params\", \"id\"}}: {reason}.", "amqp:decode-error",
     EXIT_USAGE, 400),
    ("command-unknown", "No command is called {method!r}. {hint}", "amqp:not-found", EXIT_USAGE, 404),
    ("command-arguments", "{method}: {reason}. Its parameters are: {signature}.", "amqp:invalid-field", EXIT_USAGE, 400),
    ("command-failed", "{method} failed: {reason}. The agent's log has more.", "amqp:internal-error", EXIT_FAILED, 500),
    ("command-timeout", "{method} was not answered within {seconds:g} s. Raise the time-out, or see `clacks status`.",
     "amqp:resource-limit-exceeded", EXIT_NOTHING_ARRIVED, 504),
    ("command-interrupted", "{method} was interrupted: the agent that ran it is gone. It is not known how far it came; see, and call it"
     " again.", "amqp:internal-error", EXIT_FAILED, 503),
    ("command-unserved", "{method} is served by no agent at present. `clacks call getNodes` lists the agents.", "amqp:not-found",
     EXIT_FAILED, 503),
    # --- reaching an agent ---
    ("url-invalid", "{url!r} is not a URL of an agent: {reason}. It looks like amqps://user:password@host/org.clacks.",
     "amqp:invalid-field", EXIT_USAGE, 400),
    ("unreachable", "No agent can be reached at {url}: {reason}. Is it running? `clacks-agent --demo` starts one here.",
     "amqp:connection:forced", EXIT_UNREACHABLE, 502),
    ("tls-untrusted", "The certificate of {url} is not trusted: {reason}. {hint}", "amqp:connection:forced",
     EXIT_UNREACHABLE, 502),
    ("password-exposed", "A password is never sent to {host} over plain TCP. Use amqps://, or a mechanism that keeps it secret.",
     "amqp:not-allowed", EXIT_NOT_PERMITTED, 403),
    ("connection-lost", "The connection to {url} was lost: {reason}. It is opened again by itself where that is possible.",
     "amqp:connection:forced", EXIT_UNREACHABLE, 502),
    ("closed", "This {what} is closed. Make another one.", "amqp:illegal-state", EXIT_FAILED, 409),
    ("remote", "{sentence}", "amqp:internal-error", EXIT_FAILED, 500),
    # --- a domain on a broker ---
    ("broker-unusable", "The broker at {url} will not do: {reason}. Use {needed} or later.", "amqp:not-implemented",
     EXIT_USAGE, 501),
    ("broker-refused", "{doing}: the broker says: {reason}. {hint}", "amqp:precondition-failed", EXIT_USAGE, 409),
    ("domain-record", "A record of the domain's log is malformed: {reason}. It is skipped. See whether all agents are of one version.",
     "amqp:decode-error", EXIT_FAILED, 500),
    ("event-unanswered", "Nobody has said within {seconds:g} s what became of the event. It may still be delivered; sending it again may"
     " deliver it twice. See `clacks status`.", "amqp:resource-limit-exceeded", EXIT_NOTHING_ARRIVED, 504),
    ("domain-unsettled", "The agents of the domain do not agree at present: {reason}. Try again in a moment.",
     "amqp:resource-limit-exceeded", EXIT_FAILED, 503),
    # --- running ---
    ("config-invalid", "{source}: {reason}. {hint}", "amqp:internal-error", EXIT_USAGE, 500),
    ("internal", "Something went wrong inside the agent ({reason}). Its log has more; please report it.", "amqp:internal-error",
     EXIT_FAILED, 500),
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with an event.

    `path` is where (an XPath with the event's own element names, as /Event/PhoneStatus/Status), `reason` what is wrong there,
    `expected` what would be right ("" if nothing can be said), `line` the line in the event's text (0: unknown).
    """

    path: str
    reason: str
    expected: str = ""
    line: int = 0

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}" + (f" (expected {self.expected})" if self.expected else "")


class ClacksError(Exception):
    """An error of the table above.

    `code` names the row, the keyword arguments fill its sentence; `problems` lists what is wrong with an event, where that is the case.
    """

    def __init__(self, code: str, /, *, problems: Sequence[Problem] = (), **values: Any) -> None:
        self.entry = ERRORS[code]
        self.values = values
        self.problems = tuple(problems)
        super().__init__(self.entry.sentence.format(**values))

    @property
    def code(self) -> str:
        return self.entry.code

    @property
    def condition(self) -> str:
        return self.entry.condition

    @property
    def exit_code(self) -> int:
        return self.entry.exit_code

    def without_frames(self) -> Self:
        """The error as a value that is kept: its traceback would keep the frames, and with them the event's tree, until the collector
        finds the circle."""
        self.__traceback__ = self.__context__ = None
        if self.__cause__ is not None:
            self.__cause__.__traceback__ = None
        return self

    def to_json(self) -> dict[str, Any]:
        """The error as it travels in a command's reply; `from_json` is its inverse."""
        answer: dict[str, Any] = {"code": self.code, "message": str(self)}
        if self.problems:
            answer["problems"] = [{"path": p.path, "reason": p.reason, "expected": p.expected, "line": p.line} for p in self.problems]
        return answer

    @classmethod
    def from_json(cls, answer: dict[str, Any]) -> ClacksError:
        """The error that another agent sent. Its sentence is kept as it came, its code is kept if we know it."""
        error = cls("remote", sentence=str(answer.get("message", "no reason given")))
        error.entry = ERRORS.get(str(answer.get("code")), error.entry)
        error.problems = tuple(
            Problem(str(p.get("path", "")), str(p.get("reason", "")), str(p.get("expected", "")), int(p.get("line", 0)))
            for p in answer.get("problems", ())
        )
        return error
