"""Grammars that llama.cpp may see, and those it must not (each was seen to hang or kill it)."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pliant.engine.gbnf import check, nullable_rules
from pliant.engine.gbnf_parser import Alternatives, Item
from pliant.engine.tokenizer import Tokenizer
from pliant.errors import SamplingError
from pliant.ggml.llama_sampler import Candidates, GrammarSampler

FINE = [
    'root ::= "a"',
    'root ::= ("yes" | "no") x*\nx ::= [a-z] # comment\n\n',
    'root ::= "a" |\r\n "b"\r\nx ::= "c"',
    'root ::= ("a"\n"b")',
    'root ::= "\\x41\\u00e4\\U0001F44D\\n\\"\\\\" [\\]\\-a-z^] [^x-z] .',
    'root ::= "a"{2} "b"{2,} "c"{ 0 , 3 } "d"? "e"+',
    'root ::= ""',
    'root ::= x\nx ::= "" | "a" x',
    "root ::= <[5]> !<[6]> <|end|>",
    'root ::= ws "(" (root ("," ws root)*)? ")"\nws ::= [ \\t]*',
]
HANGS_OR_CRASHES = [
    'root ::= y root "b" | "a"\ny ::= z z\nz ::= ""',
    'root ::= "a"{5,2}',
    "root ::= " + "(" * 20000 + '"a"' + ")" * 20000,
    "root ::= a0\n"
    + "\n".join(f'a{i} ::= a{i + 1} "x" | a{i + 1} "y"' for i in range(26))
    + '\na26 ::= "z"',
    'root ::= ("a"?){500}',
    "root ::= " + '"a"? ' * 500,
]
WRONG = [
    ("", "root"),
    ('x ::= "a"', "root"),
    ("root ::= foo", "foo"),
    ('root ::= root "a" | "b"', "left-recursive"),
    ('root ::= x? root "a"\nx ::= "b"', "left-recursive"),
    ('root ::= "a"\nroot ::= "b"', "twice"),
    ('root ::= "a"\n"b"', "line 2, column 1"),
    ("root ::= []", "empty character class"),
    ('root ::= "abc', "missing"),
    ("root ::= [abc", "missing"),
    ('root ::= ("a"', r"expected \)"),
    ('root ::= "a")', "unexpected"),
    ("root ::= *", "nothing to repeat"),
    ('root ::= ""*', "nothing to repeat"),
    ('root ::= "a"**', "parentheses"),
    ('root ::= "a"{x}', "repetition"),
    ('root ::= "a"{99999}', "1000"),
    ('root ::= "\\q"', "escape"),
    ('root ::= "\\xZZ"', "hexadecimal"),
    ('root ::= "\\x00"', "character"),
    ('root ::= "\\UFFFFFFFF"', "character"),
    ("root ::= <[99999999999999999999]>", "token"),
    ("root ::= a_b", "expected"),
    ('root = "a"', "::="),
    ('root ::= "a\0b"', "NUL"),
    ('root ::= "\ud800"', "Unicode"),
    ("x" * 200_000, "131072"),
]


@pytest.mark.parametrize("grammar", FINE)
def test_llama_cpp_takes_what_passes(tokenizer: Tokenizer, grammar: str) -> None:
    check(grammar)
    candidates = Candidates(tokenizer.size)
    with GrammarSampler(tokenizer.vocab, grammar) as sampler:
        candidates.fill(np.zeros(tokenizer.size, dtype=np.float32))
        sampler.apply(candidates)


@pytest.mark.parametrize("grammar", HANGS_OR_CRASHES)
def test_what_hangs_or_crashes_llama_cpp_is_refused(grammar: str) -> None:
    with pytest.raises(SamplingError):
        check(grammar)


@pytest.mark.parametrize(("grammar", "message"), WRONG)
def test_says_what_is_wrong(grammar: str, message: str) -> None:
    with pytest.raises(SamplingError, match=message):
        check(grammar)


words = st.sampled_from(
    ["root", "x", "y", " ::= ", '"a"', '""', "[a-c]", "(", ")", "|", "*", "?", "{2}", "\n", " "]
)


@given(st.lists(words, max_size=24))
def test_whatever_passes_is_safe_to_run(tokenizer: Tokenizer, parts: list[str]) -> None:
    grammar = 'root ::= x "b" | y\nx ::= "c"' + "".join(parts) + '\ny ::= "d"'
    try:
        check(grammar)
    except SamplingError:
        return
    candidates = Candidates(tokenizer.size)
    try:
        sampler = GrammarSampler(tokenizer.vocab, grammar)
    except SamplingError:
        return
    with sampler:
        for token in tokenizer.encode("c", add_bos=False) + tokenizer.encode("b", add_bos=False):
            candidates.fill_one(token)
            sampler.apply(candidates)
            if not candidates.any_left():
                break
            sampler.accept(token)


ITEMS = st.builds(
    Item,
    terminals=st.integers(0, 1),
    rule=st.sampled_from([None, "a", "b", "c", "d"]),
    min_times=st.integers(0, 1),
)
RULES = st.fixed_dictionaries(
    {name: st.lists(st.lists(ITEMS, max_size=4), min_size=1, max_size=3) for name in "abcd"}
)


@given(RULES)
def test_rules_that_can_be_empty_are_found(rules: dict[str, Alternatives]) -> None:
    empty: set[str | None] = set()
    for _ in rules:
        for name, alternatives in rules.items():
            for items in alternatives:
                if all(
                    item.min_times == 0
                    or (item.terminals == 0 if item.rule is None else item.rule in empty)
                    for item in items
                ):
                    empty.add(name)
    assert nullable_rules(rules) == empty


@pytest.mark.parametrize(
    "grammar",
    [
        "root ::= " + '"" ' * 30_000 + '"x"',
        "root ::= " + "e " * 20_000 + '"x"\ne ::= ""',
        "root ::= " + '"a" ' * 30_000,
    ],
    ids=["empties", "references", "letters"],
)
def test_long_sequences_are_checked_in_one_go(grammar: str) -> None:
    check(grammar)


def test_a_long_chain_of_rules_is_refused() -> None:
    chain = "\n".join(f"a{i} ::= a{i + 1}?" for i in range(3000)) + '\na3000 ::= "z"'
    with pytest.raises(SamplingError, match="deeper"):
        check(f"root ::= a0\n{chain}")
