"""Filters that mean harm: each is refused when it is compiled, or known to be dear and left to the sandbox."""

from __future__ import annotations

import gc
import io

import pytest
from lxml import etree

from clacks.xquery import FilterError, FilterIndex, compile_filter

FN = "http://www.w3.org/2005/xpath-functions"

# What reads the outside world, by every name and prefix trick.
OUTSIDE = [
    "doc('/etc/passwd')", "fn:doc('/etc/passwd')", f"Q{{{FN}}}doc('/etc/passwd')", f"Q{{ {FN} }}doc('x')",
    f"declare namespace innocent='{FN}'; innocent:doc('x')", f"declare default function namespace '{FN}'; doc('x')",
    "doc (: a comment :) ('x')", "doc#1('x')", "let $d := doc#1 return $d('x')", "'x' => doc()", "'x' ! doc(.)", "('x') => fn:doc()",
    "for-each(('x'), doc#1)", "apply(doc#1, ['x'])", "doc(?)('x')", "function($x) { doc($x) }('x')",
    "declare function local:d($x) { doc($x) }; local:d('x')", "declare variable $x := doc('x'); $x",
    "declare variable $x external := doc('x'); $x",
    "function-lookup(xs:QName('fn:doc'), 1)('x')", "if (false()) then doc('x') else 1", "try { doc('x') } catch * { 1 }",
    "<a>{doc('x')}</a>", "<a b='{doc('x')}'/>", "element a { doc('x') }", "``[`{doc('x')}`]``", "map { 'a': doc('x') }", "[doc('x')]",
    "doc-available('x')", "collection()", "collection('x')", "uri-collection('x')", "unparsed-text('x')", "unparsed-text-lines('x')",
    "unparsed-text-available('x')", "json-doc('x')", "environment-variable('HOME')", "available-environment-variables()",
    "transform(map {})", "load-xquery-module('x')", "put(<a/>, 'x')", "static-base-uri()", "base-uri(.)",
    "document-uri(.)", "trace(1, 'x')",
]  # fmt: skip


@pytest.mark.parametrize("text", OUTSIDE)
def test_the_outside_world_is_refused(text: str) -> None:
    with pytest.raises(FilterError) as refused:
        compile_filter(text)
    assert refused.value.code == "CLXQ0001"
    assert refused.value.line == 1


MODULES = [
    ("import module namespace m = 'urn:m' at 'file:///etc/passwd'; 1", "XQST0016"), ("import schema 'urn:m' at 'x'; 1", "XQST0009"),
    ("module namespace m = 'urn:m'; 1", "XQST0016"), ("declare function local:f() external; local:f()", "XPST0017"),
    ("Q{java:java.lang.System}exit(1)", "XPST0017"), ("declare namespace j = 'java:java.lang.Runtime'; j:getRuntime()", "XPST0017"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "code"), MODULES)
def test_other_code_is_refused(text: str, code: str) -> None:
    with pytest.raises(FilterError) as refused:
        compile_filter(text)
    assert refused.value.code == code


def doubling(start: str, link: str, links: int) -> str:
    """let $s0 := ... let $s1 := link($s0) ..., each twice as long as the one before."""
    chain = " ".join(f"let $s{number + 1} := {link.format(f'$s{number}')}" for number in range(links))
    return f"let $s0 := {start} {chain} return count($s{links}) > 0"


