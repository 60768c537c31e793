"""Tries to connect to each HOST:PORT among the arguments, all at once, without any SDK.

Prints one JSON object: `open`, `refused`, `silent` (nothing came back, which is how a network forbids) or `unknown` (a name
that does not resolve), by argument.
"""

import concurrent.futures
import json
import socket
import sys

PATIENCE = 3


def dial(target):
    host, _, port = target.rpartition(":")
    try:
        socket.create_connection((host, int(port)), PATIENCE).close()
    except socket.gaierror:
        return "unknown"
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return "silent"
    return "open"


def main():
    targets = sys.argv[1:]
    with concurrent.futures.ThreadPoolExecutor(len(targets)) as pool:
        print(json.dumps(dict(zip(targets, pool.map(dial, targets)))))


main()
