"""What matching costs: microseconds of CPU per event, beside lxml's bare parse, for any number of filters of one shape.

    python bench/match.py --filters 1,100,10000,1000000 --shape equality|range|orlist|descendant|mixed|unindexable|all

Each event is matched by one filter (`range` is disjoint intervals with one hit), or by none for `unindexable`. Everything is measured in
this process, the best of several rounds; compare the ratios, not the absolute figures, between machines. `--hostile` adds filters that mean
harm, left undecided for a sandbox as the agent does: what they cost everybody else is the difference between the two rows.
"""

from __future__ import annotations

import argparse
import gc
import io
import random
import resource
import sys
import time
from collections.abc import Callable, Iterator

from lxml import etree

from clacks.xquery import FilterIndex, compile_filter

NAMESPACE = "http://www.gonicus.de/Events"
PROLOG = f"declare namespace f='{NAMESPACE}'; "
SCHEMA = f"""<xs:schema xmlns:xs="http://www.w3.org/2001/XMLSchema" targetNamespace="{NAMESPACE}" elementFormDefault="qualified">
<xs:element name="Event"><xs:complexType><xs:sequence><xs:element name="PhoneStatus"><xs:complexType><xs:sequence>
<xs:element name="CallerId" type="xs:string"/><xs:element name="ReceiverId" type="xs:string"/><xs:element name="Status" type="xs:string"/>
<xs:element name="Duration" type="xs:integer"/></xs:sequence><xs:attribute name="line" type="xs:string"/></xs:complexType></xs:element>
</xs:sequence></xs:complexType></xs:element></xs:schema>"""


def event(number: int) -> bytes:
    return (
        f'<Event xmlns="{NAMESPACE}"><PhoneStatus line="L{number}"><CallerId>c{number}</CallerId><ReceiverId>4711</ReceiverId>'
        f"<Status>busy</Status><Duration>{number * 10 + 5}</Duration></PhoneStatus></Event>"
    ).encode()


def equality(number: int) -> str:
    return f"{PROLOG}/f:Event/f:PhoneStatus[f:CallerId='c{number}']"


def interval(number: int) -> str:
    return f"{PROLOG}/f:Event/f:PhoneStatus[f:Duration >= {number * 10} and f:Duration < {number * 10 + 10}]"


def orlist(number: int) -> str:
    return f"{PROLOG}/f:Event/f:PhoneStatus/f:CallerId = ('c{number}', 'x{number}', 'y{number}')"


def descendant(number: int) -> str:
    return f"{PROLOG}//f:CallerId = 'c{number}'"


def mixed(number: int) -> str:
    """60 % with a predicate, 40 % with attributes, 27 % with `//`: the shares seen in public filters."""
    chance = random.Random(number)
    predicate, attribute, deep = chance.random() < 0.6, chance.random() < 0.4, chance.random() < 0.27
    test = f"@line='L{number}'" if attribute else f"f:CallerId='c{number}'"
    path = "//f:PhoneStatus" if deep else "/f:Event/f:PhoneStatus"
    if predicate:
        return f"{PROLOG}{path}[{test} and f:Status='busy']" if number % 3 == 0 else f"{PROLOG}{path}[{test}]"
    return f"{PROLOG}{path}/{test}"


def unindexable(number: int) -> str:
    return (
        PROLOG
        + (
            f"contains(/f:Event/f:PhoneStatus/f:CallerId, 'z{number}')",
            f"matches(/f:Event/f:PhoneStatus/f:CallerId, '^z{number % 50}[0-9]+$')",
            f"/f:Event/f:PhoneStatus/f:Duration * 2 = {number * 20 + 1}",
        )[number % 3]
    )


SHAPES: dict[str, Callable[[int], str]] = {
    "equality": equality, "range": interval, "orlist": orlist, "descendant": descendant, "mixed": mixed, "unindexable": unindexable,
}  # fmt: skip


