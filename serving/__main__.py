"""`python -m serving`: what serves an exported bundle on this machine."""

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from recsys.errors import exit_on_error
from serving.server import TritonServer
from serving.supervisor import Guard, Patience

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console()

Port = Annotated[int, typer.Option(help="0 takes a free one")]


@app.callback()
def serving() -> None:
    """Serve an exported bundle on the loopback interface."""


@app.command()
def triton(
    models: Annotated[Path, typer.Argument(help="model repository that export.py wrote")],
    http: Port = 8000,
    grpc: Port = 8001,
    metrics: Port = 8002,
) -> None:
    """A Triton alone, until Ctrl-C; models that fail are healed, a server that is gone is started again."""
    stopped = Signals()
    with TritonServer(models, http_port=http, grpc_port=grpc, metrics_port=metrics) as server:
        addresses = {"grpc": server.grpc_url, "http": server.http_url, "metrics": server.metrics_url, "log": server.log}
        for name, address in addresses.items():
            console.print(f"{name:<9}{address}")
        console.print("ask      serving.client.Client(grpc).recommend([Query(...)]); Ctrl-C stops", style="bold")
        stopped.listen()
        Guard(server, console.print, patience=Patience()).run(stopped.told)


class Signals:
    """Ctrl-C and its kin: an interruption while starting, so that nothing is left behind; later a request to end."""

    def __init__(self) -> None:
        self.told = threading.Event()
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler)

    def listen(self) -> None:
        """From now on a signal only sets `told`."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: self.told.set())


if __name__ == "__main__":
    with exit_on_error():
        app()
