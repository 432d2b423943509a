"""`danqing replicas`: services on the nodes of a Ray cluster."""

from typing import Annotated

import typer

from danqing import progress
from danqing.cli import output

EXAMPLES = """Examples:

  danqing replicas 2 -- --config /shared/service.toml

  danqing replicas 3 --ray 10.0.0.2:6379 -- /shared/runs/painter --host 0.0.0.0 --port 8000

The variable DANQING_DATABASE_URL names the PostgreSQL database that they share. Ctrl-C stops all."""

_ENDINGS = {"ready": "serves", "ended": "ended, and starts again", "lost": "was lost, and is replaced"}


def replicas(
    count: Annotated[int, typer.Argument(min=1, help="How many services, each on a node of its own.")],
    words: Annotated[
        list[str],
        typer.Argument(
            help="After --, the arguments of danqing serve. Paths are those of the nodes.",
            metavar="-- ARGUMENTS...",
        ),
    ],
    ray: Annotated[
        str,
        typer.Option(help="The Ray cluster: auto for that of this machine, or HOST:PORT.", metavar="ADDRESS"),
    ] = "auto",
    as_json: output.JsonOption = False,
) -> None:
    """Keep services running on the nodes of a Ray cluster, all with one database."""
    from danqing.cluster.ray_jobs import RayCluster
    from danqing.cluster.replicas import keep

    def tell(address: str, change: str) -> None:
        output.result({"url": address, "status": change}, as_json=as_json)
        progress.say(f"{address} {_ENDINGS[change]}", style="" if change == "ready" else "yellow")

    progress.say("Starting services (Ctrl-C stops them)")
    with RayCluster(ray) as cluster:
        keep(cluster, count, words, tell)
