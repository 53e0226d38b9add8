import typer
group = typer.Typer()
@group.command("list")
def _l() -> None: ...