HOSTILE = (
    "matches(/, '(a+)+$') and matches(/, '(a)\\1')", "count(1 to 1000000000) = 1", "//*[//*[//*[//*]]]", "//*[preceding::*]",
    "for $a in //* for $b in //* where $a = $b return 1", "(for $x in //* order by $x return $x)[1]",
    "declare function local:f($n) { local:f($n + 1) }; local:f(1)", "//*//*//*//*//*//*//*//*[@x{0} = '1']",
    "/*/*/*/*/*/*/*/*/*:a{0}", "//*:a{0} = 'x' or //@*:b{0} = 'y'",
    "let $s := string(/) let $t := concat($s, $s) return contains($t, '{0}')",
)  # fmt: skip


def best(action: Callable[[], object], count: int, rounds: int = 5) -> float:
    """Microseconds of CPU per call, of the best round."""
    results = []
    for _ in range(rounds):
        start = time.process_time()
        for _ in range(count):
            action()
        results.append((time.process_time() - start) / count * 1e6)
    return min(results)


def resident() -> int:
    """Bytes of memory this process holds."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measure(shape: str, count: int, rounds: int, hostile: int) -> Iterator[str]:
    make = SHAPES[shape]
    gc.collect()
    texts = [make(number) for number in range(count)]  # a program would hold them only in the filters: counted as their memory below
    text_bytes = sum(sys.getsizeof(text) for text in texts)
    gc.collect()
    gc.freeze()
    before = resident()
    index = FilterIndex[int](defer=True)
    start = time.process_time()
    for number, text in enumerate(texts):
        index.add(number, compile_filter(text))
    adding = time.process_time() - start
    memory = resident() - before + text_bytes
    xml = event(count // 2)
    document = etree.parse(io.BytesIO(xml))
    hits = len(index.match(document)[0])
    wanted = 0 if shape == "unindexable" else 1
    assert hits == wanted, f"{hits} hits"
    turns = max(20, min(20_000, 200_000 // count)) if shape == "unindexable" else 20_000
    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    schema = etree.XMLSchema(etree.fromstring(SCHEMA))
    parse = best(lambda: etree.fromstring(xml, parser), 20_000, rounds)
    validate = best(lambda: schema.validate(document), 20_000, rounds)
    match = best(lambda: index.match(document), turns, rounds)
    for number in range(hostile):
        index.add(-1 - number, compile_filter(HOSTILE[number % len(HOSTILE)].replace("{0}", str(number))))
    if hostile:
        harmed = best(lambda: index.match(document), 2_000, rounds)
        more = (harmed - match) / hostile
        yield f"{shape:12} {count:9,} with {hostile:,} hostile filters: {match:.2f} -> {harmed:.2f} us, {more:.3f} each"
    total = (parse + validate + match) / parse
    each = f"{match / count:7.3f}" if shape == "unindexable" else "      -"
    yield (
        f"{shape:12} {count:9,} {parse:7.2f} {validate:9.2f} {match:11.2f} {total:9.2f} {each:>11}"
        f" {memory / count if count > 99 else 0:9.0f} {count / adding:11,.0f}"
    )
    gc.unfreeze()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--filters", default="1,100,10000", help="how many filters, a comma list (default: %(default)s)")
    arguments.add_argument("--shape", default="all", choices=[*SHAPES, "all"])
    arguments.add_argument("--rounds", type=int, default=5, help="the best of so many rounds counts")
    arguments.add_argument("--hostile", type=int, default=0, help="so many hostile filters besides")
    chosen = arguments.parse_args()
    print("shape          filters   parse  validate       match  all/parse  match/filter  B/filter  filters/s  (us of CPU per event)")
    for shape in SHAPES if chosen.shape == "all" else [chosen.shape]:
        for count in map(int, chosen.filters.split(",")):
            if shape == "unindexable" and count > 10_000:
                continue  # linear in the filters by definition
            for line in measure(shape, count, chosen.rounds, chosen.hostile):
                print(line, flush=True)


if __name__ == "__main__":
    main()
