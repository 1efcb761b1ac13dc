"""`offbeat models`: the versions of a detector, from the keys that sign them to the one in production."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trainer.commands.failures import failures_told
from trainer.commands.options import AsJson, Models, Name
from trainer.commands.output import add_row, new_table, print_json, say, stdout

_Version = Annotated[str | None, typer.Argument(help="Version; production unless given.", show_default=False)]
_Trusted = Annotated[
    list[Path] | None,
    typer.Option(
        "--public-key",
        help="PEM file with public keys, one of which must have signed the version; may be repeated.",
        show_default=False,
    ),
]


def models_app() -> typer.Typer:
    """The commands of `offbeat models`."""
    app = typer.Typer(
        help="List, show, verify, sign, promote and roll back the versions of a detector.", no_args_is_help=True
    )
    app.command("list")(list_models)
    app.command("show")(show_model)
    app.command("verify")(verify_model)
    app.command("sign")(sign_model)
    app.command("keygen")(make_keys)
    app.command("promote")(promote_model)
    app.command("rollback")(roll_back_model)
    return app


@failures_told()
def list_models(*, models: Models = Path("models"), detector: Name = None, as_json: AsJson = False) -> None:
    """List all versions, the oldest first."""
    from trainer.commands.versions import directories, directory_of, facts_of

    chosen = [directory_of(models, detector)] if detector else directories(models)
    found = [fact for directory in chosen for fact in facts_of(directory)]
    if as_json:
        print_json(found)
        return
    table = new_table("detector", "version", "alias", "trained until", "threshold", "AUROC", "average precision")
    for fact in found:
        quality = fact["quality"]
        add_row(
            table,
            fact["detector"],
            fact["version"],
            ", ".join(fact["aliases"]),
            fact["trained_until"] or "",
            "unreadable" if fact["threshold"] is None else f"{fact['threshold']:.4g}",
            f"{quality['auroc']:.4f}" if quality else "",
            f"{quality['average_precision']:.4f}" if quality else "",
        )
    stdout().print(table)


@failures_told()
def show_model(
    version: _Version = None, *, models: Models = Path("models"), detector: Name = None, as_json: AsJson = False
) -> None:
    """Show what a version is, after verifying it."""
    from trainer.commands.versions import describe, load_version, shown

    directory, loaded = load_version(models, detector, version)
    if as_json:
        print_json(describe(directory, loaded))
        return
    table = new_table("", "", head=False)
    for name, value in shown(directory, loaded):
        add_row(table, name, value)
    stdout().print(table)


@failures_told()
def verify_model(
    version: _Version = None,
    models: Models = Path("models"),
    detector: Name = None,
    public_key: _Trusted = None,
) -> None:
    """Verify the hashes and golden scores of a version on this machine, and who signed it; exits 1 where refused."""
    from trainer.commands.versions import load_version, public_keys

    _, loaded = load_version(models, detector, version, public_keys(public_key))
    signed = ", signed" if public_key else ""
    say(f"{loaded.name} {loaded.version} is complete, untampered{signed}, and gives its golden scores on this machine")


@failures_told()
def sign_model(
    version: Annotated[str, typer.Argument(help="The version that you vouch for.")],
    key: Annotated[Path, typer.Option("--key", help="Ed25519 private key in PEM; as of --sign-with.")],
    models: Models = Path("models"),
    detector: Name = None,
) -> None:
    """Sign a version that is there already, after verifying it; workers that ask for a signature load it then."""
    from trainer.commands.signing import signing_key
    from trainer.commands.versions import directory_of

    signer = signing_key(key)
    directory = directory_of(models, detector)
    directory.sign(version, signer)
    say(f"{directory.name} {version} is signed by {signer.public.fingerprints[0]}")


@failures_told()
def make_keys(
    path: Annotated[Path, typer.Argument(help="Where to write the private key; the public one gets .pub behind it.")],
) -> None:
    """Make a pair of Ed25519 keys: the private one signs and stays with the trainer, the public one is for workers.

    The private one is encrypted where OFFBEAT_SIGNING_PASSPHRASE, or the file of OFFBEAT_SIGNING_PASSPHRASE_FILE, says
    with what.
    """
    from detector import PublicKeys, write_key_pair
    from trainer.commands.signing import passphrase

    secret = passphrase()
    public = write_key_pair(path, secret)
    say(f"private key {path}{'' if secret is None else ', encrypted'}: whoever has it can publish models")
    say(f"public key  {public}, {PublicKeys.read([public]).fingerprints[0]}: for model_public_key of workers")


@failures_told()
def promote_model(
    version: Annotated[str, typer.Argument(help="The version that becomes production.")],
    models: Models = Path("models"),
    detector: Name = None,
    public_key: _Trusted = None,
) -> None:
    """Make a version production; workers load it within seconds."""
    from trainer.commands.versions import directory_of, public_keys

    directory = directory_of(models, detector, public_keys(public_key))
    before = directory.current()
    directory.promote(version)
    say(f"{directory.root.name}: production is {version}{f', before it was {before}' if before else ''}")


@failures_told()
def roll_back_model(models: Models = Path("models"), detector: Name = None, public_key: _Trusted = None) -> None:
    """Make the version before the current one production again."""
    from trainer.commands.versions import directory_of, public_keys

    directory = directory_of(models, detector, public_keys(public_key))
    before = directory.current()
    version = directory.rollback()
    say(f"{directory.root.name}: production is {version} again, no longer {before}")