FUNCTION = "declare function local:f($n) {{ {0} }}; local:f({1})"
DEAR = {
    "nested quantifiers": "matches(/, '(a+)+$') and matches(/, '(a*)*(b)\\2')",
    "a back-reference": "matches(/, '(a)\\1')",
    "a regular expression of the event's": "matches(/, string(/*/*))",
    "a subtracted class": "matches(/, '[a-z-[aeiou]]*x')",
    "counted repetitions in each other": "matches(/, '((a{30}){30}){30}')",
    "a long counted repetition": "matches(/, 'a[ab]{900}c')",
    "a replacement with a back-reference": "replace(/, '(a)\\1', 'x') = 'y'",
    "a range": "count(1 to 1000000000) = 1",
    "a range of ranges": "count(for $x in 1 to 100000 return 1 to 100000) = 1",
    "a filtered range": "(1 to 1000000000)[. = 5]",
    "a range as large as the event": "count(1 to count(//*)) > 5",
    "a loop over loops": "for $a in //* for $b in //* where $a = $b return 1",
    "three loops": "count(for $a in //*, $b in //*, $c in //* return 1) = 1",
    "quantifiers in each other": "some $a in //*, $b in //* satisfies $a is $b",
    "nested descendants": "//*[//*[//*[//*]]]",
    "descendants of descendants": "//*[.//*[.//*[.//*]]]",
    "siblings of siblings": "//*[following-sibling::*[following-sibling::*]]",
    "everything before everything": "//*[preceding::*]",
    "everything after everything": "//*[following::*/following::*]",
    "ancestors and back": "//*[ancestor::*//*]",
    "parents and back": "//*[../*[../*]]",
    "the whole event for each node": "//*[contains(/, string(.))]",
    "the whole event for each node by a variable": "let $e := /* return //*[contains($e, string(.))]",
    "every number with every other": "//* ! number() = //* ! number()",
    "a string that doubles": doubling("string(/)", "concat({0}, {0})", 40),
    "a string that doubles by ||": doubling("'xxxxxxxxxxxxxxxx'", "{0} || {0}", 40),
    "a string that doubles by joining": doubling("'xxxxxxxxxxxxxxxx'", "string-join(({0}, {0}))", 40),
    "a sequence that doubles": doubling("(1, 2)", "({0}, {0})", 40),
    "a replacement that doubles": doubling("'aaaaaaaaaaaaaaaa'", "replace({0}, 'a', 'aa')", 40),
    "endless recursion": FUNCTION.format("local:f($n + 1)", 1),
    "deep recursion": FUNCTION.format("if ($n = 0) then 0 else 1 + local:f($n - 1)", 1000000),
    "recursion in two": FUNCTION.format("if ($n = 0) then 0 else local:f($n - 1) + local:f($n - 1)", 60),
    "mutual recursion": "declare function local:a() { local:b() }; declare function local:b() { local:a() }; local:a()",
    "calls that multiply": " ".join(f"declare function local:f{n}($x) {{ local:f{n + 1}($x) + local:f{n + 1}($x) }};" for n in range(40))
    + "declare function local:f40($x) { 1 }; local:f0(1)",
    "sorting": "(for $x in //* order by $x return $x)[1]",
    "grouping": "for $x in //* group by $k := string($x) return $k",
    "an order inside a loop": "for $x in //* where (for $y in //* order by $y return $y)[1] is $x return 1",
    "positions among nested descendants": "//*/descendant::*[2]",
    "a thousand walks": " or ".join("//a/b = //c/d" for _ in range(700)),
    "tokens of tokens": "for $t in tokenize(/, ' ') for $u in tokenize(/, ' ') return $t = $u",
    "code points of the event with each other": "for $a in string-to-codepoints(/), $b in string-to-codepoints(/) return 1",
    "pieces of the event for each piece": "for $t in tokenize(/, ' ') where tokenize(/, ',') = $t return $t",
    "pieces for each code point": "for $c in string-to-codepoints(/) return tokenize(/, ' ')[$c]",
    "matches that each look at the rest": "count(tokenize(/, 'x(.*y)?')) > 5",
    "branches of which one looks at the rest": "replace(/, '(ab.*c|a)', '') = 'x'",
    "trimming by lines": "replace(/, '^\\s+| +$|x', '', 'm') = 'x'",
    "combining marks to sort": "normalize-unicode(/, 'NFD') = 'x'",
    "a separator as long as the event": "string-length(string-join(//*, string(/))) > 5",
}  # fmt: skip


