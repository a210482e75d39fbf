"""`python -m serving runs/demo/serve/models`: a Triton on this machine until Ctrl-C, healing models that fail."""

import signal
import threading
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from recsys.errors import ServingError, exit_on_error
from serving.server import TritonServer

WATCH_S = 5.0


def serve(
    models: Annotated[Path, typer.Argument(help="model repository that export.py wrote")],
    http: Annotated[int, typer.Option(help="port, 0 takes a free one")] = 8000,
    grpc: Annotated[int, typer.Option(help="port, 0 takes a free one")] = 8001,
    metrics: Annotated[int, typer.Option(help="port, 0 takes a free one")] = 8002,
) -> None:
    """Serve an exported bundle on the loopback interface."""
    console = Console()
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)  # also while starting, nothing may be left behind
    with TritonServer(models, http_port=http, grpc_port=grpc, metrics_port=metrics) as server:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: stopped.set())
        addresses = {"grpc": server.grpc_url, "http": server.http_url, "metrics": server.metrics_url, "log": server.log}
        for name, address in addresses.items():
            console.print(f"{name:<9}{address}")
        console.print("ask      serving.client.Client(grpc).recommend([Query(...)]); Ctrl-C stops", style="bold")
        while not stopped.wait(WATCH_S):
            watch(server, console)


def watch(server: TritonServer, console: Console) -> None:
    """One round of healing; a model that cannot be healed is said and tried again, the others go on serving."""
    try:
        for model in server.watch():
            console.print(f"healed   {model}", style="yellow")
    except ServingError as error:
        console.print(f"broken   {error}", style="red")


if __name__ == "__main__":
    with exit_on_error():
        typer.run(serve)
