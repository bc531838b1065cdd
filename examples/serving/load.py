"""Send requests to the server from many clients at once, and print the percentiles of their latency.

    python examples/serving/load.py http://127.0.0.1:8000 --clients 16 --requests 2000

Each client sends its next request when the answer to the last one is there. The models take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import time
from collections import Counter
from typing import Any

import httpx2

TEXTS = [
    "a great river",
    "the people of the city were in the garden by the water, and the music was good",
    "an awful winter, and a train that was not on time",
]


async def measure(url: str, clients: int, requests: int) -> dict[str, Any]:
    """Answers by status; of those with status 200, milliseconds and answers a second."""
    limits = httpx2.Limits(max_connections=clients)
    async with httpx2.AsyncClient(base_url=url, limits=limits, timeout=60, trust_env=False) as client:
        names = list((await client.get("/")).raise_for_status().json())
        work = itertools.islice(zip(itertools.cycle(names), itertools.cycle(TEXTS)), requests)
        statuses: Counter[int] = Counter()
        milliseconds: list[float] = []

        async def send() -> None:
            for name, text in work:
                began = time.perf_counter()
                answer = await client.post(f"/{name}", content=json.dumps({"text": text}))
                statuses[answer.status_code] += 1
                if answer.status_code == 200:
                    milliseconds.append(1000 * (time.perf_counter() - began))

        began = time.perf_counter()
        await asyncio.gather(*(send() for _ in range(clients)))
        seconds = time.perf_counter() - began
    shares = statistics.quantiles(milliseconds, n=100, method="inclusive") if len(milliseconds) > 1 else [0.0] * 99
    return {
        "clients": clients,
        "statuses": dict(statuses),
        "per_second": len(milliseconds) / seconds,
        "milliseconds": {f"p{share}": shares[share - 1] for share in (50, 90, 95, 99)},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=2000)
    options = parser.parse_args()
    found = asyncio.run(measure(options.url, options.clients, options.requests))
    print(f"{found['clients']} clients; answers by status: {found['statuses']}")
    print(f"{found['per_second']:,.0f} answers a second")
    print(", ".join(f"{name} {value:.2f} ms" for name, value in found["milliseconds"].items()))


if __name__ == "__main__":
    main()