@pytest.mark.parametrize("text", DEAR.values(), ids=DEAR.keys())
def test_what_is_not_provably_linear_is_dear(text: str) -> None:
    try:
        compiled = compile_filter(text)
    except FilterError as refused:
        assert refused.code == "CLXQ0003", refused  # without the full engine nobody can run it  # noqa: PT017
        return
    assert compiled.cost == "dear"
    assert compiled.cost_reason
    index = FilterIndex[str](defer=True)
    index.add("hostile", compiled)
    index.add("other", compile_filter("1"))
    document = etree.parse(io.BytesIO(b"<Event><a><b>x</b></a><c><d>x</d><e>5</e></c></Event>"))
    matched, undecided = index.match(document)
    assert matched == ["other"]
    assert undecided in (["hostile"], [])  # the index may rule it out without running it


def test_a_dear_filter_that_is_evaluated_elsewhere_costs_next_to_nothing() -> None:
    """Of 12,000 characters of walks, which are 80,000 objects: an agent that leaves them to the sandbox has thousands of such filters."""
    text = DEAR["a thousand walks"]
    compile_filter(text).shed()  # what is made once for all of them
    gc.collect()
    before = len(gc.get_objects())
    kept = [compile_filter(f"{text} (: {number} :)") for number in range(3)]
    for one in kept:
        one.shed()
    gc.collect()
    assert len(gc.get_objects()) - before < 3 * 8_000
    small = compile_filter("count(//*[. = //*]) > 1")
    for event, answer in (("<a><b/><b/></a>", True), ("<a>x</a>", False)) * 2:
        assert small.matches(etree.ElementTree(etree.fromstring(event))) is answer
        small.shed()


TOO_LARGE = {
    "length": "1" + " " * 70_000,
    "tokens": "1," * 15_000 + "1",
    "parentheses": "(" * 500 + "1" + ")" * 500,
    "predicates in each other": "a[" * 500 + "1" + "]" * 500,
    "calls in each other": "not(" * 500 + "1" + ")" * 500,
    "a chain of operators": "+".join("1" * 500),
    "a chain of signs": "-" * 500 + "1",
    "a path": "/a" * 500,
    "maps": "a!" * 500 + "b",
    "clauses": " ".join(f"let $x{number} := 1" for number in range(500)) + " return 1",
    "conditionals": "if (1) then " * 500 + "1" + " else 2" * 500,
    "chains in parentheses": "(" * 50 + "1" + ("+1" * 30 + ")") * 50,
    "constructors": "<a>" * 500 + "</a>" * 500,
    "digits": "1" * 5_000,
    "digits of a key": "map { 1: 2 }?" + "1" * 5_000,
}


@pytest.mark.parametrize("text", TOO_LARGE.values(), ids=TOO_LARGE.keys())
def test_what_is_too_large_is_refused(text: str) -> None:
    with pytest.raises(FilterError) as refused:
        compile_filter(text)
    assert refused.value.code in ("CLXQ0002", "FOAR0002")


CHEAP = {
    "the guide's": "declare namespace f='http://www.gonicus.de/Events'; let $e := ./f:Event return $e/f:PhoneStatus",
    "predicates": "/a/b[c = '1' and d > 5][e]/f",
    "descendants": "//a//b//c[d = 'x']/@e",
    "a loop": "for $x in //a let $y := $x/b where $y = ('1', '2', '3') return $y",
    "loops along the tree": "for $x in //a, $y in $x/b, $z in $y/c where $z = '1' return $z",
    "a quantifier": "some $x in //a satisfies $x/b = 'x' and not($x/c)",
    "regular expressions": "//a[matches(., '^[0-9]{4}-[0-9]{2}-[0-9]{2}T') or matches(., '(a+)+$') or matches(., 'x', 'i')]",
    "functions": "sum(//a[. castable as xs:integer]) > 5 and count(//b) < 10 and string-join(//c, ',') = 'x,y'",
    "the same node set twice": "let $a := //a return $a/b = $a/c",
    "an or-list": f"//a = ({', '.join(map(str, range(500)))})",
    "pieces of a text": "//a[tokenize(., ',') = 'x' and tokenize(@b) = ('y', 'z')]",
    "separators": "//a[tokenize(., '\\s*(,|;)\\s*') = 'x' and tokenize(., '[,;]+|\\s+') = 'z']",
    "trimming": "//a[replace(., '^\\s+|\\s+$', '') = 'y']",
    "positions": "//a[1]/b[last()] = 'x'",
    "a declared function": "declare function local:f($x) { $x/b = 'y' }; //a[local:f(.)]",
}


