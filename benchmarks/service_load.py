"""Pictures per second of a running service for a number of concurrent clients.

python benchmarks/service_load.py http://127.0.0.1:8000 --model painter --prompt "a red heart" --clients 64
"""

import argparse
import asyncio
import json
import os

from service_client import Client, load, summary


async def measure(arguments: argparse.Namespace) -> dict[str, object]:
    client = Client(arguments.url, arguments.key)
    body = {"prompt": arguments.prompt, "n": arguments.n, **json.loads(arguments.body)}
    if arguments.model:
        body["model"] = arguments.model
    request = client.request("/v1/images/generations", body)
    first = await client.send(request)  # loads the model
    if first.status != 200:
        raise SystemExit(f"The service answers {first.status}: {first.body.decode(errors='replace')}")
    answers, seconds = await load(client, request, arguments.clients, arguments.seconds)
    client.close()
    told = summary(answers, seconds)
    return {
        "clients": arguments.clients,
        **told,
        "images_per_second": told["requests_per_second"] * arguments.n,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url")
    parser.add_argument("--model", default="", help="by default the service's first")
    parser.add_argument("--prompt", default="")
    parser.add_argument("--body", default="{}", help="additional fields as JSON")
    parser.add_argument("--n", type=int, default=1, help="pictures of a request")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--key", default=os.environ.get("DANQING_KEY", ""))
    print(json.dumps(asyncio.run(measure(parser.parse_args())), indent=2))


if __name__ == "__main__":
    main()
