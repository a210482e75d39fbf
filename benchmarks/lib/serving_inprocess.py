"""The peer of Triton in benchmarks/claims/serving/serving_cost.py: the same stages in one FastAPI process, nothing else.

`python -m benchmarks.lib.serving_inprocess serve_folder port`
"""

import gc
import sys
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response

from recsys.bundle import Bundle
from recsys.contracts import Query
from recsys.pipeline import recommend
from recsys.stages import load_stages
from serving.gateway.connection_limits import ConnectionLimits


def create_app(serve: Path) -> FastAPI:
    stages = load_stages(
        Bundle.open(serve / "current" / "bundle"), rules_store=serve / "rules", shares_folder=serve / "exposure"
    )
    recommend([Query(user="", now=0.0)], stages)
    gc.collect()
    gc.freeze()
    app = FastAPI()

    @app.post("/v1/recommend")
    async def ask(request: Request) -> Response:
        (slate,) = recommend([Query.from_json(await request.body())], stages)
        return Response(slate.to_json(), media_type="application/json")

    return app


if __name__ == "__main__":
    app = create_app(Path(sys.argv[1]))
    uvicorn.run(
        app,
        port=int(sys.argv[2]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="warning",
        timeout_keep_alive=round(ConnectionLimits().keep_alive_s),
    )
