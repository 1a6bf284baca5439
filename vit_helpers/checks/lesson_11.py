"""Exercises of lesson 11: is it noise, how many seeds, a fair comparison, a teacher's loss, an ablation."""

import math
from statistics import mean, stdev, variance

import torch
import torch.nn.functional as F

from .base import Wrong, exercise


def difference_by(error):
    return lambda first, second: (mean(second) - mean(first)) / error(first, second) ** 0.5


@exercise(
    tolerance=1e-3,
    cases=lambda: [([90.0, 91.0, 92.0], [92.0, 94.0]), ([76.1, 75.2, 77.0, 76.3], [75.9, 75.0, 76.8]),
                   ([60.0, 70.0], [61.0, 64.0])],
    mistakes={
        "the difference is divided by the spread of single runs; a mean of n runs is more certain than one "
        "run, so divide each variance by its n.": difference_by(lambda a, b: variance(a) + variance(b)),
        "the difference is the wrong way around: it should be the second minus the first.":
            lambda first, second:
                -difference_by(lambda a, b: variance(a) / len(a) + variance(b) / len(b))(first, second),
        "both variances are divided by the number of runs of the first recipe; each has its own "
        "number of runs.":
            difference_by(lambda a, b: (variance(a) + variance(b)) / len(a)),
        "both variances are divided by 3; each recipe has its own number of runs.":
            difference_by(lambda a, b: (variance(a) + variance(b)) / 3),
        "the sign is lost; a second recipe that is worse gives a negative ratio.":
            lambda first, second: abs(ratio.reference(first, second)),
        "the variances divide by n; a mean that was itself estimated from the runs asks for n - 1.":
            difference_by(lambda a, b: sum(variance(x) * (len(x) - 1) / len(x) ** 2 for x in (a, b))),
        "the square root is missing: the variances, each by its n, add up to the square of the "
        "standard error.":
            lambda first, second:
                difference_by(lambda a, b: (variance(a) / len(a) + variance(b) / len(b)) ** 2)(first, second),
    })
def ratio(first, second):
    squared_error = variance(first) / len(first) + variance(second) / len(second)
    return (mean(second) - mean(first)) / squared_error ** 0.5


def first_that(enough, start=2):
    return next(n for n in range(start, 10_000) if enough(n))


@exercise(
    cases=lambda: [(1.0, 2.0, 2.8), (0.3, 0.2, 2.8), (0.5, 0.5, 3.1), (0.4, 5.0, 2.8), (1.0, 1.0, 2.0),
                   (1.0, 0.1, 2.8)],
    mistakes={
        "only one of the two recipes has an error; both means are uncertain, so the variances add up to "
        "twice spread² / n.":
            lambda spread, difference, ratio:
                first_that(lambda n: difference / (spread / n**0.5) >= ratio),
        "the spread is divided by n; the error of a mean falls with the square root of n.":
            lambda spread, difference, ratio:
                first_that(lambda n: difference / (spread * 2**0.5 / n) >= ratio),
        "the error is that of single runs, which no number of runs makes smaller; divide the variance by n.":
            lambda spread, difference, ratio: 2 if difference / (spread * 2**0.5) >= ratio else math.inf,
        "the ratio has to be reached, not exceeded: >=.":
            lambda spread, difference, ratio: first_that(
                lambda n: difference / (spread * (2 / n) ** 0.5) > ratio),
        "the number is rounded down, which misses the ratio; round up.":
            lambda spread, difference, ratio: max(2, int(2 * (ratio * spread / difference) ** 2)),
        "the number is rounded to the nearest; with one run too few the ratio is missed, so round up.":
            lambda spread, difference, ratio: max(2, round(2 * (ratio * spread / difference) ** 2)),
        "one run each is not enough, however large the difference: it has no spread, so the error would be "
        "unknown; the least is two.":
            lambda spread, difference, ratio:
                first_that(lambda n: difference / (spread * (2 / n) ** 0.5) >= ratio, start=1),
    })
def seeds_needed(spread, difference, ratio):
    return first_that(lambda n: difference / (spread * (2 / n) ** 0.5) >= ratio)


def rows_of(*rows):
    return [dict(zip(("optimizer", "learning_rate", "validation", "test"), row, strict=True)) for row in rows]


def chosen(rows, best, report=lambda row: mean(row["test"])):
    found = {}
    for name in dict.fromkeys(row["optimizer"] for row in rows):
        row = max((row for row in rows if row["optimizer"] == name), key=best)
        found[name] = (row["learning_rate"], report(row))
    return found


def by_validation(row):
    return mean(row["validation"])


