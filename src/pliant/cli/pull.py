"""`pliant pull`: a model from the Hugging Face hub."""

import sys
from typing import Annotated

import typer


def pull(
    model: Annotated[str, typer.Argument(metavar="ORG/MODEL", help="Its name on the hub.")],
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit.", show_default="main")
    ] = None,
    gguf: Annotated[
        str | None, typer.Option(metavar="FILE", help="Only this GGUF file, as a bundle.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="What to call that bundle.", show_default="as the file")
    ] = None,
) -> None:
    """Download a model from the Hugging Face hub.

    Gets what `pliant elastify ORG/MODEL` needs; with --gguf one file that `pliant run` finds by
    its name. An interrupted download goes on where it stopped. HF_TOKEN and HF_ENDPOINT count.
    Needs the extra: pip install 'pliant[hub]'. The path goes to stdout.
    """
    from pliant.bundle.hub import pull_checkpoint, pull_gguf

    if gguf is None:
        if name is not None:
            raise typer.BadParameter("it needs --gguf", param_hint="--name")
        print(pull_checkpoint(model, revision))
        return
    bundle = pull_gguf(model, gguf, revision=revision, name=name)
    print(f'pliant run {bundle.name} "..." answers with it', file=sys.stderr)
    print(bundle.path)
