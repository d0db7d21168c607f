"""Tokenizers of every kind that pliant carries over, trained here on local text."""

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from pliant.elastify import pretokenizers as known

SCRIPTS = (
    "日本語のテキストを分割します。中文文本也要正确地切分。한국어 문장도 나눕니다.",
    "Ein Satz über Größe, Übermut und Straßenbahnen; l'été à Zürich coûte 25 €.",
    "Это предложение на русском языке, ΑΒΓ και ελληνικά, עברית, العربية, हिन्दी, ไทย.",
    "I'm sure they'll say it's what we'd've done. DON'T SHOUT! He's 42, she'S 1234567.",
    "def f(x: int) -> str:\n    return {'a': [1, 2.5e-3]}['a'][x]  # comment\n\n\n",
    "👍🏽 👨‍👩‍👧 🇩🇪 ✌️ 😀😀😀 🤖",
)
# Separated by spaces, of which there are others in SEPARATORS.
FRAGMENTS = (
    "hello World iPhone HTTPServer don't I'LL they'Ve 's naïve Straße ÉCOLE été привет ΑΒΓδ "
    "日本語 中文。 한국어 ไทย हिन्दी עברית العربية 👍🏽 👨‍👩‍👧 🇩🇪 😀😀 ✌️ "
    "1 12 123 12345 3.14 1,000 ٣٤٥ ²½ "
    '0x1F (x==0) { } -> // /* */ __init__ a_b \\n " ... ?! # $5 € “q” — \u200d _ § <b> &amp; @me '
    "C++ %20 \x00 a\x01b \x07 \x1b[31mred \x7f \x85 \u200b \ufeffBOM \u202eabc \ufffd"
)
SEPARATORS = (" ", " ", " ", "", "", "  ", "    ", "\n", "\n\n", "\r\n", "\t", " \n", "\n ")
SEPARATORS += ("   \t ", "\u00a0", "\u3000")


def mixed_strings(count: int = 1000, seed: int = 0) -> list[str]:
    """Random texts of words, scripts, emoji, code, numbers and runs of whitespace."""
    choose, fragments = random.Random(seed), FRAGMENTS.split(" ")
    return [
        "".join(choose.choice(fragments) + choose.choice(SEPARATORS) for _ in range(1 + index % 12))
        for index in range(count)
    ]


@cache
def training_text() -> tuple[str, ...]:
    root = Path(__file__).parents[2]
    texts = [path.read_text("utf-8") for path in sorted(root.glob("docs/*.md"))]
    texts += [path.read_text("utf-8") for path in sorted(root.glob("src/pliant/elastify/*.py"))]
    return (*texts, *SCRIPTS * 20, *mixed_strings(300, seed=1))


def byte_level(name: str, *, ignore_merges: bool = False, normalizer: str | None = None) -> Any:
    """tokenizer.json content of a byte-level BPE that splits as llama.cpp's `name`."""
    spec = next(one.spec for one in known._KNOWN if one.name == name)
    tokenizer = Tokenizer(models.BPE())
    empty = json.loads(tokenizer.to_str())
    tokenizer = Tokenizer.from_str(json.dumps({**empty, "pre_tokenizer": spec}))
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=["<|begin|>", "<|end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_text(), trainer)
    tokenizer.add_tokens([AddedToken("<tool>", normalized=False)])
    trained = json.loads(tokenizer.to_str())
    trained["model"]["ignore_merges"] = ignore_merges
    trained["normalizer"] = normalizer and {"type": normalizer}
    return trained


def write_sentencepiece(
    folder: Path, *, byte_fallback: bool = True, add_prefix_space: bool = True
) -> Path:
    """tokenizer.model of a BPE model, trained as Llama 2's was."""
    import sentencepiece

    folder.mkdir(parents=True, exist_ok=True)
    lines = [line for text in training_text() for line in text.splitlines() if line.strip()]
    with (folder / "tokenizer.model").open("wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type="bpe",
            vocab_size=1500,
            byte_fallback=byte_fallback,
            add_dummy_prefix=add_prefix_space,
            split_digits=True,
            allow_whitespace_only_pieces=True,
            remove_extra_whitespaces=False,
            normalization_rule_name="identity",
            character_coverage=0.99,
            minloglevel=2,
        )
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "legacy": False,
        "add_prefix_space": add_prefix_space,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