@exercise(
    cases=lambda: [
        (rows_of(("sgd", 0.1, [0.80, 0.82], [0.79, 0.81]), ("sgd", 0.3, [0.70, 0.86], [0.84, 0.84]),
                 ("adamw", 0.001, [0.84, 0.84], [0.83, 0.85])),),
        (rows_of(("muon", 0.01, [0.91, 0.93, 0.92], [0.90, 0.92, 0.91]),
                 ("adamw", 0.01, [0.5, 0.6, 0.55], [0.7, 0.5, 0.6]),
                 ("muon", 0.02, [0.94, 0.86, 0.93], [0.89, 0.90, 0.88]),
                 ("adamw", 0.001, [0.8, 0.79, 0.81], [0.78, 0.79, 0.8]),
                 ("adamw", 0.003, [0.83, 0.70, 0.72], [0.83, 0.82, 0.84])),),
        # The larger rate wins; one seed against two; the mean, not the worst.
        (rows_of(("sgd", 0.1, [0.6, 0.6], [0.9, 0.9]), ("sgd", 0.3, [0.7, 0.7], [0.65, 0.65]),
                 ("adamw", 0.001, [0.9], [0.88]), ("adamw", 0.003, [0.5, 0.5], [0.5, 0.5]),
                 ("muon", 0.01, [0.7, 0.9], [0.8, 0.8]), ("muon", 0.02, [0.75, 0.75], [0.76, 0.74])),),
        (rows_of(("sgd", 0.1, [0.8, 0.8], [0.791, 0.814])),)],               # not to be rounded
    mistakes={
        "the rate is chosen on the test tiles; they may only judge what the validation tiles have chosen.":
            lambda rows: chosen(rows, lambda row: mean(row["test"])),
        "the validation accuracy that chose the rate is reported, which is too optimistic; report the test "
        "accuracy.":
            lambda rows: chosen(rows, by_validation, by_validation),
        "the rate is chosen right, but the best test accuracy of any rate is reported; report that of the "
        "chosen one.":
            lambda rows: {name: (rate, max(mean(row["test"]) for row in rows if row["optimizer"] == name))
                          for name, (rate, _) in chosen(rows, by_validation).items()},
        "the rate is chosen by its luckiest seed; take the mean over the seeds.":
            lambda rows: chosen(rows, lambda row: max(row["validation"])),
        "the test accuracy is that of the luckiest seed; report the mean over the seeds.":
            lambda rows: chosen(rows, by_validation, lambda row: max(row["test"])),
        "all optimizers get the rate that is best over all of them; each has its own scale and "
        "chooses for itself.":
            lambda rows: chosen(
                rows, lambda row: row["learning_rate"] == max(rows, key=by_validation)["learning_rate"]),
    })
def compare_fairly(rows):
    return chosen(rows, by_validation)


def divergence(student, teacher):
    return F.kl_div(student.log_softmax(dim=1), teacher.softmax(dim=1), reduction="batchmean")


def softly(logits, teacher, labels, T, weight, part=divergence, square=True, of_labels=F.cross_entropy):
    """(1 - weight) of the labels' loss plus weight T² part(student / T, teacher / T), as a tensor ()."""
    return (1 - weight) * of_labels(logits, labels) + weight * (T**2 if square else 1) * part(
        logits / T, teacher / T)


@exercise(
    cases=lambda: [(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[4.0, 2.0, 0.0]]), torch.tensor([0]), 3.0,
                    0.1),
                   (2 * torch.randn(4, 5), 3 * torch.randn(4, 5), torch.tensor([0, 4, 2, 2]), 2.0, 0.5),
                   (torch.randn(3, 10), 80 * torch.randn(3, 10), torch.tensor([9, 0, 1]), 0.5, 0.9)],
    mistakes={
        "the T² is missing, with which the teacher's part keeps its say at any temperature.":
            lambda *case: softly(*case, square=False),
        "the divergence is taken the wrong way around: the teacher's probabilities weigh the logarithms.":
            lambda *case: softly(*case, part=lambda student, teacher: divergence(teacher, student)),
        "only the student's logits are divided by the temperature; divide the teacher's too.":
            lambda logits, teacher, labels, T, weight:
                softly(logits, T * teacher, labels, T, weight),
        "only the teacher's logits are divided by the temperature; divide the student's too.":
            lambda logits, teacher, labels, T, weight: softly(
                logits, teacher, labels, T, weight, part=lambda _, teacher: divergence(logits, teacher)),
        "the loss of the labels is taken at the temperature, too; it stays at 1.":
            lambda logits, teacher, labels, T, weight: softly(
                logits, teacher, labels, T, weight, of_labels=lambda x, y: F.cross_entropy(x / T, y)),
        "the two weights are swapped: `weight` is the teacher's share, the labels get the rest.":
            lambda logits, teacher, labels, T, weight: softly(
                logits / T, teacher / T, labels, 1.0, weight, part=lambda *_: F.cross_entropy(logits, labels),
                of_labels=lambda *_: T**2 * divergence(logits / T, teacher / T)),
        "the labels' loss keeps its full weight; it gets 1 - weight.":
            lambda logits, teacher, labels, T, weight: softly(
                logits, teacher, labels, T, weight,
                of_labels=lambda x, y: F.cross_entropy(x, y) / (1 - weight)),
        "the divergence is divided by the number of classes as well as of images, as reduction='mean' does; "
        "take 'batchmean'.":
            lambda *case: softly(*case, part=lambda s, t: divergence(s, t) / s.shape[1]),
        "the divergence is summed over the images; take the mean over them, as cross-entropy does.":
            lambda *case: softly(*case, part=lambda s, t: divergence(s, t) * len(s)),
        "F.kl_div wants the student's log-probabilities first, not its probabilities.":
            lambda *case: softly(*case, part=lambda s, t: F.kl_div(
                s.softmax(dim=1), t.softmax(dim=1), reduction="batchmean")),
        "where the teacher's probability rounds to 0, 0 times the logarithm of 0 is nan; F.kl_div takes it "
        "as 0.":
            lambda *case: softly(*case, part=lambda s, t: (t.softmax(dim=1) * (
                t.softmax(dim=1).log() - s.log_softmax(dim=1))).sum(dim=1).mean()),
        "this is the cross-entropy with the teacher's probabilities; the divergence also subtracts the "
        "teacher's entropy, which changes no gradient.":
            lambda *case: softly(*case, part=lambda s, t: F.cross_entropy(s, t.softmax(dim=1))),
    })
