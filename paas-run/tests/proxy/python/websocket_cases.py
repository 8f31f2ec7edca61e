"""Runs Autobahn's cases against a WebSocket server: websocket_cases.py ADDRESS CASES [EXCLUDED]

Cases are ids or globs such as 9.*, with commas between them. Prints a line for each, as JSON: its id, whether it passed, and
what was found.
"""

import asyncio
import json
import os
import sys

from kosoku import FailureError, run_fuzzingclient


async def main():
    address, cases, *excluded = sys.argv[1:]
    excluded = excluded[0].split(",") if excluded else None
    try:
        results = await run_fuzzingclient(
            f"ws://{address}", cases.split(","), exclude_cases=excluded, concurrency=4
        )
    except FailureError as failed:
        results = failed.results
    for result in results:
        found = f"{result.behavior.value}: {result.result}; {result.behavior_close.value}: {result.result_close}"
        print(json.dumps([result.case_id, result.passed, found]))


asyncio.run(main())
sys.stdout.flush()
# The runner's threads may still be there when the interpreter goes down in order, and abort it.
os._exit(0)
