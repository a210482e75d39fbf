"""One module a claim: `python -m benchmarks.claims.AREA.NAME`."""