def distilled(logits, teacher, labels, temperature, weight):
    return softly(logits, teacher, labels, temperature, weight)


class Measure:
    """A made-up measurement: the accuracy of a recipe in percent. Some settings help only together."""

    def __init__(self, base, gains):
        self.base, self.gains, self.calls = base, gains, 0

    def __call__(self, recipe, seed):
        self.calls += 1
        noise = [0.0, 1.7, -1.1, 0.6, 2.9][seed % 5]
        own = sum((i + 1) * seed**2 % 7 / 10 for i, name in enumerate(sorted(recipe)) if recipe[name])
        together = 2.0 if all(recipe.values()) else 0.0
        gains = sum(self.gains[name] * bool(value) for name, value in recipe.items())
        return self.base + noise + own + together + gains

    def __repr__(self):
        return "measure"


def ablation(recipe, alternatives, measure, seeds, other_seeds=lambda seeds: seeds, keep_changes=False,
             sign=1, together=True, divide=lambda seeds: len(seeds) ** 0.5):
    found, current = {}, dict(recipe)
    whole = [measure(recipe, seed) for seed in seeds]
    for name, value in alternatives.items():
        changed = {**current, name: value}
        current = changed if keep_changes else current
        parts = [measure(changed, seed) for seed in other_seeds(seeds)]
        differences = [sign * (b - a) for a, b in zip(whole, parts, strict=True)]
        error = stdev(differences) / divide(seeds) if together else (
            (variance(whole) + variance(parts)) / len(seeds)) ** 0.5
        found[name] = (mean(differences), error)
    return found


def counted(answer, recipe, alternatives, measure, seeds):
    found, enough = answer(recipe, alternatives, measure, seeds), len(seeds) * (1 + len(alternatives))
    if measure.calls > enough:
        raise Wrong(f"It measures {measure.calls} times where {enough} are enough; each may take minutes: "
                    "measure the whole recipe once for each seed, before the loop.")
    return found


@exercise(
    use=counted, tolerance=1e-4,
    cases=lambda: [({"muon": True, "bf16": True}, {"muon": False, "bf16": False},
                    Measure(70.0, {"muon": 12.0, "bf16": -0.5}), [0, 1]),
                   ({"views": True, "decay": 0.5, "positions": "sincos"},
                    {"views": False, "decay": 0.0, "positions": ""},
                    Measure(60.0, {"views": 3.0, "decay": 4.0, "positions": 1.0}), [1, 2, 3, 4])],
    mistakes={
        "a change stays while the next one is measured; go back to the whole recipe each time, or this is a "
        "walk, not an ablation.":
            lambda *case: ablation(*case, keep_changes=True),
        "the difference has the wrong sign: a change that loses accuracy is negative.":
            lambda *case: ablation(*case, sign=-1),
        "the error is the spread of single differences; divide it by the root of n for that of their mean.":
            lambda *case: ablation(*case, divide=lambda seeds: 1.0),
        "the error is computed from two separate groups; with the same seeds on both sides, take the spread "
        "of the differences.":
            lambda *case: ablation(*case, together=False),
        "the changed recipe is measured with other seeds than the whole one; use the same seeds, so that "
        "the luck of a seed is on both sides.":
            lambda *case: ablation(*case, other_seeds=lambda seeds: [seed + len(seeds) for seed in seeds]),
    })
def ablate(recipe, alternatives, measure, seeds):
    return ablation(recipe, alternatives, measure, seeds)
