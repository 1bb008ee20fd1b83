"""Send finished results to a tracker, without training.

    python -m apps.track wandb                        # of all models
    python -m apps.track mlflow pytorch/sprint        # of one model

Reads outputs/: trained models with their curves and, if `evaluate`, `visualize` and `export` have run,
scores, tables, pictures and ONNX files. Without MODEL, also earlier runs and trials that the tracker was to
follow and did not get whole. What the tracker already has is not sent again. docs/tracking.md says where it
goes. Takes one or two seconds for each run.
"""

import argparse

from apps.tracking import feed, finished, lines
from stages.console import command
from stages.console.errors import UserError


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tracker", metavar="TRACKER", help=", ".join(feed.TRACKERS))
    parser.add_argument("models", metavar="MODEL", nargs="*", help="as framework/model; default: all")
    arguments = parser.parse_args()
    tracker, trained = arguments.tracker, finished.names()
    if tracker not in feed.TRACKERS:
        raise UserError(f"{tracker} is no tracker; there are {', '.join(feed.TRACKERS)}")
    promised = [] if arguments.models else lines.promised(tracker)
    if not trained and not promised:
        raise UserError("outputs/ has no trained model: `dvc repro` trains all")
    if unknown := sorted(set(arguments.models) - set(trained)):
        raise UserError(f"{', '.join(unknown)} is not trained; there are {', '.join(trained)}")
    runs = finished.collect(arguments.models or trained)
    runs += [run for run in promised if run not in runs]
    try:
        sent = feed.catch_up(tracker, runs)
    except Exception as error:  # whatever its library raises
        raise UserError(f"{tracker}: {feed.explain(tracker, error)}") from None
    print(f"{tracker}: {sent} of {len(runs)} runs sent, the others were there already")


if __name__ == "__main__":
    command.run(main)
