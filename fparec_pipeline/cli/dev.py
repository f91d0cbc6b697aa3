"""`fparec dev`: both pages on this machine.

Here belong the options and the addresses. How the servers run belongs to `running/servers.py`.
"""

from typing import Annotated

import typer

from fparec_pipeline.cli.shared import app, console
from fparec_pipeline.config import load_config
from fparec_pipeline.paths import DataRoot


@app.command()
def dev(
    dagster_port: Annotated[int, typer.Option(min=1, max=65535, help="Dagster's page.")] = 3000,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535, help="MLflow's page.")] = 5000,
) -> None:
    """Serve Dagster and MLflow on this machine until Ctrl-C, which ends both.

    Prints the address of each when both answer, and that of each dataset's leaderboard in MLflow.

    Both bind to 127.0.0.1 and have no authentication: anyone who can reach the ports can start
    runs and read all results.
    """
    from fparec_pipeline.running.servers import serve

    def show(addresses: dict[str, str]) -> None:
        width = max(map(len, addresses)) + 2
        for name, address in addresses.items():
            console.print(f"{name + ':':{width}}{address}", highlight=False, soft_wrap=True)

    data = DataRoot.default().writable()
    load_config(data)  # what cannot be used is said here, in one line, not by each of the servers
    raise typer.Exit(serve(data, dagster_port, mlflow_port, show))
