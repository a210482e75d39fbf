"""Commands that change what is known of users."""

import sys
from typing import Annotated

import typer
from rich.console import Console

from recsys.data.ids import normalised_id
from serving.cli.options import EndpointsFile, Live, Serve, UserNames, layout_of
from serving.endpoints import Server, read_endpoints
from serving.layout import DeploymentLayout
from serving.ops.forgetting import forget as forget_users
from serving.ops.rebuild import request_rebuild
from serving.ops.stack import UserIds
from serving.wiring.storage import run_seed

console = Console()


def seed(
    serve: Serve,
    live: Live = None,
    state: Annotated[
        str | None, typer.Option(help="sqlite:///path or redis://host:port; else the file of `live`")
    ] = None,
    users: UserNames = UserIds.raw,
) -> None:
    """Seed the state store with the histories, seen items and profiles of the training data; existing data stays.

    `up` does it by itself, once a bundle. Give the same --users and --live as to the gateway.
    """
    layout = layout_of(serve, live)
    console.print(seed_states(layout, Server(url=state or layout.sqlite), users, again=True), soft_wrap=True)
    console.print(f"next     python -m serving up {serve} --live={layout.live}", style="bold", soft_wrap=True)


def rebuild(serve: Serve, live: Live = None) -> None:
    """Rebuild the user states from the training data and the event log's Parquet: after the store was lost or damaged, or
    for a bundle with longer histories.

    The consumer does it as it starts. In a running stack the consumer is restarted at once; until it is done, users whose
    events are not replayed yet count as unknown.
    """
    layout = layout_of(serve, live)
    address = request_rebuild(layout)
    if address is None:
        console.print(f"next     start what serves {layout.serve}: its consumer rebuilds the states first")
    else:
        console.print(f"the consumer restarts; the rebuild is done when {layout.rebuild} is gone", soft_wrap=True)
        console.print(f"next     curl -s {address} | grep recsys_consumer_waiting", style="bold", soft_wrap=True)


def forget(
    user: Annotated[str, typer.Argument(help="id of the user; - reads ids from the standard input, one a line")],
    serve: Serve,
    live: Live = None,
    endpoints: EndpointsFile = None,
    wait: Annotated[float, typer.Option(help="longest wait for running processes, in seconds")] = 600.0,
) -> None:
    """Forget users: states, event log, spool and Parquet lose them, replays, seeds and later trainings leave them out.

    While the stack runs, its own processes do it; otherwise the files are opened here, or the broker and state store of the
    file of endpoints. A user who comes back starts anew.
    """
    users = [line.strip() for line in sys.stdin if line.strip()] if user == "-" else [user]
    layout = layout_of(serve, live)
    forget_users(
        layout,
        [normalised_id(one) for one in users],
        endpoints=None if endpoints is None else read_endpoints(endpoints),
        report=console.print,
        wait_s=wait,
    )
    console.print(
        f"forgotten: {len(users):,}; a bundle that was trained before is not altered, the next one is without",
        soft_wrap=True,
    )
    console.print("next     python train.py data=event_log ...", style="bold", soft_wrap=True)


def seed_states(layout: DeploymentLayout, state: Server, users: UserIds, *, again: bool) -> str | None:
    """Seed and return one line about the result, None if nothing was seeded."""
    done = run_seed(layout, state, store_raw=users is UserIds.raw, again=again)
    if done is None:
        return None
    return f"{done.users:,} users of the training data are known to {state.url}, {done.seconds:.1f} s"
