"""The shell (SHELL) that DVC uses for a stage that a cluster computes: it passes the command on.

It prints what the command prints elsewhere, and ends with its exit status. DVC calls it for each line of a
command, and each line is computed in its own folder. It imports little because every stage waits for it.
"""

import os
import sys
from multiprocessing.connection import Client

SOCKET = ".dvc/tmp/cluster.socket"


def main() -> None:
    os.chdir(os.environ["DVC_ROOT"])
    with Client(SOCKET, "AF_UNIX") as cluster:
        cluster.send((os.environ["DVC_STAGE"], sys.argv[-1]))
        while isinstance(message := cluster.recv(), bytes):
            os.write(1, message)
    sys.exit(message if message >= 0 else 128 - message)


if __name__ == "__main__":
    main()
