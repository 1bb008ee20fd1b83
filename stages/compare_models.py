"""Compare the models with each other and with two ensembles of them.

    python -m stages.compare_models

Reads data/dataset.json, data/test_labels.npy, outputs/predictions/ and, from outputs/tables/summary.csv, the
names of the models. Writes outputs/ensembles/: mean.npy, the mean of all models' probabilities, float32
(n, classes), and vote.npy, the class that most models predict, uint8 (n,). Writes outputs/comparison/*.csv:
the tables of `evaluate` for both ensembles, each pair of models (pairs) and what each model adds to the mean
(contributions). Takes about 3 s for 25 models and 10,000 images.
"""

from stages.common import dataset, files, results
from stages.console import command
from stages.evaluation import comparison, scores, tables


def main() -> None:
    command.no_arguments(__doc__)
    classes, labels = dataset.describe().classes, dataset.load_labels("test")
    predictions = {}
    for model in tables.load_table(tables.TABLES / "summary.csv", ("model",)).model:
        path = results.predictions(*model.split("/"))
        predictions[model] = results.load_probabilities(path, len(labels), len(classes))

    mean, vote = comparison.mean_of(predictions), comparison.vote_of(predictions)
    assessed = {
        tables.MEAN: scores.assess(labels, mean, classes),
        tables.VOTE: scores.assess_predictions(labels, vote, classes),
    }
    for model, what in ((tables.MEAN, "mean of all models' probabilities"), (tables.VOTE, "most votes")):
        assessed[model][0]["summary"] = what
    predicted = {model: probabilities.argmax(axis=1) for model, probabilities in predictions.items()}
    predicted |= {tables.MEAN: mean.argmax(axis=1), tables.VOTE: vote}
    compared = tables.collect(assessed)
    compared["pairs"] = comparison.pairs(labels, predicted)
    compared["contributions"] = comparison.contributions(labels, predictions)

    with files.replacing(tables.ENSEMBLES, tables.COMPARISON) as (ensembles_folder, tables_folder):
        files.write_array(ensembles_folder / "mean.npy", mean)
        files.write_array(ensembles_folder / "vote.npy", vote)
        tables.write(tables_folder, compared)
    for model, (scalars, _) in assessed.items():
        print(f"{model}: {scalars['accuracy']:.2%}")


if __name__ == "__main__":
    command.run(main)