@pytest.mark.parametrize("text", CHEAP.values(), ids=CHEAP.keys())
def test_everyday_filters_are_cheap(text: str) -> None:
    compiled = compile_filter(text)
    assert compiled.cost == "cheap", compiled.cost_reason


def nested(form: str, levels: int, core: str = "x") -> str:
    for _ in range(levels):
        core = form.format(core)
    return core


# Whatever is looked at twice at each level is looked at 2**levels times: these would not end.
NESTED = {
    "value comparisons": nested("({0}) eq true()", 50),
    "lets in the values of lets": nested("let $a := {0} return $a", 50, "1 + 1"),
    "predicates before a step that no pattern says": nested("b[{0}]/self::b = 'x'", 50),
    "predicates in an argument": nested("starts-with(b[{0}]/self::b, 'x')", 28),
    "quantifiers over sources with quantifiers": nested("some $a in b[{0}] satisfies $a", 28),
    "typeswitches": nested("typeswitch({0}) case xs:string return 1 default return 2", 50),
}


@pytest.mark.parametrize("text", NESTED.values(), ids=NESTED.keys())
def test_what_nests_is_looked_at_once(text: str) -> None:
    compiled = compile_filter(text)
    compiled.matches(etree.parse(io.BytesIO(b"<b/>")))


GROWING = {
    "a decimal": ("1" + "0" * 900 + ".0", "{0} * {0}", "FOAR0002"),
    "a small decimal": ("0." + "0" * 900 + "1", "{0} * {0}", None),
    "a duration": ("xs:dayTimeDuration('P999999999999999D')", "{0} + {0}", "FODT0002"),
}


@pytest.mark.parametrize(("start", "link", "code"), GROWING.values(), ids=GROWING.keys())
def test_a_number_does_not_grow_without_bound(start: str, link: str, code: str | None) -> None:
    chain = " ".join(f"let $n{number + 1} := {link.format(f'$n{number}')}" for number in range(40))
    compiled = compile_filter(f"let $n0 := {start} {chain} return string-length(string($n40)) < 3000")
    if code is None:
        assert compiled.matches(etree.parse(io.BytesIO(b"<b/>")))
        return
    with pytest.raises(FilterError) as failed:
        compiled.matches(etree.parse(io.BytesIO(b"<b/>")))
    assert failed.value.code == code


PIECES = [
    "count(string-to-codepoints(/)[. = 5]) > 0", "tokenize(/) = 'y'", "tokenize(//a, ' ') = 'y'", "replace(/, ' ', '') = 'y'",
    "translate(/, string(/), '') = 'y'", "iri-to-uri(/) = 'y'", "encode-for-uri(//@k) = 'y'",
]  # fmt: skip


@pytest.mark.parametrize("text", PIECES)
def test_what_takes_a_long_text_apart_is_left_undecided(text: str) -> None:
    compiled = compile_filter(text)
    index = FilterIndex[str](defer=True)
    index.add("apart", compiled)
    index.add("whole", compile_filter("contains(/, 'z') or //@k = 'y'"))
    short, long, huge = (etree.parse(io.BytesIO(b"<a k='x'>%s</a>" % (b"x " * length))) for length in (10, 10_000, 1_000_000))
    assert compiled.cost == "cheap"
    assert index.match(short) == ([], [])
    assert index.match(long) == ([], ["apart"])
    assert index.match(short, size=10_000) == ([], ["apart"])
    assert index.match(huge) == ([], ["apart", "whole"])
