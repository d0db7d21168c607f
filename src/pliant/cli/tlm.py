"""`pliant tlm`: labels, training and evaluation of a bundle's tiny language model."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pliant.cli.arguments import VerbCommand
from pliant.cli.output import console, table
from pliant.errors import LabelError

if TYPE_CHECKING:
    from pliant.tlm.evaluate import Evaluation

tlm = typer.Typer(
    add_completion=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Make labels for a bundle's TLM, train it, evaluate it.",
)

BundleArgument = Annotated[
    str, typer.Argument(metavar="BUNDLE", help="Name or folder of the bundle.")
]
TASKS_HELP = (
    "Questions: .jsonl with `question` or `messages`, `choices` and `answer_index` in each line."
)


@tlm.command(cls=VerbCommand)
def labels(
    bundle: BundleArgument,
    out: Annotated[Path, typer.Option(help="Folder of the labels; goes on with what is there.")],
    tasks: Annotated[Path | None, typer.Option(help=TASKS_HELP)] = None,
    head: Annotated[
        Literal["score", "decision"],
        typer.Option(
            help="score: what each word is worth to the LLM's answers; decision: what "
            "every level and prompt ratio make of each question."
        ),
    ] = "score",
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="Score labels from these texts and their compressed forms: .jsonl in the layout "
            "of MeetingBank-LLMCompressed (`prompt_list`, `compressed_prompt_list`)."
        ),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="[ADDRESS]",
            help="Share the work on a Ray cluster whose nodes see the bundle at the same path: "
            "without an address the one that `ray start --head` started here; `local` starts one "
            "for this run. Needs the extra: pip install 'pliant[ray]'.",
        ),
    ] = None,
) -> None:
    """Make labels to train a bundle's TLM on.

    Decision labels need a bundle whose score head is trained: make score labels, train, then make
    decision labels and train again. If it is interrupted, run it again: it goes on. Paths of
    finished label files go to stdout.
    """
    if tasks is None and pairs is None:
        raise LabelError("nothing to label: give --tasks FILE, or --pairs FILE, or both")
    if pairs is not None:
        _label_pairs(pairs, out)
    if tasks is not None:
        _label_tasks(bundle, tasks, out, head, ray)


@tlm.command()
def train(
    bundle: BundleArgument,
    labels: Annotated[Path, typer.Option(help="Folder that `pliant tlm labels` wrote.")],
    encoder: Annotated[
        Path | None,
        typer.Option(
            metavar="HF_DIR",
            help="Folder of a BERT-type Hugging Face encoder to start from.",
            show_default="a small new network with the bundle's tokenizer",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the new weights and the order.")] = 0,
) -> None:
    """Train a bundle's TLM and write it into the bundle.

    Needs the extra: pip install 'pliant[elastify]'. Trains the score head and, where there are
    labels for it, the decision head. If it is interrupted, run it again: it goes on.
    """
    from pliant.cli.progress import steps

    try:
        from pliant.tlm.training.pipeline import Recipe, train_tlm
    except ModuleNotFoundError as error:
        from pliant.errors import MissingExtraError

        raise MissingExtraError(
            f"training needs {error.name}: pip install 'pliant[elastify]'"
        ) from error
    with steps() as report:
        made = train_tlm(bundle, labels, Recipe(encoder=encoder, seed=seed), report=report)
    print(made.tlm_path)


@tlm.command(name="eval")
def evaluate(
    bundle: BundleArgument,
    tasks: Annotated[Path, typer.Option(help=TASKS_HELP)],
) -> None:
    """Show how accurate a bundle is on shortened prompts, and its TLM's decisions under SLOs."""
    from pliant.cli.progress import tracking
    from pliant.tlm.evaluate import evaluate as evaluate_tlm

    with tracking() as track:
        found = evaluate_tlm(bundle, tasks, track=track)
    _print_evaluation(found)


def _label_pairs(pairs: Path, out: Path) -> None:
    from pliant.cli.progress import tracking
    from pliant.tlm.labels.pairs import label_pairs
    from pliant.tlm.labels.rows import PAIR_FILE, write_rows

    with tracking() as track:
        found = label_pairs(pairs, track)
    write_rows(out / PAIR_FILE, found.rows)
    _say(
        f"{len(found.rows)} texts labelled; left out: {found.varied} with words of their own, "
        f"{found.unaligned} that could not be followed, {found.unusable} lines of unequal lists"
    )
    print(out / PAIR_FILE)


def _label_tasks(
    bundle: str, tasks: Path, out: Path, head: Literal["score", "decision"], ray: str | None
) -> None:
    from pliant.cli.progress import tracking
    from pliant.tlm.labels.label import label_tasks

    try:
        with tracking() as track:
            found = label_tasks(bundle, tasks, out, head, ray=ray, track=track)
    except KeyboardInterrupt:
        _say("interrupted; run the same command again to go on")
        raise
    _say(f"{found.labelled} questions labelled, {found.skipped} do not fit the context")
    print(found.path)


def _print_evaluation(found: "Evaluation") -> None:
    skipped = f"; {found.skipped} do not fit the context" if found.skipped else ""
    console().print(f"{found.questions} questions{skipped}; right answers in %", "", sep="\n")
    by_ratio = table("level", *(f"{ratio:g}" for ratio in found.prompt_ratios))
    for level, row in reversed(list(zip(found.levels, found.accuracy, strict=True))):
        by_ratio.add_row(f"{level:g}", *(f"{100 * share:.1f}" for share in row))
    by_slo = table("TTFT", "TPOT", "TLM", "rule", "random", "oracle", left=0)
    for slo in found.slos:
        shares = (slo.chosen, slo.rule, slo.random, slo.oracle)
        by_slo.add_row(f"{slo.ttft:g}", f"{slo.tpot:g}", *(f"{100 * one:.1f}" for one in shares))
    console().print("by prompt ratio", by_ratio, "", "by SLO", by_slo, sep="\n")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
