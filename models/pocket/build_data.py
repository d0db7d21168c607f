"""Trains the tokeniser and writes the training arrays of the built-in model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pocket.dataset import DocumentSource, build
from pocket.model import Config
from pocket.tokens import load_tokenizer, save_tokenizer, train_tokenizer

TOKENIZER_DOCUMENTS = 12_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the converted sets")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0, help="share of the full token count")
    parser.add_argument("--tokenizer", type=Path, help="folder of a tokeniser to keep")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    source = DocumentSource(args.data, args.seed)
    if args.tokenizer:
        tokenizer = load_tokenizer(args.tokenizer)
    else:
        texts = source.sample_texts(TOKENIZER_DOCUMENTS)
        tokenizer = train_tokenizer(texts, Config().vocab_size)
    save_tokenizer(tokenizer, args.out)
    dataset = build(source, tokenizer, args.share)
    dataset.save(args.out)
    answers = int((dataset.classes == 1).sum())
    print(
        f"{len(dataset.levels)} documents, {len(dataset.tokens)} tokens, {answers} of them answers",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
