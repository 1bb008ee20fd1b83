"""Train a program as it is published, on data/ and the processor.

    python -m tools.well_known pytorch example 14      a module of this folder, and what its `train` takes

Prints the epochs as JSON, a line each: the seconds of training and the accuracy on the test images.
"""

import json
import sys
from importlib import import_module

from stages.common import environment, params
from stages.console import command


def main() -> None:
    environment.prepare()
    module, *arguments = sys.argv[1:]
    program = import_module(f"tools.well_known.{module}")
    for epoch in program.train(params.read("threads", params.Threads), *arguments):
        print(json.dumps(epoch), flush=True)


if __name__ == "__main__":
    command.run(main)
