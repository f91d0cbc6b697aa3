"""`fparec serve`: the champion of a dataset, served from MLflow's registry until Ctrl-C.

Here belongs the server's process. What it answers belongs to `serving/`.
"""

import os
import signal
import subprocess
import time

from fparec_pipeline.paths import DataRoot
from fparec_pipeline.running import servers
from fparec_pipeline.tracking import Tracker
from fparec_pipeline.tracking.registry import CHAMPION, model_name


def serve_model(data: DataRoot, dataset: str, port: int) -> int:
    """Serve until a signal, or until the server ends; returns the exit status.

    Raises:
        PortTaken: the port is in use.
    """
    servers.require_free(port, "--port")
    environment = servers.with_scripts() | {"MLFLOW_TRACKING_URI": Tracker(None, data).uri}
    environment["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    environment["MLFLOW_DISABLE_TELEMETRY"] = "true"
    command = [str(servers.SCRIPTS / "mlflow"), "models", "serve"]
    command += ["-m", f"models:/{model_name(dataset)}@{CHAMPION}", "--env-manager", "local"]
    command += ["-h", servers.HOST, "-p", str(port), "--workers", "1"]
    servers.interrupt_at_the_end()
    # A session of its own: Ctrl-C reaches this process alone, which passes it on once.
    server = subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603
    try:
        while server.poll() is None:
            time.sleep(servers.POLL_SECONDS)
        return server.returncode or 1
    except KeyboardInterrupt:
        return 0
    finally:
        if server.poll() is None:  # mlflow waits for uvicorn and does not pass the interrupt on
            os.killpg(server.pid, signal.SIGINT)
        servers.end([server])
